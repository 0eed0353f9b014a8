"""What a period will have cost: what is spent, what runs to its own end, and the two bounds around it.

    expected  = actual + sum of price x hours to min(stop date, period end), disks that are kept included
    stop_now  = actual + what burns until everything that is asked to stop now has stopped
    keep_all  = actual + what runs or is reserved, to the period's end, whatever the stop dates say

A run-rate is an average of whole days; under three of them it is not shown. Nothing here knows accounts: the
runway takes the balance and the burn as numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import NamedTuple
from uuid import UUID

from django.db.models import BigIntegerField, Min, Sum
from django.db.models.functions import Cast

from billing.budgets import BudgetStatus
from billing.budgets.books import REACTION, books_of
from billing.models import Budget, DayTotal, PriceSegment
from billing.money import accrued, from_nano
from billing.periods import DAY, day_of, utc
from billing.totals import RATE, spent

LEAST_HISTORY = 3
"""Whole days without which no run-rate is shown."""
RATE_DAYS = 7
"""The run-rate is the average of this many whole days at the most."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """Of one budget's period, or of the calendar month of everything; amounts USD.

    `run_rate` is USD a day over the last `days` whole days, and `by_run_rate` what the period comes to at it; both
    None under three days of history.
    """

    actual: Decimal
    expected: Decimal
    stop_now: Decimal
    keep_all: Decimal
    run_rate: Decimal | None
    by_run_rate: Decimal | None
    days: int
    period_start: datetime
    period_end: datetime


class Month(NamedTuple):
    """`Forecast.expected` of the calendar month, USD, and its end."""

    expected: Decimal
    period_end: datetime


@dataclass(frozen=True, slots=True)
class Runway:
    """How long a prepaid balance lasts at `burn`, USD per hour. `balance` is what is left now, USD.

    `hours` and `at` are None while nothing burns. `stale`: the balance is too old to rely on.
    """

    balance: Decimal
    burn: Decimal
    hours: Decimal | None
    at: datetime | None
    stale: bool


def month(*, now: datetime, known: BudgetStatus | None = None) -> Month:
    """What the calendar month will have cost, everything together. Two queries.

    None where `known`, a budget's figures of `now`, are about the same.
    """
    if known and known.budget.is_of_everything and known.period == Budget.Period.MONTH:
        return Month(known.forecast, known.period_end)
    (books,) = books_of([Budget()], now=utc(now))
    return Month(books.spent + books.held, books.period.end)


def of(*, now: datetime, period: str = Budget.Period.MONTH) -> Forecast:
    """Of everything, in the calendar period that holds `now`. Four queries, five with a run-rate."""
    now = utc(now)
    (books,) = books_of([Budget(period=period)], now=now)
    days = _history(now)
    start, end = books.period
    run_rate = spent(day_of(now) - days * DAY, day_of(now), now=now) / days if days >= LEAST_HISTORY else None
    left = Decimal((end - now) / DAY)
    return Forecast(
        actual=books.spent,
        expected=books.spent + books.held,
        stop_now=books.spent + accrued(books.worst_burn, min(REACTION, end - now)),
        keep_all=books.spent + accrued(books.worst_burn, end - now),
        run_rate=run_rate,
        by_run_rate=None if run_rate is None else books.spent + run_rate * left,
        days=days,
        period_start=start,
        period_end=end,
    )


def _history(now: datetime) -> int:
    """Whole days before today since the first cost, at most RATE_DAYS."""
    first = DayTotal.objects.aggregate(day=Min("day"))["day"]
    # The first day is seldom a whole one.
    return max(0, min(RATE_DAYS, (now.date() - first).days - 1)) if first else 0


def burn_by_account() -> Mapping[UUID, Decimal]:
    """What burns at each account now, USD per hour; one query."""
    burning = PriceSegment.objects.filter(ended_at=None).exclude(subject__account=None).order_by()
    sums = burning.values_list("subject__account").annotate(nano=Cast(Sum(RATE), BigIntegerField()))
    return {account: from_nano(nano) for account, nano in sums}


def runway(balance: Decimal, burn: Decimal, *, at: datetime, now: datetime, stale_after: timedelta) -> Runway:
    """How long the `balance` that was read `at` lasts. What burnt since then is taken off."""
    age = max(now - at, timedelta())
    left = balance - accrued(burn, age)
    if burn <= 0:
        return Runway(left, burn, None, None, age > stale_after)
    hours = max(left, Decimal(0)) / burn
    # A balance for centuries has no date.
    ends = now + timedelta(hours=float(hours)) if hours < 24 * 365 * 100 else None
    return Runway(left, burn, hours, ends, age > stale_after)
