"""How long each account's prepaid money lasts, and a warning before its provider kills machines.

RunPod ends pods without a network volume at $0, and Vast stops everything at or below $0.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal

from django.urls import reverse

from billing import forecast
from billing.above import AccountRunway, Target
from billing.budgets import Whom
from billing.money import dollars
from deployments.lifecycle import Desired
from deployments.models import Deployment, ProviderAccount
from panel.notices.models import Notice
from panel.notices.notify import clear_notice, raise_notice

STALE = timedelta(minutes=30)
"""A balance is read each ten minutes: one that is older is marked."""
WARN_HOURS, CRITICAL_HOURS = 24, 6
AT_ZERO = {
    "runpod": "At $0 RunPod terminates pods without a network volume.",
    "vast": "At $0 Vast stops every machine.",
}


def runways(now: datetime) -> list[AccountRunway]:
    """Of every account that tells its balance, the shortest first. Two queries."""
    burns = forecast.burn_by_account()
    known = ProviderAccount.objects.exclude(balance_usd=None).exclude(balance_at=None).order_by("name")
    found = []
    for a in known:
        balance, at = a.balance_usd, a.balance_at
        assert balance is not None and at is not None  # noqa: S101, PT018 - the query says so
        lasts = forecast.runway(balance, burns.get(a.pk, Decimal(0)), at=at, now=now, stale_after=STALE)
        found.append(AccountRunway(a.pk, a.name, lasts, at, _level(lasts), AT_ZERO.get(a.backend, "")))
    return sorted(found, key=lambda r: (r.runway.hours is None, r.runway.hours or 0))


def _level(lasts: forecast.Runway) -> str:
    if lasts.hours is None or lasts.hours >= WARN_HOURS:
        return "ok"
    return "critical" if lasts.hours < CRITICAL_HOURS else "warn"


def watch(*, now: datetime) -> None:
    """Open, worsen or close the notice of each account that runs dry. Saying it again changes nothing."""
    for found in runways(now):
        key, lasts = f"runway:{found.account}", found.runway
        if found.level == "ok" or lasts.at is None:
            clear_notice(key, now=now)
            continue
        critical = found.level == "critical"
        severity = Notice.Severity.CRITICAL if critical else Notice.Severity.WARNING
        old = " The balance is old: the provider may say otherwise." if lasts.stale else ""
        raise_notice(
            key, severity, f"{found.name} has money for less than {CRITICAL_HOURS if critical else WARN_HOURS} hours",
            now=now, url=reverse("provider_accounts"),
            detail=(
                f"{dollars(lasts.balance)} is left, to {lasts.at:%a %-d %B %H:%M} UTC at what burns now.{old} "
                f"{found.at_zero} Top it up at the provider."
            ),
        )  # fmt: skip


def targets() -> list[Target]:
    """What a budget can be about: each provider and account, and each deployment that is not over."""
    accounts = list(ProviderAccount.objects.order_by("name"))
    labels = {a.backend: a.get_backend_display() for a in accounts}
    living = Deployment.objects.exclude(desired=Desired.TERMINATED).order_by("name")
    return [
        *(Target("Provider", label, Whom(provider=backend)) for backend, label in sorted(labels.items())),
        *(Target("Account", a.name, Whom(account=a.pk)) for a in accounts),
        *(Target("Deployment", name, Whom(scope=pk)) for pk, name in living.values_list("pk", "name")),
    ]
