"""The spool: where a stop or terminate is noted when the database cannot take its audit event.

`audit-spool.jsonl` in the data folder, one JSON object a line, each with an id of its own, on the disk before
`add` returns. `drain` hands the lines over in order; a process that dies in between loses none, and the id
makes handing one over twice harmless.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from django.conf import settings

logger = logging.getLogger(__name__)

type Line = dict[str, Any]


def _path(name: str) -> Path:
    return Path(settings.DATA_DIR) / name


@contextmanager
def _locked(name: str, *, wait: bool) -> Iterator[bool]:
    """Hold the lock file `name`; False when it is held elsewhere and `wait` is not wanted."""
    fd = os.open(_path(name), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(fd)


def add(line: Line, *, to: str = "audit-spool.jsonl") -> None:
    """Append one line and put it on the disk. Raises OSError when that fails."""
    with _locked("audit-spool.lock", wait=True):
        fd = os.open(_path(to), os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            size = os.fstat(fd).st_size
            # A line that a dying process left half-written must not swallow this one.
            torn = size and os.pread(fd, 1, size - 1) != b"\n"
            _write(fd, (b"\n" if torn else b"") + json.dumps(line).encode() + b"\n")
            os.fsync(fd)
        finally:
            os.close(fd)
        _sync_folder()


def _write(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


def drain(take: Callable[[Line], None]) -> int:
    """Hand every line to `take`, oldest first; how many. What `take` raises stops it, and the rest stays.

    The lines stand in a file of their own meanwhile, so that a stop need not wait for a slow database.
    """
    with _locked("audit-drain.lock", wait=False) as ours:
        if not ours:
            return 0
        # First what a drain that died has left, then what came since.
        return _drain_file(take) + (_drain_file(take) if _set_aside() else 0)


def pending() -> int:
    """How many lines wait."""
    return sum(len(_lines(_path(name))) for name in ("audit-draining.jsonl", "audit-spool.jsonl"))


def _set_aside() -> bool:
    with _locked("audit-spool.lock", wait=True):
        try:
            _path("audit-spool.jsonl").rename(_path("audit-draining.jsonl"))
        except FileNotFoundError:
            return False
        _sync_folder()
        return True


def _drain_file(take: Callable[[Line], None]) -> int:
    path, taken = _path("audit-draining.jsonl"), 0
    for raw in _lines(path):
        line = _parsed(raw)
        if line is None:
            logger.error("A line of the audit's spool is damaged; it is kept in audit-damaged.jsonl.")
            add({"damaged": raw}, to="audit-damaged.jsonl")
            continue
        take(line)
        taken += 1
    path.unlink(missing_ok=True)
    return taken


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_text(errors="replace")
    except FileNotFoundError:
        return []
    return [raw for raw in text.split("\n") if raw]


def _parsed(raw: str) -> Line | None:
    try:
        line = json.loads(raw)
    except ValueError:
        return None
    return line if isinstance(line, dict) and {"id", "at", "action"} <= line.keys() else None


def _sync_folder() -> None:
    fd = os.open(settings.DATA_DIR, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
