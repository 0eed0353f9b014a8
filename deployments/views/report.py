"""The month's reliability, as a page and as CSV."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from django.db.models import Min
from django.http import HttpResponse, HttpResponseBase
from django.utils import timezone
from django.views.decorators.http import require_safe

from billing.periods import Period, calendar_month
from deployments.models import Deployment
from deployments.monitoring import reliability
from deployments.monitoring.reliability import DeploymentRow, PlaceRow, Report
from deployments.monitoring.uptime import Uptime
from panel.accounts.access import requires
from panel.audit.exporting import note_export
from panel.throttle import few_exports
from panel.ui.csvfile import csv_response
from panel.ui.http import SignedInRequest
from panel.ui.live import live

_MONTH = re.compile(r"(20\d\d)-(0[1-9]|1[0-2])")
HEADER = (
    "month", "scope", "provider", "tier", "deployment", "goal_percent", "uptime_percent", "up_hours", "down_minutes",
    "error_budget_left_minutes", "incidents", "interruptions", "launches", "ready", "mean_minutes_to_ready",
)  # fmt: skip


@requires("deployments.view_deployment")
def report(request: SignedInRequest) -> HttpResponse:
    """`?month=2026-11`, by default this one; `#report` polls."""
    now = timezone.now()
    period = _period(request, now=now)
    seen = Deployment.objects.visible_to(request.user)
    first = seen.aggregate(at=Min("created_at"))["at"] or now
    before = period.start - timedelta(days=1)
    found = reliability.report(seen, period, now=now)
    context: dict[str, Any] = {
        "report": found,
        "missed": sum(row.missed for row in found.deployments),
        "interruptions": sum(row.interruptions for row in found.deployments),
        "month": period.start,
        "before": before if before >= calendar_month(first).start else None,
        "after": period.end if period.end <= now else None,
        "running": period.start <= now < period.end,
        "now": now,
    }
    return live(request, "deployments/report.html", context, fragments=("report",))


def _period(request: SignedInRequest, *, now: datetime) -> Period:
    """The month that is asked for; this one for what is none or has not come."""
    asked = _MONTH.fullmatch(request.GET.get("month", ""))
    start = datetime(int(asked[1]), int(asked[2]), 1, tzinfo=UTC) if asked else now
    return calendar_month(min(start, now))


@requires("deployments.view_deployment")
@require_safe
@few_exports
def report_csv(request: SignedInRequest) -> HttpResponseBase:
    """The same rows as comma-separated values: a row for each provider and tier, then one for each deployment."""
    now = timezone.now()
    period = _period(request, now=now)
    found = reliability.report(Deployment.objects.visible_to(request.user), period, now=now)
    month = f"{period.start:%Y-%m}"
    note_export(request, "reliability", month=month)
    return csv_response(f"reliability-{month}.csv", HEADER, _rows(found, month))


def _rows(found: Report, month: str) -> Iterator[tuple[object, ...]]:
    for place in found.places:
        yield _of_place(place, month)
    for row in found.deployments:
        yield _of_deployment(row, month)


def _of_place(row: PlaceRow, month: str) -> tuple[object, ...]:
    mean = row.mean_to_ready
    return (
        month, "provider", row.place.title, row.place.tier, "", "", *_uptime(row.seen), "", row.incidents,
        row.interruptions, row.launches, row.ready, _minutes(mean) if mean is not None else "",
    )  # fmt: skip


def _of_deployment(row: DeploymentRow, month: str) -> tuple[object, ...]:
    return (
        month, "deployment", "", "", row.deployment.name, f"{row.deployment.slo_percent.normalize():f}",
        *_uptime(row.seen), _minutes(row.budget.left), row.incidents, row.interruptions, "", "", "",
    )  # fmt: skip


def _uptime(seen: Uptime) -> tuple[object, object, object]:
    share = "" if seen.share is None else f"{seen.share * 100:.4f}"
    return share, f"{seen.up / timedelta(hours=1):.4f}", _minutes(seen.down)


def _minutes(span: timedelta) -> float:
    return round(span / timedelta(minutes=1), 2)
