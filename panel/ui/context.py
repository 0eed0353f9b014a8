"""What every page's frame needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.http import HttpRequest
from django.urls import reverse
from django.utils import timezone


@dataclass(frozen=True, slots=True)
class Item:
    title: str
    url: str
    icon: str
    current: bool


# title, URL name, icon, permission ("staff": may open the admin site).
_PAGES = (
    ("Overview", "overview", "layout-dashboard", "deployments.view_deployment"),
    ("Launch", "launch", "rocket", "deployments.launch_deployment"),
    ("Compare", "compare", "scale", "deployments.view_deployment"),
    ("Deployments", "deployments", "server", "deployments.view_deployment"),
    ("Incidents", "incidents", "siren", "deployments.view_deployment"),
    ("Reliability", "reliability", "gauge", "deployments.view_deployment"),
    ("Playground", "playground", "message-square", "deployments.chat_deployment"),
    ("Radar", "radar", "radar", "deployments.view_provideraccount"),
    ("Alerts", "alerts", "bell", "notices.acknowledge_notice"),
    ("Spend", "spend", "wallet", "billing.view_ledgerentry"),
    ("Accounts", "provider_accounts", "key-round", "deployments.view_provideraccount"),
    ("Compliance", "compliance", "clipboard-check", "registers.see_compliance"),
    ("Audit", "admin:audit_auditevent_changelist", "scroll-text", "audit.view_auditevent"),
    ("Evidence", "evidence", "package", "evidence.export_pack"),
    ("Admin", "admin:index", "shield-check", "staff"),
)


def shell(request: HttpRequest) -> dict[str, Any]:
    """`nav` (asked for only by pages that show it: an error page must not need the database) `now`, whether `mail` leaves, and whether this is the `sandbox`."""
    return {
        "nav": _navigation(request),
        "now": timezone.now(),
        "mail": settings.MAIL_CONFIGURED,
        "sandbox": settings.SANDBOX,
    }


def _navigation(request: HttpRequest) -> Callable[[], list[Item]]:
    def items() -> list[Item]:
        user = getattr(request, "user", None)
        if user is None or not user.is_authenticated:
            return []
        shown = []
        for title, name, icon, permission in _PAGES:
            if user.is_staff if permission == "staff" else user.has_perm(permission):
                url = reverse(name)
                here = request.path == url if url == "/" else request.path.startswith(url)
                shown.append(Item(title, url, icon, here))
        return shown

    return items
