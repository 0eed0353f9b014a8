"""Money in the admin site: read there, changed only by what earns or spends it."""

from __future__ import annotations

from django.contrib import admin

from billing.models import (
    Adjustment,
    Budget,
    BudgetCrossing,
    ClosedPeriod,
    LedgerEntry,
    PriceSegment,
    Reservation,
    Subject,
    UsageCharge,
)
from panel.readonly import ReadOnlyAdmin


@admin.register(Subject)
class SubjectAdmin(ReadOnlyAdmin):
    list_display = ("label", "scope_label", "provider", "tier", "gpu", "created_at")
    list_filter = ("provider", "tier", "gpu", "created_at")
    search_fields = ("label", "scope_label", "=id", "=scope")
    ordering = ("-created_at",)


class _OfSubject(ReadOnlyAdmin):
    list_select_related = ("subject",)
    search_fields = ("subject__label", "subject__scope_label")


@admin.register(PriceSegment)
class PriceSegmentAdmin(_OfSubject):
    list_display = (
        "subject",
        "component",
        "quantity",
        "usd_per_unit_hour",
        "started_at",
        "ended_at",
        "reason",
    )
    list_filter = ("component", "subject__provider", ("ended_at", admin.EmptyFieldListFilter), "started_at")
    ordering = ("-started_at", "-pk")


@admin.register(UsageCharge)
class UsageChargeAdmin(_OfSubject):
    list_display = ("subject", "component", "quantity", "unit", "usd_per_unit", "at")
    list_filter = ("component", "subject__provider", "at")
    ordering = ("-at", "-pk")


@admin.register(LedgerEntry)
class LedgerEntryAdmin(_OfSubject):
    list_display = ("hour", "subject", "component", "seconds", "usd")
    list_filter = ("component", "subject__provider", "hour")
    ordering = ("-hour", "-pk")


@admin.register(Adjustment)
class AdjustmentAdmin(_OfSubject):
    list_display = ("hour", "subject", "usd", "reason", "created_at")
    list_filter = ("subject__provider", "hour")
    ordering = ("-hour", "-pk")


@admin.register(ClosedPeriod)
class ClosedPeriodAdmin(ReadOnlyAdmin):
    list_display = ("until", "closed_at")
    ordering = ("-until",)


@admin.register(Budget)
class BudgetAdmin(ReadOnlyAdmin):
    """Set on the Budgets page, where the figures stand beside it."""

    list_display = (
        "name", "target_label", "provider", "period", "amount_usd", "blocks", "hard_stop", "lifted_until", "updated_at",
    )  # fmt: skip
    list_filter = ("period", "hard_stop", "blocks", "provider")


@admin.register(BudgetCrossing)
class BudgetCrossingAdmin(ReadOnlyAdmin):
    list_display = ("crossed_at", "budget", "rung", "period_start", "usd", "fell_at")
    list_filter = ("rung", ("fell_at", admin.EmptyFieldListFilter), "crossed_at")
    list_select_related = ("budget",)
    ordering = ("-crossed_at", "-pk")


@admin.register(Reservation)
class ReservationAdmin(_OfSubject):
    list_display = ("subject", "usd_per_hour", "kept_usd_per_hour", "until", "held_at", "released_at")
    list_filter = (("released_at", admin.EmptyFieldListFilter), "subject__provider", "held_at")
    ordering = ("-held_at",)
