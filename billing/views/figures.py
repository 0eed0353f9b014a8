"""Figures as pages say them."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from django.db.models import Q

from billing.budgets import BudgetStatus
from billing.money import from_nano
from billing.totals import Window, rows
from panel.ui.format import moment, usd


def budget_figures(budget: BudgetStatus | None) -> dict[str, Any]:
    """Context for a page: `budget`, its `forecast` for the period in USD, and `budget_words` for the bar."""
    if budget is None:
        return {"budget": None}
    words = f"{usd(budget.spent)} spent and {usd(budget.held)} held of {usd(budget.amount)}"
    if budget.exhausted_at:
        words += f", exhausted {moment(budget.exhausted_at)}"
    return {"budget": budget, "forecast": budget.spent + budget.held, "budget_words": words}


def costs_of(scopes: Iterable[UUID], *, now: datetime) -> dict[UUID, Decimal]:
    """What each of the scopes has cost to `now`, USD, in one query whatever their number."""
    nano = dict.fromkeys(scopes, 0)
    window = Window.of(None, None, now)
    for row in rows(window, Q(subject__scope__in=list(nano)), by=("subject__scope",)) if nano else ():
        nano[row.key[0]] += window.cost(row)
    return {scope: from_nano(amount) for scope, amount in nano.items()}
