"""`{% load money %}`: a USD figure in the currency that is shown, with its rate, the rate's day and its source."""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal

from django import template
from django.utils import timezone
from django.utils.html import format_html

from billing import fx
from billing.periods import utc

register = template.Library()
_KEY = "billing.fx.rates"


@register.simple_tag(takes_context=True)
def money(context: template.Context, usd: Decimal | None, at: datetime | date | None = None) -> str:
    """ "€39.63 at 1 EUR = 1.085 USD, ECB, 27 Nov 2026" for what cost `usd` on that day (default: today).

    Empty where money is shown in USD alone; "EUR: n/a, no rate is known" without a rate. The rates are read
    once for each rendering.
    """
    rates = _rates(context)
    if usd is None or rates.currency == fx.RECORD:
        return ""
    moment = at or context.get("now") or timezone.now()
    found = rates.convert(usd, utc(moment).date() if isinstance(moment, datetime) else moment)
    if found.rate is None:
        return f"{rates.currency}: n/a, no rate is known"
    return format_html('<span class="nowrap">{}</span> at {}', found.text, found.rate.words)


@register.filter
def in_currency(amount: Decimal | None, currency: str) -> str:
    """An amount that is in `currency` already, as it is written: "€1,234.50"."""
    return fx.written(amount, currency)


def _rates(context: template.Context) -> fx.Rates:
    kept = context.render_context
    if _KEY not in kept:
        kept[_KEY] = fx.shown()
    rates: fx.Rates = kept[_KEY]
    return rates
