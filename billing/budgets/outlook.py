"""What the pages of money begin with: the budget, the days, what burns and what some deployments cost.

From one reading of the ledger, so that every figure of a page is of the same moment.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID

from django.db.models import BigIntegerField, Case, DateField, F, IntegerField, Q, Sum, UUIDField, Value, When
from django.db.models.functions import Cast

from billing.budgets.books import Group, Key, added, period_of, reserved
from billing.budgets.limits import BudgetStatus, binding, status_of
from billing.models import Budget, DayTotal, PriceSegment, ProtectedScope
from billing.money import from_nano
from billing.periods import DAY, midnight, utc
from billing.totals import NEVER, RATE, Row, Window, constant

MILLION = 1_000_000


@dataclass(frozen=True, slots=True)
class Outlook:
    """The figures of the budget that binds first (None without one); amounts USD, `burn` USD per hour."""

    budget: BudgetStatus | None
    days: dict[date, Decimal]
    """Those that cost something."""
    burn: Decimal
    today: date
    tokens: int
    """Read and written, since the month began."""
    costs: dict[UUID, Decimal]
    """What each scope that was asked for cost since its launch."""

    @property
    def month(self) -> Decimal:
        """What this calendar month cost so far."""
        first = self.today.replace(day=1)
        return sum((usd for day, usd in self.days.items() if day >= first), Decimal(0))

    @property
    def per_million(self) -> Decimal | None:
        """All that this month cost, for a million tokens; None without tokens."""
        return self.month / self.tokens * MILLION if self.tokens else None


def outlook(first: date, *, now: datetime, scopes: Collection[UUID] = ()) -> Outlook:
    """The budget that binds first, the days from `first` or the month's first on (UTC), and the costs of `scopes`.

    Three queries with one budget of everything, two without any.
    """
    now = utc(now)
    first = min(first, now.date().replace(day=1))
    found = list(Budget.objects.order_by("pk"))
    # The one budget of everything is judged by what is read here in any case.
    alone = found[0] if len(found) == 1 and found[0].is_of_everything else None
    sums = _Sums(first, scopes, now)
    for row in _read(first, scopes):
        sums.take(row)
    return Outlook(
        sums.status(alone) if alone else binding(found, now=now), {day: from_nano(nano) for day, nano in sums.days.items() if nano}, from_nano(sums.burn), now.date(),
        sums.tokens, {scope: from_nano(nano) for scope, nano in sums.costs.items()},
    )  # fmt: skip


class _Line(NamedTuple):
    """What a day cost, what a scope cost, or an open price with its `start`: nano-dollars (an hour)."""

    day: date | None
    scope: UUID | None
    protected: int
    nano: int
    tokens: int
    start: datetime | None
    held: datetime | None


class _Sums:
    def __init__(self, first: date, scopes: Collection[UUID], now: datetime) -> None:
        self.now = now
        self.ever, self.shown = Window(None, None, now), Window(midnight(first), None, now)
        self.month, self.midnight = now.date().replace(day=1), midnight(now.date())
        self.days: dict[date, int] = defaultdict(int)
        self.costs = dict.fromkeys(scopes, 0)
        self.burn = self.tokens = 0
        self.burns: dict[int, int] = defaultdict(int)

    def take(self, line: _Line) -> None:
        if line.start is not None:
            self._take_price(line, Row((), line.nano, line.start, line.held))
        elif line.day is not None:
            self.days[line.day] += line.nano
            self.tokens += line.tokens if line.day >= self.month else 0
        elif line.scope is not None:
            self.costs[line.scope] += line.nano

    def _take_price(self, line: _Line, price: Row) -> None:
        self.burn += line.nano
        self.burns[line.protected] += line.nano
        if line.scope is not None:
            self.costs[line.scope] += self.ever.cost(price)
        # There may be a thousand, and nearly all are booked to some moment of today.
        if (line.held or price.start or self.now) >= self.midnight:
            self.days[self.now.date()] += self.shown.cost(price)
            return
        for day, nano in self.shown.unbooked(price, DAY):
            self.days[day.date()] += nano

    def status(self, budget: Budget) -> BudgetStatus:
        """A budget of everything beside what is booked, open and held."""
        period = period_of(budget.period, self.now)
        groups = {spared: Group(burn=self.burns[spared]) for spared in (0, 1)}
        start, end = period.start.date(), period.end.date()
        groups[0].spent[period] = sum(nano for day, nano in self.days.items() if start <= day < end)
        for key, held in reserved((), Q(), {"protected": _protected()}):
            groups[key.protected or 0].held.append(held)
        keyed = [(Key(None, None, None, spared), group) for spared, group in groups.items()]
        return status_of(budget, added(keyed, period, now=self.now), now=self.now)


def _read(first: date, scopes: Collection[UUID]) -> Iterable[_Line]:
    """One query."""
    days = DayTotal.objects.filter(day__gte=first).order_by().values("day")
    of = DayTotal.objects.filter(subject__scope__in=list(scopes)).order_by().values("subject__scope")
    usd: Any = Cast(Sum("usd"), BigIntegerField())
    no = {"spared": constant(0, IntegerField()), "tokens": constant(0, BigIntegerField()), **NEVER}
    tokens = Cast(Sum("tokens_in") + Sum("tokens_out"), BigIntegerField())
    prices = PriceSegment.objects.filter(ended_at=None).order_by()
    told = days.annotate(scope=constant(None, UUIDField()), nano=usd, **{**no, "tokens": tokens})
    cost = of.annotate(on=constant(None, DateField()), nano=usd, **no)
    # Only whose cost is asked for: to read a thousand ids takes longer than to add their money.
    asked = Case(When(subject__scope__in=list(scopes), then=F("subject__scope")), output_field=UUIDField())
    runs = prices.annotate(
        on=constant(None, DateField()), scope=asked, spared=_protected(), nano=RATE, tokens=no["tokens"]
    )
    found = told.values_list("day", "scope", "spared", "nano", "tokens", "start", "held").union(
        cost.values_list("on", "subject__scope", "spared", "nano", "tokens", "start", "held"),
        runs.values_list("on", "scope", "spared", "nano", "tokens", "started_at", "metered_to"),
        all=True,
    )
    return (_Line(*row) for row in found)


def _protected() -> Case:
    """1 for what no budget stops."""
    spared = When(subject__scope__in=ProtectedScope.objects.values("scope"), then=Value(1))
    return Case(spared, default=Value(0), output_field=IntegerField())
