"""A drill: a machine that was killed on purpose, and how long it took until another one served."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Self
from uuid import UUID

from django.db import models
from django.db.models import Q

from deployments.models.deployment import Deployment
from deployments.models.instance import Instance

DETECTION_GOAL = timedelta(seconds=30)
"""A dead endpoint is seen to be dead within this time."""


class DrillQuerySet(models.QuerySet["Drill"]):
    def under_way(self) -> Self:
        return self.filter(over_at=None)

    def covers(self, deployment_id: UUID, at: datetime) -> bool:
        """Whether what befell the deployment at that moment was a drill's doing, and so was planned."""
        during = Q(over_at=None) | Q(over_at__gte=at)
        return self.filter(during, deployment_id=deployment_id, killed_at__lte=at).exists()


class Drill(models.Model):
    """Its moments are those of the Events that it caused, so that nothing depends on when somebody looked."""

    class Outcome(models.TextChoices):
        READY = "ready", "Ready again"
        FAILED = "failed", "Not ready again"
        ABORTED = "aborted", "Called off"

    deployment = models.ForeignKey(Deployment, on_delete=models.CASCADE, related_name="drills")
    instance = models.ForeignKey(
        Instance, on_delete=models.CASCADE, related_name="drills", help_text="the machine that is killed"
    )
    replacement = models.ForeignKey(Instance, null=True, on_delete=models.SET_NULL, related_name="+")
    actor = models.CharField(max_length=120, help_text="who, as the audit names them")
    asked_at = models.DateTimeField()
    sent_at = models.DateTimeField(null=True, help_text="the guarded mark before the request that kills it")
    killed_at = models.DateTimeField(null=True, help_text="just before the request: no figure is flattered")
    detected_at = models.DateTimeField(null=True, help_text="it left Ready")
    relaunched_at = models.DateTimeField(null=True, help_text="its replacement was asked for")
    ready_at = models.DateTimeField(null=True)
    over_at = models.DateTimeField(null=True)
    usual_seconds = models.FloatField(
        null=True,
        help_text="the median of past launches there, from asking to Ready; none: no launch is known",
    )
    outcome = models.CharField(max_length=8, blank=True, choices=Outcome.choices)
    detail = models.CharField(max_length=300, blank=True)

    objects = DrillQuerySet.as_manager()

    class Meta:
        default_permissions = ()
        constraints = [
            models.UniqueConstraint(
                fields=["deployment"], condition=Q(over_at=None), name="deployments_one_drill_at_a_time"
            )
        ]
        indexes = [models.Index(fields=["deployment", "-asked_at"], name="deployments_drill_of")]

    def __str__(self) -> str:
        return f"drill of {self.deployment_id} at {self.asked_at}"

    @property
    def is_over(self) -> bool:
        return self.over_at is not None

    @property
    def detection(self) -> timedelta | None:
        """From the kill until it was seen."""
        return _span(self.killed_at, self.detected_at)

    @property
    def relaunch(self) -> timedelta | None:
        """From the kill until another machine was asked for."""
        return _span(self.killed_at, self.relaunched_at)

    @property
    def startup(self) -> timedelta | None:
        """From then until it was Ready."""
        return _span(self.relaunched_at, self.ready_at)

    @property
    def outage(self) -> timedelta | None:
        """From the kill until Ready."""
        return _span(self.killed_at, self.ready_at)

    @property
    def usual(self) -> timedelta | None:
        return None if self.usual_seconds is None else timedelta(seconds=self.usual_seconds)

    @property
    def detection_goal(self) -> timedelta:
        return DETECTION_GOAL

    @property
    def was_quick(self) -> bool:
        """Whether it was detected within the goal."""
        return self.detection is not None and self.detection <= DETECTION_GOAL


def _span(start: datetime | None, end: datetime | None) -> timedelta | None:
    return end - start if start and end else None
