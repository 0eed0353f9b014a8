"""What every tab of a deployment's page stands in: its head with its facts, the tabs, and the acts that are valid now."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from functools import cache
from typing import Any
from zoneinfo import ZoneInfo

from billing import ledger
from deployments import services
from deployments.lifecycle import Desired
from deployments.models import Deployment, Drill, Incident
from deployments.views import protection, reads
from panel.ui.http import SignedInRequest

TABS = (
    ("overview", "Overview"),
    ("metrics", "Metrics"),
    ("events", "Events"),
    ("logs", "Logs"),
    ("cost", "Cost"),
    ("settings", "Settings"),
)
DRILL_ROWS = 5
TROUBLES = 3


def frame(request: SignedInRequest, d: Deployment, tab: str, *, now: datetime) -> dict[str, Any]:
    """Context for detail.html. What costs a query is asked for only by the parts that show it: each part polls alone."""
    sees_money = request.user.has_perm("billing.view_ledgerentry")
    may_act = request.user.has_perm("deployments.operate_deployment")
    actions = services.valid_actions(d) if may_act else frozenset()
    if not protection.may_end(request, d):
        actions -= {"terminate"}

    @cache
    def cost() -> Decimal | None:
        return ledger.cost_of(d.pk, now=now) if sees_money else None

    @cache
    def troubles() -> list[Incident]:
        return list(Incident.objects.open().of(d).order_by("-opened_at")[:TROUBLES])

    @cache
    def drills() -> list[Drill]:
        return list(d.drills.order_by("-asked_at")[:DRILL_ROWS])

    return {
        "d": d,
        "current": d.current,
        "tab": tab,
        "tabs": TABS,
        "confirmable": [act for act in ("stop", "terminate", "rotate") if act in actions],
        "now": now,
        "poll": reads.poll_seconds(d),
        "actions": actions,
        "money": sees_money,
        "cost": cost,
        "may_chat": request.user.has_perm("deployments.chat_deployment"),
        "edge": _next_edge(d, now=now),
        "troubles": troubles,
        "drills": drills,
        "may_drill": request.user.has_perm("deployments.drill_deployment"),
    }


def _next_edge(d: Deployment, *, now: datetime) -> dict[str, Any] | None:
    """What the schedule does next: the moment `at`, the same on the `wall` clock of its zone, whether it then `runs`."""
    edge = d.schedule.next_edge(now) if d.schedule and d.desired != Desired.TERMINATED else None
    if edge is None:
        return None
    # As text: the templates' own filter would put it back to UTC.
    wall = edge.at.astimezone(ZoneInfo(d.time_zone))
    return {"at": edge.at, "wall": f"{wall:%a} {wall.day} {wall:%b, %H:%M}", "runs": edge.runs}
