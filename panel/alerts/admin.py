"""Who is alerted and what was sent, in the admin site: read there, without the secrets; changed on the Alerts pages."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest

from panel.alerts.models import Channel, Delivery, Rule, Window
from panel.readonly import ReadOnlyAdmin

SECRETS = ("address", "signing_key", "old_signing_key")


@admin.register(Channel)
class ChannelAdmin(ReadOnlyAdmin):
    """Without its address and keys, which are not even read from the database here."""

    list_display = (
        "name",
        "kind",
        "enabled",
        "leads_to",
        "failures",
        "held_until",
        "last_ok_at",
        "last_error",
    )
    list_filter = ("kind", "enabled")
    search_fields = ("name", "leads_to")
    ordering = ("name",)
    exclude = (*SECRETS, "lease", "lease_until")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        return super().get_queryset(request).defer(*SECRETS)


@admin.register(Rule)
class RuleAdmin(ReadOnlyAdmin):
    list_display = ("name", "enabled", "severity", "after_minutes", "quiet_from", "quiet_until", "time_zone")
    list_filter = ("enabled", "severity")
    search_fields = ("name",)
    ordering = ("name",)
    # The site would read its channels with their keys.
    exclude = ("channels",)
    readonly_fields = ("told",)

    @admin.display(description="channels")
    def told(self, rule: Rule) -> str:
        return ", ".join(rule.channels.order_by("name").values_list("name", flat=True))


@admin.register(Window)
class WindowAdmin(ReadOnlyAdmin):
    list_display = ("reason", "starts_at", "ends_at")
    list_filter = ("starts_at", "ends_at")
    search_fields = ("reason",)
    ordering = ("-starts_at",)
    # Who planned it stands in the audit, under the name that the audit gives them.
    exclude = ("created_by",)


@admin.register(Delivery)
class DeliveryAdmin(ReadOnlyAdmin):
    list_display = ("created_at", "channel", "occasion", "severity", "state", "tries", "sent_at", "error")
    list_filter = ("state", "occasion", "severity", "channel__name", "created_at")
    search_fields = ("=message_id", "channel__name", "notice__title")
    ordering = ("-pk",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        of_channel = (f"channel__{name}" for name in SECRETS)
        return super().get_queryset(request).select_related("channel").defer(*of_channel)
