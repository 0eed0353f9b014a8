"""A real door in front of a small engine, and how tests knock at it."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from regia_machine import environment
from regia_machine.door import Door
from regia_machine.environment import Settings

from deployments import certificates
from deployments.certificates import Pin
from tests.image.running import KEY, free_port, variables

STAND_IN = Path(__file__).with_name("stand_in.py")
LISTED = {
    "/v1/chat/completions": "POST",
    "/v1/completions": "POST",
    "/v1/models": "GET",
    "/health": "GET",
    "/metrics": "GET",
    "/lease": "PUT",
}
GUARDED = [path for path in LISTED if path != "/health"]


# -- the engine ---------------------------------------------------------------------------------


@dataclass
class StandIn:
    """`tests/image/stand_in.py` in a process of its own, and what it noted."""

    port: int
    notes: Path
    pid: int = 0

    def noted(self, what: str) -> list[dict[str, Any]]:
        """asked, left or done, oldest first."""
        found = self.notes.read_text().splitlines() if self.notes.exists() else []
        return [note for note in map(json.loads, found) if note["what"] == what]

    def forget(self) -> None:
        self.notes.unlink(missing_ok=True)

    def slow_models(self, seconds: float) -> None:
        """How long it takes to list its models from now on."""
        ask(self.port, "POST", "/__models_seconds", body=str(seconds).encode())
        self.forget()


@contextmanager
def stand_in(folder: Path, *, before: Sequence[str] = (), quiet: bool = False) -> Iterator[StandIn]:
    """`before` stands before its command; a quiet one notes nothing."""
    engine = StandIn(free_port(), folder / "notes.jsonl")
    command = [*before, sys.executable, str(STAND_IN), "--port", str(engine.port)]
    command += [] if quiet else ["--notes", str(engine.notes)]
    with ended(subprocess.Popen(command)) as process:
        engine.pid = process.pid
        wait_for_port(engine.port)
        yield engine


@contextmanager
def ended(process: subprocess.Popen[Any]) -> Iterator[subprocess.Popen[Any]]:
    """The process, and its end."""
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


# -- the door -----------------------------------------------------------------------------------


@dataclass
class OpenDoor:
    door: Door
    settings: Settings
    lines: list[str] = field(default_factory=list)
    """What nginx has said."""
    pin: Pin | None = None

    @property
    def port(self) -> int:
        return self.settings.port

    def ask(self, method: str, path: str, **options: Any) -> Answer:
        return ask(self.port, method, path, pin=self.pin, **options)

    def chat(self, *, key: str | None = KEY, **body: Any) -> Answer:
        return self.ask("POST", "/v1/chat/completions", key=key, body=json.dumps(body).encode())

    def stream(self, *, key: str = KEY, **body: Any) -> Stream:
        return Stream(self.port, key, json.dumps({"stream": True, **body}).encode(), pin=self.pin)


def settings_of(folder: Path, engine_port: int, **environ: str) -> Settings:
    settings = environment.read(variables(folder, **environ))
    return replace(settings, engine_port=engine_port)


@contextmanager
def open_door(
    folder: Path, engine: StandIn, *, keys: Sequence[str] = (KEY,), tls: bool = False, **environ: str
) -> Iterator[OpenDoor]:
    """A door before this engine; `environ` are variables of the machine's environment."""
    pin = None
    if tls:
        pin, told = pinned()
        environ = {**environ, **told}
    settings = settings_of(folder, engine.port, **environ)
    lines: list[str] = []
    door = Door(settings, lines.append)
    try:
        door.start(keys)
        yield OpenDoor(door, settings, lines, pin)
    finally:
        door.stop(0)


def pinned(machine: UUID | None = None) -> tuple[Pin, dict[str, str]]:
    """What the panel trusts, and what the machine is told: as the panel makes them."""
    machine = machine or uuid4()
    pair = certificates.make(machine, now=datetime.now(UTC))
    told = certificates.environment(pair.key, pair.certificate)
    return Pin(pair.certificate, certificates.name_of(machine)), told


# -- knocking -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def ask(
    port: int, method: str, path: str, *, key: str | None = None, body: Any = None,
    headers: dict[str, str] | None = None, pin: Pin | None = None, seconds: float = 30,
) -> Answer:  # fmt: skip
    """One request with the path as it is written; `body` may be an iterator, and is sent in chunks then."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=seconds)
    if pin is not None:
        connection.sock = secured(socket.create_connection(("127.0.0.1", port), timeout=seconds), pin)
    try:
        connection.request(method, path, body, {**bearer(key), **(headers or {})})
        response = connection.getresponse()
        found = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, found, response.read())
    finally:
        connection.close()


def bearer(key: str | None) -> dict[str, str]:
    return {} if key is None else {"Authorization": f"Bearer {key}"}


def secured(connection: socket.socket, pin: Pin) -> ssl.SSLSocket:
    return pin.context.wrap_socket(connection, server_hostname=pin.name)


def knock(port: int, request: bytes, *, seconds: float = 10) -> int:
    """The status that these very bytes are answered with; 0 when the connection is closed without one."""
    with socket.create_connection(("127.0.0.1", port), timeout=seconds) as connection:
        try:
            connection.sendall(request)
            head = connection.recv(4096)
        except ConnectionError:
            return 0
    return int(head.split(b" ", 2)[1]) if head.startswith(b"HTTP/") else 0


class Stream:
    """A chat that is being answered. `chunks`: (number, when it was written, when it came), monotonic seconds."""

    def __init__(self, port: int, key: str, body: bytes, *, pin: Pin | None = None) -> None:
        plain = socket.create_connection(("127.0.0.1", port), timeout=200)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket = plain if pin is None else secured(plain, pin)
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nHost: door\r\nAuthorization: Bearer {key}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        self.socket.sendall(head.encode() + body)
        self.text = b""
        """What came, without HTTP's framing."""
        self.chunks: list[tuple[int, float, float]] = []
        self._raw, self._begun = b"", False

    @property
    def is_whole(self) -> bool:
        return self.text.endswith(b"data: [DONE]\n\n")

    def read(self, *, until: int | None = None) -> Stream:
        """Up to that many chunks, or to the end."""
        while until is None or len(self.chunks) < until:
            data = self.socket.recv(65_536)
            if not data or self._take(data):
                break
        return self

    def _take(self, data: bytes) -> bool:
        """Whether that was the end."""
        came = time.monotonic()
        self._raw += data
        if not self._begun:
            head, found, self._raw = self._raw.partition(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 200") or not found:
                raise AssertionError(head)
            self._begun = True
        over = self._unframe()
        for event in self.text.split(b"\n\n")[len(self.chunks) : -1]:
            if event != b"data: [DONE]":
                said = json.loads(event[6:])["choices"][0]["delta"]["content"]
                number, _, written = said.strip().partition("@")
                self.chunks.append((int(number), int(written) / 1e9, came))
        return over

    def _unframe(self) -> bool:
        while b"\r\n" in self._raw:
            size, _, rest = self._raw.partition(b"\r\n")
            length = int(size, 16)
            if len(rest) < length + 2:
                return False
            self.text, self._raw = self.text + rest[:length], rest[length + 2 :]
            if length == 0:
                return True
        return False

    def leave(self) -> float:
        """Close it; when that was."""
        self.socket.close()
        return time.monotonic()


def wait_for_port(port: int, *, seconds: float = 20) -> None:
    def listens() -> bool:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=5).close()
        except OSError:
            return False
        return True

    assert soon(listens, seconds=seconds), f"Nothing listens on port {port}."


def soon(holds: Callable[[], object], *, seconds: float = 10) -> bool:
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True
