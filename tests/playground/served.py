"""The panel under the real uvicorn, in a process and a data folder of its own, with somebody signed in."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

_SETUP = """
import json, sys
import django
django.setup()
from django.conf import settings
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
from django.contrib.sessions.backends.db import SessionStore
from django.core.management import call_command
from django.middleware.csrf import _get_new_csrf_string
from django.utils import timezone
from tests import factories
from tests.playground.rows import chatting_deployment
call_command("migrate", verbosity=0)
user = factories.operator()
session = SessionStore()
session[SESSION_KEY] = str(user.pk)
session[BACKEND_SESSION_KEY] = "django.contrib.auth.backends.ModelBackend"
session[HASH_SESSION_KEY] = user.get_session_auth_hash()
session.create()
made = [chatting_deployment(now=timezone.now(), **engine) for engine in json.loads(sys.argv[1])]
print(json.dumps({
    "deployments": [str(d.id) for d in made],
    "session": [settings.SESSION_COOKIE_NAME, session.session_key],
    "csrf": [settings.CSRF_COOKIE_NAME, _get_new_csrf_string()],
}))
"""


@dataclass(frozen=True)
class Panel:
    url: str
    pid: int
    deployments: list[str]
    session: list[str]
    csrf: list[str]

    @property
    def headers(self) -> dict[str, str]:
        """Of a request from the page: who is signed in, and the token."""
        cookies = f"{self.session[0]}={self.session[1]}; {self.csrf[0]}={self.csrf[1]}"
        return {
            "Cookie": cookies,
            "X-CSRFToken": self.csrf[1],
            "Origin": self.url,
            "Content-Type": "application/json",
        }

    def stream(self, n: int = 0) -> str:
        return f"/playground/{self.deployments[n]}/stream"


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait_for_port(port: int, *, patience: float = 30) -> None:
    end = time.monotonic() + patience
    while time.monotonic() < end:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5):
            return
        time.sleep(0.05)
    raise TimeoutError(f"Nothing listens on port {port}.")


@contextlib.contextmanager
def panel(
    engines: list[dict[str, str]], data: Path, *, app: str = "panel.asgi:application",
    before: Sequence[str] = (), **settings: str,
) -> Iterator[Panel]:  # fmt: skip
    """A panel that knows one deployment for each of `engines` (arguments of `chatting_deployment`).

    `before` stands before the command (`taskset -c 0`); `settings` are environment variables.
    """
    env = {k: v for k, v in os.environ.items() if k not in ("DATABASE_URL", "CELERY_BROKER_URL")} | {
        "REGIA_DATA_DIR": str(data), "DJANGO_SETTINGS_MODULE": "panel.settings", "PYTHONPATH": str(ROOT),
        "REGIA_LOG_LEVEL": "WARNING", **settings,
    }  # fmt: skip
    setup = [sys.executable, "-c", _SETUP, json.dumps(engines)]
    made = json.loads(subprocess.check_output(setup, cwd=ROOT, env=env, text=True).splitlines()[-1])
    port = free_port()
    serve = [
        sys.executable, "-m", "uvicorn", app, "--host", "127.0.0.1", "--port", str(port), "--loop", "uvloop",
        "--http", "httptools", "--lifespan", "off", "--no-access-log", "--log-level", "warning",
    ]  # fmt: skip
    process = subprocess.Popen([*before, *serve], cwd=ROOT, env=env)
    try:
        wait_for_port(port)
        yield Panel(f"http://127.0.0.1:{port}", process.pid, **made)
    finally:
        process.terminate()
        process.wait(timeout=10)
