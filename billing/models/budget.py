"""The budget, and the money held for what was launched but not yet spent."""

from __future__ import annotations

from django.db import models
from django.db.models import Q

from billing.fields import UsdField
from billing.models.subject import Subject


class Budget(models.Model):
    """How much may be spent in a period (UTC calendar)."""

    class Period(models.TextChoices):
        DAY = "day"
        MONTH = "month"

    name = models.CharField(max_length=80, default="Everything", unique=True)
    period = models.CharField(max_length=10, choices=Period.choices, default=Period.MONTH)
    amount_usd = UsdField(help_text="USD for each period")
    hard_stop = models.BooleanField(default=True, help_text="stop what runs when the money is gone")
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        default_permissions = ("view", "change")
        constraints = [models.CheckConstraint(condition=Q(amount_usd__gte=0), name="billing_budget_positive")]

    def __str__(self) -> str:
        return f"{self.name}: {self.amount_usd} USD a {self.period}"


class Reservation(models.Model):
    """Money held for a subject that may be running: its price to the period's end or its stop date.

    Held from before the machine is asked for until nothing can be charged any more.
    """

    subject = models.OneToOneField(Subject, on_delete=models.PROTECT, related_name="reservation")
    usd_per_hour = UsdField()
    until = models.DateTimeField(null=True, blank=True, help_text="its stop date; none: to the period's end")
    held_at = models.DateTimeField()
    released_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        default_permissions = ("view",)
        indexes = [models.Index(fields=["released_at"], name="billing_reservation_held")]

    def __str__(self) -> str:
        return f"{self.subject_id} {self.usd_per_hour} $/h"
