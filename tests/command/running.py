"""A real panel in processes of its own, on a data folder and a port of its own."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parent.parent.parent
PATIENCE = 180.0
"""Seconds until a wait is called hopeless; no test is about time."""


def environment(**extra: str) -> dict[str, str]:
    """What `./regia` would hand over, without what this test run has set for itself."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("REGIA_", "PYTEST_"))}
    for name in ("DATABASE_URL", "CELERY_BROKER_URL", "DJANGO_SETTINGS_MODULE"):
        kept.pop(name, None)
    # No panel of a test asks a real provider or a bank: nothing listens there.
    nowhere = dict.fromkeys(
        (
            "RUNPOD_API_BASE_URL",
            "RUNPOD_RUNTIME_BASE_URL",
            "RUNPOD_PROXY_URL_TEMPLATE",
            "RUNPOD_BALANCER_URL_TEMPLATE",
            "VAST_API_BASE_URL",
        ),
        "http://127.0.0.1:9",
    )
    return {**kept, **nowhere, "REGIA_ECB_RATES_URL": "", "PYTHONPATH": str(ROOT), **extra}


def command(*arguments: str, **extra: str) -> subprocess.CompletedProcess[str]:
    """Run a verb to its end."""
    return subprocess.run(
        [sys.executable, "-P", "-S", "-m", "panel.command", *arguments],
        env=environment(**extra), text=True, capture_output=True, timeout=5 * PATIENCE, check=False,
    )  # fmt: skip


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as s:
        return int(s.getsockname()[1])


def until(what: Callable[[], object], *, message: str, patience: float = PATIENCE) -> None:
    """Wait until `what()` is true."""
    give_up = time.monotonic() + patience
    while not what():
        assert time.monotonic() < give_up, message
        time.sleep(0.05)


class Panel:
    """`./regia up`, its output as it comes. Always ended by `close`."""

    def __init__(self, data: Path, *flags: str, port: int | None = None, **extra: str) -> None:
        self.data, self.port = data, port or free_port()
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-S", "-m", "panel.command", "up", "--data-dir", str(data), "--port", str(self.port), *flags],
            env=environment(**extra), text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        self.output = ""
        self._children: list[psutil.Process] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in self.process.stdout or ():
            self.output += line

    def wait_for(self, text: str) -> None:
        until(
            lambda: text in self.output or self.process.poll() is not None,
            message=f"{text!r} did not appear in:\n{self.output}",
        )
        assert text in self.output, self.output

    @property
    def link(self) -> str:
        """The address that was printed."""
        self.wait_for("leaves machines running")
        found = re.findall(r"http://\S+", self.output)
        assert len(found) == 1, "exactly one address is printed"
        return str(found[0])

    def children(self) -> list[psutil.Process]:
        """web, worker and terminate, all of them up."""
        us = psutil.Process(self.process.pid)
        until(lambda: len(self._named(us)) == 3, message="not every child was started")
        self._children = self._named(us)
        return self._children

    @staticmethod
    def _named(us: psutil.Process) -> list[psutil.Process]:
        out = []
        for child in us.children():
            try:
                if "panel.processes" in child.cmdline():
                    out.append(child)
            except psutil.Error:
                continue
        return out

    def child(self, name: str) -> psutil.Process:
        return next(c for c in self.children() if c.cmdline()[-1] == name)

    def end(self, number: int = signal.SIGTERM) -> int:
        """Signal the supervisor alone and wait for its end; its exit code."""
        self.process.send_signal(number)
        code = self.process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        return code

    def close(self) -> None:
        """End whatever is left, in any state."""
        left = [*self._children]
        if self.process.poll() is None:
            left += psutil.Process(self.process.pid).children(recursive=True)
            self.process.kill()
            self.process.wait(PATIENCE)
        for child in left:
            try:
                child.kill()
            except psutil.Error:
                continue


def gone(processes: list[psutil.Process]) -> bool:
    """Whether none of them runs. A zombie does not run: whoever inherited it has yet to read its code."""
    for process in processes:
        try:
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                return False
        except psutil.NoSuchProcess:
            continue
    return True
