"""What the hours of a month say of a deployment's load, in two queries whatever the number of deployments.

The panel's own chats are not load: an hour counts as busy when at least two requests came beyond them, or when some
request ran for six minutes of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import batched
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import connection
from django.db.models import Q

from deployments.models import Monitor, Sample
from deployments.monitoring import samples

DAYS = 28
WAITED = 1.0
"""Requests that waited, the mean of an hour: fewer are a moment's crowd."""
FULL = 0.9
RUNNING = 0.1
BINS = 50
"""Of the KV cache: two percent each."""
_TOGETHER = 250
"""Machines in one query. SQLite joins 500 statements."""


@dataclass(slots=True)
class Load:
    """The hours of one deployment. `seen`, `busy`, `crowded`, `waited`: a bit for each hour since `first` (since 1970, UTC)."""

    first: int
    hours: int
    seen: int = 0
    """Something was measured."""
    busy: int = 0
    crowded: int = 0
    """The KV cache was 90 % full and a request waited, all the hour on the average."""
    waited: int = 0
    """A request waited for more than a minute of it."""
    kv_p95: float | None = None
    """Of its hours: the share of the KV cache that was in use, at most, in 95 % of them; None: nobody told."""

    @property
    def days(self) -> int:
        """How many days' worth of hours were measured."""
        return self.seen.bit_count() // 24


@dataclass(slots=True)
class _Hours:
    """The same of one machine, and in how many of its hours the KV cache was how full."""

    bits: list[int] = field(default_factory=lambda: [0, 0, 0, 0])
    fullness: dict[int, int] = field(default_factory=dict)


@dataclass(slots=True)
class _Kept:
    key: tuple[object, ...]
    of: dict[int, _Hours]


_kept = _Kept((), {})


def window(now: datetime) -> tuple[int, int]:
    """The first hour (since 1970, UTC) and the one after the last: whole hours that are over."""
    end = int(now.timestamp()) // 3600
    return end - DAYS * 24, end


def loads(deployments: Collection[UUID], *, now: datetime) -> dict[UUID, Load]:
    """The load of each of the deployments of which something was measured; three queries at the most."""
    first, end = window(now)
    stood = Q(instance__ended_at=None) | Q(instance__ended_at__gt=now - timedelta(days=DAYS))
    owners = dict(
        Monitor.objects.filter(stood, instance__deployment__in=list(deployments)).values_list(
            "pk", "instance__deployment_id"
        )
    )
    found: dict[UUID, Load] = {}
    fullness: dict[UUID, Counter[int]] = {}
    for monitor, hours in _machines(owners, first, end).items():
        if hours.bits[0]:
            load = found.setdefault(owners[monitor], Load(first, end - first))
            seen, busy, crowded, waited = hours.bits
            load.seen, load.busy = load.seen | seen, load.busy | busy
            load.crowded, load.waited = load.crowded | crowded, load.waited | waited
            fullness.setdefault(owners[monitor], Counter()).update(hours.fullness)
    for deployment, load in found.items():
        load.kv_p95 = _p95(fullness[deployment]) if fullness[deployment] else None
    return found


def _machines(monitors: Collection[int], first: int, end: int) -> dict[int, _Hours]:
    """The hours of each machine. Those that are over do not change: a process reads them once an hour."""
    global _kept
    # Inside a transaction rows may be seen that nobody else sees, or that are taken back.
    if connection.in_atomic_block:
        return _read(monitors, first, end)
    key = (end, settings.CANARY_INTERVAL)
    kept = _kept if _kept.key == key else _Kept(key, {})
    if new := [m for m in monitors if m not in kept.of]:
        kept.of |= _read(new, first, end)
        _kept = kept
    return {m: kept.of[m] for m in monitors}


def _read(monitors: Collection[int], first: int, end: int) -> dict[int, _Hours]:
    found = {m: _Hours() for m in monitors}
    for monitor, day, *masks in _each(monitors, _by_day(first, end)):
        shift = int(day) * 24 - first
        hours = found[monitor]
        hours.bits = [kept | _shifted(mask, shift) for kept, mask in zip(hours.bits, masks, strict=True)]
    for monitor, full, count in _each(monitors, _by_fullness(first, end)):
        found[monitor].fullness[full] = count
    return found


def _shifted(bits: Any, by: int) -> int:
    # PostgreSQL sums whole numbers to a Decimal.
    whole = int(bits or 0)
    return whole << by if by >= 0 else whole >> -by


def _each(monitors: Iterable[int], sql: str) -> list[tuple[Any, ...]]:
    """The rows of a statement for each monitor, put together: so each is a short walk in the key."""
    rows: list[tuple[Any, ...]] = []
    for some in batched(sorted(monitors), _TOGETHER):
        with connection.cursor() as cursor:
            cursor.execute(" UNION ALL ".join([sql] * len(some)), some)
            rows += cursor.fetchall()
    return rows


_TABLE = Sample._meta.db_table


def _by_day(first: int, end: int) -> str:
    asked = " + ".join(f"COALESCE({c}, 0)" for c in _FINISHED)
    busy = f"{asked} > {_own_requests()} OR COALESCE(running, 0) > {RUNNING}"
    crowded = f"COALESCE(kv_use, 0) >= {FULL} AND COALESCE(waiting, 0) >= {WAITED}"
    bit = "CAST(1 AS BIGINT) << CAST(bucket %% 86400 / 3600 AS INTEGER)"
    sums = ", ".join(
        f"SUM(CASE WHEN {which} THEN {bit} ELSE 0 END)" for which in (busy, crowded, "COALESCE(waiting, 0) > 0.02")
    )  # fmt: skip
    return (
        f"SELECT monitor_id, bucket / 86400, SUM({bit}), {sums} FROM {_TABLE} "  # noqa: S608 (our own names and numbers)
        f"WHERE {_hours(first, end)} AND running IS NOT NULL GROUP BY monitor_id, bucket / 86400"
    )


_FINISHED = ("finished_stop", "finished_length", "finished_abort", "finished_error")


def _own_requests() -> float:
    """Requests a minute that say nothing: the canary's, and one and a half an hour more."""
    interval = settings.CANARY_INTERVAL
    return (60 / interval if interval else 0.0) + 1.5 / 60


def _hours(first: int, end: int) -> str:
    between = f"bucket BETWEEN {first * 3600} AND {(end - 1) * 3600}"
    return f"monitor_id = %s AND resolution = {samples.HOUR} AND {between}"


def _by_fullness(first: int, end: int) -> str:
    """How many hours the KV cache was how full, over the last half of the window."""
    fullness = f"CAST(kv_use * {BINS} AS INTEGER)"
    return (
        f"SELECT monitor_id, {fullness}, COUNT(*) FROM {_TABLE} WHERE {_hours(end - (end - first) // 2, end)} "  # noqa: S608
        f"AND kv_use IS NOT NULL GROUP BY monitor_id, {fullness}"
    )


def _p95(bins: Mapping[int, int]) -> float:
    """The upper edge of the bin below which 95 % of the hours lie."""
    left = sum(bins.values()) * 95
    for full, count in sorted(bins.items()):
        left -= count * 100
        if left <= 0:
            return min(1.0, (full + 1) / BINS)
    return 1.0


def crowded_share(load: Load) -> float:
    """The part of the measured hours in which more was asked than its memory takes."""
    return load.crowded.bit_count() / load.seen.bit_count() if load.seen else 0.0
