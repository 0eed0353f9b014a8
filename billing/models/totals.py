"""What pages add up: a subject's cost in a day and in a month by parts, beside what it gave. Never the truth.

`billing.rollup` is the only writer.
"""

from __future__ import annotations

from django.db import models

from billing.fields import UsdField
from billing.models.subject import Subject


class Parts(models.Model):
    """A sum of entries and adjustments, and its parts; what is in no part (requests) is the rest of `usd`.

    Wide, so that one row and one key hold what is read together. What the subject gave is told from above, by
    the day: tokens, and the time in which it worked and in which anybody looked.
    """

    usd = UsdField(signed=True)
    compute_usd = UsdField(signed=True, default=0)
    disk_usd = UsdField(signed=True, default=0)
    volume_usd = UsdField(signed=True, default=0)
    traffic_usd = UsdField(signed=True, default=0)
    adjusted_usd = UsdField(signed=True, default=0)
    seconds = models.BigIntegerField(default=0, help_text="for which compute was charged")
    tokens_in = models.BigIntegerField(default=0)
    tokens_out = models.BigIntegerField(default=0)
    busy_seconds = models.BigIntegerField(default=0, help_text="in minutes with a request or a token")
    watched_seconds = models.BigIntegerField(default=0, help_text="in which its engine told what it does")
    best_hour = models.BigIntegerField(default=0, help_text="tokens in its best hour")

    class Meta:
        abstract = True


class MonthTotal(Parts):
    """The sum of a subject's day totals in one calendar month (UTC, its first day)."""

    subject = models.ForeignKey(
        Subject, on_delete=models.PROTECT, related_name="months", db_index=False
    )  # the constraint begins with it
    month = models.DateField()

    class Meta:
        default_permissions = ()
        constraints = [models.UniqueConstraint(fields=["subject", "month"], name="billing_month_once")]
        indexes = [models.Index(fields=["month"], name="billing_month")]

    def __str__(self) -> str:
        return f"{self.subject_id} {self.month:%Y-%m} {self.usd}"
