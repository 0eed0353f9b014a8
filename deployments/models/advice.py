"""Advice that somebody does not want to see for a while."""

from __future__ import annotations

from django.db import models

from deployments.models.deployment import Deployment


class DismissedAdvice(models.Model):
    """One kind of advice for one deployment, hidden until `until`. Who did it stands in the audit."""

    deployment = models.ForeignKey(Deployment, on_delete=models.CASCADE, related_name="dismissed_advice")
    kind = models.CharField(max_length=20)
    reason = models.CharField(max_length=200)
    at = models.DateTimeField()
    until = models.DateTimeField()

    class Meta:
        default_permissions = ()
        constraints = [models.UniqueConstraint(fields=["deployment", "kind"], name="deployments_advice_once")]

    def __str__(self) -> str:
        return f"{self.kind} of {self.deployment_id}"
