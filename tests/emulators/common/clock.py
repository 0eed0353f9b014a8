"""The emulator's time: the real UTC clock, moved or held by the test."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta


class Clock:
    """`start` holds it at that moment until it is advanced; without it, it runs with the real time."""

    def __init__(self, start: datetime | None = None) -> None:
        self._held = start
        self._offset = timedelta(0)

    @property
    def now(self) -> datetime:
        return (self._held or datetime.now(UTC)) + self._offset

    def advance(self, seconds: float) -> None:
        self._offset += timedelta(seconds=seconds)

    def hold(self, moment: datetime) -> None:
        """Stand still at this moment."""
        self._held, self._offset = moment, timedelta(0)

    def run(self) -> None:
        """Go with the real time again, from the moment it stands at."""
        now = self.now
        self._held = None
        self._offset = now - datetime.now(UTC)
