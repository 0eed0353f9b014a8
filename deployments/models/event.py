"""What happened to a deployment and its instances."""

from __future__ import annotations

from django.db import models

from deployments.models.deployment import Deployment


class Event(models.Model):
    """One thing that happened. `to_state` is set when an instance changed its state."""

    deployment = models.ForeignKey(Deployment, on_delete=models.CASCADE, related_name="events")
    instance = models.ForeignKey(
        "deployments.Instance", null=True, on_delete=models.CASCADE, related_name="events"
    )
    at = models.DateTimeField()
    kind = models.CharField(max_length=40)
    from_state = models.CharField(max_length=16, blank=True)
    to_state = models.CharField(max_length=16, blank=True)
    reason = models.CharField(max_length=300, blank=True)
    actor = models.CharField(max_length=120, default="system", help_text="who, as the audit names them")

    class Meta:
        default_permissions = ("view",)
        indexes = [
            models.Index(fields=["deployment", "-at"], name="deployments_event_of"),
            models.Index(fields=["-at"], name="deployments_event_at"),
            models.Index(fields=["instance", "at"], name="deployments_event_inst"),
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.to_state}"
