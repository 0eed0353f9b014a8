"""What budgets are compared with: spent, burning and held, of all that each one covers.

However many budgets are asked for, the ledger is read once for each kind of period and the reservations once:
both are grouped by what the budgets tell apart, and each budget adds up the groups that are its own.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID

from django.db.models import (
    BigIntegerField,
    BooleanField,
    Case,
    Exists,
    ExpressionWrapper,
    F,
    Func,
    IntegerField,
    OuterRef,
    Q,
    Subquery,
    Sum,
    UUIDField,
    Value,
    When,
)
from django.db.models.functions import Cast, Coalesce, Greatest

from billing.models import Budget, PriceSegment, ProtectedScope, Reservation, Subject
from billing.money import accrued_nano, from_nano
from billing.periods import Period, calendar_day, calendar_month
from billing.totals import RATE, Window, rows

POLL_SECONDS = 30
"""The longest until somebody asks for the verdict: every instance is looked at within 30 s."""

TERMINATE_SECONDS = 120
"""The worst usual time from asking a provider to stop until it no longer charges: two complete lists that
are a minute apart, or its own five-minute cycle answered early."""

MARGIN_SECONDS = 60
"""For a worker that restarts, or one retry after a refusal by rate limit."""

REACTION = timedelta(seconds=POLL_SECONDS + TERMINATE_SECONDS + MARGIN_SECONDS)
"""What runs is stopped once the money left would be burnt within this time; the overspend stays below
what burns in it."""


@dataclass(frozen=True, slots=True)
class Whom:
    """What is asked about: a machine of deployment `scope` (None: a new one), that `account` at `provider` bills."""

    scope: UUID | None = None
    provider: str = ""
    account: UUID | None = None

    @classmethod
    def of(cls, subject: Subject) -> Whom:
        return cls(subject.scope, subject.provider, subject.account)


def covering(whom: Iterable[Whom]) -> Q:
    """The budgets that cover at least one of them; those of everything always do."""
    q = Q()
    for w in whom:
        provider, account, scope = Q(provider=""), Q(account=None), Q(scope=None)
        provider |= Q(provider=w.provider)
        account |= Q(account=w.account) if w.account else Q()
        scope |= Q(scope=w.scope) if w.scope else Q()
        q |= provider & account & scope
    return q or Q(provider="", account=None, scope=None)


@dataclass(frozen=True, slots=True)
class Books:
    """What a budget is compared with in `period`; amounts USD.

    `burn` is what is open, `worst_burn` also what is reserved and may open at any moment, USD per hour. Of both
    `held` and `worst_burn`, `protected_held` and `protected_burn` are what no budget stops. `kept` is what the disks of all that is stopped
    would cost to the period's end.
    """

    period: Period
    spent: Decimal
    burn: Decimal
    worst_burn: Decimal
    held: Decimal
    protected_held: Decimal
    protected_burn: Decimal
    kept: Decimal


class Key(NamedTuple):
    """What the groups are told apart by; None where no budget asks."""

    provider: str | None
    account: UUID | None
    scope: UUID | None
    protected: int | None


class Held(NamedTuple):
    """Reservations of one stop date: what may burn and does, nano-dollars an hour, and on its disks once stopped."""

    until: datetime | None
    given_back: bool
    rate: int
    open_rate: int
    kept: int


@dataclass(slots=True)
class Group:
    """What was spent, burns and is held of what no budget tells apart; nano-dollars (an hour)."""

    spent: dict[Period, int] = field(default_factory=lambda: defaultdict(int))
    burn: int = 0
    held: list[Held] = field(default_factory=list)


def period_of(period: str, now: datetime) -> Period:
    return calendar_day(now) if period == Budget.Period.DAY else calendar_month(now)


def books_of(
    budgets: Sequence[Budget], *, now: datetime, without: Collection[UUID] = (), merged: bool = False,
    bounded: bool = False,
) -> list[Books]:  # fmt: skip
    """The books of each budget, in the same order. `merged` is quicker, and off by some nano-dollars.

    Only when `bounded`, what is protected is told apart: it takes one query more.
    """
    if not budgets:
        return []
    periods = {b.period: period_of(b.period, now) for b in budgets}
    marks = _marks(budgets, bounded=bounded)
    groups = _read(budgets, marks, set(periods.values()), now=now, without=without, merged=merged)
    return [added(_mine(b, groups), periods[b.period], now=now) for b in budgets]


def _read(
    budgets: Sequence[Budget], marks: Mapping[str, Any], periods: Iterable[Period], *, now: datetime,
    without: Collection[UUID], merged: bool,
) -> Mapping[Key, Group]:  # fmt: skip
    # The ledger comes first, so that what opens in between is held twice rather than never.
    where = _where(budgets)
    groups: dict[Key, Group] = defaultdict(Group)
    for n, period in enumerate(periods):
        window = Window.of(period.start, period.end, now)
        for row in rows(window, where, marks=marks, merged=merged):
            group = groups[_key(marks, row.key)]
            group.spent[period] += window.cost(row)
            if row.start and n == 0:
                group.burn += row.nano
    for key, nano in _open_rates(without, where, marks):
        groups[key].burn -= nano
    for key, held in reserved(without, where, marks):
        groups[key].held.append(held)
    return groups


def _marks(budgets: Sequence[Budget], *, bounded: bool) -> dict[str, Any]:
    marks: dict[str, Any] = {}
    if any(b.provider for b in budgets):
        marks["of_provider"] = F("subject__provider")
    if any(b.account for b in budgets):
        marks["of_account"] = F("subject__account")
    if scopes := {b.scope for b in budgets if b.scope}:
        own = When(subject__scope__in=scopes, then=F("subject__scope"))
        marks["of_scope"] = Case(own, default=Value(None), output_field=UUIDField())
    if bounded and (protected := list(ProtectedScope.objects.values_list("scope", flat=True))):
        spared = When(subject__scope__in=protected, then=Value(1))
        marks["protected"] = Case(spared, default=Value(0), output_field=IntegerField())
    return marks


def _where(budgets: Sequence[Budget]) -> Q:
    """Only what one of them covers. Empty when one covers everything."""
    covered = Q()
    for b in budgets:
        if b.is_of_everything:
            return Q()
        named = {"provider": b.provider, "account": b.account, "scope": b.scope}
        covered |= Q(**{f"subject__{name}": value for name, value in named.items() if value})
    return covered


def _key(marks: Mapping[str, Any], values: Sequence[Any]) -> Key:
    # Grouped by a constant where nothing is told apart.
    named = dict(zip(marks, values, strict=False))
    return Key(*(named.get(name) for name in ("of_provider", "of_account", "of_scope", "protected")))


def _mine(budget: Budget, groups: Mapping[Key, Group]) -> list[tuple[Key, Group]]:
    return [
        (key, group) for key, group in groups.items()
        if (not budget.provider or key.provider == budget.provider)
        and (not budget.account or key.account == budget.account)
        and (not budget.scope or key.scope == budget.scope)
    ]  # fmt: skip


def added(groups: Iterable[tuple[Key, Group]], period: Period, *, now: datetime) -> Books:
    """The books of the budget that these groups are of."""
    spent = burn = 0
    worst, held, kept = [0, 0], [0, 0], 0
    for key, group in groups:
        spared = int(bool(key.protected))
        spent += group.spent[period]
        burn += group.burn
        unreserved = group.burn
        for until, given_back, rate, open_rate, disk in group.held:
            unreserved -= open_rate
            kept += 0 if given_back else disk
            if given_back or (until and until <= now):
                # Somebody is ending it; until it has ended, it burns.
                rate, until = open_rate, now + REACTION
            worst[spared] += rate
            held[spared] += accrued_nano(rate, min(until or period.end, period.end) - now)
        worst[spared] += unreserved
        held[spared] += accrued_nano(unreserved, period.end - now)
    amounts = (spent, burn, sum(worst), sum(held), held[1], worst[1], accrued_nano(kept, period.end - now))
    return Books(period, *map(from_nano, amounts))


def _open_rates(without: Collection[UUID], where: Q, marks: Mapping[str, Any]) -> Iterable[tuple[Key, int]]:
    """What the subjects burn, nano-dollars per hour."""
    if not without:
        return
    mine = (
        PriceSegment.objects.filter(where, subject_id__in=without, ended_at=None).order_by().annotate(**marks)
    )
    for *values, nano in mine.values_list(*marks, RATE):
        yield _key(marks, values), nano


def reserved(without: Collection[UUID], where: Q, marks: Mapping[str, Any]) -> Iterable[tuple[Key, Held]]:
    """Stop date, whether it was given back, what may burn and what does burn, nano-dollars per hour.

    Of every reservation that is held or whose subject burns, summed by the first two. A subject may burn
    the dearer of its reservation and its prices.
    """
    mine = PriceSegment.objects.filter(subject=OuterRef("subject"), ended_at=None).order_by()
    # A plain function: an aggregate would be grouped, for each subject anew.
    summed = Cast(Func(RATE, function="SUM"), BigIntegerField())
    open_rate = Subquery(mine.annotate(nano=summed).values("nano"))
    reservations = (
        Reservation.objects.filter(where, Q(released_at=None) | Q(Exists(mine)))
        .exclude(subject_id__in=without)
        .annotate(
            given_back=ExpressionWrapper(Q(released_at__isnull=False), output_field=BooleanField()),
            open_rate=Coalesce(open_rate, 0, output_field=BigIntegerField()),
            rate=Greatest(Cast("usd_per_hour", BigIntegerField()), F("open_rate")),
            **marks,
        )
    )
    grouped = reservations.order_by().values(*marks, "until", "given_back")
    sums = grouped.annotate(
        Sum("rate"), Sum("open_rate"), disks=Cast(Sum("kept_usd_per_hour"), BigIntegerField())
    )
    summed_up = [Cast(f"{name}__sum", BigIntegerField()) for name in ("rate", "open_rate")]
    for *values, until, given_back, rate, burns, kept in sums.values_list(
        *marks, "until", "given_back", *summed_up, "disks"
    ):
        yield _key(marks, values), Held(until, given_back, rate, burns, kept)
