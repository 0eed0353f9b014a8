"""Writing the ledger: the hours of changed segments become entries, adjustments and day totals.

Whoever posts holds the rows of its subjects (`lock`), inside one transaction with the change of the
segments. So at every commit the ledger holds exactly what `PriceSegment.metered_to` says it holds.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import NamedTuple
from uuid import UUID

from django.db import connection

from billing.models import Adjustment, ClosedPeriod, LedgerEntry, PriceSegment, Subject
from billing.money import accrued_nano, from_nano, to_nano
from billing.periods import HOUR, hour_of, hours_between
from billing.rollup import total_days

_NOTHING = (0, timedelta(0))
_ROWS = 2_000
"""Rows for each INSERT: many enough to be quick, few enough for every database's limit of parameters."""


@dataclass(frozen=True, slots=True)
class Span:
    """What the ledger holds of one segment: [start, end) at `nano` nano-dollars an hour."""

    nano: int
    start: datetime
    end: datetime


@dataclass(frozen=True, slots=True)
class Change:
    """One component of one subject whose spans changed from `since` on."""

    subject_id: UUID
    component: str
    since: datetime
    before: Sequence[Span]
    after: Sequence[Span]

    def hours(self) -> Iterable[datetime]:
        end = max((span.end for span in (*self.before, *self.after)), default=self.since)
        return hours_between(self.since, end)


class Entry(NamedTuple):
    """What one component of one subject costs in one hour; see LedgerEntry."""

    subject_id: UUID
    component: str
    hour: datetime
    seconds: int
    nano: int


_UPSERT = """
    INSERT INTO billing_ledgerentry (subject_id, component, hour, seconds, usd) VALUES (%s, %s, %s, %s, %s)
    ON CONFLICT (subject_id, component, hour) DO UPDATE SET seconds = excluded.seconds, usd = excluded.usd
"""


def lock(subject_ids: Collection[UUID]) -> None:
    """Hold these different subjects to the end of the transaction. Raises Subject.DoesNotExist when one is missing.

    In the order of their ids, so that two holders never wait for each other; without the key, so that a
    new row that points to a subject does not wait. SQLite's transactions are exclusive already.
    """
    rows = Subject.objects.filter(pk__in=subject_ids).order_by("pk").select_for_update(no_key=True)
    if len(rows.values_list("pk")) < len(subject_ids):
        raise Subject.DoesNotExist("The ledger does not know this subject: open_subject comes first.")


def closed_until() -> datetime | None:
    """Hours before this are closed; None while nothing is."""
    return ClosedPeriod.objects.order_by("-until").values_list("until", flat=True).first()


def cursor(segment: PriceSegment) -> datetime:
    """Up to where the ledger holds the segment's cost."""
    return segment.metered_to or segment.started_at


def hourly(segment: PriceSegment) -> Decimal:
    """USD per hour of the whole quantity."""
    return segment.usd_per_unit_hour * segment.quantity


def spans(segments: Iterable[PriceSegment], *, to: datetime | None = None) -> list[Span]:
    """What the ledger holds of `segments`; with `to`, what it holds once all of them are metered to there."""
    held = []
    for segment in segments:
        end = max(cursor(segment), to) if to else cursor(segment)
        end = min(end, segment.ended_at) if segment.ended_at else end
        held.append(Span(to_nano(hourly(segment)), segment.started_at, end))
    return held


def post(changes: Iterable[Change], *, reason: str) -> int:
    """Write every hour that `changes` touch; how many hours that were.

    Open hours are recomputed whole. A closed hour is left as it is: what changed in it becomes an
    adjustment with `reason`.
    """
    closed = closed_until()
    entries: list[Entry] = []
    adjustments: list[Adjustment] = []
    emptied: dict[tuple[UUID, str], list[datetime]] = defaultdict(list)
    days: dict[date, set[UUID]] = defaultdict(set)
    for change in changes:
        after = _costs(change.after, change.since)
        before = _costs(change.before, change.since) if closed and change.since < closed else {}
        for hour in change.hours():
            nano, time = after.get(hour, _NOTHING)
            seconds = round(time.total_seconds())
            days[hour.date()].add(change.subject_id)
            if closed and hour < closed:
                if difference := nano - before.get(hour, _NOTHING)[0]:
                    adjustments.append(_adjustment(change, hour, difference, reason))
            elif seconds or nano:
                entries.append(Entry(change.subject_id, change.component, hour, seconds, nano))
            else:
                emptied[change.subject_id, change.component].append(hour)
    write_entries(entries)
    _remove(emptied)
    Adjustment.objects.bulk_create(adjustments, batch_size=_ROWS)
    total_days(days)
    return len(entries) + len(adjustments)


def write_entries(entries: Sequence[Entry]) -> None:
    """Set the entries, new or not, to what they cost.

    By hand: through the models most of a year's metering would be spent on making their objects.
    """
    if not entries:
        return
    subject, hour = LedgerEntry._meta.get_field("subject"), LedgerEntry._meta.get_field("hour")
    ids, hours = {e.subject_id for e in entries}, {e.hour for e in entries}
    subjects = {key: subject.get_db_prep_save(key, connection) for key in ids}
    times = {key: hour.get_db_prep_save(key, connection) for key in hours}
    rows = [(subjects[e.subject_id], e.component, times[e.hour], e.seconds, e.nano) for e in entries]
    with connection.cursor() as cursor:
        cursor.executemany(_UPSERT, rows)


def _costs(held: Sequence[Span], since: datetime) -> dict[datetime, tuple[int, timedelta]]:
    """What each hour from the one of `since` on costs, nano-dollars, and the time of it that is charged."""
    first, found = hour_of(since), dict[datetime, tuple[int, timedelta]]()
    for span in held:
        at = max(span.start, first)
        hour, done = hour_of(at), accrued_nano(span.nano, at - span.start)
        while at < span.end:
            until = min(hour + HOUR, span.end)
            # Differences of cumulative amounts, so that the hours add up to the span exactly.
            total = accrued_nano(span.nano, until - span.start)
            nano, time = found.get(hour, _NOTHING)
            found[hour] = (nano + total - done, time + (until - at))
            at, hour, done = until, hour + HOUR, total
    return found


def _adjustment(change: Change, hour: datetime, nano: int, reason: str) -> Adjustment:
    text = f"{change.component}: {reason}"[:300]
    return Adjustment(subject_id=change.subject_id, hour=hour, usd=from_nano(nano), reason=text)


def _remove(emptied: dict[tuple[UUID, str], list[datetime]]) -> None:
    """Hours in which nothing is charged any more have no entry."""
    for (subject_id, component), hours in emptied.items():
        for i in range(0, len(hours), 500):
            LedgerEntry.objects.filter(
                subject_id=subject_id, component=component, hour__in=hours[i : i + 500]
            ).delete()
