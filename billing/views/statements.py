"""Monthly statements, what can be exported, and the currency that money is also shown in."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

from django import forms
from django.conf import settings
from django.contrib import messages
from django.http import Http404, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.views.decorators.http import require_safe

from billing import fx, statement
from billing.exports.lines import PROVIDERS
from billing.exports.tables import TABLES
from billing.models import ExchangeRate, Subject
from billing.periods import DAY, calendar_month
from panel.accounts.access import requires
from panel.ui.http import SignedInRequest

_MONTH = re.compile(r"(\d{4})-(0[1-9]|1[0-2])")
MANAGE = "billing.add_exchangerate"
RATES = 8


class CurrencyForm(forms.Form):
    currency = forms.ChoiceField(
        label="Also show money in", choices=[(code, f"{code}, {name}") for code, name in fx.CURRENCIES.items()],
        help_text="USD stays the currency of record. USD here shows dollars alone.",
    )  # fmt: skip


class RateForm(forms.Form):
    currency = forms.ChoiceField(
        choices=[(code, f"{code}, {name}") for code, name in fx.CURRENCIES.items() if code != fx.RECORD]
    )
    day = forms.DateField(widget=forms.DateInput(attrs={"type": "date"}), help_text="The day it is of, UTC.")
    per_usd = forms.DecimalField(
        label="One USD is", min_value=Decimal("0.000001"), max_digits=15, decimal_places=6, help_text="In that currency, as in 0.92."
    )  # fmt: skip
    note = forms.CharField(label="Where it is from", max_length=200, required=False)
    sure = forms.BooleanField(label="It is right, though far from the last one", required=False)


@requires("billing.view_ledgerentry")
@require_safe
def statements(request: SignedInRequest) -> HttpResponse:
    """Every month with its total; exports; the currency."""
    return render(request, "billing/statements.html", _page(request))


def _page(request: SignedInRequest, **forms_given: forms.Form) -> dict[str, Any]:
    now = timezone.now()
    setting, rates = fx.setting(), fx.shown()
    may_change = request.user.has_perm(MANAGE)
    return {
        "now": now,
        "months": statement.months(now=now),
        "currency": rates.currency,
        "converts": rates.currency != fx.RECORD,
        "setting": setting,
        "fetches": bool(settings.ECB_RATES_URL),
        "rate": rates.last,
        "rates": ExchangeRate.objects.filter(currency=rates.currency).order_by("-day", "-source", "-pk")[
            :RATES
        ],
        "tables": TABLES,
        "providers": PROVIDERS,
        "deployments": Subject.objects.order_by("scope_label").values_list("scope", "scope_label").distinct(),
        "today": now.date(),
        "first": now.date().replace(day=1),
        "currency_form": CurrencyForm(initial={"currency": setting.currency}, prefix="show")
        if may_change
        else None,
        "rate_form": RateForm(
            initial={"currency": _other(setting.currency), "day": now.date()}, prefix="rate"
        )
        if may_change
        else None,
        **forms_given,
    }


def _other(currency: str) -> str:
    return fx.EURO if currency == fx.RECORD else currency


@requires("billing.view_ledgerentry")
@require_safe
def monthly(request: SignedInRequest, month: str) -> HttpResponse:
    """One month, made to be printed on A4. 404 for what is no month and for one that has not begun."""
    now = timezone.now()
    asked = _MONTH.fullmatch(month)
    if asked is None or not 2000 <= int(asked[1]) <= now.year:
        raise Http404("There is no such month.")
    period = calendar_month(datetime(int(asked[1]), int(asked[2]), 1, tzinfo=UTC))
    if period.start > now:
        raise Http404("This month has not begun.")
    found = statement.of_month(period, now=now)
    context = {
        "now": now,
        "statement": found,
        "titles": [title for title, _ in statement.COLUMNS],
        "installation": settings.PUBLIC_URL or f"{request.scheme}://{request.get_host()}",
        "metered_to": None if found.closing.is_closed else statement.metered_to(),
        "last_day": _last(period.end),
    }
    return render(request, "billing/statement.html", context)


def _last(end: datetime) -> date:
    return (end - DAY).date()


@requires(MANAGE)
def currency(request: SignedInRequest) -> HttpResponse:
    """Set in which currency money is also shown."""
    if request.method != "POST":
        return redirect("statements")
    form = CurrencyForm(request.POST, prefix="show")
    if form.is_valid():
        chosen = form.cleaned_data["currency"]
        fx.show_in(chosen, actor=request.user, now=timezone.now())
        messages.success(request, f"Money is shown in {chosen if chosen == fx.RECORD else f'USD and {chosen}'}.")  # fmt: skip
        return redirect("statements")
    return render(request, "billing/statements.html", _page(request, currency_form=form), status=422)


@requires(MANAGE)
def rate(request: SignedInRequest) -> HttpResponse:
    """Enter a rate by hand; one that is far from the last known has to be confirmed."""
    if request.method != "POST":
        return redirect("statements")
    form = RateForm(request.POST, prefix="rate")
    if form.is_valid():
        c = form.cleaned_data
        try:
            fx.enter(
                c["currency"], c["day"], c["per_usd"], note=c["note"], actor=request.user, now=timezone.now(),
                sure=c["sure"],
            )  # fmt: skip
        except fx.BadRate as error:
            form.add_error("per_usd", str(error))
        else:
            messages.success(request, f"1 USD = {c['per_usd'].normalize():f} {c['currency']} on {c['day']:%d %b %Y} is kept.")  # fmt: skip
            return redirect("statements")
    return render(request, "billing/statements.html", _page(request, rate_form=form), status=422)
