"""The Spend page."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any

from django.http import HttpResponse
from django.utils import timezone

from billing import budgets, ledger
from billing.models import Reservation
from billing.periods import calendar_month
from billing.views.figures import budget_figures
from panel.accounts.access import requires
from panel.ui.http import SignedInRequest
from panel.ui.live import live

SCOPE_ROWS = 50
HOURS = 24


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
        "may_change": request.user.has_perm("billing.change_budget"),
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
