"""What a US dollar was worth in other currencies, day by day, and in which currency pages also say money."""

from __future__ import annotations

from decimal import Decimal

from django.db import models
from django.db.models import Q


class ExchangeRate(models.Model):
    """On `day` one USD was `units` / `per_usd_units` of `currency`; rows are added, never changed.

    Both as they were published, so that nothing is rounded in between: the ECB says 1 EUR = 1.0850 USD, which
    is 1 / 1.0850, and 1 EUR = 24.31 CZK, which is 24.31 / 1.0850. By hand it is a number and 1.
    """

    class Source(models.TextChoices):
        ECB = "ecb", "ECB"
        HAND = "hand", "by hand"

    currency = models.CharField(max_length=3, help_text="ISO 4217")
    day = models.DateField()
    # At most 15 digits: SQLite keeps decimals as floats.
    units = models.DecimalField(max_digits=15, decimal_places=6)
    per_usd_units = models.DecimalField(max_digits=15, decimal_places=6, default=Decimal(1))
    source = models.CharField(max_length=8, choices=Source.choices)
    recorded_at = models.DateTimeField()
    note = models.CharField(max_length=200, blank=True, help_text="where a rate entered by hand is from")

    class Meta:
        default_permissions = ("view", "add")
        constraints = [
            models.UniqueConstraint(
                fields=["currency", "day"], condition=Q(source="ecb"), name="billing_rate_once"
            ),
            models.CheckConstraint(
                condition=Q(units__gt=0, per_usd_units__gt=0), name="billing_rate_positive"
            ),
        ]
        indexes = [models.Index(fields=["currency", "day"], name="billing_rate_day")]

    def __str__(self) -> str:
        return f"{self.currency} {self.day} {self.units}/{self.per_usd_units}"


class DisplayCurrency(models.Model):
    """The one row that says in which currency money is shown beside USD, and how the last fetch of rates went."""

    ONLY = 1

    id = models.PositiveSmallIntegerField(primary_key=True, default=ONLY, editable=False)
    currency = models.CharField(max_length=3, default="EUR")
    tried_at = models.DateTimeField(null=True, blank=True)
    fetched_at = models.DateTimeField(null=True, blank=True)
    fetch_error = models.CharField(max_length=200, blank=True)

    class Meta:
        default_permissions = ()
        constraints = [models.CheckConstraint(condition=Q(id=1), name="billing_one_display_currency")]

    def __str__(self) -> str:
        return self.currency
