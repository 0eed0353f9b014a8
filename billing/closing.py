"""The monthly close: what a month cost becomes final once every account is reconciled to its end.

Closing books what lies within the tolerance, so that the ledger equals the bills, and then closes the period: from
there on its hours are corrected by adjustments alone. It cannot be undone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.models import Count, Q, Sum

from billing import sides
from billing.corrections import close_period
from billing.gaps import book_day
from billing.judging import ZERO, agree
from billing.metering import meter
from billing.models import Bill, Booking, DayTotal, Discrepancy, MonthClose
from billing.periods import DAY, Period, calendar_month, days_between, midnight, utc
from billing.posting import closed_until
from billing.reconcile import ThreeWay, compare, horizon, three_way
from panel.accounts.models import User
from panel.audit import chain

REASON = "within the tolerance of its reconciliation"
LENGTH = 300


class CloseRefused(Exception):
    """The month cannot be closed. The text is a sentence for administrators."""


@dataclass(frozen=True, slots=True)
class AccountMonth:
    """One account in one month. `why_not`: why it is not reconciled to its end, a sentence; empty: it is."""

    account: UUID
    label: str
    provider: str
    bill: Bill | None
    figures: ThreeWay
    unexplained: int
    unexplained_usd: Decimal
    booked: Decimal
    why_not: str

    @property
    def gap(self) -> Decimal:
        return self.figures.charged - self.figures.metered


def accounts_of(month: date, *, now: datetime) -> list[AccountMonth]:
    """Every account whose bill is read, or that cost something in that month, by name."""
    period = calendar_month(midnight(month))
    bills = {b.account: b for b in Bill.objects.filter(since__lt=period.end)}
    costs = DayTotal.objects.filter(day__gte=month, day__lt=period.end.date()).exclude(subject__account=None)
    named = costs.values_list("subject__account", "subject__account_label", "subject__provider")
    unread = {
        account: (label, provider)
        for account, label, provider in named.distinct().order_by()
        if account is not None and account not in bills
    }
    found = [_account(bill, period, now=now) for bill in bills.values()]
    found += [_unread(account, label, provider, period) for account, (label, provider) in unread.items()]
    return sorted(found, key=lambda a: (a.label, str(a.account)))


def _account(bill: Bill, period: Period, *, now: datetime) -> AccountMonth:
    month = period.start.date()
    gaps = Discrepancy.objects.filter(
        account=bill.account, day__gte=month, day__lt=period.end.date(), state__in=Discrepancy.UNEXPLAINED
    )
    booked = Booking.objects.filter(account=bill.account, day__gte=month, day__lt=period.end.date())
    sizes = [abs(usd) for usd in gaps.values_list("usd", flat=True)]
    return AccountMonth(
        bill.account, bill.account_label, bill.provider, bill, three_way(bill.account, month), len(sizes),
        sum(sizes, ZERO), booked.aggregate(total=Sum("adjustment__usd"))["total"] or ZERO,
        _why_not(bill, period, len(sizes), now=now),
    )  # fmt: skip


def _why_not(bill: Bill, period: Period, gaps: int, *, now: datetime) -> str:
    if horizon(bill, now=now) < period.end:
        if bill.error:
            return f"Its bill stands still: {bill.error}"
        told = horizon(bill, now=now)
        return f"Its bill is told in full to {told:%-d %B %Y %H:%M} UTC only."
    if bill.matched_at is None or bill.matched_at < period.end:
        return "Its bill was not compared since the month ended."
    if gaps:
        return f"{gaps} gap{'' if gaps == 1 else 's'} of it {'is' if gaps == 1 else 'are'} not explained."
    return ""


def _unread(account: UUID, label: str, provider: str, period: Period) -> AccountMonth:
    days = DayTotal.objects.filter(
        subject__account=account, day__gte=period.start.date(), day__lt=period.end.date()
    )
    sums = days.aggregate(total=Sum("usd"), days=Count("day", distinct=True))
    figures = ThreeWay(sums["total"] or ZERO, ZERO, None, ZERO, sums["days"], 0, 0)
    return AccountMonth(account, label, provider, None, figures, 0, ZERO, ZERO, "Its bill was never read.")


def next_month(*, now: datetime) -> date | None:
    """The first day of the oldest month that is over and not closed; None: there is none."""
    first = DayTotal.objects.order_by("day").values_list("day", flat=True).first()
    closed = closed_until()
    if closed is not None:
        start = calendar_month(closed).start
        month = start.date()
    elif first is not None:
        month = first.replace(day=1)
    else:
        return None
    return month if calendar_month(midnight(month)).end <= utc(now) else None


def close_month(month: date, why: Mapping[UUID, str], *, actor: User, now: datetime) -> MonthClose:
    """Close the month. `why`: for each account that is not reconciled to its end, why it is closed all the same.

    Raises CloseRefused, a sentence.
    """
    period = calendar_month(midnight(month))
    _may_close(month, period, now=now)
    accounts = accounts_of(month, now=now)
    reasons = {a.account: _reason(a, why) for a in accounts if a.why_not}
    for account in accounts:
        if account.bill:
            true_up(account.bill, month, now=now)
    # Outside, so that the transaction that holds every machine is short.
    meter(now)
    with transaction.atomic():
        try:
            closed = close_period(period.end, now=now)
        except ValueError as e:
            raise CloseRefused(str(e)) from e
        made = MonthClose.objects.create(
            month=month, period=closed, closed_at=now, closed_by=actor, total_usd=total(period),
            accounts=[_told(a, reasons.get(a.account, "")) for a in accounts_of(month, now=now)],
        )  # fmt: skip
        chain.record(
            "month.close", actor=actor, target=made, now=now,
            after={"month": str(month), "total_usd": str(made.total_usd)},
            reason="; ".join(f"{a.label}: {reasons[a.account]}" for a in accounts if a.account in reasons),
        )  # fmt: skip
    return made


def _may_close(month: date, period: Period, *, now: datetime) -> None:
    if month.day != 1 or period.end > utc(now):
        raise CloseRefused("A month is closed when it is over.")
    closed = closed_until()
    if closed is not None and closed >= period.end:
        raise CloseRefused(f"{month:%B %Y} is closed already.")
    oldest = next_month(now=now)
    if oldest is not None and oldest < month:
        raise CloseRefused(f"Months are closed in order: {oldest:%B %Y} comes first.")


def _reason(account: AccountMonth, why: Mapping[UUID, str]) -> str:
    text = why.get(account.account, "").strip()
    if not text:
        raise CloseRefused(
            f"{account.label} is not reconciled: {account.why_not} Say why it is closed all the same."
        )
    return text[:LENGTH]


def true_up(bill: Bill, month: date, *, now: datetime) -> Decimal:
    """Book what lies within the tolerance, so that the month's machines cost what they were charged; the sum, USD.

    As far as the bill is told in full. What is a gap, explained or not, stays as people decide. Twice is once.
    """
    booked, days = ZERO, list(days_between(month, calendar_month(midnight(month)).end.date()))
    for day in days:
        with transaction.atomic():
            held = Bill.objects.select_for_update().get(pk=bill.pk)
            if midnight(day) + DAY > horizon(held, now=now):
                break
            booked += _true_up_day(held, day, now=now)
    compare(bill.account, days, now=now)
    return booked


def _true_up_day(bill: Bill, day: date, *, now: datetime) -> Decimal:
    # A gap that stands keeps what people decided of it; one that was booked, or went by itself, is none.
    kept = Q(state__in=[Discrepancy.State.OPEN, Discrepancy.State.ASSIGNED, Discrepancy.State.EXPLAINED])
    kept |= ~Q(accepted_usd=0) & Q(by_itself=False, bookings=None)
    stands = Discrepancy.objects.filter(kept, account=bill.account, day=day)
    keys = set(stands.values_list("key", flat=True))
    read = sides.days_of(bill, [day], horizon=midnight(day) + DAY)
    machines = read[0].machines if read else {}
    # A gap that nobody compared yet is one as well.
    wanted = {
        key: None for key, m in machines.items() if m.usd and key not in keys and agree(m.metered, m.charged)
    }
    return book_day(bill, day, wanted, reason=REASON, now=now) if wanted else ZERO


def total(period: Period) -> Decimal:
    """What the whole ledger says of the period, USD."""
    days = DayTotal.objects.filter(day__gte=period.start.date(), day__lt=period.end.date())
    found: Decimal | None = days.aggregate(total=Sum("usd"))["total"]
    return found or ZERO


def _told(account: AccountMonth, reason: str) -> dict[str, Any]:
    f = account.figures
    return {
        "account": str(account.account), "label": account.label, "metered": str(f.metered), "charged": str(f.charged),
        "moved": None if f.moved is None else str(f.moved), "booked": str(account.booked), "reason": reason,
    }  # fmt: skip
