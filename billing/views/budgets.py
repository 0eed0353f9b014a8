"""The Budgets page: each budget with what is spent, held and foreseen, and the forms of an administrator."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from django import forms
from django.contrib import messages
from django.core.exceptions import ValidationError
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone
from django.views.decorators.http import require_POST

from billing import above, budgets, forecast, fx, ledger
from billing.models import Budget, BudgetCrossing
from billing.periods import DAY
from billing.views.figures import also, in_words
from panel.accounts.access import requires
from panel.ui.format import moment
from panel.ui.http import SignedInRequest
from panel.ui.live import live

CHANGE = "billing.change_budget"
EVERYTHING = "everything"
LIFTS = {"1": "1 hour", "6": "6 hours", "24": "1 day", "72": "3 days", "168": "7 days"}


class BudgetForm(forms.Form):
    name = forms.CharField(max_length=80, help_text="As the notices and refusals say it.")
    target = forms.ChoiceField(
        label="What it is about", help_text="A launch must fit every budget that covers it."
    )
    amount = forms.DecimalField(
        label="Amount", min_value=Decimal(0), max_digits=12, decimal_places=2, help_text="USD for each period. Lowered under what runs, it stops what runs."
    )  # fmt: skip
    period = forms.ChoiceField(
        choices=Budget.Period.choices, initial=Budget.Period.MONTH, help_text="UTC calendar."
    )
    rungs = forms.CharField(
        label="Tell at", max_length=60, required=False, initial="50, 80, 100", help_text="Percent of what is spent. Each is told once, until the spend is below it again."
    )  # fmt: skip
    warns_of_forecast = forms.BooleanField(
        label="Tell when the forecast exceeds it", required=False, initial=True
    )
    blocks = forms.BooleanField(label="Refuse launches that do not fit", required=False, initial=True)
    hard_stop = forms.BooleanField(
        label="Stop what runs when the money is gone", required=False, initial=True, help_text="But what is protected in its settings."
    )  # fmt: skip

    def __init__(self, *args: Any, about: str = "", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.targets = {} if about else {t.key: t for t in above.targets()}
        if about:
            del self.fields["target"]
            return
        groups: dict[str, list[tuple[str, str]]] = defaultdict(list)
        for key, target in self.targets.items():
            groups[target.kind].append((key, target.label))
        self.fields["target"].choices = [(EVERYTHING, "Everything"), *groups.items()]  # type: ignore[attr-defined]

    def clean_rungs(self) -> tuple[int, ...]:
        words = self.cleaned_data["rungs"].replace("%", " ").replace(",", " ").split()
        if not all(word.isdecimal() for word in words):
            raise ValidationError("Write percents with commas between, as in 50, 80, 100; or none.")
        return tuple(int(word[:4]) for word in words)

    def wish(self) -> budgets.Wish:
        c = self.cleaned_data
        target = self.targets.get(c.get("target", EVERYTHING))
        return budgets.Wish(
            c["name"], c["amount"], c["period"], whom=target.whom if target else budgets.Whom(),
            target_label=target.label if target else "", hard_stop=c["hard_stop"], blocks=c["blocks"],
            rungs=c["rungs"], warns_of_forecast=c["warns_of_forecast"],
        )  # fmt: skip


class LiftForm(forms.Form):
    hours = forms.ChoiceField(
        label="For", choices=list(LIFTS.items()), help_text="Then it holds again by itself."
    )
    reason = forms.CharField(max_length=300, help_text="Everybody sees it, and the audit keeps it.")


@dataclass(frozen=True, slots=True)
class Rung:
    """`percent` of the amount; `crossed_at` is when it was told in this period, None while it was not."""

    percent: int
    reached: bool
    crossed_at: datetime | None


@dataclass(frozen=True, slots=True)
class Row:
    status: budgets.BudgetStatus
    rungs: list[Rung]
    forecast_told_at: datetime | None
    words: str
    shown: str
    """The amount in the currency that is shown, at the last rate; empty where that is USD or no rate is known."""


@requires("billing.view_budget")
def page(request: SignedInRequest) -> HttpResponse:
    """Every budget, the forecast and each prepaid account's runway; `#budgets` polls."""
    now = timezone.now()
    first, rates = now.date().replace(day=1), fx.shown()
    month = dict(ledger.by_day(first, now.date() + DAY, now=now))
    context = {
        "rows": rows(now=now, rates=rates),
        "month_shown": also(rates, month),
        "rate": None if rates.currency == fx.RECORD else rates.on(now.date()),
        "forecast": forecast.of(now=now),
        "runways": above.runways(now=now),
        "may_change": request.user.has_perm(CHANGE),
        "now": now,
    }
    return live(request, "billing/budgets.html", context, fragments=("budgets",))


def rows(*, now: datetime, rates: fx.Rates) -> list[Row]:
    """A few queries, whatever the number of budgets."""
    told: dict[int, dict[str, datetime]] = defaultdict(dict)
    opened = BudgetCrossing.objects.filter(fell_at=None)
    for budget_id, rung, at in opened.values_list("budget_id", "rung", "crossed_at"):
        told[budget_id][rung] = at
    return [
        _row(s, told[s.budget.pk], also(rates, {now.date(): s.amount})) for s in budgets.statuses(now=now)
    ]


def _row(status: budgets.BudgetStatus, told: dict[str, datetime], shown: str) -> Row:
    stands = dict(budgets.reached(status))
    rungs = [Rung(p, str(p) in stands, told.get(str(p))) for p in status.budget.rungs]
    return Row(status, rungs, told.get(budgets.FORECAST), in_words(status), shown)


@requires(CHANGE)
def add(request: SignedInRequest) -> HttpResponse:
    """The form of one more budget; a wrong value comes back with its sentence and what was typed."""
    form = BudgetForm(request.POST if request.method == "POST" else None)
    if request.method == "POST" and form.is_valid():
        try:
            budget = budgets.add(form.wish(), actor=request.user, now=timezone.now())
        except ValidationError as e:
            _refuse(form, e)
        else:
            messages.success(
                request, f"The budget {budget.name} is ${budget.amount_usd:,.2f} a {budget.period}."
            )
            return redirect("budgets")
    return _form(request, form, None)


@requires(CHANGE)
def change(request: SignedInRequest, pk: int) -> HttpResponse:
    """All of a budget but what it is about."""
    budget = get_object_or_404(Budget, pk=pk)
    about = budget.target_label or EVERYTHING
    form = BudgetForm(
        request.POST if request.method == "POST" else None, about=about, initial=_initial(budget)
    )
    if request.method == "POST" and form.is_valid():
        try:
            budget = budgets.change(pk, form.wish(), actor=request.user, now=timezone.now())
        except ValidationError as e:
            _refuse(form, e)
        else:
            messages.success(
                request, f"The budget {budget.name} is ${budget.amount_usd:,.2f} a {budget.period}."
            )
            return redirect("budgets")
    return _form(request, form, budget)


@requires(CHANGE)
def remove(request: SignedInRequest, pk: int) -> HttpResponse:
    """GET asks, POST removes."""
    budget = get_object_or_404(Budget, pk=pk)
    if request.method == "POST":
        budgets.remove(pk, actor=request.user, now=timezone.now())
        messages.success(request, f"The budget {budget.name} is removed.")
        return redirect("budgets")
    return render(request, "billing/budgets_remove.html", {"budget": budget})


@requires(CHANGE)
def lift(request: SignedInRequest, pk: int) -> HttpResponse:
    """For some hours the budget refuses and stops nothing."""
    budget = get_object_or_404(Budget, pk=pk)
    form, now = LiftForm(request.POST if request.method == "POST" else None), timezone.now()
    if request.method == "POST" and form.is_valid():
        until = now + timedelta(hours=int(form.cleaned_data["hours"]))
        try:
            budgets.lift(pk, until=until, reason=form.cleaned_data["reason"], actor=request.user, now=now)
        except ValidationError as e:
            _refuse(form, e)
        else:
            messages.warning(request, f"The budget {budget.name} is lifted until {moment(until)}.")
            return redirect("budgets")
    status = 422 if request.method == "POST" else 200
    return render(request, "billing/budgets_lift.html", {"budget": budget, "form": form}, status=status)


@requires(CHANGE)
@require_POST
def hold(request: SignedInRequest, pk: int) -> HttpResponse:
    """The budget that was lifted holds again from now on."""
    budget = get_object_or_404(Budget, pk=pk)
    budgets.end_lift(pk, actor=request.user, now=timezone.now())
    messages.success(request, f"The budget {budget.name} holds again.")
    return redirect("budgets")


def _form(request: SignedInRequest, form: BudgetForm, budget: Budget | None) -> HttpResponse:
    status = 422 if request.method == "POST" else 200
    return render(request, "billing/budgets_form.html", {"form": form, "budget": budget}, status=status)


def _refuse(form: forms.Form, error: ValidationError) -> None:
    for name, sentences in error.message_dict.items():
        form.add_error(name if name in form.fields else None, sentences)


def _initial(budget: Budget) -> dict[str, Any]:
    return {
        "name": budget.name, "amount": budget.amount_usd.quantize(Decimal("0.01")), "period": budget.period,
        "rungs": ", ".join(map(str, budget.rungs)), "warns_of_forecast": budget.warns_of_forecast,
        "blocks": budget.blocks, "hard_stop": budget.hard_stop,
    }  # fmt: skip
