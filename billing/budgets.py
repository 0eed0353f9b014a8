"""The budget: money is committed before it is spent, and what runs stops before the money is gone.

A launch reserves its price to the end of the period or its stop date. What is free for the next one:

    free = amount - spent in the period - held

where `held` is what every running or reserved subject may still cost in the period, from now on; what it has
spent already is in `spent`. The budget's row is locked while this is decided, so of ten launches in the same
instant only those that fit are admitted. Periods are days or months of the UTC calendar.

The hard stop compares the money left with what burns until it has stopped. What was admitted and keeps its
price and its stop date is never stopped; what outlives its date, rises in price or lost its budget is.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from uuid import UUID

from django.core.exceptions import ValidationError
from django.db import transaction
from django.db.models import (
    BigIntegerField,
    BooleanField,
    Exists,
    ExpressionWrapper,
    F,
    Func,
    OuterRef,
    Q,
    Subquery,
    Sum,
)
from django.db.models.functions import Cast, Coalesce, Greatest

from billing.models import Budget, PriceSegment, Reservation
from billing.money import BadAmount, accrued, accrued_nano, dollars, from_nano, positive
from billing.periods import DAY, Period, calendar_day, calendar_month, midnight, utc
from billing.totals import RATE, Window, rows
from panel.accounts.models import User
from panel.audit import chain

ZERO = Decimal(0)

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


ROUNDING = Decimal("0.000001")
"""USD by which the quick sums of a thousand machines may be off."""


class OverBudget(Exception):
    """It does not fit. The text is a sentence with the figures; `needed` and `free` are USD."""

    def __init__(self, text: str, *, needed: Decimal, free: Decimal) -> None:
        super().__init__(text)
        self.needed = needed
        self.free = free


@dataclass(frozen=True, slots=True)
class BudgetStatus:
    """The budget at one moment; amounts USD, `burn` USD per hour.

    `bound` is the most that may be spent beyond the amount. `exhausted_at` is when the money is gone if what
    burns now goes on; None when it lasts to the period's end.
    """

    amount: Decimal
    spent: Decimal
    held: Decimal
    remaining: Decimal
    free: Decimal
    burn: Decimal
    period_start: datetime
    period_end: datetime
    exhausted_at: datetime | None
    bound: Decimal
    hard_stop: bool
    period: str


@dataclass(frozen=True, slots=True)
class Outlook:
    """The budget's figures (None without a budget), what each day cost, USD, and what burns, USD per hour."""

    budget: BudgetStatus | None
    days: dict[date, Decimal]
    """Those that cost something."""
    burn: Decimal


@dataclass(frozen=True, slots=True)
class Admission:
    """Whether a launch fits: what it needs to the period's end, and what is free (None: no budget), USD."""

    allowed: bool
    needed: Decimal
    free: Decimal | None
    text: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether what runs must stop, and the sentence that says why. Amounts USD, None without a budget."""

    stop: bool
    reason: str
    remaining: Decimal | None = None
    bound: Decimal | None = None


@dataclass(frozen=True, slots=True)
class _Books:
    """What the budget is compared with in `period`; amounts USD.

    `burn` is what is open, `worst_burn` also what is reserved and may open at any moment, USD per hour.
    """

    period: Period
    spent: Decimal
    burn: Decimal
    worst_burn: Decimal
    held: Decimal


def current() -> Budget | None:
    """The one budget; None while spending is unlimited."""
    return Budget.objects.order_by("pk").first()


def status(*, now: datetime) -> BudgetStatus | None:
    """The budget's figures; None without a budget."""
    now, budget = utc(now), current()
    return _status(budget, _books(budget, now=now), now=now) if budget else None


def outlook(first: date, *, now: datetime) -> Outlook:
    """`status` and the days from `first` on (UTC), from one reading of the ledger: for pages that show both."""
    now, budget = utc(now), current()
    period = _period(budget, now)
    start = min(midnight(first), period.start)
    window = Window.of(start, period.end, now)
    days: defaultdict[date, int] = defaultdict(int)
    burn = 0
    for row in rows(window, by=("day",)):
        if row.start is None:
            days[row.key[0]] += row.nano
            continue
        burn += row.nano
        for day, nano in window.unbooked(row, DAY):
            days[day.date()] += nano
    spent = sum(nano for day, nano in days.items() if day >= period.start.date())
    books = _weigh(period, spent, burn, now=now) if budget else None
    status = _status(budget, books, now=now) if budget and books else None
    return Outlook(status, {day: from_nano(nano) for day, nano in days.items()}, from_nano(burn))


def can_spend(usd_per_hour: Decimal, *, until: datetime | None, now: datetime) -> Admission:
    """Whether a launch at this price would fit now. It holds nothing: only `reserve` does."""
    return weighed(usd_per_hour, until=until, now=now)[1]


def weighed(
    usd_per_hour: Decimal, *, until: datetime | None, now: datetime
) -> tuple[BudgetStatus | None, Admission]:
    """The budget's figures and whether a launch at this price would fit, from one reading of the books."""
    now, budget = utc(now), current()
    books = _books(budget, now=now)
    admission = _admission(budget, usd_per_hour, books, until=until, now=now)
    return (_status(budget, books, now=now) if budget else None), admission


@transaction.atomic
def reserve(
    subject_id: UUID,
    usd_per_hour: Decimal,
    *,
    until: datetime | None,
    now: datetime,
    release_of: UUID | None = None,
) -> Reservation:
    """Hold the subject's price to `until` or the period's end, in the caller's transaction.

    Reserving again replaces what was held for the subject; `release_of` gives back what another one held,
    if this one fits. Raises OverBudget, and then nothing has changed. Without a budget everything fits.
    """
    price, now = positive(usd_per_hour, what="A price"), utc(now)
    budget = _locked()
    books = _books(budget, now=now, without={subject_id, release_of or subject_id})
    admission = _admission(budget, price, books, until=until, now=now)
    if not admission.allowed:
        raise OverBudget(admission.text, needed=admission.needed, free=admission.free or ZERO)
    if release_of and release_of != subject_id:
        release(release_of, now=now)
    held = {"usd_per_hour": price, "until": until, "held_at": now, "released_at": None}
    return Reservation.objects.update_or_create(subject_id=subject_id, defaults=held)[0]


def release(subject_id: UUID, *, now: datetime) -> None:
    """Give back what is held for the subject. Again, or without a reservation: nothing happens."""
    Reservation.objects.filter(subject_id=subject_id, released_at=None).update(released_at=utc(now))


@transaction.atomic
def reprice(subject_id: UUID, usd_per_hour: Decimal, *, now: datetime) -> None:
    """What is held for the subject follows its price. It is never refused: the verdict decides what stops."""
    price = positive(usd_per_hour, what="A price")
    _locked()
    Reservation.objects.filter(subject_id=subject_id, released_at=None).update(usd_per_hour=price)


def verdict(*, now: datetime) -> Verdict:
    """Whether what runs must stop now: the money left is no more than what burns until it has stopped.

    Not when all that runs ends, by its stop date or with the period, before the money does; nor when the
    budget only warns.
    """
    now, budget = utc(now), current()
    if budget is None:
        return Verdict(stop=False, reason="There is no budget: spending is unlimited.")
    # It is asked at every step of every deployment: quick matters more than the last nano-dollar.
    books = _books(budget, now=now, merged=True)
    remaining, bound = budget.amount_usd - books.spent, _bound(books)
    if remaining > bound or remaining >= books.held - ROUNDING:
        reason = f"{dollars(remaining)} of {dollars(budget.amount_usd)} is left."
        return Verdict(stop=False, reason=reason, remaining=remaining, bound=bound)
    reason = (
        f"{dollars(books.spent, up=True)} of the budget of {dollars(budget.amount_usd)} a {budget.period} is spent, "
        f"and {dollars(books.worst_burn, up=True)}/h is burning."
    )
    if not budget.hard_stop:
        reason += " This budget only warns."
    return Verdict(stop=budget.hard_stop, reason=reason, remaining=remaining, bound=bound)


@transaction.atomic
def set_budget(
    amount: Decimal,
    period: str,
    hard_stop: bool,  # noqa: FBT001
    *,
    actor: User | None,
    now: datetime,
) -> Budget:
    """Set the one budget, USD for each period. Audited. Raises ValidationError with a sentence."""
    try:
        amount = positive(amount, what="A budget")
    except BadAmount as error:
        raise ValidationError({"amount": str(error)}) from None
    if period not in Budget.Period.values:
        raise ValidationError({"period": "A budget is for a day or a month."})
    budget = _locked()
    before = _audited(budget) if budget else None
    budget = budget or Budget()
    budget.amount_usd, budget.period, budget.hard_stop = amount, period, hard_stop
    budget.save()
    if before != _audited(budget):
        chain.record("budget.set", actor=actor, target=budget, before=before, after=_audited(budget), now=now)
    return budget


def _locked() -> Budget | None:
    return Budget.objects.select_for_update().order_by("pk").first()


def _audited(budget: Budget) -> dict[str, object]:
    return {
        "amount_usd": f"{budget.amount_usd.normalize():f}",
        "period": str(budget.period),
        "hard_stop": budget.hard_stop,
    }


def _period(budget: Budget | None, now: datetime) -> Period:
    by_day = budget is not None and budget.period == Budget.Period.DAY
    return calendar_day(now) if by_day else calendar_month(now)


def _books(
    budget: Budget | None, *, now: datetime, without: Collection[UUID] = (), merged: bool = False
) -> _Books:
    """Two queries, three when the subjects in `without` may cost nothing any more.

    The ledger comes first, so that what opens in between is held twice rather than never.
    """
    period = _period(budget, now)
    window = Window.of(period.start, period.end, now)
    spent = burn = 0
    for row in rows(window, merged=merged):
        spent += window.cost(row)
        burn += row.nano if row.start else 0
    return _weigh(period, spent, burn, now=now, without=without)


def _weigh(period: Period, spent: int, burn: int, *, now: datetime, without: Collection[UUID] = ()) -> _Books:
    """What is held and may burn beside what is spent and burns, nano-dollars."""
    unreserved = burn - _open_rate(without)
    worst_burn = held = 0
    for until, given_back, rate, open_rate in _reserved(without):
        unreserved -= open_rate
        if given_back or (until and until <= now):
            # Somebody is ending it; until it has ended, it burns.
            rate, until = open_rate, now + REACTION
        worst_burn += rate
        held += accrued_nano(rate, min(until or period.end, period.end) - now)
    worst_burn += unreserved
    held += accrued_nano(unreserved, period.end - now)
    return _Books(period, *map(from_nano, (spent, burn, worst_burn, held)))


def _open_rate(subject_ids: Collection[UUID]) -> int:
    """What the subjects burn, nano-dollars per hour."""
    if not subject_ids:
        return 0
    mine = PriceSegment.objects.filter(subject_id__in=subject_ids, ended_at=None)
    return mine.aggregate(nano=Sum(RATE))["nano"] or 0


def _reserved(without: Collection[UUID]) -> Iterable[tuple[datetime | None, bool, int, int]]:
    """Stop date, whether it was given back, what may burn and what does burn, nano-dollars per hour.

    Of every reservation that is held or whose subject burns, summed by the first two. A subject may burn
    the dearer of its reservation and its prices.
    """
    mine = PriceSegment.objects.filter(subject=OuterRef("subject"), ended_at=None).order_by()
    # A plain function: an aggregate would be grouped, for each subject anew.
    summed = Cast(Func(RATE, function="SUM"), BigIntegerField())
    open_rate = Subquery(mine.annotate(nano=summed).values("nano"))
    reservations = (
        Reservation.objects.filter(Q(released_at=None) | Q(Exists(mine)))
        .exclude(subject_id__in=without)
        .annotate(
            given_back=ExpressionWrapper(Q(released_at__isnull=False), output_field=BooleanField()),
            open_rate=Coalesce(open_rate, 0, output_field=BigIntegerField()),
            rate=Greatest(Cast("usd_per_hour", BigIntegerField()), F("open_rate")),
        )
    )
    sums = reservations.order_by().values("until", "given_back")
    return sums.annotate(Sum("rate"), Sum("open_rate")).values_list(
        "until", "given_back", Cast("rate__sum", BigIntegerField()), Cast("open_rate__sum", BigIntegerField())
    )


def _bound(books: _Books) -> Decimal:
    return accrued(books.worst_burn, REACTION)


def _status(budget: Budget, books: _Books, *, now: datetime) -> BudgetStatus:
    remaining = budget.amount_usd - books.spent
    return BudgetStatus(
        amount=budget.amount_usd,
        spent=books.spent,
        held=books.held,
        remaining=remaining,
        free=remaining - books.held,
        burn=books.burn,
        period_start=books.period.start,
        period_end=books.period.end,
        exhausted_at=_exhausted_at(remaining, books, now=now),
        bound=_bound(books),
        hard_stop=budget.hard_stop,
        period=str(budget.period),
    )


def _exhausted_at(remaining: Decimal, books: _Books, *, now: datetime) -> datetime | None:
    if remaining <= 0:
        return now
    if remaining >= accrued(books.burn, books.period.end - now):
        return None
    return now + timedelta(hours=1) * float(remaining / books.burn)


def _admission(
    budget: Budget | None, usd_per_hour: Decimal, books: _Books, *, until: datetime | None, now: datetime
) -> Admission:
    end = min(utc(until), books.period.end) if until else books.period.end
    needed = accrued(usd_per_hour, end - now)
    span = _in_words(end, budget, books.period)
    if budget is None:
        text = f"It needs {dollars(needed, up=True)} {span}; there is no budget: spending is unlimited."
        return Admission(allowed=True, needed=needed, free=None, text=text)
    free = budget.amount_usd - books.spent - books.held
    text = (
        f"It needs {dollars(needed, up=True)} {span}, {dollars(max(free, ZERO))} is free "
        f"of {dollars(budget.amount_usd)}."
    )
    return Admission(allowed=needed <= free, needed=needed, free=free, text=text)


def _in_words(end: datetime, budget: Budget | None, period: Period) -> str:
    if end < period.end:
        return f"until {end:%-d %B %H:%M} UTC"
    by_day = budget is not None and budget.period == Budget.Period.DAY
    return f"to the end of {period.start:%-d %B}" if by_day else f"to the end of {period.start:%B}"
