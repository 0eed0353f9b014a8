"""What the local provider keeps on disk, written so that a kill at any moment leaves something readable.

<root>/<label>/         one machine
    meta.json           what was ordered; never changes
    secrets.json        0600: the machine's key and environment; deleted when it is given back
    state.json          who runs it now: pids with their start, port, phase (its supervisor writes)
    journal.jsonl       what happened, one line each, synced: what time costs is counted from it
    heartbeat           touched every HEARTBEAT seconds while it runs
    engine.log (.1)     what the engine said
<root>/.locks/<label>   every change of a machine is one act under it
<root>/.history/<label>/  machines given back: journal and last log
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

HEARTBEAT = 2.0
"""Seconds. A run whose end nobody saw is counted up to its last heartbeat."""

_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,119}")


class Busy(Exception):
    """Another act holds the machine's lock."""


@dataclass(frozen=True, slots=True)
class MachineFolder:
    """The files of one machine. Nothing is touched until a method is called."""

    root: Path
    label: str

    @property
    def path(self) -> Path:
        return self.root / self.label

    @property
    def archive(self) -> Path:
        return self.root / ".history" / self.label

    @property
    def log(self) -> Path:
        return self.path / "engine.log"

    def exists(self) -> bool:
        return self.path.is_dir()

    def read(self, name: str) -> dict[str, Any]:
        """A JSON file of the machine. Raises OSError or ValueError when it is missing or unreadable."""
        value = json.loads((self.path / name).read_text())
        if not isinstance(value, dict):
            raise ValueError(f"{name} holds no object.")
        return value

    def read_or_empty(self, name: str) -> dict[str, Any]:
        try:
            return self.read(name)
        except (OSError, ValueError):
            return {}

    def write(self, name: str, value: dict[str, Any]) -> None:
        write_durably(self.path / name, json.dumps(value))

    def note(self, event: str, *, at: datetime, **fields: Any) -> None:
        """Append one event to the journal, on disk when this returns."""
        line = json.dumps({"at": at.isoformat(), "event": event, **fields}) + "\n"
        with open(self.path / "journal.jsonl", "ab+") as file:
            if file.tell() and not _ends_whole(file.fileno(), file.tell()):
                line = "\n" + line  # A power cut tore the last line; it must not swallow this one.
            file.write(line.encode())
            file.flush()
            os.fsync(file.fileno())

    def events(self) -> list[dict[str, Any]]:
        return read_journal(self.path / "journal.jsonl")

    def beat(self) -> None:
        path = self.path / "heartbeat"
        path.touch(mode=0o600)

    def last_beat(self) -> datetime | None:
        try:
            return datetime.fromtimestamp((self.path / "heartbeat").stat().st_mtime, UTC)
        except OSError:
            return None


def valid_label(label: str) -> bool:
    """Whether a label can be a folder's name here."""
    return _LABEL.fullmatch(label) is not None


def read_journal(path: Path) -> list[dict[str, Any]]:
    """The events of a journal, oldest first, `at` as datetime; torn lines are left out."""
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return []
    events = []
    for line in lines:
        with suppress(ValueError, KeyError, TypeError):
            event = json.loads(line)
            event["at"] = datetime.fromisoformat(event["at"])
            events.append(event)
    return events


def write_durably(path: Path, text: str) -> None:
    """Replace a file as a whole (mode 0600); it is on disk, under its name, when this returns."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.{time.monotonic_ns()}")
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(fd, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError:
        draft.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Make the names in a folder survive a power cut."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextmanager
def locked(root: Path, label: str, *, deadline: float) -> Iterator[int]:
    """Hold the machine's lock, across processes; yields the lock's file descriptor.

    Handed to a child it stays held until that child closes it too. Raises Busy past the
    `time.monotonic()` deadline, OSError when the folder cannot be written.
    """
    path = root / ".locks" / label
    path.parent.mkdir(mode=0o700, exist_ok=True)
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            _wait_for_lock(fd, deadline)
            if _is_still(path, fd):
                yield fd
                return
        finally:
            os.close(fd)


def is_locked(root: Path, label: str) -> bool:
    """Whether an act on this machine is under way."""
    try:
        fd = os.open(root / ".locks" / label, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(fd)
    return False


def _wait_for_lock(fd: int, deadline: float) -> None:
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise Busy from None
            time.sleep(0.02)


def _is_still(path: Path, fd: int) -> bool:
    # Whoever gave the machine back removed the lock's name; a lock on a removed name guards nothing.
    try:
        return path.stat().st_ino == os.fstat(fd).st_ino
    except FileNotFoundError:
        return False


def _ends_whole(fd: int, size: int) -> bool:
    return os.pread(fd, 1, size - 1) == b"\n"
