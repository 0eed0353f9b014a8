"""Offers as last fetched."""

from __future__ import annotations

from dataclasses import asdict, fields
from decimal import Decimal
from typing import Any

from django.db import models

from billing.fields import UsdField
from deployments.models.account import ProviderAccount
from deployments.providers.base import Quote


class Offer(models.Model):
    """One thing an account can rent. Prices in USD per hour for the whole offer; see `Quote`."""

    account = models.ForeignKey(ProviderAccount, on_delete=models.CASCADE, related_name="offers")
    key = models.CharField(max_length=160)
    tier = models.CharField(max_length=40)
    gpu_name = models.CharField(max_length=120)
    gpu_count = models.PositiveSmallIntegerField()
    vram_mb = models.PositiveIntegerField()
    cpu_count = models.PositiveSmallIntegerField()
    memory_mb = models.PositiveIntegerField()
    country = models.CharField(max_length=2, null=True)
    data_center = models.CharField(max_length=80, blank=True)
    usd_per_hour = UsdField()
    compute_usd_per_hour = UsdField()
    disk_usd_per_hour = UsdField(default=0)
    traffic_usd_per_gb = UsdField(default=0)
    traffic_in_usd_per_gb = UsdField(null=True)
    traffic_out_usd_per_gb = UsdField(null=True)
    reliability = models.FloatField(null=True)
    stock = models.CharField(max_length=20, blank=True)
    max_hours = models.FloatField(null=True)
    own_machine = models.BooleanField(default=False)
    usual_seconds_to_ready = models.PositiveIntegerField(null=True)
    note = models.CharField(max_length=300, blank=True)
    stopped_usd_per_hour = UsdField(null=True)
    interruptible = models.BooleanField(default=False)
    serverless = models.BooleanField(default=False)
    workers_min = models.PositiveSmallIntegerField(default=0)
    gpu_pool = models.CharField(max_length=40, blank=True)
    host = models.CharField(max_length=80, blank=True)
    site = models.CharField(max_length=80, blank=True)
    cuda_max = models.FloatField(null=True)
    compute_capability = models.FloatField(null=True)
    certification = models.CharField(max_length=200, blank=True)
    sla = models.BooleanField(default=False)
    estimate = models.BooleanField(default=False)
    fetched_at = models.DateTimeField()
    available = models.BooleanField(default=True)

    class Meta:
        default_permissions = ("view",)
        constraints = [models.UniqueConstraint(fields=["account", "key"], name="deployments_offer_once")]

    def __str__(self) -> str:
        return f"{self.gpu_name} at {self.account}"

    def quote(self) -> Quote:
        return Quote(**{f.name: getattr(self, f.name) for f in fields(Quote)})

    @property
    def total_vram_mb(self) -> int:
        return self.vram_mb * self.gpu_count


def quote_values(quote: Quote) -> dict[str, Any]:
    """The quote's fields as an Offer's column values, without its key."""
    return {f.name: getattr(quote, f.name) for f in fields(quote) if f.name != "key"}


def freeze_quote(quote: Quote) -> dict[str, Any]:
    """The quote as JSON, amounts as text so that no digit is lost."""
    return {k: str(v) if isinstance(v, Decimal) else v for k, v in asdict(quote).items()}


def thaw_quote(frozen: dict[str, Any]) -> Quote:
    """The quote that `freeze_quote` froze."""
    values: dict[str, Any] = {
        k: Decimal(v) if k in _AMOUNTS and v is not None else v for k, v in frozen.items()
    }
    return Quote(**values)


_AMOUNTS = {f.name for f in fields(Quote) if f.type in {"Decimal", "Decimal | None"}}
