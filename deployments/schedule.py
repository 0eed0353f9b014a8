"""Weekly hours in which a deployment runs. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo


@dataclass(frozen=True, slots=True)
class Edge:
    """A moment (UTC) at which the schedule starts or stops a deployment."""

    at: datetime
    runs: bool


@dataclass(frozen=True, slots=True)
class Schedule:
    """It runs on `days` (ISO weekdays, "12345") from `start` to `end` of the wall clock in `zone`.

    An `end` that is not after `start` lies on the next day.
    """

    days: str
    start: time
    end: time
    zone: str

    def columns(self) -> dict[str, Any]:
        """As the columns of a Deployment."""
        return {
            "schedule_days": self.days,
            "schedule_from": self.start,
            "schedule_until": self.end,
            "time_zone": self.zone,
        }

    def last_edge(self, now: datetime) -> Edge | None:
        """The newest edge that is not after `now`; None for a schedule without days."""
        return max((e for e in self._edges(now) if e.at <= now), key=lambda e: (e.at, e.runs), default=None)

    def next_edge(self, now: datetime) -> Edge | None:
        """The first edge after `now`."""
        return min(
            (e for e in self._edges(now) if e.at > now), key=lambda e: (e.at, not e.runs), default=None
        )

    def _edges(self, now: datetime) -> Iterator[Edge]:
        today = now.astimezone(ZoneInfo(self.zone)).date()
        for offset in range(-8, 9):
            day = today + timedelta(days=offset)
            if str(day.isoweekday()) in self.days:
                until = day if self.end > self.start else day + timedelta(days=1)
                yield Edge(self._moment(day, self.start), runs=True)
                yield Edge(self._moment(until, self.end), runs=False)

    def _moment(self, day: date, at: time) -> datetime:
        # An hour that the clocks skip is read as the same distance after midnight before the change (PEP 495).
        return datetime.combine(day, at, ZoneInfo(self.zone)).astimezone(UTC)
