"""Where machines stood, and how we know."""

from __future__ import annotations

from django.db import models

from deployments.models.instance import Instance


class ResidencyEvidence(models.Model):
    """One reading of where an instance stands: what was asked, what was promised, what was found. Never edited."""

    instance = models.ForeignKey(Instance, on_delete=models.PROTECT, related_name="evidence")
    at = models.DateTimeField()
    asked = models.JSONField(help_text="the countries that the deployment allowed")
    promised = models.CharField(max_length=120, help_text="the offer's country and data centre")
    found = models.JSONField(help_text="[data centre, country] of the machine or of each worker")
    source = models.CharField(max_length=200, help_text="which answer of the provider says so")
    allowed = models.BooleanField()
    reason = models.CharField(max_length=300)

    class Meta:
        default_permissions = ("view",)
        indexes = [models.Index(fields=["instance", "-at"], name="deployments_evidence_of")]

    def __str__(self) -> str:
        return f"{self.instance_id} {self.at:%Y-%m-%d %H:%M}"
