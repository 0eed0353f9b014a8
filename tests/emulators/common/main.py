"""An emulator as a process of its own, for the sandbox."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from tests.emulators.common.engines import RealEngines
from tests.emulators.common.server import DEFAULT_KEY, Emulator


def run(make: Callable[..., Emulator]) -> None:
    """Serve until SIGTERM, SIGINT, or until the pipe of `--until-closed` closes; then end the engines."""
    options = _options()
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    emulator = make(
        keys=tuple(options.key or [DEFAULT_KEY]), boot_seconds=options.boot_seconds,
        engines=RealEngines(options.folder / "engines"),
    )  # fmt: skip
    emulator.home = str(options.folder)
    with emulator.start(options.port):
        _announce(options.folder, emulator.url)
        if options.until_closed is not None:
            watch = threading.Thread(target=_watch, args=(options.until_closed, ended), daemon=True)
            watch.start()
        ended.wait()


def _announce(folder: Path, url: str) -> None:
    """Tell where it listens: on standard output, and in the folder for who did not start it."""
    draft = folder / "address.json.new"
    draft.write_text(json.dumps({"address": url, "pid": os.getpid()}))
    draft.replace(folder / "address.json")
    sys.stdout.write(f"{url}\n")
    sys.stdout.flush()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--folder", type=Path, required=True, help="where the engines are kept")
    parser.add_argument("--key", action="append", help="an account's API key; several make several accounts")
    parser.add_argument("--boot-seconds", type=float, default=3.0)
    parser.add_argument("--until-closed", type=int, metavar="FD", help="end when this pipe closes")
    return parser.parse_args()


def _watch(descriptor: int, ended: threading.Event) -> None:
    while os.read(descriptor, 1024):
        pass
    ended.set()
