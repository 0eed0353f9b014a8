"""Hiding a piece of advice for some time, with a reason, and showing it again."""

from __future__ import annotations

from datetime import datetime, timedelta

from django.db import transaction

from deployments.advising.case import Kind
from deployments.models import Deployment, DismissedAdvice
from panel.accounts.models import User
from panel.audit import chain

SPANS = {7: "a week", 30: "30 days", 90: "90 days", 365: "a year"}
"""For how many days it may be hidden."""


def dismiss(deployment: Deployment, kind: Kind, *, days: int, reason: str, actor: User, now: datetime) -> DismissedAdvice:  # fmt: skip
    """Hide `kind` of advice for `deployment`; again, and the newer reason and date hold."""
    until = now + timedelta(days=days)
    with transaction.atomic():
        row, _ = DismissedAdvice.objects.update_or_create(
            deployment=deployment, kind=kind.value, defaults={"reason": reason, "at": now, "until": until}
        )
        chain.record(
            "advice.dismiss", actor=actor, target=deployment, now=now, reason=reason,
            after={"kind": kind.value, "until": until.isoformat()},
        )  # fmt: skip
    return row


def restore(deployment: Deployment, kind: Kind, *, actor: User, now: datetime) -> bool:
    """Show it again; whether it was hidden."""
    with transaction.atomic():
        gone, _ = DismissedAdvice.objects.filter(deployment=deployment, kind=kind.value).delete()
        if gone:
            chain.record(
                "advice.restore", actor=actor, target=deployment, now=now, after={"kind": kind.value}
            )
    return bool(gone)
