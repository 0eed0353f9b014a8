"""Budgets are added, changed, lifted for a while and removed, by people. Each act is audited."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from uuid import UUID

from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction

from billing.budgets.books import Whom
from billing.budgets.limits import EVERYTHING
from billing.budgets.rungs import clear_all
from billing.models import Budget, ProtectedScope
from billing.models.budget import usual_rungs
from billing.money import BadAmount, positive
from billing.periods import utc
from panel.accounts.models import User
from panel.audit import chain

LONGEST_LIFT = timedelta(days=7)
"""A budget is lifted for this long at the most."""
MAX_RUNG = 200


@dataclass(frozen=True, slots=True)
class Wish:
    """A budget as somebody wants it. `whom` names at most one of scope, provider and account."""

    name: str
    amount: Decimal
    period: str = "month"
    whom: Whom = field(default_factory=Whom)
    target_label: str = ""
    hard_stop: bool = True
    blocks: bool = True
    rungs: tuple[int, ...] = field(default_factory=lambda: tuple(usual_rungs()))
    warns_of_forecast: bool = True


@transaction.atomic
def set_budget(
    amount: Decimal,
    period: str,
    hard_stop: bool,  # noqa: FBT001
    *,
    actor: User | None,
    now: datetime,
) -> Budget:
    """Set the main budget, USD for each period; the rest of it stays. Audited. Raises ValidationError."""
    known = Budget.objects.select_for_update().filter(EVERYTHING).order_by("pk").first()
    wish = Wish(known.name if known else "Everything", amount, period, hard_stop=hard_stop)
    if known is None:
        return add(wish, actor=actor, now=now)
    kept = Wish(
        known.name, amount, period, hard_stop=hard_stop, blocks=known.blocks, rungs=tuple(known.rungs),
        warns_of_forecast=known.warns_of_forecast,
    )  # fmt: skip
    return change(known.pk, kept, actor=actor, now=now)


@transaction.atomic
def add(wish: Wish, *, actor: User | None, now: datetime) -> Budget:
    """One more budget. Audited. Raises ValidationError, by field, with sentences."""
    budget = Budget(
        provider=wish.whom.provider, account=wish.whom.account, scope=wish.whom.scope,
        target_label=wish.target_label[:120],
    )  # fmt: skip
    _take(budget, wish)
    _save(budget)
    chain.record("budget.set", actor=actor, target=budget, after=_audited(budget), now=now)
    return budget


@transaction.atomic
def change(pk: int, wish: Wish, *, actor: User | None, now: datetime) -> Budget:
    """All but what it is about. Audited when anything changed. Raises ValidationError, Budget.DoesNotExist."""
    budget = Budget.objects.select_for_update().get(pk=pk)
    before = _audited(budget)
    _take(budget, wish)
    _save(budget)
    if before != _audited(budget):
        chain.record("budget.set", actor=actor, target=budget, before=before, after=_audited(budget), now=now)
    return budget


@transaction.atomic
def remove(pk: int, *, actor: User | None, now: datetime) -> None:
    """The budget is gone: nothing is blocked or stopped by it. Audited. Raises Budget.DoesNotExist."""
    budget = Budget.objects.select_for_update().get(pk=pk)
    before = _audited(budget)
    clear_all(budget, now=utc(now))
    Budget.objects.filter(pk=pk).delete()
    chain.record("budget.remove", actor=actor, target=budget, before=before, now=now)


@transaction.atomic
def lift(pk: int, *, until: datetime, reason: str, actor: User, now: datetime) -> Budget:
    """Until then the budget refuses and stops nothing. Audited. Raises ValidationError, Budget.DoesNotExist."""
    now, until = utc(now), utc(until)
    if not now < until <= now + LONGEST_LIFT:
        raise ValidationError({"until": f"Choose an end within the next {LONGEST_LIFT.days} days."})
    if not reason.strip():
        raise ValidationError({"reason": "Say why: the audit keeps it."})
    return _lifted(pk, until, reason.strip()[:300], "budget.lift", actor=actor, now=now)


@transaction.atomic
def end_lift(pk: int, *, actor: User, now: datetime) -> Budget:
    """The budget holds again from now on. Audited. Raises Budget.DoesNotExist."""
    return _lifted(pk, None, "", "budget.hold", actor=actor, now=utc(now))


def _lifted(pk: int, until: datetime | None, reason: str, act: str, *, actor: User, now: datetime) -> Budget:
    budget = Budget.objects.select_for_update().get(pk=pk)
    before = {
        "lifted_until": budget.lifted_until.isoformat()
        if budget.is_lifted(now) and budget.lifted_until
        else None
    }
    budget.lifted_until, budget.lifted_reason = until, reason
    budget.save(update_fields=["lifted_until", "lifted_reason", "updated_at"])
    after = {"lifted_until": until.isoformat() if until else None}
    chain.record(act, actor=actor, target=budget, before=before, after=after, reason=reason, now=now)
    return budget


def protect(scope: UUID, *, protected: bool) -> None:
    """No budget stops this deployment, or one may again. In the transaction of the deployment's own change."""
    if protected:
        ProtectedScope.objects.get_or_create(scope=scope)
    else:
        ProtectedScope.objects.filter(scope=scope).delete()


def _take(budget: Budget, wish: Wish) -> None:
    wrong: dict[str, str] = {}
    try:
        budget.amount_usd = positive(wish.amount, what="A budget")
    except BadAmount as error:
        wrong["amount"] = str(error)
    if wish.period not in Budget.Period.values:
        wrong["period"] = "A budget is for a day or a month."
    if any(not 1 <= rung <= MAX_RUNG for rung in wish.rungs):
        wrong["rungs"] = f"Each rung is a percent from 1 to {MAX_RUNG}."
    name = wish.name.strip()[:80]
    if not name:
        wrong["name"] = "Give it a name."
    elif Budget.objects.filter(name__iexact=name).exclude(pk=budget.pk).exists():
        wrong["name"] = "Another budget has this name."
    if wrong:
        raise ValidationError(wrong)
    budget.name, budget.period = name, wish.period
    budget.hard_stop, budget.blocks = wish.hard_stop, wish.blocks
    budget.rungs, budget.warns_of_forecast = sorted(set(wish.rungs)), wish.warns_of_forecast


def _save(budget: Budget) -> None:
    try:
        with transaction.atomic():
            budget.save()
    except IntegrityError:
        raise ValidationError({"name": "Another budget has this name."}) from None


def _audited(budget: Budget) -> dict[str, object]:
    about = budget.target_label if not budget.is_of_everything else "everything"
    return {
        "name": budget.name,
        "about": about,
        "amount_usd": f"{budget.amount_usd.normalize():f}",
        "period": str(budget.period),
        "hard_stop": budget.hard_stop,
        "blocks": budget.blocks,
        "rungs": list(budget.rungs),
        "warns_of_forecast": budget.warns_of_forecast,
    }
