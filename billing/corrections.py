"""Closing a period, and correcting what is closed: by rows that are added, with a reason."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
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
    if not reason.strip():
        raise BadAmount("A correction needs a reason.")
    lock([subject_id])
    hour = hour_of(hour)
    added = Adjustment.objects.create(
        subject_id=subject_id, hour=hour, usd=usd, reason=reason[:300], created_at=utc(now)
    )
    total_days({hour.date(): [subject_id]})
    return added
