"""Hours, days and calendar periods, all UTC: the grid on which money is counted. No database here."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from typing import NamedTuple

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)


class Period(NamedTuple):
    """From `start` to before `end`."""

    start: datetime
    end: datetime


def utc(at: datetime) -> datetime:
    """`at` in UTC. A time without a zone is refused: nobody can say which hour it is charged in."""
    if at.utcoffset() is None:
        raise ValueError(f"{at.isoformat()} has no time zone.")
    return at.astimezone(UTC)


def hour_of(at: datetime) -> datetime:
    """The start of the hour that holds `at`."""
    return utc(at).replace(minute=0, second=0, microsecond=0)


def midnight(day: date) -> datetime:
    """The first moment of `day`."""
    return datetime.combine(day, time.min, UTC)


def day_of(at: datetime) -> datetime:
    """The start of the day that holds `at`."""
    return midnight(utc(at).date())


def hour_up(at: datetime) -> datetime:
    """The first whole hour that is not before `at`."""
    start = hour_of(at)
    return start if start == at else start + HOUR


def day_up(at: datetime) -> datetime:
    """The first midnight that is not before `at`."""
    start = day_of(at)
    return start if start == at else start + DAY


def hours_between(start: datetime, end: datetime) -> Iterator[datetime]:
    """Every hour that [start, end) touches."""
    hour = hour_of(start)
    while hour < end:
        yield hour
        hour += HOUR


def days_between(start: date, end: date) -> Iterator[date]:
    """Every day from `start` to before `end`."""
    while start < end:
        yield start
        start += DAY


def calendar_day(now: datetime) -> Period:
    start = day_of(now)
    return Period(start, start + DAY)


def calendar_month(now: datetime) -> Period:
    start = day_of(now).replace(day=1)
    # 32 days after the first of a month is always in the next one.
    return Period(start, (start + timedelta(days=32)).replace(day=1))
