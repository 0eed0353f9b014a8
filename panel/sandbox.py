"""The sandbox of `./regia up --sandbox`: emulators of RunPod and Vast.ai stand for the providers.

No real machine, no real money: what they rent out are engines on this computer. The emulators run as
processes of their own and outlive the panel, as a provider would; `./regia down` ends them once every machine
is gone. The standard library alone.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from panel.holding import Refused

ROOT = Path(__file__).resolve().parent.parent
FOLDER = "data-sandbox"
EMULATORS = ("runpod", "vast")
KEY = "sandbox-key-that-opens-the-emulators"
"""What the sandbox's accounts hold: it opens nothing but the emulators."""
PATIENCE = 30.0
"""Seconds until an emulator that does not answer counts as failed, and one that does not end as stuck."""
FOREIGN = (
    "DATABASE_URL", "CELERY_BROKER_URL", "REGIA_SECRET_KEY", "REGIA_FIELD_KEYS", "REGIA_METRICS_TOKEN", "RUNPOD_API_KEY", "VAST_API_KEY",
)  # fmt: skip
"""What of a real panel's environment the sandbox does without: its rows, bells and keys are its own."""


def mark_of(folder: Path) -> Path:
    """The file that says: this folder is a sandbox's. It names the emulators' addresses."""
    return folder / "sandbox.json"


def is_sandbox(folder: Path) -> bool:
    return mark_of(folder).exists()


def check(folder: Path, *, wanted: bool) -> None:
    """Keep the sandbox's data and a real panel's apart. Raises Refused."""
    if is_sandbox(folder) and not wanted:
        raise Refused(f"{folder} belongs to the sandbox; add --sandbox, or choose another --data-dir.")
    if wanted and not is_sandbox(folder) and any((folder / name).exists() for name in _REAL):
        raise Refused(f"{folder} holds a real panel's data; choose another --data-dir for the sandbox.")


_REAL = ("regia.sqlite3", "field_keys", "secret_key")
"""What a panel leaves in its folder: the keys also where its rows are in PostgreSQL."""


def begin(folder: Path) -> None:
    """Start the emulators that do not run, and note where they are. Raises Refused."""
    # Marked first: whatever fails from here on, `./regia down` finds and ends what was started.
    mark_of(folder).touch()
    addresses = {name: _running(folder, name) or _start(folder, name) for name in EMULATORS}
    draft = mark_of(folder).with_suffix(".new")
    draft.write_text(json.dumps(addresses))
    draft.replace(mark_of(folder))


def environment(folder: Path) -> dict[str, str]:
    """What makes a panel on this folder ask the emulators; nothing for a folder that is no sandbox's."""
    if not is_sandbox(folder):
        return {}
    at = json.loads(mark_of(folder).read_text() or "{}")
    runpod, vast = at.get("runpod", _NOWHERE), at.get("vast", _NOWHERE)
    return {
        "REGIA_SANDBOX": "1",
        "ALLOW_INSECURE_ENDPOINTS": "1",
        "RUNPOD_API_BASE_URL": runpod,
        "RUNPOD_RUNTIME_BASE_URL": f"{runpod}/runtime",
        "RUNPOD_PROXY_URL_TEMPLATE": f"{runpod}/proxy/{{pod_id}}-{{port}}",
        "RUNPOD_BALANCER_URL_TEMPLATE": f"{runpod}/balancer/{{endpoint_id}}",
        "VAST_API_BASE_URL": vast,
        "INFERENCE_IMAGE": "regia/inference:sandbox",
        "INFERENCE_IMAGE_TLS": "0",
        # What the emulators start takes none.
        "INFERENCE_LEASE_SECONDS": "0",
    }


_NOWHERE = "http://127.0.0.1:9"


def without_foreign() -> dict[str, str]:
    """The environment as a sandbox's processes may have it."""
    return {k: v for k, v in os.environ.items() if k.removesuffix("_FILE") not in FOREIGN}


def end(folder: Path) -> None:
    """End the emulators, and with them whatever they still run."""
    for name in EMULATORS:
        pid = _facts(folder, name).get("pid")
        if pid and _running(folder, name):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
            _until(lambda name=name: not _running(folder, name), f"the {name} emulator does not end")


def _start(folder: Path, name: str) -> str:
    home = folder / "sandbox" / name
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (folder / "logs" / f"sandbox-{name}.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", f"tests.emulators.{name}", "--folder", str(home), "--key", KEY],
            cwd=ROOT, env=without_foreign() | {"PYTHONPATH": str(ROOT)}, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            # A session of its own: like a provider, it lives on when the panel ends.
            start_new_session=True,
        )  # fmt: skip
    _until(
        lambda: _running(folder, name) or process.poll() is not None,
        f"the {name} emulator does not start; see {log.name}",
    )
    address = _running(folder, name)
    if not address:
        raise Refused(f"the {name} emulator ended at once; see {log.name}.")
    return address


def _running(folder: Path, name: str) -> str:
    """The address of the emulator that runs for this folder; empty when none does."""
    address = str(_facts(folder, name).get("address", ""))
    if not address:
        return ""
    host, _, port = address.rpartition("//")[2].partition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=2) as s:
            s.sendall(b"GET /_emulator/whoami HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            answer = b"".join(iter(lambda: s.recv(4096), b""))
    except (OSError, ValueError):
        return ""
    # Another program may have taken the port since: ours names its own folder.
    return address if str(folder / "sandbox" / name).encode() in answer else ""


def _facts(folder: Path, name: str) -> dict[str, Any]:
    try:
        facts: dict[str, Any] = json.loads((folder / "sandbox" / name / "address.json").read_text())
    except (OSError, ValueError):
        return {}
    return facts


def _until(what: Any, sentence: str) -> None:
    give_up = time.monotonic() + PATIENCE
    while not what():
        if time.monotonic() > give_up:
            raise Refused(f"{sentence}.")
        time.sleep(0.1)
