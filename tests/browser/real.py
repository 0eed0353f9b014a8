"""A panel as an operator starts it: `./regia up`, in processes of its own."""

from __future__ import annotations

import http.cookiejar
import json
import os
import re
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 120
"""Seconds for each thing that takes its time: an upper bound against hanging, not a measure."""


class Panel(NamedTuple):
    link: str
    folder: Path
    process: subprocess.Popen[str]

    @property
    def address(self) -> str:
        return "/".join(self.link.split("/")[:3])

    def fresh_link(self) -> str:
        """Another one-time sign-in link."""
        done = subprocess.run(
            [str(ROOT / "regia"), "link", "--data-dir", str(self.folder)], text=True, capture_output=True, check=True
        )  # fmt: skip
        return done.stdout.strip()

    def emulator(self, name: str) -> Emulator:
        """The sandbox's runpod or vast."""
        return Emulator(json.loads((self.folder / "sandbox.json").read_text())[name])


class Emulator:
    """The control side of a running emulator: its public methods over HTTP."""

    def __init__(self, address: str) -> None:
        self.address = address

    def __getattr__(self, method: str) -> Any:
        def call(**arguments: Any) -> Any:
            request = urllib.request.Request(  # noqa: S310 - this computer's own
                f"{self.address}/_emulator/{method}", data=json.dumps(arguments).encode(), method="POST"
            )
            try:
                with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
                    return json.loads(answer.read() or "null")
            except urllib.error.HTTPError as e:
                raise LookupError(f"{method}: {e.read().decode()}") from None

        return call


@contextmanager
def panel(tmp_path: Path, *flags: str) -> Iterator[Panel]:
    """A panel of its own on a free port; afterwards everything of it is given back."""
    folder, port = tmp_path / "data", str(_free_port())
    kept = {
        k: v for k, v in os.environ.items() if not k.startswith(("REGIA_", "DJANGO_", "DATABASE_", "CELERY_"))
    }
    environment = {**kept, "PYTHONUNBUFFERED": "1", "REGIA_ECB_RATES_URL": ""}
    log = tmp_path / "up.log"
    with log.open("w") as out:
        process = subprocess.Popen(
            [str(ROOT / "regia"), "up", "--port", port, "--data-dir", str(folder), *flags],
            cwd=ROOT, env=environment, stdout=out, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
    try:
        yield Panel(_link(log, process), folder, process)
    finally:
        subprocess.run(
            [str(ROOT / "regia"), "down", "--data-dir", str(folder)],
            cwd=ROOT, env=environment, timeout=3 * PATIENCE, check=False,
        )  # fmt: skip
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=PATIENCE)


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def _link(log: Path, process: subprocess.Popen[str]) -> str:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and process.poll() is None:
        found = re.search(r"http://127\.0\.0\.1:\d+/sign-in/\S+", log.read_text())
        if found:
            return found[0]
        time.sleep(0.2)
    raise AssertionError(f"./regia up printed no link:\n{log.read_text()}")


class Visitor:
    """What a browser does with forms: cookies, the CSRF token, redirects."""

    def __init__(self, link: str) -> None:
        self.base = "/".join(link.split("/")[:3])
        jar = urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar())
        self.opener = urllib.request.build_opener(jar)
        path = link.removeprefix(self.base)
        self.post(path, self.get(path))

    def get(self, path: str) -> str:
        with self.opener.open(self.base + path, timeout=60) as answer:
            return str(answer.read().decode())

    def post(self, path: str, page: str, **values: object) -> tuple[str, str]:
        """The address that the form led to, and its page."""
        token = re.findall(r'name="csrfmiddlewaretoken" value="([^"]+)"', page)[0]
        body = urllib.parse.urlencode({**values, "csrfmiddlewaretoken": token}, doseq=True).encode()
        request = urllib.request.Request(self.base + path, body, {"Referer": self.base + path})  # noqa: S310
        with self.opener.open(request, timeout=60) as answer:
            return answer.geturl().removeprefix(self.base), str(answer.read().decode())
