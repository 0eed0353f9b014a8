"""Figures as pages say them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from django.db.models import Q

from billing import fx
from billing.budgets import BudgetStatus, Outlook
from billing.money import from_nano
from billing.totals import Window, rows
from panel.ui.format import moment, usd


def budget_figures(budget: BudgetStatus | None) -> dict[str, Any]:
    """Context for a page: `budget`, and `budget_words` for its bar."""
    return {"budget": budget, "budget_words": in_words(budget)} if budget else {"budget": None}


def in_words(budget: BudgetStatus) -> str:
    """What the bar shows, for who does not see it."""
    words = f"{usd(budget.spent)} spent and {usd(budget.held)} held of {usd(budget.amount)}"
    return f"{words}, exhausted {moment(budget.exhausted_at)}" if budget.exhausted_at else words


def outlook_figures(found: Outlook) -> dict[str, Any]:
    """Context for a page: `budget_figures`, what burns, today and the month, these two also in the currency that is shown."""
    first = found.today.replace(day=1)
    month = {day: usd for day, usd in found.days.items() if day >= first}
    today = found.days.get(found.today, Decimal(0))
    rates = fx.shown()
    return {
        **budget_figures(found.budget),
        "burn": found.burn,
        "today": today,
        "month": found.month,
        "today_shown": also(rates, {found.today: today}),
        "month_shown": also(rates, month),
        "rate": None if rates.currency == fx.RECORD else rates.on(found.today),
    }


def also(rates: fx.Rates, days: Mapping[date, Decimal]) -> str:
    """The sum in the currency that is shown, each day at its own rate; empty where that is USD or no rate is known."""
    known = rates.currency != fx.RECORD and rates.last is not None
    found = rates.total(days.items()) if known else None
    return "" if found is None else fx.written(found, rates.currency)


def costs_of(scopes: Iterable[UUID], *, now: datetime) -> dict[UUID, Decimal]:
    """What each of the scopes has cost to `now`, USD, in one query whatever their number."""
    nano = dict.fromkeys(scopes, 0)
    window = Window.of(None, None, now)
    for row in rows(window, Q(subject__scope__in=list(nano)), by=("subject__scope",)) if nano else ():
        nano[row.key[0]] += window.cost(row)
    return {scope: from_nano(amount) for scope, amount in nano.items()}
