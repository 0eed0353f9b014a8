"""The budgets: money is committed before it is spent, and what runs stops before the money is gone.

A launch reserves its price to the end of the period or its stop date, with every budget that covers it: of
everything, of its provider, its account, its deployment. What is free for the next one:

    free = amount - spent in the period - held

where `held` is what every running or reserved subject may still cost in the period, from now on; what it has
spent already is in `spent`. The budgets' rows are locked in the order of their keys while this is decided, so of
ten launches in the same instant only those that fit are admitted. Periods are days or months of the UTC calendar.

The hard stop compares the money left with what burns until it has stopped. What was admitted and keeps its
price and its stop date is never stopped; what outlives its date, rises in price or lost its budget is. What is
protected is never stopped, and its cost to the period's end is part of the bound that is stated.
"""

from billing.budgets.books import MARGIN_SECONDS, POLL_SECONDS, REACTION, TERMINATE_SECONDS, Whom
from billing.budgets.changes import (
    LONGEST_LIFT,
    Wish,
    add,
    change,
    end_lift,
    lift,
    protect,
    remove,
    set_budget,
)
from billing.budgets.limits import (
    Admission,
    After,
    BudgetStatus,
    OverBudget,
    Verdict,
    binding,
    can_spend,
    current,
    hold,
    keep,
    release,
    reprice,
    reserve,
    status,
    statuses,
    strictest,
    verdict,
    weighed,
)
from billing.budgets.outlook import Outlook, outlook
from billing.budgets.rungs import FORECAST, reached, watch

__all__ = [
    "FORECAST",
    "LONGEST_LIFT",
    "MARGIN_SECONDS",
    "POLL_SECONDS",
    "REACTION",
    "TERMINATE_SECONDS",
    "Admission",
    "After",
    "BudgetStatus",
    "Outlook",
    "OverBudget",
    "Verdict",
    "Whom",
    "Wish",
    "add",
    "binding",
    "can_spend",
    "change",
    "current",
    "end_lift",
    "hold",
    "keep",
    "lift",
    "outlook",
    "protect",
    "reached",
    "release",
    "remove",
    "reprice",
    "reserve",
    "set_budget",
    "status",
    "statuses",
    "strictest",
    "verdict",
    "watch",
    "weighed",
]
