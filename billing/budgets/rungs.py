"""Somebody is told when a budget reaches a rung: once for each crossing and period, whoever looks and how often.

That it was told is a row, written in one transaction with the notice and the audit, under the budget's lock. It
fires again only after what is spent was below the rung: because the amount was raised, or in a new period.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal

from django.db import transaction
from django.db.models import F
from django.urls import reverse

from billing.budgets.limits import BudgetStatus, statuses, statuses_of
from billing.models import Budget, BudgetCrossing
from billing.money import dollars
from billing.periods import utc
from panel.audit import chain
from panel.notices.models import Notice
from panel.notices.notify import clear_notice, raise_notice

FORECAST = "forecast"
_WARNING, _CRITICAL = 80, 100
"""Percent from which a rung is a warning, and from which it is critical."""


def watch(*, now: datetime) -> int:
    """Tell every rung that was reached and not told, close what is below again; how many were told.

    A few queries while there is no news.
    """
    now, told = utc(now), 0
    opened: dict[int, set[tuple[str, datetime]]] = {}
    known = BudgetCrossing.objects.filter(fell_at=None).values_list("budget_id", "rung", "period_start")
    for budget_id, rung, start in known:
        opened.setdefault(budget_id, set()).add((rung, start))
    for status in statuses(now=now):
        if {(rung, status.period_start) for rung, *_ in reached(status)} != opened.get(
            status.budget.pk, set()
        ):
            told += _settle(status.budget.pk, now=now)
    return told


def reached(status: BudgetStatus) -> Iterator[tuple[str, Decimal]]:
    """The rungs that stand reached, and the amount that reached each, USD."""
    for percent in status.budget.rungs:
        if status.spent > 0 and status.spent * 100 >= status.amount * percent:
            yield str(percent), status.spent
    if status.budget.warns_of_forecast and status.forecast > status.amount:
        yield FORECAST, status.forecast


@transaction.atomic
def _settle(pk: int, *, now: datetime) -> int:
    # Read again under the lock: what was seen before may be older than what another worker has told.
    budget = Budget.objects.select_for_update().filter(pk=pk).first()
    if budget is None:
        return 0
    (status,) = statuses_of([budget], now=now)
    stands = dict(reached(status))
    opened = set()
    for crossing in BudgetCrossing.objects.filter(budget=budget, fell_at=None):
        if crossing.period_start == status.period_start and crossing.rung in stands:
            opened.add(crossing.rung)
        else:
            _close(crossing, now=now)
    new = [rung for rung in stands if rung not in opened]
    for rung in new:
        BudgetCrossing.objects.create(
            budget=budget, rung=rung, period_start=status.period_start, usd=stands[rung], crossed_at=now
        )
        _tell(status, rung, now=now)
    if new:
        after = {"rungs": new, "spent_usd": str(status.spent), "forecast_usd": str(status.forecast)}
        chain.record("budget.rung", actor=None, target=budget, after=after, now=now)
    return len(new)


def _tell(status: BudgetStatus, rung: str, *, now: datetime) -> None:
    budget, of = status.budget, f"{dollars(status.amount)} a {status.period}"
    if rung == FORECAST:
        severity, title = Notice.Severity.WARNING, f"The budget {budget.name} will not last"
        detail = f"What is spent, runs and is held comes to {dollars(status.forecast, up=True)} of {of}."
    else:
        percent = int(rung)
        severity = (
            Notice.Severity.CRITICAL if percent >= _CRITICAL
            else Notice.Severity.WARNING if percent >= _WARNING
            else Notice.Severity.INFO
        )  # fmt: skip
        title = f"{rung} % of the budget {budget.name} is spent"
        detail = f"{dollars(status.spent)} of {of}."
    if status.exhausted_at and status.exhausted_at > now:
        detail += f" At this rate it is exhausted {status.exhausted_at:%a %-d %B %H:%M} UTC."
    raise_notice(
        _notice(budget, rung, status.period_start), severity, title, now=now, detail=detail,
        url=reverse("budgets"), subject=budget.scope,
    )  # fmt: skip


def _close(crossing: BudgetCrossing, *, now: datetime) -> None:
    BudgetCrossing.objects.filter(pk=crossing.pk, fell_at=None).update(fell_at=now)
    clear_notice(_notice(crossing.budget, crossing.rung, crossing.period_start), now=now)


def clear_all(budget: Budget, *, now: datetime) -> None:
    """Its notices are over, because it is removed."""
    for crossing in budget.crossings.filter(fell_at=None).order_by(F("pk")):
        _close(crossing, now=now)


def _notice(budget: Budget, rung: str, start: datetime) -> str:
    return f"budget:{budget.pk}:{rung}:{start:%Y-%m-%d}"
