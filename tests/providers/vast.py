"""Helpers of Vast.ai's tests: the adapter on an emulator, and a server that says what a test tells it to."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from deployments.providers.base import Order, Quote, Secret
from deployments.providers.vast import VastProvider
from deployments.providers.vast_pace import Pace
from tests.providers.contract import API_KEY

KEY = "emulator-key-0001"
IMAGE = "ghcr.io/example/regia-inference@sha256:0000"
UNHURRIED = Pace({})
"""No call waits for its turn."""
CAPTURES = Path(__file__).parent / "captures"


def capture(name: str) -> Any:
    """What Vast.ai's API has said, as the contract keeps it."""
    return json.loads(_capture(name))


@cache
def _capture(name: str) -> str:
    return (CAPTURES / f"{name}.json").read_text()


def adapter(address: str, key: str | None = KEY, **changes: Any) -> VastProvider:
    fields: dict[str, Any] = {
        "address": address, "disk_gb": 40, "port": 8000, "traffic_gb": 50, "pace": UNHURRIED,
    }  # fmt: skip
    return VastProvider(Secret(key) if key is not None else None, **{**fields, **changes})


def order_for(quote: Quote, label: str, **changes: Any) -> Order:
    order = Order(
        label=label, quote=quote, model_key="qwen3-4b", repository="Qwen/Qwen3-4B", revision="abc123",
        served_name="qwen3-4b", context=16_384, api_key=Secret(API_KEY), image=IMAGE,
        bid_usd_per_hour=quote.compute_usd_per_hour * 2 if quote.interruptible else None,
    )  # fmt: skip
    return replace(order, **changes)


@dataclass(frozen=True, slots=True)
class Said:
    """One answer of the `Scripted` server."""

    body: Any = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    raw: bytes | None = None
    """In place of the body's JSON."""
    closes: bool = False
    """The connection is closed and nothing said."""
    silent_for: float = 0.0


class Scripted(ThreadingHTTPServer):
    """Answers the requests with what it was told, in order; the last answer stays."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers: list[Said] = [Said({})]
        self.asked: list[tuple[str, str, dict[str, str], Any]] = []
        self.ended = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def say(self, *answers: Said) -> None:
        self.answers, self.asked = list(answers), []

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has given up is no error here."""


class _Handler(BaseHTTPRequestHandler):
    server: Scripted
    protocol_version = "HTTP/1.1"

    def _answer(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        raw = self.rfile.read(length)
        self.server.asked.append((self.command, self.path, dict(self.headers), json.loads(raw or b"null")))
        said = self.server.answers.pop(0) if len(self.server.answers) > 1 else self.server.answers[0]
        self.server.ended.wait(said.silent_for)
        self.close_connection = True
        if said.closes:
            return
        body = said.raw if said.raw is not None else json.dumps(said.body).encode()
        self.send_response(said.status)
        for name, value in {
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
            **said.headers,
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_PUT = do_POST = do_DELETE = _answer

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""


@contextmanager
def scripted() -> Iterator[Scripted]:
    server = Scripted()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.ended.set()
        server.shutdown()
        thread.join()
        server.server_close()
