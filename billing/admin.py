"""Money in the admin site: read there, changed only by what earns or spends it."""

from __future__ import annotations

from django.contrib import admin

from billing.models import (
    Adjustment,
    Bill,
    Booking,
    Budget,
    BudgetCrossing,
    ClosedPeriod,
    Discrepancy,
    LedgerEntry,
    MonthClose,
    PriceSegment,
    ProviderStatement,
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
    list_display = ("subject", "component", "quantity", "unit", "usd_per_unit", "usd", "estimate", "at")
    list_filter = ("component", "estimate", "subject__provider", "at")
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


@admin.register(Bill)
class BillAdmin(ReadOnlyAdmin):
    list_display = ("account_label", "provider", "told_until", "fetched_at", "matched_at", "error")
    list_filter = ("provider",)
    ordering = ("account_label", "pk")


@admin.register(ProviderStatement)
class ProviderStatementAdmin(ReadOnlyAdmin):
    list_display = ("start", "remote_id", "component", "usd", "subject", "fetched_at")
    list_filter = ("component", "start")
    list_select_related = ("subject",)
    search_fields = ("remote_id", "label", "=account")
    ordering = ("-start", "-pk")


@admin.register(Discrepancy)
class DiscrepancyAdmin(ReadOnlyAdmin):
    """Worked on at the Reconciliation page."""

    list_display = ("day", "account_label", "label", "reason", "usd", "state", "owner")
    list_filter = ("state", "reason", "provider", "day")
    list_select_related = ("owner",)
    search_fields = ("label", "remote_id", "account_label")
    ordering = ("-day", "pk")


@admin.register(Booking)
class BookingAdmin(ReadOnlyAdmin):
    list_display = ("day", "key", "adjustment", "discrepancy", "at")
    list_filter = ("day",)
    list_select_related = ("adjustment", "discrepancy")
    ordering = ("-at", "-pk")


@admin.register(MonthClose)
class MonthCloseAdmin(ReadOnlyAdmin):
    list_display = ("month", "total_usd", "closed_by", "closed_at")
    list_select_related = ("closed_by",)
    ordering = ("-month",)
