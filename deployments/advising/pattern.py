"""When a deployment is used, and which weekly hours would be enough for it. Pure.

Hours are bits of whole numbers, so that a month of 200 deployments is looked through in milliseconds:

    bits since 1970 (UTC) ── wall ── the same on the wall clock of a zone, bit 24 x day + hour
                                └─ find ── the Schedule that rests longest and of which we are sure

**Sure** is a number: with 95 % confidence somebody asks for something in its rest on at most one day in five. That
takes 14 days without an exception (0.8^14 = 4.4 %), 22 days with one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, time
from functools import cache, lru_cache
from math import comb
from zoneinfo import ZoneInfo

from deployments.schedule import Schedule

DAYS_NEEDED = 14
RARELY = 0.2
"""On at most this part of the days somebody may want it in its rest."""
DOUBT = 0.05
WEEK = 168
_DAY = (1 << 24) - 1


@dataclass(frozen=True, slots=True)
class Wall:
    """Hours on a wall clock. `day` is the number of the first day since 1970; both have a bit for each hour since."""

    zone: str
    day: int
    days: int
    seen: int
    busy: int

    def of(self, bits: int, day: int) -> int:
        """The 24 bits of the day `day` days after the first."""
        return bits >> 24 * day & _DAY if day >= 0 else 0

    def weekday(self, day: int) -> int:
        """ISO: 1 is Monday."""
        return (self.day + day + 3) % 7 + 1


@dataclass(frozen=True, slots=True)
class Found:
    """A schedule, and how often its rest was watched."""

    schedule: Schedule
    hours: int
    """Of a week in which it runs."""
    days: int
    """Days whose hours of rest were all measured, or of which an exception is known."""
    exceptions: int
    """Those of them on which somebody asked for something meanwhile."""
    lead: int
    """Hours between its start and the first request that was seen."""

    @property
    def rest(self) -> int:
        """Hours of a week."""
        return WEEK - self.hours


def is_sure(exceptions: int, days: int) -> bool:
    """Whether `exceptions` on `days` leave at most 5 % doubt that it is wanted on more than one day in five."""
    lucky = sum(
        comb(days, n) * RARELY**n * (1 - RARELY) ** (days - n) for n in range(min(exceptions, days) + 1)
    )
    return days > 0 and lucky <= DOUBT


def wall(first: int, hours: int, seen: int, busy: int, zone: str) -> Wall:
    """`hours` bits from the hour `first` since 1970 (UTC) on, as the wall clock of `zone` shows them.

    The hour that a clock repeats is busy when either is; the one that it skips was never seen.
    """
    parts = _parts(first, hours, zone)
    start = min(shift for _, _, shift, _ in parts) // 24 * 24
    end = max(shift + width for _, width, shift, _ in parts) + 1
    shown = {"seen": 0, "busy": 0}
    for name, bits in (("seen", seen), ("busy", busy)):
        for at, width, shift, is_split in parts:
            part = (bits >> at & ((1 << width) - 1)) << (shift - start)
            shown[name] |= part | (part << 1) if is_split else part
    return Wall(zone, start // 24, -(-(end - start) // 24), shown["seen"], shown["busy"])


@cache
def _zone(name: str) -> ZoneInfo:
    return ZoneInfo(name)


@lru_cache(maxsize=64)
def _parts(first: int, hours: int, zone: str) -> tuple[tuple[int, int, int, bool], ...]:
    """Stretches of one offset: (its first bit, how many, its wall hour since 1970, whether it begins within one)."""
    found: list[tuple[int, int, int]] = []
    for n in range(max(1, hours)):
        moment = datetime.fromtimestamp((first + n) * 3600, UTC).astimezone(_zone(zone))
        offset = int((moment.utcoffset() or moment - moment).total_seconds())
        if found and found[-1][2] == offset:
            at, width, _ = found[-1]
            found[-1] = (at, width + 1, offset)
        else:
            found.append((n, 1, offset))
    return tuple((at, width, first + at + offset // 3600, offset % 3600 != 0) for at, width, offset in found)


# -- the schedule ------------------------------------------------------------------------------------


@lru_cache(maxsize=1024)
def find(seen: Wall, *, lead: int) -> Found | None:
    """The schedule that rests longest among those of which we are sure; None without any.

    It starts `lead` hours before the first request that was ever seen and stops an hour after the last one.
    """
    found = (f for shape in _shapes(seen, lead) if (f := _watched(seen, *shape, lead=lead)))
    return max((f for f in found if is_sure(f.exceptions, f.days)), key=lambda f: f.rest, default=None)


def is_unused(seen: Wall) -> bool:
    """Whether nobody asked for anything on enough whole days, and on none of them."""
    whole = sum(seen.of(seen.seen, n) == _DAY for n in range(seen.days))
    return not seen.busy and is_sure(0, whole)


def _shapes(seen: Wall, lead: int) -> Iterator[tuple[frozenset[int], int, int]]:
    """(ISO weekdays, first hour, how many hours): one that covers every use, one that covers each repeated use."""
    padded = seen.busy | seen.busy << 1
    for n in range(1, lead + 1):
        padded |= seen.busy >> n
    once, twice = [0] * 8, [0] * 8
    for n in range(seen.days + 1):
        day, mask = seen.weekday(n), seen.of(padded, n)
        twice[day] |= once[day] & mask
        once[day] |= mask
    for masks in (once, twice):
        if shape := _shape(masks):
            yield shape


def _shape(masks: list[int]) -> tuple[frozenset[int], int, int] | None:
    """The shortest stretch of the day that covers the hours of every weekday, and the weekdays on which it begins."""
    start, length = _arc(masks)
    if not length:
        return None
    days = set()
    for day in range(1, 8):
        if masks[day] >> start:
            days.add(day)
        # What lies before the start belongs to the stretch that began the day before.
        if masks[day] & ((1 << start) - 1):
            days.add((day - 2) % 7 + 1)
    return (frozenset(days), start, length) if len(days) * length < WEEK else None


def _arc(masks: list[int]) -> tuple[int, int]:
    """The first hour and the length of the shortest stretch of the clock that covers all; (0, 0) for none."""
    every = 0
    for mask in masks:
        every |= mask
    hours = [h for h in range(24) if every >> h & 1]
    if not hours:
        return 0, 0
    following = [*hours[1:], hours[0] + 24]
    gap, at = max((after - h, after) for h, after in zip(hours, following, strict=True))
    return (at % 24, 25 - gap) if gap > 1 else (0, 24)


def _watched(seen: Wall, days: frozenset[int], start: int, length: int, *, lead: int) -> Found | None:
    """The schedule with what was seen of its rest, day by day."""
    runs = 0
    for n in range(-1, seen.days):
        if seen.weekday(n) in days:
            runs |= ((1 << length) - 1) << (24 * n + start) if n >= 0 else _tail(start, length)
    watched = exceptions = 0
    for n in range(seen.days):
        rest = _DAY & ~seen.of(runs, n)
        asked = bool(seen.of(seen.busy, n) & rest)
        # An exception counts on a day that was measured in part, too.
        if rest and (asked or seen.of(seen.seen, n) & rest == rest):
            watched += 1
            exceptions += asked
    schedule = Schedule("".join(map(str, sorted(days))), time(start), time((start + length) % 24), seen.zone)
    return Found(schedule, len(days) * length, watched, exceptions, lead)


def _tail(start: int, length: int) -> int:
    """What a stretch of the day before the first one takes of the first."""
    return (1 << max(0, start + length - 24)) - 1
