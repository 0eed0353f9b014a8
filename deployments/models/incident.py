"""Incidents: what went wrong, from its first sign to its end, whom it touched, and what people did about it."""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING
from uuid import UUID

from django.db import models
from django.db.models import Q
from django.urls import reverse

from billing.fields import UsdField
from deployments.models.account import ProviderAccount
from deployments.models.deployment import Deployment
from deployments.models.instance import Instance
from panel.notices.models import Notice

if TYPE_CHECKING:
    from panel.accounts.models import User


class Cause(StrEnum):
    """What an incident's cause is named by. A notice names it too, so that one cause is told once."""

    DEPLOYMENT = "deployment"
    RESIDENCY = "residency"
    ENDING = "ending"
    KEY = "key"
    PROVIDER = "provider"
    ORPHAN = "orphan"
    BUDGET = "budget"
    """There is one of it."""

    def of(self, pk: UUID) -> str:
        """`key:0193…`, of a deployment, an instance (ENDING) or an account."""
        return f"{self.value}:{pk}"


BUDGET_WORD = "budget"
"""By it the reason of a stop for money is known."""


class IncidentQuerySet(models.QuerySet["Incident"]):
    def visible_to(self, user: User) -> IncidentQuerySet:
        """Who sees deployments sees what went wrong with them."""
        return self if user.has_perm("deployments.view_deployment") else self.none()

    def open(self) -> IncidentQuerySet:
        """Those that nobody has closed and that have not closed by themselves."""
        return self.filter(closed_at=None)

    def standing(self) -> IncidentQuerySet:
        """Those whose cause still stands, be they closed by somebody or not."""
        return self.filter(over_at=None)

    def of(self, deployment: Deployment) -> IncidentQuerySet:
        """Those that touched the deployment."""
        return self.filter(pk__in=IncidentEntry.objects.filter(deployment=deployment).values("incident"))


class Incident(models.Model):
    """One cause, from `opened_at` to `over_at` (None while it stands).

    It closes by itself once its cause is gone, or before by somebody's hand (`closed_at`); then the same cause
    opens no other one as long as it stands.
    """

    class Kind(models.TextChoices):
        DOWN = "down", "Down"
        STUCK = "stuck", "Stuck"
        SLOW = "slow", "Slow"
        ERRORS = "errors", "Errors"
        KV_FULL = "kv-full", "KV cache full"
        OUTBID = "outbid", "Outbid"
        RESIDENCY = "residency", "Residency"
        BUDGET = "budget", "Budget"
        KEY = "key", "Key refused"
        PROVIDER = "provider", "Provider outage"
        ORPHAN = "orphan", "Orphan"

    cause = models.CharField(max_length=120, help_text="one standing incident for each cause")
    kind = models.CharField(max_length=12, choices=Kind.choices)
    severity = models.CharField(max_length=10, choices=Notice.Severity.choices)
    title = models.CharField(max_length=200)
    guess = models.CharField(max_length=500, blank=True, help_text="what probably caused it")
    # What it is about, where it is about one of them; whom it touched stands in the entries.
    deployment = models.ForeignKey(
        Deployment, null=True, blank=True, on_delete=models.CASCADE, related_name="incidents"
    )
    account = models.ForeignKey(
        ProviderAccount, null=True, blank=True, on_delete=models.SET_NULL, related_name="incidents"
    )
    opened_at = models.DateTimeField()
    clear_since = models.DateTimeField(null=True, help_text="its cause is gone since then, if it stays so")
    over_at = models.DateTimeField(null=True, help_text="its cause was gone for good")
    closed_at = models.DateTimeField(null=True)
    merged_into = models.ForeignKey(
        "self", null=True, on_delete=models.SET_NULL, related_name="merged", help_text="it had the same cause"
    )
    acknowledged_at = models.DateTimeField(null=True)
    # Its figures, as last counted.
    downtime = models.DurationField(
        default=timedelta, help_text="of every deployment that it touched, summed"
    )
    cost_usd = UsdField(null=True, help_text="what those were billed without a use, USD")
    counted_at = models.DateTimeField(null=True)

    objects = IncidentQuerySet.as_manager()

    class Meta:
        default_permissions = ()
        constraints = [
            models.UniqueConstraint(
                fields=["cause"], condition=Q(over_at=None), name="deployments_incident_once"
            )
        ]
        indexes = [
            models.Index(fields=["closed_at", "-opened_at"], name="deployments_incident_open"),
            models.Index(fields=["-opened_at"], name="deployments_incident_at"),
        ]

    def __str__(self) -> str:
        return f"#{self.pk} {self.title}"

    def get_absolute_url(self) -> str:
        return reverse("incident", args=[self.pk])

    @property
    def is_open(self) -> bool:
        return self.closed_at is None

    @property
    def notice_key(self) -> str:
        return f"incident:{self.pk}"

    def lasted(self, now: datetime) -> timedelta:
        """From its first sign to its end, or to now."""
        return max((self.over_at or self.clear_since or now) - self.opened_at, timedelta())


class IncidentEntry(models.Model):
    """One line of an incident's own story. With `deployment` it says whom the incident touched, once for each."""

    class Kind(models.TextChoices):
        OPENED = "opened", "Opened"
        TOUCHES = "touches", "Touches"
        GREW = "grew", "Grew"
        MERGED = "merged", "Merged"
        ACKNOWLEDGED = "acknowledged", "Acknowledged"
        COMMENT = "comment", "Comment"
        OVER = "over", "Cause gone"
        CLOSED = "closed", "Closed"

    incident = models.ForeignKey(Incident, on_delete=models.CASCADE, related_name="entries")
    at = models.DateTimeField()
    kind = models.CharField(max_length=12, choices=Kind.choices)
    text = models.TextField(blank=True)
    actor = models.CharField(max_length=120, default="system", help_text="who, as the audit names them")
    deployment = models.ForeignKey(Deployment, null=True, on_delete=models.CASCADE, related_name="+")
    instance = models.ForeignKey(Instance, null=True, on_delete=models.CASCADE, related_name="+")

    class Meta:
        default_permissions = ()
        constraints = [
            models.UniqueConstraint(
                fields=["incident", "deployment"],
                condition=Q(deployment__isnull=False),
                name="deployments_incident_touch",
            )
        ]
        indexes = [models.Index(fields=["incident", "at"], name="deployments_incident_story")]

    def __str__(self) -> str:
        return f"{self.incident_id} {self.kind}"
