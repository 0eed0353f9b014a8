"""The image's process, started for real and listened to."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

IMAGE = Path(__file__).resolve().parents[2] / "inference_image"
ENGINE_SERVER = Path(__file__).with_name("engine_server.py")
KEY = "test-key-0123456789abcdef"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
PROGRESS = re.compile(
    r'^regia (?:phase=(?P<phase>[a-z]+)|(?P<exit>exit))(?P<pairs>(?: [a-z_]+=(?:"(?:[^"\\]|\\.)*"|[^\s"]+))*)$'
)
"""The one expression that reads every line of the machine's own."""
_PAIR = re.compile(r'([a-z_]+)=(?:"((?:[^"\\]|\\.)*)"|([^\s"]+))')


@dataclass(frozen=True)
class Progress:
    phase: str
    """`exit` for the last line."""
    values: dict[str, str]


@dataclass
class Running:
    """One machine's process and what it says."""

    process: subprocess.Popen[str]
    port: int
    told: Path
    """Where the engine tells about itself."""
    lines: list[str] = field(default_factory=list)
    listener: threading.Thread = field(default_factory=threading.Thread)

    def listen(self) -> None:
        for line in self.process.stdout or ():
            self.lines.append(line.rstrip("\n"))

    @property
    def output(self) -> str:
        return "\n".join(self.lines)

    @property
    def progress(self) -> list[Progress]:
        return [parsed(line) for line in self.lines if line.startswith("regia ")]

    def phases(self) -> list[str]:
        return [p.phase for p in self.progress]

    def wait_for(self, phase: str, *, seconds: float = 20) -> Progress:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            for progress in self.progress:
                if progress.phase == phase:
                    return progress
            if not self.listener.is_alive():
                break
            time.sleep(0.02)
        found = [p for p in self.progress if p.phase == phase]
        assert found, f"no {phase}:\n{self.output}"
        return found[0]

    def end(self, *, seconds: float = 20) -> Progress:
        """Its last line, once it has ended. The line and the process say the same code."""
        code = self.process.wait(timeout=seconds)
        self.listener.join(timeout=5)
        last = self.progress[-1]
        assert last.phase == "exit", self.output
        assert self.lines[-1].startswith("regia exit ")
        assert int(last.values["code"]) == code
        return last

    def engine(self, *, seconds: float = 10) -> dict:
        """What the engine told of itself: pid, environment, arguments."""
        deadline = time.monotonic() + seconds
        while not self.told.exists():
            assert time.monotonic() < deadline, self.output
            time.sleep(0.02)
        return json.loads(self.told.read_text())


def parsed(line: str) -> Progress:
    match = PROGRESS.match(line)
    assert match, line
    pairs = {
        m[1]: re.sub(r"\\(.)", r"\1", m[2]) if m[2] is not None else m[3]
        for m in _PAIR.finditer(match["pairs"])
    }
    return Progress(match["phase"] or "exit", pairs)


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def engine_command(*options: object) -> str:
    return shlex.join([sys.executable, str(ENGINE_SERVER), "--port", "{port}", *map(str, options)])


def variables(folder: Path, **changes: str) -> dict[str, str]:
    """A sound environment of a machine without a GPU, without TLS."""
    sound = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "PYTHONPATH": str(IMAGE),
        "PYTHONDONTWRITEBYTECODE": "1",
        "REGIA_MODEL": "acme/small",
        "REGIA_REVISION": COMMIT,
        "REGIA_SERVED_NAME": "small",
        "REGIA_CONTEXT": "2048",
        "REGIA_API_KEY": KEY,
        "REGIA_DOOR": "plain",
        "REGIA_PORT": str(free_port()),
        "REGIA_DRAIN_SECONDS": "5",
        "REGIA_TELL_SECONDS": "0",
        "REGIA_RUN_DIR": str(folder / "run"),
        "REGIA_STATE_DIR": str(folder / "state"),
        "REGIA_WEIGHTS_DIR": str(folder / "baked"),
        "REGIA_CHECKS": "off",
        "REGIA_ENGINE_COMMAND": engine_command("--tell", folder / "told.json"),
    }
    return {**sound, **changes}


COMMAND = (sys.executable, "-m", "regia_machine")


@contextmanager
def running(
    folder: Path, environ: Mapping[str, str], *, command: Sequence[str] = COMMAND
) -> Iterator[Running]:
    """The process with this environment and nothing else; it is gone afterwards, with all it started."""
    process = subprocess.Popen(
        command,
        env=dict(environ),
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    machine = Running(process, int(environ.get("REGIA_PORT") or 0), folder / "told.json")
    machine.listener = threading.Thread(target=machine.listen, daemon=True)
    machine.listener.start()
    try:
        yield machine
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        machine.listener.join(timeout=5)


def soon_gone(pid: int, *, seconds: float = 10) -> bool:
    """Whether it ends within this. A kill is only asked for: the kernel carries it out when it comes to it."""
    deadline = time.monotonic() + seconds
    while is_alive(pid):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def is_alive(pid: int) -> bool:
    """A zombie is not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
