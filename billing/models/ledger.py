"""The ledger's tables. Segments are the truth for what time costs; entries are recomputed from them."""

from __future__ import annotations

from typing import Any

from django.db import models
from django.db.models import F, Q
from django.utils import timezone

from billing.fields import UsdField
from billing.models.subject import Subject
from billing.models.totals import Parts


class Component(models.TextChoices):
    COMPUTE = "compute"
    DISK = "disk"
    VOLUME = "volume"
    TRAFFIC_IN = "traffic-in"
    TRAFFIC_OUT = "traffic-out"
    REQUESTS = "requests"


class PriceSegment(models.Model):
    """From `started_at` to `ended_at` (open while None) `subject` costs `usd_per_unit_hour` x `quantity` an hour."""

    subject = models.ForeignKey(Subject, on_delete=models.PROTECT, related_name="segments")
    component = models.CharField(max_length=20, choices=Component.choices)
    quantity = models.PositiveIntegerField(default=1)
    usd_per_unit_hour = UsdField()
    started_at = models.DateTimeField()
    ended_at = models.DateTimeField(null=True, blank=True)
    metered_to = models.DateTimeField(
        null=True, blank=True, help_text="the ledger holds its cost up to here; none: nothing of it yet"
    )
    reason = models.CharField(max_length=200, blank=True)

    class Meta:
        default_permissions = ("view",)
        constraints = [
            models.UniqueConstraint(
                fields=["subject", "component"], condition=Q(ended_at=None), name="billing_one_open_segment"
            ),
            models.CheckConstraint(
                condition=Q(ended_at=None) | Q(ended_at__gte=F("started_at")), name="billing_segment_forward"
            ),
            models.CheckConstraint(condition=Q(usd_per_unit_hour__gte=0), name="billing_price_not_negative"),
        ]
        indexes = [
            models.Index(fields=["subject", "component", "started_at"], name="billing_segment_time"),
            models.Index(fields=["subject", "ended_at"], name="billing_segment_end"),
        ]

    def __str__(self) -> str:
        return f"{self.subject_id} {self.component} {self.usd_per_unit_hour} $/h"


class UsageCharge(models.Model):
    """A charge for bytes or requests, at a moment. `external_id` makes a repeat harmless.

    `usd` is what it costs: the truth that its hour's entry is summed from.
    """

    subject = models.ForeignKey(Subject, on_delete=models.PROTECT, related_name="usage")
    component = models.CharField(max_length=20, choices=Component.choices)
    quantity = models.DecimalField(max_digits=24, decimal_places=6, help_text="in `unit`")
    unit = models.CharField(max_length=20)
    usd_per_unit = UsdField()
    usd = UsdField(help_text="quantity times price, to the nano-dollar")
    at = models.DateTimeField()
    external_id = models.CharField(max_length=160)
    estimate = models.BooleanField(default=False, help_text="nobody has told the quantity yet")

    class Meta:
        default_permissions = ("view",)
        constraints = [models.UniqueConstraint(fields=["subject", "external_id"], name="billing_usage_once")]
        indexes = [models.Index(fields=["subject", "at"], name="billing_usage_time")]

    def __str__(self) -> str:
        return f"{self.subject_id} {self.quantity} {self.unit}"


class LedgerEntry(models.Model):
    """What one component of one subject cost in one hour (UTC, its start)."""

    subject = models.ForeignKey(Subject, on_delete=models.PROTECT, related_name="entries")
    component = models.CharField(max_length=20, choices=Component.choices)
    hour = models.DateTimeField()
    seconds = models.PositiveIntegerField(help_text="of the hour that were charged")
    usd = UsdField()

    class Meta:
        default_permissions = ("view",)
        verbose_name_plural = "ledger entries"
        constraints = [
            models.UniqueConstraint(fields=["subject", "component", "hour"], name="billing_entry_once")
        ]
        indexes = [models.Index(fields=["hour", "usd"], name="billing_entry_hour")]

    def __str__(self) -> str:
        return f"{self.subject_id} {self.component} {self.hour:%Y-%m-%d %H}h {self.usd}"


class DayTotal(Parts):
    """The sum of a subject's entries and adjustments in one UTC day: what pages add up, never the truth."""

    subject = models.ForeignKey(Subject, on_delete=models.PROTECT, related_name="days")
    day = models.DateField()

    class Meta:
        default_permissions = ()
        constraints = [models.UniqueConstraint(fields=["subject", "day"], name="billing_day_once")]
        indexes = [
            models.Index(fields=["day", "subject", "usd"], name="billing_day_subject"),
            models.Index(fields=["subject", "day", "usd"], name="billing_day_of_subject"),
        ]

    def __str__(self) -> str:
        return f"{self.subject_id} {self.day} {self.usd}"


class ClosedPeriod(models.Model):
    """Hours before `until` are closed: they are corrected by adjustments, never recomputed."""

    until = models.DateTimeField(unique=True)
    closed_at = models.DateTimeField()

    class Meta:
        default_permissions = ("view",)

    def __str__(self) -> str:
        return f"closed to {self.until}"


class Adjustment(models.Model):
    """A correction of a closed period: a row with a reason, added, never edited."""

    subject = models.ForeignKey(Subject, on_delete=models.PROTECT, related_name="adjustments")
    hour = models.DateTimeField(help_text="the hour it corrects")
    usd = UsdField(signed=True)
    reason = models.CharField(max_length=300)
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        default_permissions = ("view",)
        indexes = [models.Index(fields=["hour"], name="billing_adjustment_hour")]

    def __str__(self) -> str:
        return f"{self.subject_id} {self.usd} {self.reason}"

    def save(self, *args: Any, **kwargs: Any) -> None:
        if self.pk and type(self).objects.filter(pk=self.pk).exists():
            raise TypeError("An adjustment is added, never edited.")
        super().save(*args, **kwargs)
