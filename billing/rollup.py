"""Day and month totals: what pages add up instead of entries. Recomputed whole, never incremented.

Whoever writes them holds the rows of their subjects (`posting.lock`), in the transaction of what they sum up.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from datetime import date, timedelta
from uuid import UUID

from django.db import connection, transaction
from django.db.models import Sum

from billing.models import Adjustment, Component, DayTotal, LedgerEntry, MonthTotal, Subject
from billing.periods import DAY, midnight

_ROWS = 1_000
"""Rows for each INSERT; on SQLite Django makes them fewer, for its limit of parameters."""
PART_OF: dict[str, str] = {
    Component.COMPUTE: "compute_usd",
    Component.DISK: "disk_usd",
    Component.VOLUME: "volume_usd",
    Component.TRAFFIC_IN: "traffic_usd",
    Component.TRAFFIC_OUT: "traffic_usd",
}
"""Which column a component's cost is told in. What is not named here is in `usd` alone."""
PARTS = (*dict.fromkeys(PART_OF.values()), "adjusted_usd")
COST = ("usd", *PARTS, "seconds")
OUTPUT = ("tokens_in", "tokens_out", "busy_seconds", "watched_seconds", "best_hour")


@dataclass(frozen=True, slots=True)
class Output:
    """What a machine gave in one day (UTC): tokens, and seconds in which it worked and in which it was watched."""

    tokens_in: int
    tokens_out: int
    busy_seconds: int
    watched_seconds: int
    best_hour: int
    """Tokens, read and written, in its best whole hour."""


def total_days(days: Mapping[date, Collection[UUID]]) -> None:
    """Recompute the totals of these subjects on these days, and of the months these are in."""
    for day, subject_ids in days.items():
        _total_day(day, subject_ids)
    _total_months(days)


@transaction.atomic
def give(day: date, outputs: Mapping[UUID, Output]) -> None:
    """Set what subjects gave on that day. Saying it again is saying it once; who is unknown here is left out."""
    known = Subject.objects.filter(pk__in=outputs).order_by("pk").select_for_update(no_key=True)
    mine = [pk for (pk,) in known.values_list("pk")]
    rows = [DayTotal(subject_id=pk, day=day, usd=0, **asdict(outputs[pk])) for pk in mine]
    _write(rows, OUTPUT)
    _total_months({day: mine})


def _total_day(day: date, subject_ids: Collection[UUID]) -> None:
    start = midnight(day)
    rows = {pk: DayTotal(subject_id=pk, day=day, usd=0) for pk in subject_ids}
    within = {"subject_id__in": subject_ids, "hour__gte": start, "hour__lt": start + DAY}
    # With every component named the index finds the day; without, all of a subject's history would be read.
    entries = LedgerEntry.objects.filter(component__in=Component.values, **within)
    parts = entries.order_by().values_list("subject_id", "component")
    for pk, component, usd, seconds in parts.annotate(Sum("usd"), Sum("seconds")):
        row = rows[pk]
        row.usd += usd
        if part := PART_OF.get(component):
            setattr(row, part, getattr(row, part) + usd)
        if component == Component.COMPUTE:
            row.seconds += seconds
    adjustments = Adjustment.objects.filter(**within).order_by().values_list("subject_id")
    for pk, usd in adjustments.annotate(Sum("usd")):
        rows[pk].usd += usd
        rows[pk].adjusted_usd += usd
    _write(list(rows.values()), COST)


def _write(rows: list[DayTotal], columns: Collection[str]) -> None:
    DayTotal.objects.bulk_create(
        rows,
        batch_size=_ROWS,
        update_conflicts=True,
        unique_fields=["subject", "day"],
        update_fields=list(columns),
    )


def first_of(day: date) -> date:
    return day.replace(day=1)


def month_after(day: date) -> date:
    """The first day of the next month."""
    return first_of(first_of(day) + timedelta(days=32))


def _total_months(days: Mapping[date, Collection[UUID]]) -> None:
    months: dict[date, set[UUID]] = defaultdict(set)
    for day, subject_ids in days.items():
        months[first_of(day)].update(subject_ids)
    for month, some in months.items():
        total_month(month, some)


def total_month(month: date, subject_ids: Collection[UUID]) -> None:
    """Recompute a month's totals from its day totals, in the database: no row comes here."""
    if not subject_ids:
        return
    table, days = MonthTotal._meta.db_table, DayTotal._meta.db_table
    summed = (*COST, *OUTPUT[:-1])
    columns = (*summed, OUTPUT[-1])
    sums = ", ".join([*(f"SUM({c})" for c in summed), f"MAX({OUTPUT[-1]})"])
    replaced = ", ".join(f"{c} = excluded.{c}" for c in columns)
    places = ", ".join(["%s"] * len(subject_ids))
    prepare = Subject._meta.pk.get_db_prep_value
    ids = [prepare(pk, connection) for pk in subject_ids]
    first, end = (connection.ops.adapt_datefield_value(d) for d in (month, month_after(month)))
    with connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO {table} (subject_id, month, {', '.join(columns)}) "  # noqa: S608 (our own names)
            f"SELECT subject_id, {_DATE[connection.vendor]}, {sums} FROM {days} "
            f"WHERE subject_id IN ({places}) AND day >= %s AND day < %s GROUP BY subject_id "
            f"ON CONFLICT (subject_id, month) DO UPDATE SET {replaced}",
            [first, *ids, first, end],
        )


_DATE = {"sqlite": "%s", "postgresql": "CAST(%s AS date)"}
