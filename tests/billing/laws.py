"""What must hold between the ledger's tables at every moment."""

from __future__ import annotations

from collections import defaultdict
from datetime import datetime, timedelta
from decimal import Decimal

from django.db.models import Sum

from billing.models import Adjustment, DayTotal, LedgerEntry, PriceSegment, UsageCharge
from billing.money import accrued
from billing.posting import cursor

HOUR = timedelta(hours=1)


def integral(segment: PriceSegment, *, to: datetime) -> Decimal:
    """What the segment costs to `to`: its price times the time, to the nano-dollar."""
    end = min(segment.ended_at or to, to)
    return accrued(segment.usd_per_unit_hour * segment.quantity, end - segment.started_at)


def assert_books_balance() -> None:
    """Entries and adjustments are the integral of what is metered and the sum of usage, day totals are their sum."""
    held = sum((integral(s, to=cursor(s)) for s in PriceSegment.objects.all()), total(UsageCharge))
    assert total(LedgerEntry) + total(Adjustment) == held
    days: dict[object, Decimal] = defaultdict(Decimal)
    for row in [*LedgerEntry.objects.all(), *Adjustment.objects.all()]:
        days[row.subject_id, row.hour.date()] += row.usd
    totals = {(d.subject_id, d.day): d.usd for d in DayTotal.objects.all()}
    assert {k: v for k, v in totals.items() if v} == {k: v for k, v in days.items() if v}
    for entry in LedgerEntry.objects.all():
        assert entry.hour == entry.hour.replace(minute=0, second=0, microsecond=0)
        assert 0 <= entry.seconds <= 3600
        assert entry.usd >= 0
        assert entry.seconds or entry.usd, "an entry tells of time or of money"


def total(model: type) -> Decimal:
    return model.objects.aggregate(usd=Sum("usd"))["usd"] or Decimal(0)


def books() -> list[tuple]:
    """Every entry, adjustment and total: two equal ones are the same books."""
    return [
        *LedgerEntry.objects.order_by("pk").values_list(
            "pk", "subject", "component", "hour", "seconds", "usd"
        ),
        *Adjustment.objects.order_by("pk").values_list("pk", "subject", "hour", "usd", "reason"),
        *DayTotal.objects.order_by("pk").values_list("pk", "subject", "day", "usd"),
        *UsageCharge.objects.order_by("pk").values_list(
            "pk", "subject", "external_id", "at", "quantity", "usd"
        ),
    ]
