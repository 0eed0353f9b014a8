"""A deployment: what an operator wants to run."""

from __future__ import annotations

import uuid
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING

from django.conf import settings
from django.db import models
from django.urls import reverse
from django.utils.functional import cached_property

from billing.fields import UsdField
from deployments import catalog
from deployments.lifecycle import Desired
from deployments.schedule import Schedule

if TYPE_CHECKING:
    from deployments.models.instance import Instance
    from panel.accounts.models import User


class DeploymentQuerySet(models.QuerySet["Deployment"]):
    def visible_to(self, user: User) -> DeploymentQuerySet:
        """Who sees what is decided here alone: the team sees every deployment, nobody else sees any."""
        return self if user.has_perm("deployments.view_deployment") else self.none()

    def wanted(self) -> DeploymentQuerySet:
        """Those that somebody still wants to exist."""
        return self.exclude(desired=Desired.TERMINATED)

    def due(self, now: datetime) -> DeploymentQuerySet:
        """Those whose next look has come, the longest waiting first."""
        return self.filter(next_look_at__lte=now).order_by("next_look_at")


class Deployment(models.Model):
    class Policy(models.TextChoices):
        RELIABILITY = "reliability", "Reliability first"
        BALANCED = "balanced", "Balanced"
        CHEAPEST = "cheapest", "Cheapest"

    class Purpose(models.TextChoices):
        PRODUCTION = "production", "Production"
        DEVELOPMENT = "development", "Development and tests"

    class BidPolicy(models.TextChoices):
        WAIT = "wait", "Wait until it comes back"
        RAISE = "raise", "Raise the bid up to the ceiling"
        MOVE = "move", "Move to the next best offer"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    name = models.CharField(max_length=80)
    model_key = models.CharField(max_length=40)
    context = models.PositiveIntegerField(help_text="tokens")
    allowed_countries = models.JSONField(default=list)
    policy = models.CharField(max_length=20, choices=Policy.choices, default=Policy.RELIABILITY)
    price_ceiling = UsdField(null=True, blank=True, help_text="USD per hour; no machine above it")
    stop_at = models.DateTimeField(null=True, blank=True)
    delete_at = models.DateTimeField(
        null=True, blank=True, help_text="every machine is given back for good then"
    )
    purpose = models.CharField(max_length=12, choices=Purpose.choices, default=Purpose.PRODUCTION)
    allow_plaintext = models.BooleanField(
        default=False, help_text="an endpoint without TLS is accepted: keys and prompts travel in the clear"
    )
    protected = models.BooleanField(default=False, help_text="no drill and no budget ends it")
    plan_b = models.PositiveSmallIntegerField(
        default=3, help_text="how many next-best offers are tried after a definite no"
    )
    # What an interruptible machine bids on its compute, and what is done when it is outbid.
    bid_policy = models.CharField(max_length=8, choices=BidPolicy.choices, default=BidPolicy.MOVE)
    bid_ceiling = UsdField(null=True, blank=True, help_text="USD per hour of compute; no bid above it")
    # Runs on these ISO weekdays ("12345") between these hours of this zone; no days: without a schedule.
    schedule_days = models.CharField(max_length=7, blank=True)
    schedule_from = models.TimeField(null=True, blank=True)
    schedule_until = models.TimeField(null=True, blank=True)
    time_zone = models.CharField(max_length=64, default="UTC")
    schedule_at = models.DateTimeField(
        null=True, help_text="the last edge of the schedule that was carried out"
    )
    slo_percent = models.DecimalField(
        max_digits=6, decimal_places=3, default=Decimal("99.5"),
        help_text="the share of the time in which it is to answer, percent; planned stops do not count",
    )  # fmt: skip
    tags = models.JSONField(default=dict, blank=True, help_text="text to text; its costs carry them")
    # Counts the changes of what a running machine cannot take: one of an older number is replaced.
    generation = models.PositiveIntegerField(default=1)
    desired = models.CharField(max_length=12, choices=[(d.value, d.value) for d in Desired])
    desired_reason = models.CharField(max_length=300, blank=True)
    owner = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL)
    created_at = models.DateTimeField()
    # A form's own token: the same form sent twice is the same launch.
    launch_key = models.CharField(max_length=64, unique=True)

    # The reconciler's own: who looks at it now, and when the next look is due (None: never again).
    next_look_at = models.DateTimeField(null=True, db_index=True)
    lease_token = models.CharField(max_length=36, blank=True)
    lease_until = models.DateTimeField(null=True)
    retry_at = models.DateTimeField(null=True)
    looked_at = models.DateTimeField(null=True)

    objects = DeploymentQuerySet.as_manager()

    class Meta:
        default_permissions = ("view",)
        permissions = [
            ("launch_deployment", "Can launch a deployment"),
            ("operate_deployment", "Can stop, start and terminate a deployment"),
            ("chat_deployment", "Can chat with a deployment"),
            ("drill_deployment", "Can have a deployment's machine killed as a drill"),
        ]
        indexes = [models.Index(fields=["desired", "-created_at"], name="deployments_desired")]

    def __str__(self) -> str:
        return self.name

    def get_absolute_url(self) -> str:
        return reverse("deployment", args=[self.id])

    @cached_property
    def current(self) -> Instance | None:
        """The newest attempt; None before the first."""
        return self.instances.order_by("-attempt").first()

    @property
    def schedule(self) -> Schedule | None:
        """Its weekly hours; None without any."""
        if not self.schedule_days or self.schedule_from is None or self.schedule_until is None:
            return None
        return Schedule(self.schedule_days, self.schedule_from, self.schedule_until, self.time_zone)

    @property
    def model(self) -> catalog.Model | None:
        return catalog.get_model(self.model_key)
