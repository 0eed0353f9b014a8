"""One machine's bill: its hours by component, the prices they come from, charges, corrections, what is held for it."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from django.core.paginator import Paginator
from django.http import HttpResponse
from django.shortcuts import get_object_or_404
from django.utils import timezone

from billing import above, breakdown
from billing.cost import Cost
from billing.exports.lines import provider_name
from billing.models import (
    Adjustment,
    Bill,
    Component,
    LedgerEntry,
    PriceSegment,
    ProviderStatement,
    Reservation,
    Subject,
    UsageCharge,
)
from billing.money import accrued_between
from billing.periods import DAY, utc
from billing.posting import closed_until, cursor, hourly
from panel.accounts.access import requires
from panel.ui.http import SignedInRequest
from panel.ui.live import live

HOURS = 48
"""Hours on one page."""
ROWS = 100
"""Prices, charges and corrections that are shown; more are counted."""


@dataclass(slots=True)
class Hour:
    """What one hour cost, by component."""

    start: datetime
    parts: dict[str, LedgerEntry] = field(default_factory=dict)
    adjusted: Decimal = Decimal(0)
    closed: bool = False

    @property
    def usd(self) -> Decimal:
        return sum((entry.usd for entry in self.parts.values()), self.adjusted)

    def cells(self, components: list[str]) -> list[LedgerEntry | None]:
        return [self.parts.get(component) for component in components]


@dataclass(frozen=True, slots=True)
class Price:
    """A price segment: what it costs an hour, and what it has cost in all, USD."""

    segment: PriceSegment
    per_hour: Decimal
    usd: Decimal


@requires("billing.view_ledgerentry")
def machine(request: SignedInRequest, subject_id: UUID) -> HttpResponse:
    """`#machine` polls. Machines that are gone stay."""
    now = timezone.now()
    subject = get_object_or_404(Subject.objects.select_related("owner", "reservation"), pk=subject_id)
    prices = _prices(subject, now=now)
    hours, components = _hours(subject, request.GET.get("page", "1"))
    adjustments = Adjustment.objects.filter(subject=subject).order_by("-hour", "-pk")[: ROWS + 1]
    usage = UsageCharge.objects.filter(subject=subject).order_by("-at", "-pk")[: ROWS + 1]
    context: dict[str, Any] = {
        "now": now,
        "subject": subject,
        "provider": provider_name(subject.provider),
        "cost": _cost(subject, now=now),
        "unbooked": sum((_unbooked(p.segment, now=now) for p in prices), Decimal(0)),
        "booked_to": max((s.segment.metered_to for s in prices if s.segment.metered_to), default=None),
        "runs": any(p.segment.ended_at is None for p in prices),
        "began": min((p.segment.started_at for p in prices), default=None),
        "ended": max((p.segment.ended_at for p in prices if p.segment.ended_at), default=None),
        "hours": hours,
        "rows": [(hour, hour.cells(components)) for hour in hours.object_list],
        "components": [Component(c).label if c in Component.values else c for c in components],
        "prices": prices[:ROWS],
        "more_prices": max(0, len(prices) - ROWS),
        "usage": list(usage),
        "adjustments": list(adjustments),
        "reservation": Reservation.objects.filter(subject=subject).first(),
        "statements": list(
            ProviderStatement.objects.filter(subject=subject).order_by("-start", "component")[: ROWS + 1]
        ),
        "is_billed": subject.account is not None and Bill.objects.filter(pk=subject.account).exists(),
        "machine_url": above.machine_url(subject),
    }
    return live(request, "billing/machine.html", context, fragments=("machine",))


def _cost(subject: Subject, *, now: datetime) -> Cost:
    """All that it ever cost and gave."""
    whole = breakdown.Days(min(subject.created_at, now).date() - 400 * DAY, utc(now).date() + DAY)
    return breakdown.total(whole, breakdown.Filter(machine=subject.pk), now=now)


def _prices(subject: Subject, *, now: datetime) -> list[Price]:
    """The newest first."""
    segments = PriceSegment.objects.filter(subject=subject).order_by("-started_at", "-pk")
    return [
        Price(s, hourly(s), accrued_between(hourly(s), s.started_at, s.started_at, s.ended_at or max(now, s.started_at)))
        for s in segments
        if s.ended_at is None or s.ended_at > s.started_at
    ]  # fmt: skip


def _unbooked(segment: PriceSegment, *, now: datetime) -> Decimal:
    """What an open price has cost since it was last metered."""
    if segment.ended_at or now <= cursor(segment):
        return Decimal(0)
    return accrued_between(hourly(segment), segment.started_at, cursor(segment), now)


def _hours(subject: Subject, page: str) -> tuple[Any, list[str]]:
    """A page of the hours in which anything was charged or corrected, the newest first, and the components in them."""
    booked = LedgerEntry.objects.filter(subject=subject).order_by().values_list("hour", flat=True)
    corrected = Adjustment.objects.filter(subject=subject).order_by().values_list("hour", flat=True)
    found = Paginator(booked.union(corrected).order_by("-hour"), HOURS).get_page(page)
    starts = list(found.object_list)
    hours = {start: Hour(start) for start in starts}
    if starts:
        within = {"subject": subject, "hour__gte": starts[-1], "hour__lte": starts[0]}
        for entry in LedgerEntry.objects.filter(**within):
            hours[entry.hour].parts[entry.component] = entry
        corrections: dict[datetime, Decimal] = defaultdict(Decimal)
        for hour, usd in Adjustment.objects.filter(**within).values_list("hour", "usd"):
            corrections[hour] += usd
        closed = closed_until()
        for start, mine in hours.items():
            mine.adjusted, mine.closed = corrections[start], bool(closed and start < closed)
    found.object_list = list(hours.values())  # type: ignore[arg-type]
    seen = {component for hour in hours.values() for component in hour.parts}
    return found, [c for c in Component.values if c in seen] + sorted(seen - set(Component.values))
