"""Breakers: a provider that fails is asked more seldom, each kind of call by itself."""

from __future__ import annotations

from django.db import models

from deployments.models.account import ProviderAccount


class Breaker(models.Model):
    """How one kind of call to one account goes. One that ends machines is never held back by another."""

    class Call(models.TextChoices):
        LIST = "list"
        CREATE = "create"
        END = "end"
        CHANGE = "change"
        OFFERS = "offers"
        READ = "read"

    account = models.ForeignKey(ProviderAccount, on_delete=models.CASCADE, related_name="breakers")
    call = models.CharField(max_length=8, choices=Call.choices)
    failures = models.PositiveIntegerField(default=0, help_text="in a row")
    open_until = models.DateTimeField(null=True, help_text="nothing of this kind is asked before")
    error = models.CharField(max_length=300, blank=True)
    failed_at = models.DateTimeField(null=True)

    class Meta:
        default_permissions = ()
        constraints = [models.UniqueConstraint(fields=["account", "call"], name="deployments_breaker_once")]

    def __str__(self) -> str:
        return f"{self.call} of {self.account_id}"
