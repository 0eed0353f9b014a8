"""Closing a period, and correcting what is closed: by rows that are added, with a reason."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import NamedTuple
from uuid import UUID

from django.db import transaction

from billing.metering import meter
from billing.models import Adjustment, ClosedPeriod, Subject
from billing.money import BadAmount
from billing.periods import hour_of, utc
from billing.posting import closed_until, lock
from billing.rollup import total_days


def close_period(until: datetime, *, now: datetime) -> ClosedPeriod:
    """Hours before `until` are final: metered once more, then never recomputed.

    Raises ValueError (a sentence) when `until` is not a whole hour, lies ahead, or is closed already.
    """
    until, now = utc(until), utc(now)
    if until != hour_of(until):
        raise ValueError("A period is closed at a whole hour.")
    if until > now:
        raise ValueError("A period is closed when it is over.")
    meter(now)
    with transaction.atomic():
        # With every subject held nobody is writing an hour that is about to be closed.
        lock(Subject.objects.values_list("pk", flat=True))
        closed = closed_until()
        if closed and closed >= until:
            raise ValueError(f"The ledger is closed to {closed:%-d %B %Y %H:%M} UTC already.")
        return ClosedPeriod.objects.create(until=until, closed_at=now)


@transaction.atomic
def adjust(subject_id: UUID, usd: Decimal, *, hour: datetime, reason: str, now: datetime) -> Adjustment:
    """Add `usd` (negative: a credit) to what the subject cost in that hour. Raises BadAmount, a sentence."""
    lock([subject_id])
    return added([Correction(subject_id, usd, hour)], reason=reason, now=now)[0]


class Correction(NamedTuple):
    subject_id: UUID
    usd: Decimal
    hour: datetime


def added(corrections: Sequence[Correction], *, reason: str, now: datetime) -> list[Adjustment]:
    """Add corrections of subjects that the caller holds (`lock`). Raises BadAmount, a sentence."""
    if not reason.strip():
        raise BadAmount("A correction needs a reason.")
    rows = Adjustment.objects.bulk_create(
        Adjustment(
            subject_id=c.subject_id, hour=hour_of(c.hour), usd=c.usd, reason=reason[:300], created_at=utc(now)
        )
        for c in corrections
    )
    days: dict[date, set[UUID]] = defaultdict(set)
    for row in rows:
        days[row.hour.date()].add(row.subject_id)
    total_days(days)
    return rows
