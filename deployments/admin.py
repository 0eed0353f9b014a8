"""What runs, in the admin site: read there. Only a provider's account is changed, by an administrator, audited."""

from __future__ import annotations

from typing import Any, ClassVar

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest

from deployments.models import Deployment, Event, Instance, Offer, ProviderAccount, ResidencyEvidence
from deployments.models.instance import SECRETS
from panel.audit.admin import AuditedAdmin
from panel.readonly import ReadOnlyAdmin

SECRETS_OF_ITS_INSTANCE = tuple(f"instance__{name}" for name in SECRETS)


@admin.register(ProviderAccount)
class ProviderAccountAdmin(AuditedAdmin):
    """The key of an account is not shown here, nor set: that has its own page, which this one links to."""

    change_list_template = "admin/deployments/provideraccount/change_list.html"

    list_display = (
        "name",
        "backend",
        "enabled",
        "local_usd_per_hour",
        "listed_at",
        "list_error",
        "creates_blocked",
    )
    list_filter = ("backend", "enabled")
    search_fields = ("name",)
    audited: ClassVar = ("name", "enabled", "local_usd_per_hour", "key_unproved")
    readonly_fields = (
        "backend", "company_country", "created_at", "listed_at", "complete_lists", "list_error", "creates_blocked", "offers_at",
    )  # fmt: skip
    fields = ("name", "enabled", "local_usd_per_hour", "key_unproved", *readonly_fields)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        return super().get_queryset(request).defer("credentials")

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        # A rate of one's own makes sense for this computer alone: elsewhere the provider says what it costs.
        is_local = obj is None or obj.backend == ProviderAccount.Backend.LOCAL
        return self.readonly_fields if is_local else ("local_usd_per_hour", *self.readonly_fields)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


@admin.register(Offer)
class OfferAdmin(ReadOnlyAdmin):
    list_display = (
        "gpu_name",
        "gpu_count",
        "account",
        "tier",
        "country",
        "usd_per_hour",
        "available",
        "fetched_at",
    )
    list_filter = ("account__name", "tier", "available", "country", "gpu_name")
    search_fields = ("gpu_name", "key", "data_center")
    ordering = ("usd_per_hour",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        return super().get_queryset(request).select_related("account").defer("account__credentials")


@admin.register(Deployment)
class DeploymentAdmin(ReadOnlyAdmin):
    list_display = ("name", "model_key", "desired", "policy", "owner", "created_at", "stop_at")
    list_filter = ("desired", "policy", "model_key", "created_at")
    search_fields = ("name", "=id")
    list_select_related = ("owner",)
    ordering = ("-created_at",)
    exclude = ("launch_key", "lease_token")


@admin.register(Instance)
class InstanceAdmin(ReadOnlyAdmin):
    """Without its key, which is not even read from the database here."""

    list_display = (
        "label",
        "deployment",
        "account",
        "state",
        "state_since",
        "usd_per_hour",
        "country",
        "reason",
    )
    list_filter = ("state", "account__name", "country", "created_at")
    search_fields = ("label", "=remote_id", "deployment__name", "=id")
    ordering = ("-created_at",)
    exclude = SECRETS

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        instances = super().get_queryset(request).select_related("deployment", "account")
        return instances.defer(*SECRETS, "account__credentials")


@admin.register(Event)
class EventAdmin(ReadOnlyAdmin):
    list_display = ("at", "deployment", "instance", "kind", "from_state", "to_state", "reason")
    list_filter = ("kind", "to_state", "at")
    search_fields = ("deployment__name", "instance__label", "reason")
    ordering = ("-at", "-pk")
    # Who did it stands in the audit, under the name that the audit gives them.
    exclude = ("actor",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        events = super().get_queryset(request).select_related("deployment", "instance")
        return events.defer(*SECRETS_OF_ITS_INSTANCE)


@admin.register(ResidencyEvidence)
class ResidencyEvidenceAdmin(ReadOnlyAdmin):
    list_display = ("at", "instance", "promised", "found", "allowed", "reason")
    list_filter = ("allowed", "at")
    search_fields = ("instance__label", "=instance__deployment__id", "reason", "source")
    ordering = ("-at", "-pk")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        found = super().get_queryset(request).select_related("instance")
        return found.defer(*SECRETS_OF_ITS_INSTANCE)
