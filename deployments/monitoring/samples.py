"""Samples: every metric of every instance over time, in four resolutions that stay small.

    15 s    for 48 hours      what `record` writes
    1 min   for 30 days       means of those, by `roll_up`
    1 h     for ever          means of those
    6 h     for ever          means of those, for months and for many instances at once

A write may be repeated: it fills the same bucket. A quantile over a longer bucket is the mean of its parts', each
with the weight of how much it observed: no histogram is kept, and this is the nearest to it that can be said.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import batched, pairwise
from math import ceil, isfinite
from typing import Any
from uuid import UUID

from django.core.exceptions import EmptyResultSet
from django.db import connection, transaction
from django.db.models import OuterRef, QuerySet, Subquery
from django.utils import timezone

from deployments.models import Heartbeat, Instance, Monitor, Sample
from panel.privacy.policy import kept_for

RAW, MINUTE, HOUR, QUARTER = 15, 60, 3600, 21_600
"""Seconds in a bucket. A quarter of a day is the longest whose seconds the column holds."""
RESOLUTIONS = (RAW, MINUTE, HOUR, QUARTER)
KEPT = {RAW: kept_for("sample_values"), MINUTE: kept_for("sample_minutes")}
"""How long each resolution is kept; those that are not here are kept for ever."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One thing that is measured."""

    title: str
    unit: str
    """requests, s, tokens/s, requests/min, or share (0 to 1)."""
    kind: str
    """gauge, rate or quantile. None depends on how long its bucket is, so each may be compared with each."""


METRICS: dict[str, Metric] = {
    "running": Metric("Requests running", "requests", "gauge"),
    "waiting": Metric("Requests waiting", "requests", "gauge"),
    "ttft_p50": Metric("Time to first token, median", "s", "quantile"),
    "ttft_p95": Metric("Time to first token, p95", "s", "quantile"),
    "ttft_p99": Metric("Time to first token, p99", "s", "quantile"),
    "itl_p50": Metric("Inter-token latency, median", "s", "quantile"),
    "itl_p95": Metric("Inter-token latency, p95", "s", "quantile"),
    "itl_p99": Metric("Inter-token latency, p99", "s", "quantile"),
    "tokens_in_rate": Metric("Prompt tokens", "tokens/s", "rate"),
    "tokens_out_rate": Metric("Generated tokens", "tokens/s", "rate"),
    "kv_use": Metric("KV cache in use", "share", "gauge"),
    "finished_stop": Metric("Finished: complete", "requests/min", "rate"),
    "finished_length": Metric("Finished: at the token limit", "requests/min", "rate"),
    "finished_abort": Metric("Finished: aborted", "requests/min", "rate"),
    "finished_error": Metric("Finished: failed", "requests/min", "rate"),
    "gpu_use": Metric("GPU in use", "share", "gauge"),
    "canary_ttft": Metric("Canary: time to first token", "s", "gauge"),
    "canary_rate": Metric("Canary: speed", "tokens/s", "gauge"),
    "up": Metric("Probes that were answered", "share", "gauge"),
}
WEIGHTS = {"ttft": "ttft_count", "itl": "itl_count"}
"""The columns that hold how much the quantiles of a name's first part have observed."""
COLUMNS = (*METRICS, *WEIGHTS.values())


@dataclass(frozen=True, slots=True)
class Point:
    """The values of one instance in the bucket that begins at `at`. None: nothing was observed."""

    at: datetime
    instance_id: UUID
    values: dict[str, float | None]


@dataclass(frozen=True, slots=True)
class Together:
    """Several instances as one: a column of values for each key, over the buckets that begin at `at`, oldest first."""

    step: int
    """Seconds in a bucket."""
    at: list[int]
    """Seconds since 1970."""
    columns: dict[str, list[float | None]]


# -- writing ------------------------------------------------------------------------------------------


def record(instance_id: UUID, at: datetime, values: Mapping[str, float | None]) -> None:
    """Write `values` (a key of METRICS or a weight -> value) into the 15 s bucket that `at` lies in.

    Values that are written again replace those before, others in the bucket stay; None and NaN write nothing.
    Raises KeyError for a name that is none.
    """
    record_many([(instance_id, at, values)])


def record_many(rows: Iterable[tuple[UUID, datetime, Mapping[str, float | None]]]) -> None:
    """`record` for many instances (instance id, time, values) in one transaction."""
    alike: dict[tuple[str, ...], dict[tuple[UUID, int], list[float]]] = {}
    for instance_id, at, values in rows:
        if strange := values.keys() - set(COLUMNS):
            raise KeyError(f"There is no metric {min(strange)!r}.")
        told = {k: float(v) for k, v in values.items() if v is not None and isfinite(v)}
        if told:
            bucket = _bucket(at, RAW)
            alike.setdefault(tuple(told), {})[instance_id, bucket] = list(told.values())
    if not alike:
        return
    with transaction.atomic(), connection.cursor() as cursor:
        numbers = monitors(instance_id for some in alike.values() for instance_id, _ in some)
        for columns, some in alike.items():
            told_rows = [
                [numbers[i], RAW, bucket, *v] for (i, bucket), v in sorted(some.items()) if i in numbers
            ]
            places = _places((*_KEY, *columns))
            cursor.executemany(_upsert(columns, f"VALUES ({places})", worst_up=True), told_rows)


def monitors(instance_ids: Iterable[UUID]) -> dict[UUID, int]:
    """The numbers of these instances' monitors; those that have none yet get one, those that are gone do not."""
    wanted = set(instance_ids)
    found = dict(Monitor.objects.filter(instance__in=wanted).values_list("instance_id", "pk"))
    if missing := wanted - found.keys():
        real = Instance.objects.filter(pk__in=missing).values_list("pk", flat=True)
        Monitor.objects.bulk_create([Monitor(instance_id=pk) for pk in real], ignore_conflicts=True)
        found |= dict(Monitor.objects.filter(instance__in=missing).values_list("instance_id", "pk"))
    return found


_TABLE = Sample._meta.db_table
_KEY = ("monitor_id", "resolution", "bucket")


def _upsert(columns: Sequence[str], source: str, *, worst_up: bool) -> str:
    """SQL that inserts rows from `source` and replaces the columns of those that stand already."""
    kept = {"up": _WORST} if worst_up else {}
    replaced = ", ".join(f"{c} = {kept.get(c, f'excluded.{c}')}" for c in columns)
    return (
        f"INSERT INTO {_TABLE} ({', '.join((*_KEY, *columns))}) {source} "
        f"ON CONFLICT ({', '.join(_KEY)}) DO UPDATE SET {replaced}"
    )


# Two probes fall into one bucket. One that failed must not be hidden by the next.
_WORST = f"CASE WHEN {_TABLE}.up < excluded.up THEN {_TABLE}.up ELSE excluded.up END"


# -- reading ------------------------------------------------------------------------------------------

_SCAN = 25_000
"""Rows that one query may look at (some 4 µs each) before a coarser resolution is taken."""
_SCAN_FOLDED = 60_000
"""The same where the database puts instances together and few rows come back: three times as quick."""
_TOGETHER = 250
"""Instances in one query."""
_POINTS = 20_000
"""Points in all that one query makes, however many instances it is asked for."""
_ENOUGH = 4
"""A coarser resolution will do when it has this part of the points that were asked for."""

type Machines = Collection[UUID] | QuerySet[Instance]


def step(
    since: datetime, until: datetime, *, instances: int = 1, points: int = 2000, now: datetime | None = None
) -> int:
    """How many seconds a bucket of `read` has for this range: a multiple of the resolution that it is read from."""
    now = now or timezone.now()
    return _resolution_and_step(since, until, instances=instances, points=points, now=now)[1]


def _resolution_and_step(
    since: datetime, until: datetime, *, instances: int, points: int, now: datetime, folded: bool = False
) -> tuple[int, int]:
    span = max(0.0, (until - since).total_seconds())
    scan = _SCAN_FOLDED if folded else _SCAN
    wished, points = points, points if folded else min(points, max(2, _POINTS // max(1, instances)))
    for resolution, coarser in pairwise(RESOLUTIONS):
        # One bucket's grace: a range of just 48 hours is read raw although its first bucket is going.
        kept = KEPT.get(resolution)
        is_kept = kept is None or since >= now - kept - timedelta(seconds=resolution)
        fits = span / resolution * instances <= scan
        # What would be drawn together anyway is read from rows that are drawn together already, if those are enough.
        enough = span / coarser >= wished / _ENOUGH
        if is_kept and fits and (span / resolution <= points or not enough):
            break
        # Who asks for each instance by itself wants hours rather than a few quarters of days, however many there are.
        if resolution == HOUR and not folded and not enough:
            break
    else:
        resolution = QUARTER
    # One bucket more than fits is begun where the range begins within one.
    return resolution, resolution * max(1, ceil(span / (resolution * max(1, points - 1))))


def read(
    instance_ids: Collection[UUID],
    keys: Sequence[str],
    since: datetime,
    until: datetime,
    *,
    points: int = 2000,
    now: datetime | None = None,
) -> list[Point]:
    """The values of `keys` from `since` until before `until`, oldest first; at most `points` for each instance.

    The finest resolution that is still kept is read, and several of its buckets become one where there are more
    than `points`; `step` says how long one is. A bucket in which nothing was observed is left out, so a gap stays
    a gap. One query for 250 instances. Raises KeyError for a key that METRICS does not have.
    """
    if strange := set(keys) - METRICS.keys():
        raise KeyError(f"There is no metric {min(strange)!r}.")
    if not instance_ids or not keys or until <= since:
        return []
    resolution, width = _resolution_and_step(
        since, until, instances=len(instance_ids), points=points, now=now or timezone.now()
    )
    start, values, group = "s.bucket", ", ".join(f"s.{key}" for key in keys), ""
    if width != resolution:
        start = f"s.bucket - s.bucket %% {width}"
        values, group = ", ".join(_mean(key, "s.") for key in keys), f" GROUP BY m.instance_id, {start}"
    columns = {*keys, *(WEIGHTS[k.split("_")[0]] for k in keys if METRICS[k].kind == "quantile")}
    whose = {_adapted(pk): (n, pk) for n, pk in enumerate(instance_ids)}
    found: list[tuple[Any, ...]] = []
    for some in batched(whose, _TOGETHER):
        rows = _rows(_places(some), columns, resolution, since, until)
        found += _asked(f"SELECT {start}, m.instance_id, {values} FROM {rows}{group}", some)  # noqa: S608 (our own names)
    found.sort(key=lambda row: (row[0], whose[row[1]][0]))
    return [
        Point(datetime.fromtimestamp(row[0], UTC), whose[row[1]][1], dict(zip(keys, row[2:], strict=True)))
        for row in found
    ]


def read_together(
    machines: Machines,
    folds: Mapping[str, str],
    since: datetime,
    until: datetime,
    *,
    count: int | None = None,
    points: int = 2000,
    now: datetime | None = None,
) -> Together:
    """As `read`, with all instances put together, in one query; of a QuerySet, `count` says about how many it has.

    `folds` names for each key what becomes of several instances' values in one bucket: "sum", "max", "min" or
    "avg". Several buckets become one by their mean. Raises KeyError for a key or a fold that is none, ValueError
    for a QuerySet without `count`.
    """
    if strange := folds.keys() - METRICS.keys():
        raise KeyError(f"There is no metric {min(strange)!r}.")
    across = {key: _FOLDS[fold] for key, fold in folds.items()}
    known = None if isinstance(machines, QuerySet) else len(machines)
    if known is None and count is None:
        raise ValueError("Of a QuerySet it must be told how many machines it has.")
    resolution, width = _resolution_and_step(
        since, until, instances=known or count or 1, points=points, now=now or timezone.now(), folded=True
    )
    found: list[tuple[Any, ...]] = []
    if folds and known != 0 and until > since:
        whose, values = _chosen(machines)
        rows = _rows(whose, folds, resolution, since, until)
        found = _asked(_folded(rows, across, resolution, width, alone=known == 1), values)
    at, *columns = zip(*found, strict=True) if found else ((), *((),) * len(folds))
    return Together(width, list(at), {key: list(column) for key, column in zip(folds, columns, strict=True)})


def _folded(rows: str, across: Mapping[str, str], resolution: int, width: int, *, alone: bool) -> str:
    """SQL for the `rows` with their instances put together, and then their buckets."""
    start = f"bucket - bucket %% {width}"
    means = ", ".join(f"AVG({key})" for key in across)
    if alone and width != resolution:
        return f"SELECT {start}, {means} FROM {rows} GROUP BY {start} ORDER BY 1"  # noqa: S608 (our own names)
    each = ", ".join(f"{fold}({key}) AS {key}" for key, fold in across.items())
    sql = f"SELECT bucket, {each} FROM {rows} GROUP BY bucket"  # noqa: S608
    if width != resolution:
        sql = f"SELECT {start}, {means} FROM ({sql}) u GROUP BY {start}"  # noqa: S608
    return f"{sql} ORDER BY 1"


_FOLDS = {"sum": "SUM", "max": "MAX", "min": "MIN", "avg": "AVG"}


def _rows(whose: str, columns: Iterable[str], resolution: int, since: datetime, until: datetime) -> str:
    """SQL for what stands behind FROM: the monitors `m` of these instances, and for each a short walk `s` in the key.

    Left to themselves both databases would rather read much of the table; so neither is left the choice.
    """
    first, last = _bucket(since, resolution), _bucket(until, 1) - (0 if until.microsecond else 1)
    monitors = f"SELECT id, instance_id FROM {Monitor._meta.db_table} WHERE instance_id IN ({whose})"  # noqa: S608
    where = f"monitor_id = m.id AND resolution = {resolution} AND bucket BETWEEN {first} AND {last}"
    if connection.vendor == "postgresql":
        # OFFSET keeps the inner query a query of its own.
        inner = f"SELECT bucket, {', '.join(columns)} FROM {_TABLE} WHERE {where} OFFSET 0"  # noqa: S608
        return f"({monitors}) m CROSS JOIN LATERAL ({inner}) s"
    return f"({monitors}) m CROSS JOIN {_TABLE} s ON {where}"


def _chosen(machines: Machines) -> tuple[str, Sequence[Any]]:
    """SQL for their ids, and its parameters."""
    if not isinstance(machines, QuerySet):
        ids = [_adapted(pk) for pk in machines]
        return _places(ids), ids
    try:
        return machines.values("pk").query.sql_with_params()
    except EmptyResultSet:
        return "NULL", ()


def _adapted(pk: UUID) -> Any:
    """As the database writes it."""
    return Monitor._meta.get_field("instance").get_db_prep_value(pk, connection)


def _asked(sql: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(sql, values)
        return list(cursor.fetchall())


def _mean(column: str, table: str = "") -> str:
    """SQL for a column's mean over several buckets; a quantile's has weights (one that has none weighs 1)."""
    metric = METRICS.get(column)
    c = f"{table}{column}"
    if metric is None:  # a weight: what was observed in all of them
        return f"SUM({c})"
    if metric.kind != "quantile":
        return f"AVG({c})"
    w = f"CASE WHEN {c} IS NULL THEN NULL ELSE COALESCE({table}{WEIGHTS[column.split('_')[0]]}, 1) END"
    return f"SUM({c} * ({w})) / NULLIF(SUM({w}), 0)"


def _bucket(at: datetime, resolution: int) -> int:
    seconds = int(at.timestamp() // 1)
    return seconds - seconds % resolution


# -- keeping it small ---------------------------------------------------------------------------------

_SLICE = {MINUTE: 3600, HOUR: 86_400, QUARTER: 30 * 86_400}
"""Seconds of samples that are rolled up in one transaction."""
_AGAIN = {MINUTE: timedelta(minutes=2), HOUR: timedelta(hours=1), QUARTER: timedelta(hours=6)}
"""How far back a round goes over what the last one has already written: something may have come late."""
_PURGED_MONITORS, _PURGED_BUCKETS = 50, 100
"""What is deleted in one transaction, at most: so many buckets of so many instances."""


def roll_up(now: datetime) -> None:
    """Write the minutes, hours and quarters of days since the last time, the present ones as far as they have come.

    It may be repeated. After a pause it goes on where it stopped, a part in one transaction.
    """
    for fine, coarse in pairwise(RESOLUTIONS):
        name = f"samples-{coarse}"
        last = Heartbeat.objects.filter(name=name).values_list("at", flat=True).first()
        begin = _kept_since(fine, now)
        at = max(min(last or begin, now) - _AGAIN[coarse], begin)
        since, end = _bucket(at, coarse), _bucket(now, fine) + fine
        for first in range(since, end, _SLICE[coarse]):
            _roll(fine, coarse, first, min(first + _SLICE[coarse], end))
        Heartbeat.beat(name, now)


def _kept_since(resolution: int, now: datetime) -> datetime:
    """Before this moment there is nothing of the resolution."""
    kept = KEPT.get(resolution)
    if kept is not None:
        return now - kept
    first = min(_oldest(resolution, _bucket(now, resolution)).values(), default=None)
    return now if first is None else datetime.fromtimestamp(first, UTC)


def _roll(fine: int, coarse: int, first: int, end: int) -> None:
    start = f"s.bucket - s.bucket %% {coarse}"
    means = ", ".join(_mean(c, "s.") for c in COLUMNS)
    # From the monitors to their samples: each is a short walk in the key, and no second index is needed.
    source = (
        f"SELECT s.monitor_id, {coarse}, {start}, {means} FROM {Monitor._meta.db_table} m "  # noqa: S608
        f"JOIN {_TABLE} s ON s.monitor_id = m.id AND s.resolution = {fine} "
        f"AND s.bucket >= %s AND s.bucket < %s GROUP BY s.monitor_id, {start}"
    )
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(_upsert(COLUMNS, source, worst_up=False), [first, end])


def purge(now: datetime) -> int:
    """Delete what is older than it is kept, a few thousand rows in one transaction; returns how many rows."""
    gone = 0
    for resolution, kept in KEPT.items():
        before = _bucket(now - kept, resolution)
        while old := _oldest(resolution, before):
            for some in batched(sorted(old), _PURGED_MONITORS):
                first = min(old[number] for number in some)
                gone += _delete(some, resolution, first, min(before, first + _PURGED_BUCKETS * resolution))
    return gone


def old(now: datetime) -> int:
    """How many rows a purge would delete now."""
    total = 0
    for resolution, kept in KEPT.items():
        before = _bucket(now - kept, resolution)
        for some in batched(sorted(_oldest(resolution, before)), _PURGED_MONITORS):
            rows = Sample.objects.filter(monitor__in=some, resolution=resolution, bucket__lt=before)
            total += rows.count()
    return total


def _oldest(resolution: int, before: int) -> dict[int, int]:
    """The first bucket of each monitor that has some from before `before`: one step in the key for each."""
    first = Sample.objects.filter(monitor=OuterRef("pk"), resolution=resolution).order_by("bucket")
    monitors = Monitor.objects.annotate(first=Subquery(first.values("bucket")[:1]))
    return {pk: at for pk, at in monitors.values_list("pk", "first") if at is not None and at < before}


def _delete(numbers: Sequence[int], resolution: int, first: int, before: int) -> int:
    # By hand: Django would first load the keys of all. From `first` on, so that the planner knows it is little.
    where = f"monitor_id IN ({_places(numbers)}) AND resolution = %s AND bucket >= %s AND bucket < %s"
    with connection.cursor() as cursor:
        cursor.execute(f"DELETE FROM {_TABLE} WHERE {where}", [*numbers, resolution, first, before])  # noqa: S608
        return int(cursor.rowcount)


def _places(values: Sequence[object]) -> str:
    return ", ".join(["%s"] * len(values))
