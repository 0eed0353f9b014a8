"""What the accounts' lists last showed, ours and others': the orphan radar's rows."""

from __future__ import annotations

from django.db import models

from billing.fields import UsdField
from deployments.models.account import ProviderAccount


class ListedMachine(models.Model):
    """One machine of an account's last list. A row goes when a complete list is without it."""

    account = models.ForeignKey(ProviderAccount, on_delete=models.CASCADE, related_name="listed")
    remote_id = models.CharField(max_length=120)
    label = models.CharField(max_length=300, blank=True)
    status = models.CharField(max_length=16, help_text="MachineStatus")
    gpu_name = models.CharField(max_length=120, blank=True)
    country = models.CharField(max_length=2, null=True)
    data_center = models.CharField(max_length=80, blank=True)
    usd_per_hour = UsdField(null=True)
    remote_created_at = models.DateTimeField(null=True)
    first_seen_at = models.DateTimeField()
    seen_at = models.DateTimeField()
    locked = models.BooleanField(default=False)
    hidden = models.BooleanField(default=False, help_text="somebody else's, and nobody wants to see it again")

    class Meta:
        default_permissions = ()
        constraints = [
            models.UniqueConstraint(fields=["account", "remote_id"], name="deployments_listed_once"),
        ]

    def __str__(self) -> str:
        return self.label or self.remote_id
