"""The budgets, and the money held for what was launched but not yet spent."""

from __future__ import annotations

from datetime import datetime

from django.db import models
from django.db.models import Q

from billing.fields import UsdField
from billing.models.subject import Subject


def usual_rungs() -> list[int]:
    return [50, 80, 100]


class Budget(models.Model):
    """How much may be spent in a period (UTC calendar): on everything, or on what `provider`, `account` or `scope` names.

    The targets are billing's own words for a subject's: a backend's key, an account's id, a deployment's id.
    """

    class Period(models.TextChoices):
        DAY = "day"
        MONTH = "month"

    name = models.CharField(max_length=80, default="Everything", unique=True)
    provider = models.CharField(max_length=40, blank=True, help_text="only what this provider bills")
    account = models.UUIDField(null=True, blank=True, help_text="only what this account bills")
    scope = models.UUIDField(null=True, blank=True, help_text="only this deployment")
    target_label = models.CharField(
        max_length=120, blank=True, help_text="what it is about, as it was named then"
    )
    period = models.CharField(max_length=10, choices=Period.choices, default=Period.MONTH)
    amount_usd = UsdField(help_text="USD for each period")
    hard_stop = models.BooleanField(default=True, help_text="stop what runs when the money is gone")
    blocks = models.BooleanField(default=True, help_text="refuse a launch that does not fit")
    rungs = models.JSONField(
        default=usual_rungs, blank=True, help_text="percent spent at which somebody is told"
    )
    warns_of_forecast = models.BooleanField(default=True, help_text="tell when the forecast exceeds it")
    updated_at = models.DateTimeField(auto_now=True)
    # While it is lifted, it blocks and stops nothing. It ends by itself.
    lifted_until = models.DateTimeField(null=True, blank=True)
    lifted_reason = models.CharField(max_length=300, blank=True)

    class Meta:
        default_permissions = ("view", "change")
        constraints = [models.CheckConstraint(condition=Q(amount_usd__gte=0), name="billing_budget_positive")]

    def __str__(self) -> str:
        return f"{self.name}: {self.amount_usd} USD a {self.period}"

    @property
    def is_of_everything(self) -> bool:
        return not (self.provider or self.account or self.scope)

    def is_lifted(self, now: datetime) -> bool:
        return self.lifted_until is not None and now < self.lifted_until


class BudgetCrossing(models.Model):
    """A rung that was reached, and told, in a period. Open until what is spent is below it again."""

    budget = models.ForeignKey(Budget, on_delete=models.CASCADE, related_name="crossings")
    rung = models.CharField(max_length=12, help_text="the percent spent, or forecast")
    period_start = models.DateTimeField()
    usd = UsdField(signed=True, help_text="what was spent or foreseen then")
    crossed_at = models.DateTimeField()
    fell_at = models.DateTimeField(
        null=True, blank=True, help_text="when it was below again, or the period ended"
    )

    class Meta:
        default_permissions = ("view",)
        constraints = [
            models.UniqueConstraint(
                fields=["budget", "rung", "period_start"],
                condition=Q(fell_at=None),
                name="billing_crossing_once",
            )
        ]

    def __str__(self) -> str:
        return f"{self.budget_id} {self.rung} {self.period_start:%Y-%m-%d}"


class ProtectedScope(models.Model):
    """A deployment that no budget stops. What it may still cost is part of the stated bound."""

    scope = models.UUIDField(primary_key=True)

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        return str(self.scope)


class Reservation(models.Model):
    """Money held for a subject that may be running: its price to the period's end or its stop date.

    Held from before the machine is asked for until nothing can be charged any more.
    """

    subject = models.OneToOneField(Subject, on_delete=models.PROTECT, related_name="reservation")
    usd_per_hour = UsdField()
    kept_usd_per_hour = UsdField(default=0, help_text="what its disk costs on once it is stopped")
    until = models.DateTimeField(null=True, blank=True, help_text="its stop date; none: to the period's end")
    held_at = models.DateTimeField()
    released_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        default_permissions = ("view",)
        indexes = [models.Index(fields=["released_at"], name="billing_reservation_held")]

    def __str__(self) -> str:
        return f"{self.subject_id} {self.usd_per_hour} $/h"
