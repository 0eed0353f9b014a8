"""What the budgets say: whether a launch fits, what is held, and whether what runs must stop."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import UUID

from django.db import transaction
from django.db.models import Q

from billing.budgets.books import REACTION, Books, Whom, books_of, covering
from billing.models import Budget, Reservation, Subject
from billing.money import accrued, dollars, positive
from billing.periods import Period, calendar_month, utc

ZERO = Decimal(0)

ROUNDING = Decimal("0.000001")
"""USD by which the quick sums of a thousand machines may be off."""

EVERYTHING = Q(provider="", account=None, scope=None)


class OverBudget(Exception):
    """It does not fit. The text is a sentence with the figures; `needed` and `free` are USD of the budget named."""

    def __init__(self, text: str, *, needed: Decimal, free: Decimal, budget: str = "") -> None:
        super().__init__(text)
        self.needed, self.free, self.budget = needed, free, budget


@dataclass(frozen=True, slots=True)
class BudgetStatus:
    """A budget at one moment; amounts USD, `burn` USD per hour.

    `bound` is the most that may be spent beyond the amount: what burns while machines end, `protected_held`,
    which no budget stops, and `kept`, the disks of what is stopped, to the period's end. `exhausted_at` is when the money is gone if what burns now goes on; None when it lasts
    to the period's end.
    """

    budget: Budget
    amount: Decimal
    spent: Decimal
    held: Decimal
    remaining: Decimal
    free: Decimal
    burn: Decimal
    worst_burn: Decimal
    period_start: datetime
    period_end: datetime
    exhausted_at: datetime | None
    bound: Decimal
    protected_held: Decimal
    kept: Decimal
    hard_stop: bool
    period: str
    lifted: bool

    @property
    def forecast(self) -> Decimal:
        """What is spent and what runs or is reserved comes to by the period's end or its stop dates."""
        return self.spent + self.held


@dataclass(frozen=True, slots=True)
class Admission:
    """Whether a launch fits: what it needs to the period's end, and what is free (None: no budget), USD.

    Of several budgets, the one that is nearest to refuse, or refuses. `budget` is its name.
    """

    allowed: bool
    needed: Decimal
    free: Decimal | None
    text: str
    budget: str = ""


@dataclass(frozen=True, slots=True)
class After:
    """What a launch makes of one budget: when its money is gone then; None when it lasts to the period's end."""

    status: BudgetStatus
    admission: Admission
    exhausted_at: datetime | None


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether what runs must stop, and the sentence that says why. Amounts USD, None without a budget.

    `warned`: the money is gone, and the budget only warns, or is lifted.
    """

    stop: bool
    reason: str
    remaining: Decimal | None = None
    bound: Decimal | None = None
    warned: bool = False
    budget: str = ""


def current() -> Budget | None:
    """The oldest budget of everything; None while there is none."""
    return Budget.objects.filter(EVERYTHING).order_by("pk").first()


def status(*, now: datetime) -> BudgetStatus | None:
    """The figures of the main budget, the oldest of everything; None without one."""
    budget = current()
    return statuses_of([budget], now=utc(now))[0] if budget else None


def binding(found: Sequence[Budget], *, now: datetime) -> BudgetStatus | None:
    """The figures of that of the budgets which binds first; None without one."""
    return min(statuses_of(found, now=utc(now)), key=_binds, default=None)


def _binds(status: BudgetStatus) -> tuple[bool, datetime, Decimal]:
    """What refuses or stops comes first, then what is exhausted first, then of which the least is free."""
    is_idle = status.lifted or not (status.budget.blocks or status.hard_stop)
    share = status.free / status.amount if status.amount else ZERO
    return is_idle, status.exhausted_at or datetime.max.replace(tzinfo=UTC), share


def statuses(*, now: datetime) -> list[BudgetStatus]:
    """The figures of every budget: those of everything first, then by name."""
    found = sorted(Budget.objects.all(), key=lambda b: (not b.is_of_everything, b.name.lower(), b.pk))
    return statuses_of(found, now=utc(now))


def statuses_of(found: Sequence[Budget], *, now: datetime) -> list[BudgetStatus]:
    return [
        status_of(budget, books, now=now)
        for budget, books in zip(found, books_of(found, now=now, bounded=True), strict=True)
    ]


def can_spend(
    usd_per_hour: Decimal, *, until: datetime | None, now: datetime, whom: Whom | None = None
) -> Admission:
    """Whether a launch at this price would fit now. It holds nothing: only `reserve` does."""
    return weighed(usd_per_hour, until=until, now=now, whom=whom)[1]


def weighed(
    usd_per_hour: Decimal, *, until: datetime | None, now: datetime, whom: Whom | None = None
) -> tuple[list[After], Admission]:
    """What a launch at this price makes of each budget that covers it, and whether it fits them all.

    From one reading of the books.
    """
    now = utc(now)
    found = list(Budget.objects.filter(covering([whom or Whom()])).order_by("pk"))
    all_books = books_of(found, now=now, bounded=True)
    after = [
        After(
            status_of(budget, books, now=now),
            _admission(budget, usd_per_hour, books, until=until, now=now),
            _exhausted_at(budget.amount_usd - books.spent, books.burn, books.period, now=now, more=usd_per_hour, until=until),
        )
        for budget, books in zip(found, all_books, strict=True)
    ]  # fmt: skip
    return after, _strictest([a.admission for a in after]) or _unlimited(usd_per_hour, until=until, now=now)


@transaction.atomic
def reserve(
    subject_id: UUID,
    usd_per_hour: Decimal,
    *,
    until: datetime | None,
    now: datetime,
    release_of: UUID | None = None,
    kept: Decimal | None = None,
) -> Reservation:
    """Hold the subject's price to `until` or the period's end, in the caller's transaction.

    Reserving again replaces what was held for the subject; `release_of` gives back what another one held,
    if this one fits. It must fit every budget that covers it. Raises OverBudget, and then nothing has changed.
    Without a budget everything fits. `kept` is what its disk costs on once it is stopped, USD per hour (None: as
    before): no launch is refused for it, and the stated bound holds it.
    """
    price, now = positive(usd_per_hour, what="A price"), utc(now)
    found = _locked(subject_id)
    all_books = books_of(found, now=now, without={subject_id, release_of or subject_id})
    admissions = [
        _admission(budget, price, books, until=until, now=now)
        for budget, books in zip(found, all_books, strict=True)
    ]
    strictest = _strictest(admissions)
    if strictest and not strictest.allowed:
        raise OverBudget(
            strictest.text, needed=strictest.needed, free=strictest.free or ZERO, budget=strictest.budget
        )
    if release_of and release_of != subject_id:
        release(release_of, now=now)
    held = {"usd_per_hour": price, "until": until, "held_at": now, "released_at": None}
    if kept is not None:
        held["kept_usd_per_hour"] = kept
    return Reservation.objects.update_or_create(subject_id=subject_id, defaults=held)[0]


@transaction.atomic
def hold(subject_id: UUID, usd_per_hour: Decimal, *, kept: Decimal, now: datetime) -> Reservation:
    """Hold what stands already and was never admitted: its price, and what its disk costs on once it is stopped.

    It is never refused: the verdict decides what stops.
    """
    price, disk = positive(usd_per_hour, what="A price"), positive(kept, what="A price")
    _locked(subject_id)
    prices = {"usd_per_hour": price, "kept_usd_per_hour": disk}
    held = {**prices, "until": None, "held_at": utc(now), "released_at": None}
    return Reservation.objects.update_or_create(subject_id=subject_id, defaults=held)[0]


@transaction.atomic
def keep(subject_id: UUID, kept: Decimal, *, now: datetime) -> None:
    """What its disk costs once it is stopped is known better now; the stated bound follows."""
    disk = positive(kept, what="A price")
    held = Reservation.objects.filter(subject_id=subject_id, released_at=None)
    if held.exclude(kept_usd_per_hour=disk).exists():
        _locked(subject_id)
        held.update(kept_usd_per_hour=disk)


def release(subject_id: UUID, *, now: datetime) -> None:
    """Give back what is held for the subject. Again, or without a reservation: nothing happens."""
    Reservation.objects.filter(subject_id=subject_id, released_at=None).update(released_at=utc(now))


@transaction.atomic
def reprice(subject_id: UUID, usd_per_hour: Decimal, *, now: datetime) -> None:
    """What is held for the subject follows its price. It is never refused: the verdict decides what stops."""
    price = positive(usd_per_hour, what="A price")
    _locked(subject_id)
    Reservation.objects.filter(subject_id=subject_id, released_at=None).update(usd_per_hour=price)


def verdict(*, now: datetime, whom: Sequence[Whom] = ()) -> Verdict:
    """Whether what runs must stop now: the money left is no more than what burns until it has stopped.

    The strictest of the budgets that cover one of `whom`, by default of those of everything. Not when all that
    runs ends, by its stop date or with the period, before the money does; nor when the budget only warns or is
    lifted.
    """
    return _strictest_verdict(Budget.objects.filter(covering(whom)).order_by("pk"), now=utc(now))


def strictest(*, now: datetime) -> Verdict:
    """The strictest verdict of all budgets, whatever they cover."""
    return _strictest_verdict(Budget.objects.order_by("pk"), now=utc(now))


def _strictest_verdict(budgets: Iterable[Budget], *, now: datetime) -> Verdict:
    found = list(budgets)
    if not found:
        return Verdict(stop=False, reason="There is no budget: spending is unlimited.")
    # It is asked at every step of every deployment: quick matters more than the last nano-dollar.
    all_books = books_of(found, now=now, merged=True)
    given = [_verdict(budget, books, now=now) for budget, books in zip(found, all_books, strict=True)]
    return min(given, key=lambda v: (not v.stop, not v.warned, (v.remaining or ZERO) - (v.bound or ZERO)))


def _verdict(budget: Budget, books: Books, *, now: datetime) -> Verdict:
    remaining, bound = budget.amount_usd - books.spent, accrued(books.worst_burn, REACTION)
    if remaining > bound or remaining >= books.held - ROUNDING:
        reason = f"{dollars(remaining)} of {dollars(budget.amount_usd)} is left."
        return Verdict(stop=False, reason=reason, remaining=remaining, bound=bound, budget=budget.name)
    reason = (
        f"{dollars(books.spent, up=True)} of the budget {budget.name} of {dollars(budget.amount_usd)} a "
        f"{budget.period} is spent, and {dollars(books.worst_burn, up=True)}/h is burning."
    )
    stop = budget.hard_stop and not budget.is_lifted(now)
    if not budget.hard_stop:
        reason += " This budget only warns."
    elif not stop:
        reason += f" It is lifted until {budget.lifted_until:%-d %B %H:%M} UTC."
    return Verdict(
        stop=stop, reason=reason, remaining=remaining, bound=bound, warned=not stop, budget=budget.name
    )


def _locked(subject_id: UUID) -> list[Budget]:
    """The budgets that cover the subject, held to the end of the transaction in the order of their keys."""
    subject = Subject.objects.filter(pk=subject_id).first()
    covers = covering([Whom.of(subject)] if subject else [])
    return list(Budget.objects.select_for_update().filter(covers).order_by("pk"))


def _strictest(admissions: Sequence[Admission]) -> Admission | None:
    return min(admissions, key=lambda a: (a.allowed, (a.free or ZERO) - a.needed), default=None)


def status_of(budget: Budget, books: Books, *, now: datetime) -> BudgetStatus:
    remaining = budget.amount_usd - books.spent
    ending = accrued(books.worst_burn - books.protected_burn, REACTION)
    return BudgetStatus(
        budget=budget,
        amount=budget.amount_usd,
        spent=books.spent,
        held=books.held,
        remaining=remaining,
        free=remaining - books.held,
        burn=books.burn,
        worst_burn=books.worst_burn,
        period_start=books.period.start,
        period_end=books.period.end,
        exhausted_at=_exhausted_at(remaining, books.burn, books.period, now=now),
        bound=ending + books.protected_held + books.kept,
        protected_held=books.protected_held,
        kept=books.kept,
        hard_stop=budget.hard_stop,
        period=str(budget.period),
        lifted=budget.is_lifted(now),
    )


def _exhausted_at(
    remaining: Decimal, burn: Decimal, period: Period, *, now: datetime, more: Decimal = ZERO,
    until: datetime | None = None,
) -> datetime | None:  # fmt: skip
    """When the money is gone at `burn`, and `more` to `until`; None: not in the period."""
    if remaining <= 0:
        return now
    end = min(max(utc(until), now), period.end) if until else period.end
    both, alone = accrued(burn + more, end - now), accrued(burn, period.end - end)
    if remaining >= both + alone:
        return None
    if remaining < both:
        return now + timedelta(hours=1) * float(remaining / (burn + more))
    return end + timedelta(hours=1) * float((remaining - both) / burn)


def _admission(
    budget: Budget, usd_per_hour: Decimal, books: Books, *, until: datetime | None, now: datetime
) -> Admission:
    end = min(utc(until), books.period.end) if until else books.period.end
    needed = accrued(usd_per_hour, end - now)
    span = _in_words(end, budget.period, books.period)
    free = budget.amount_usd - books.spent - books.held
    text = (
        f"It needs {dollars(needed, up=True)} {span}, {dollars(max(free, ZERO))} is free "
        f"of {dollars(budget.amount_usd)} in the budget {budget.name}."
    )
    open_ = not budget.blocks or budget.is_lifted(now)
    return Admission(allowed=open_ or needed <= free, needed=needed, free=free, text=text, budget=budget.name)


def _unlimited(usd_per_hour: Decimal, *, until: datetime | None, now: datetime) -> Admission:
    period = calendar_month(now)
    end = min(utc(until), period.end) if until else period.end
    needed = accrued(usd_per_hour, end - now)
    span = _in_words(end, "", period)
    text = f"It needs {dollars(needed, up=True)} {span}; there is no budget: spending is unlimited."
    return Admission(allowed=True, needed=needed, free=None, text=text)


def _in_words(end: datetime, by: str, period: Period) -> str:
    if end < period.end:
        return f"until {end:%-d %B %H:%M} UTC"
    by_day = by == Budget.Period.DAY
    return f"to the end of {period.start:%-d %B}" if by_day else f"to the end of {period.start:%B}"
