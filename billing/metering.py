"""Metering: the ledger follows the clock, in batches that are small, repeatable and safe in parallel."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from django.db import transaction
from django.db.models import Q, QuerySet

from billing.models import PriceSegment
from billing.periods import HOUR, hour_of, utc
from billing.posting import Change, cursor, lock, post, spans

SUBJECTS = 500
"""Subjects in one batch: their rows are held for about a tenth of a second."""

HOURS = 24
"""Hours of catching up in one batch, so that after days of downtime no transaction grows with the gap."""


def meter(now: datetime) -> int:
    """Bring the ledger up to `now`; how many hours were written.

    It moves each open segment's `metered_to` and writes the hours it moved over, both in one transaction
    under the subject's lock. So meeting another metering, coming late or coming twice changes nothing;
    and with a clock that went back, nothing is due until it has caught up, so no amount ever falls.
    """
    now, written, last = utc(now), 0, None
    while batch := _due_subjects(now, after=last):
        more = True
        while more:
            hours, more = _advance(batch, now)
            written += hours
        last = batch[-1]
    return written


def _due(now: datetime) -> QuerySet[PriceSegment]:
    behind = Q(metered_to=None, started_at__lt=now) | Q(metered_to__lt=now)
    return PriceSegment.objects.filter(behind, ended_at=None)


def _due_subjects(now: datetime, *, after: UUID | None) -> list[UUID]:
    due = _due(now).filter(subject_id__gt=after) if after else _due(now)
    return list(due.order_by("subject_id").values_list("subject_id", flat=True).distinct()[:SUBJECTS])


@transaction.atomic
def _advance(subject_ids: Sequence[UUID], now: datetime) -> tuple[int, bool]:
    """Meter the subjects by at most `HOURS`; how many hours were written, and whether more are due."""
    lock(subject_ids)
    due = {s.pk: s for s in _due(now).filter(subject_id__in=subject_ids)}
    if not due:
        return 0, False
    start = hour_of(min(cursor(s) for s in due.values()))
    horizon = min(now, start + HOURS * HOUR)
    due = {pk: s for pk, s in due.items() if cursor(s) < horizon}
    written = post(_changes(due, start, horizon), reason="metered after the period was closed")
    PriceSegment.objects.filter(pk__in=due).update(metered_to=horizon)
    return written, horizon < now


def _changes(due: dict[int, PriceSegment], start: datetime, horizon: datetime) -> list[Change]:
    """The hours of the due segments, with every other segment that shares them."""
    sharing: dict[tuple[UUID, str], list[PriceSegment]] = defaultdict(list)
    ended = PriceSegment.objects.filter(
        subject_id__in={s.subject_id for s in due.values()}, ended_at__gt=start
    )
    for segment in (*ended, *due.values()):
        sharing[segment.subject_id, segment.component].append(segment)
    changes = []
    for (subject_id, component), segments in sharing.items():
        moving = [s for s in segments if s.pk in due]
        if moving:
            since = min(cursor(s) for s in moving)
            before, after = spans(segments), spans(segments, to=horizon)
            changes.append(Change(subject_id, component, since, before, after))
    return changes
