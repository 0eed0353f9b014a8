"""A local machine's log: what its engine said and what was done to it, in order of time."""

from __future__ import annotations

import json
import os
from datetime import datetime
from pathlib import Path

from deployments.providers.base import LogLine
from deployments.providers.local_files import read_journal

_READ_BYTES = 512_000
_TEXT_LENGTH = 2000
_WORDS = {
    "started": "The engine was started.", "start": "It was told to start again.", "stop": "It was told to stop.",
    "terminate": "It was told to end.",
}  # fmt: skip


def read_logs(folder: Path, *, tail: int) -> tuple[LogLine, ...]:
    """The newest `tail` lines, oldest first; at most half a megabyte of each log is read."""
    if tail <= 0:
        return ()
    secret = _secret_of(folder)
    lines = [_parse(line, secret) for name in ("engine.log.1", "engine.log") for line in _tail(folder / name)]
    lines += [LogLine(e["at"], "system", _say(e)) for e in read_journal(folder / "journal.jsonl") if _say(e)]
    lines += [_parse(line, secret, source="system") for line in _tail(folder / "supervisor.log")]
    # Stable: lines without a time stay behind the one they followed.
    return tuple(_in_order(lines)[-tail:])


def _in_order(lines: list[LogLine]) -> list[LogLine]:
    keyed: list[tuple[float, LogLine]] = []
    latest = 0.0
    for line in lines:
        latest = line.at.timestamp() if line.at else latest
        keyed.append((latest, line))
    return [line for _, line in sorted(keyed, key=lambda pair: pair[0])]


def _parse(line: str, secret: str, *, source: str = "container") -> LogLine:
    stamp, _, text = line.partition(" ")
    try:
        at: datetime | None = datetime.fromisoformat(stamp)
    except ValueError:
        at, text = None, line
    if secret:
        text = text.replace(secret, "***")
    return LogLine(at, source, text[:_TEXT_LENGTH])


def _say(event: dict[str, object]) -> str:
    if event["event"] == "ended":
        return str(event.get("detail", ""))
    if event["event"] == "price":
        return f"Its price is now ${event.get('usd_per_hour')}/h."
    return _WORDS.get(str(event["event"]), "")


def _tail(path: Path) -> list[str]:
    try:
        with open(path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _READ_BYTES))
            lines = file.read(_READ_BYTES).decode(errors="replace").splitlines()
    except OSError:
        return []
    # The first line of a cut is a piece of one.
    return lines[1:] if size > _READ_BYTES else lines


def _secret_of(folder: Path) -> str:
    try:
        return str(json.loads((folder / "secrets.json").read_text())["api_key"])
    except (OSError, ValueError, KeyError):
        return ""
