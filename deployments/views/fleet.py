"""The overview and the list of deployments."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from django.core.paginator import Paginator
from django.http import HttpResponse
from django.utils import timezone

from billing import budgets
from billing.views.figures import costs_of, outlook_figures
from deployments.lifecycle import Desired
from deployments.models import Deployment, Event
from deployments.models.deployment import DeploymentQuerySet
from deployments.views import glance, metrics, reads
from panel.accounts.access import requires
from panel.accounts.models import User
from panel.notices.models import Notice
from panel.notices.notify import shown_notices
from panel.ui.http import SignedInRequest
from panel.ui.live import live, wanted_fragment

FLEET_ROWS = 8
NOTICES, NOTICES_SHOWN = 20, 3
PAGE_ROWS = 25
DAYS = 14
_SHOWS = (("running", "Running and stopped"), ("ended", "Ended"), ("all", "All"))


@requires("deployments.view_deployment")
def overview(request: SignedInRequest) -> HttpResponse:
    """Burn, budget, what runs, what is wrong; `#fleet` is the part that polls."""
    now = timezone.now()
    counts = reads.counts()
    rows = reads.fleet(request.user, counts, size=FLEET_ROWS)
    context = {
        "rows": rows,
        "counts": counts,
        **_notices(),
        "events": list(Event.objects.select_related("deployment").order_by("-at")[:8]),
        **_money(request.user, rows, now=now),
        "sparks": glance.rows(rows, now=now),
        "now": now,
    }
    # The charts are no part of what polls: they renew themselves.
    if rows and not wanted_fragment(request, ("fleet",)):
        context["board"] = metrics.of_fleet(request, count=counts.existing)
    return live(request, "deployments/overview.html", context, fragments=("fleet",))


def _notices() -> dict[str, Any]:
    """The worst that nobody sees to yet, and the rest behind a click: what runs stays in sight."""
    found = list(shown_notices()[:NOTICES])
    found.sort(key=lambda n: (n.acknowledged_at is not None, -Notice.Severity(n.severity).rank))
    return {"notices": found[:NOTICES_SHOWN], "more_notices": found[NOTICES_SHOWN:]}


def _money(user: User, rows: list[Deployment], *, now: datetime) -> dict[str, Any]:
    if not user.has_perm("billing.view_ledgerentry"):
        return {"money": False, "costs": {}}
    today = now.date()
    found = budgets.outlook(today - timedelta(days=DAYS - 1), now=now, scopes=[d.pk for d in rows])
    return {
        "money": True,
        **outlook_figures(found),
        "per_million": found.per_million,
        "days": day_rows(found.days, today, DAYS),
        "costs": found.costs,
    }


def day_rows(days: dict[date, Decimal], last: date, count: int) -> list[tuple[str, Decimal]]:
    """The last `count` days as ("24 Nov", USD), those without an entry as 0."""
    dates = [last - timedelta(days=count - 1 - i) for i in range(count)]
    return [(f"{d.day} {d:%b}", days.get(d, Decimal(0))) for d in dates]


@requires("deployments.view_deployment")
def deployments(request: SignedInRequest) -> HttpResponse:
    """Every deployment, the ended ones too; `?show=all|running|ended`, `?q=` searches names."""
    now = timezone.now()
    show = request.GET.get("show", "")
    show = show if show in dict(_SHOWS) else "running"
    # PostgreSQL takes no NUL in text, and no name holds one.
    words = request.GET.get("q", "").replace("\0", "").strip()[:80]
    found = _listed(Deployment.objects.visible_to(request.user), show, words)
    page = Paginator(found, PAGE_ROWS).get_page(request.GET.get("page"))
    first = (page.number - 1) * PAGE_ROWS
    rows = reads.page_of(found, first, PAGE_ROWS)
    context = {
        "page": page,
        "rows": rows,
        "show": show,
        "shows": _SHOWS,
        "words": words,
        "costs": _costs(request.user, rows, now=now),
        "sparks": glance.rows(rows, now=now),
        "any": bool(rows) or _any(request.user),
    }
    return live(request, "deployments/list.html", context, fragments=("fleet",))


def _listed(found: DeploymentQuerySet, show: str, words: str) -> DeploymentQuerySet:
    if show == "running":
        found = found.wanted()
    elif show == "ended":
        found = found.filter(desired=Desired.TERMINATED)
    if words:
        found = found.filter(name__icontains=words)
    return found.order_by("-created_at")


def _costs(user: User, rows: list[Deployment], *, now: datetime) -> dict[UUID, Decimal]:
    if not user.has_perm("billing.view_ledgerentry"):
        return {}
    return costs_of((d.pk for d in rows), now=now)


def _any(user: User) -> bool:
    return Deployment.objects.visible_to(user).exists()
