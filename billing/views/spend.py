"""The Spend page and the budget's form."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any

from django import forms
from django.contrib import messages
from django.core.exceptions import ValidationError
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone

from billing import budgets, ledger
from billing.models import Budget, Reservation
from billing.periods import calendar_month
from billing.views.figures import budget_figures
from panel.accounts.access import requires
from panel.ui.http import SignedInRequest
from panel.ui.live import live

SCOPE_ROWS = 50
HOURS = 24


class BudgetForm(forms.Form):
    amount = forms.DecimalField(
        label="Amount", min_value=Decimal(0), max_digits=12, decimal_places=2, help_text="USD for each period. Lowered under what runs, it stops what runs."
    )  # fmt: skip
    period = forms.ChoiceField(choices=Budget.Period.choices, help_text="UTC calendar.")
    hard_stop = forms.BooleanField(label="Stop what runs when the money is gone", required=False)


@requires("billing.view_ledgerentry")
def spend(request: SignedInRequest) -> HttpResponse:
    """Today, the month, the budget, and what each deployment, day and hour cost; `#money` polls."""
    now = timezone.now()
    return live(request, "billing/spend.html", _figures(request, now=now), fragments=("money",))


def _figures(request: SignedInRequest, *, now: datetime) -> dict[str, Any]:
    month = calendar_month(now)
    today = now.date()
    first = min(month.start.date(), today - timedelta(days=29))
    days = dict(ledger.by_day(first, today + timedelta(days=1), now=now))
    budget = budgets.status(now=now)
    scopes = ledger.by_scope(month.start, now, now=now)
    may_change = request.user.has_perm("billing.change_budget")
    return {
        **budget_figures(budget),
        "now": now,
        "burn": budget.burn if budget else ledger.burn(now=now),
        "today": days.get(today, Decimal(0)),
        "month": sum((usd for day, usd in days.items() if day >= month.start.date()), Decimal(0)),
        "month_start": month.start,
        "chart": _chart(request, days, today, now=now),
        "by": _by(request),
        "scopes": scopes[:SCOPE_ROWS],
        "more_scopes": max(0, len(scopes) - SCOPE_ROWS),
        "reservations": list(_held()),
        "form": BudgetForm(initial=_initial()) if may_change else None,
    }


def _by(request: SignedInRequest) -> str:
    return "hour" if request.GET.get("by") == "hour" else "day"


def _chart(
    request: SignedInRequest, days: dict[date, Decimal], today: date, *, now: datetime
) -> list[tuple[str, Decimal]]:
    """The bars: the last 30 days, or with `?by=hour` the last 24 hours."""
    if _by(request) == "hour":
        hour = now.replace(minute=0, second=0, microsecond=0)
        hours = ledger.by_hour(None, hour - timedelta(hours=HOURS - 1), now, now=now)
        return [(f"{start:%H:00}", usd) for start, usd in hours]
    dates = [today - timedelta(days=29 - i) for i in range(30)]
    return [(f"{d.day} {d:%b}", days.get(d, Decimal(0))) for d in dates]


def _held() -> Any:
    return (
        Reservation.objects.filter(released_at=None)
        .select_related("subject")
        .order_by("-usd_per_hour")[:SCOPE_ROWS]
    )


def _initial() -> dict[str, Any]:
    budget = budgets.current()
    if budget is None:
        return {"period": Budget.Period.MONTH, "hard_stop": True}
    return {
        "amount": budget.amount_usd.quantize(Decimal("0.01")),
        "period": budget.period,
        "hard_stop": budget.hard_stop,
    }


@requires("billing.change_budget")
def budget(request: SignedInRequest) -> HttpResponse:
    """Set the budget on POST; a wrong value comes back with its sentence and what was typed."""
    if request.method != "POST":
        return redirect("spend")
    now = timezone.now()
    form = BudgetForm(request.POST)
    if form.is_valid():
        c = form.cleaned_data
        try:
            budgets.set_budget(c["amount"], c["period"], c["hard_stop"], actor=request.user, now=now)
        except ValidationError as e:
            form.add_error(None, e)
        else:
            messages.success(request, f"The budget is ${c['amount']:,.2f} a {c['period']}.")
            return redirect("spend")
    return render(request, "billing/spend.html", _figures(request, now=now) | {"form": form}, status=422)
