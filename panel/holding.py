"""Who may use a data folder: one supervisor, and with SQLite one host. The standard library alone."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HOST_FRESH = 30.0
"""Another host's mark on the data counts for this many seconds after it was last touched."""


class Refused(Exception):
    """One sentence for the terminal; the exit code is 1."""


def make_folder(folder: Path) -> None:
    """Make the data folder and prove that it can be written. Raises Refused."""
    probe = folder / f".write-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        (folder / "logs").mkdir(exist_ok=True, mode=0o700)
        probe.write_text("")
        probe.unlink()
    except OSError as e:
        raise Refused(f"the data folder {folder} cannot be written: {e.strerror}.") from e


class Lock:
    """`regia.lock`: held by flock for as long as the supervisor lives, so that no stale one exists.

    Its text is JSON (pid, address) and means something only while the lock is held.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "regia.lock"
        self._fd = -1

    def take(self) -> bool:
        """False when another supervisor holds it."""
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return False
        self._fd = fd
        return True

    def say(self, **facts: Any) -> None:
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, json.dumps(facts).encode(), 0)

    def holder(self) -> dict[str, Any] | None:
        """What the supervisor that holds the lock says of itself; None when nobody holds it."""
        if not self.path.exists():
            return None
        if self.take():
            self.release()
            return None
        for _ in range(20):  # it writes a moment after it has locked
            with contextlib.suppress(ValueError):
                facts: dict[str, Any] = json.loads(self.path.read_text())
                return facts
            time.sleep(0.05)
        return {}

    def release(self) -> None:
        os.close(self._fd)
        self._fd = -1


class HostMark:
    """`regia.host`: which host uses the SQLite file. flock does not reach across every network folder.

    The supervisor touches it every few seconds. Ages are taken by the file server's own clock. With
    another database any number of hosts may share the work, and the mark does nothing.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "regia.host"
        self.name = socket.gethostname()
        self.needed = _uses_sqlite()
        self._touched = 0.0

    def check(self) -> None:
        """Raises Refused when another host touched the mark a moment ago."""
        if not self.needed:
            return
        try:
            other, touched = self.path.read_text().strip(), self.path.stat().st_mtime
        except FileNotFoundError:
            return
        probe = self.path.with_name(f".host-{os.getpid()}")
        probe.touch()
        age = probe.stat().st_mtime - touched
        probe.unlink()
        if other and other != self.name and age < HOST_FRESH:
            raise Refused(
                f"the host {other} used this SQLite data {max(age, 0):.0f} s ago, and SQLite serves one host:"
                " end Regia there, or give both a PostgreSQL with DATABASE_URL."
            )

    def keep(self) -> None:
        if self.needed and time.monotonic() - self._touched > HOST_FRESH / 6:
            self._touched = time.monotonic()
            with contextlib.suppress(OSError):
                self.path.write_text(self.name + "\n")

    def remove(self) -> None:
        if self.needed:
            self.path.unlink(missing_ok=True)


def _uses_sqlite() -> bool:
    url = os.environ.get("DATABASE_URL", "").strip()
    return not url or url.startswith("sqlite")


@contextlib.contextmanager
def sole(folder: Path, mark: HostMark) -> Iterator[Lock]:
    """Hold the data folder. Raises Refused when another supervisor, here or on another host, does."""
    lock = Lock(folder)
    if not lock.take():
        holder = lock.holder() or {}
        raise Refused(
            f"Regia already runs on {folder} (process {holder.get('pid', 'unknown')},"
            f" {holder.get('address', 'starting')}); ./regia link prints a sign-in link."
        )
    mark.check()
    mark.keep()
    try:
        yield lock
    finally:
        mark.remove()
        lock.release()
