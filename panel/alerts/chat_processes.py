"""The processes in which Apprise runs: started when one is needed, and kept for a minute, for starting one takes a
second of a processor and sending a message takes little.

An order goes through the child's input: an argument could be read by others. One at a time: whoever sends while
another waits for a slow service gets a child of its own. A child that does not answer is ended.
"""

from __future__ import annotations

import atexit
import json
import os
import selectors
import shutil
import subprocess
import sys
import tempfile
import threading
from time import monotonic
from typing import Any

from django.conf import settings

TIMEOUT = 30.0
"""Seconds for one order, of which a new child takes one to start."""
KEPT = 60.0
"""Seconds without an order, after which a child is ended."""


class Failed(Exception):
    """The child gave no answer. The text is a sentence that may be shown."""


class Child:
    """One process. It sees none of the panel's environment, no proxy and no file of whoever runs the panel."""

    def __init__(self) -> None:
        self.home = tempfile.mkdtemp(prefix="regia-chat-")
        self.used_at = monotonic()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "panel.alerts.chat_child"], cwd=settings.BASE_DIR, bufsize=0,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            env={"PATH": os.environ.get("PATH", ""), "HOME": self.home, "PYTHONDONTWRITEBYTECODE": "1"},
        )  # fmt: skip

    def ask(self, order: dict[str, Any]) -> dict[str, Any]:
        """Raises Failed. After that it must be ended."""
        assert self.process.stdin is not None  # noqa: S101 - a pipe, as asked for
        try:
            self.process.stdin.write(json.dumps(order).encode() + b"\n")
            answer = json.loads(self._line())
        except (OSError, ValueError):
            raise Failed("Apprise failed.") from None
        if not isinstance(answer, dict):
            raise Failed("Apprise failed.")
        self.used_at = monotonic()
        return answer

    def _line(self) -> bytes:
        assert self.process.stdout is not None  # noqa: S101 - a pipe, as asked for
        until, found = monotonic() + TIMEOUT, b""
        with selectors.DefaultSelector() as ready:
            ready.register(self.process.stdout, selectors.EVENT_READ)
            while not found.endswith(b"\n"):
                if not ready.select(max(0.0, until - monotonic())):
                    raise Failed(f"The service did not answer within {TIMEOUT:.0f} s.")
                piece = os.read(self.process.stdout.fileno(), 65536)
                if not piece:
                    raise Failed("Apprise failed.")
                found += piece
        return found

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()
        shutil.rmtree(self.home, ignore_errors=True)


_idle: list[Child] = []
_lock = threading.Lock()
# A copy of this process must not speak through the same pipes.
os.register_at_fork(after_in_child=_idle.clear)


def ask(order: dict[str, Any]) -> dict[str, Any]:
    """What a child answers to the order. Raises Failed."""
    child = _take()
    try:
        answer = child.ask(order)
    except BaseException:
        child.end()
        raise
    _give_back(child)
    return answer


def _take() -> Child:
    """An idle child that lives, or a new one."""
    while True:
        with _lock:
            child = _idle.pop() if _idle else None
        if child is None:
            return Child()
        if child.process.poll() is None:
            return child
        child.end()


def _give_back(child: Child) -> None:
    with _lock:
        _idle.append(child)
    later = threading.Timer(KEPT, end_idle, kwargs={"since": KEPT})
    later.daemon = True
    later.start()


def end_idle(*, since: float = 0.0) -> None:
    """End the children that have had no order for `since` seconds."""
    with _lock:
        old = [child for child in _idle if monotonic() - child.used_at >= since]
        for child in old:
            _idle.remove(child)
    for child in old:
        child.end()


atexit.register(end_idle)
