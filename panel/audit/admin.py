"""The audit in the admin site: read, filtered and verified there, never written. And how other admins are audited."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, ClassVar

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db import models, transaction
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.utils.html import format_html
from django.views.decorators.http import require_POST

from panel.audit import chain, spool
from panel.audit.keeping import tell
from panel.audit.models import AuditEvent, Origin, Pseudonym
from panel.audit.verification import last_verified, verify_and_keep
from panel.readonly import ReadOnlyAdmin

type Filters = list[tuple[str, str]]


class AuditedAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Every change made here is an audit event with what was before and after, in the same transaction.

    `audited` names the fields whose values enter it; a secret or personal field is never among them.
    """

    audited: ClassVar[Sequence[str]] = ()

    def audited_action(self, verb: str) -> str:
        return f"{self.opts.model_name}.{verb}"

    def snapshot(self, obj: Any) -> dict[str, Any]:
        """The audited fields as text or plain values."""
        return {name: _plain(getattr(obj, name)) for name in self.audited}

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:  # noqa: FBT001
        stored = self.model._default_manager.filter(pk=obj.pk).first() if change else None
        before = self.snapshot(stored) if stored else None
        super().save_model(request, obj, form, change)
        self._record(request, obj, "change" if change else "create", before)

    def delete_model(self, request: HttpRequest, obj: models.Model) -> None:
        with transaction.atomic():
            before, key = self.snapshot(obj), obj.pk
            super().delete_model(request, obj)
            # Django has cleared the key of what it deleted; the audit names what it was.
            obj.pk = key
            chain.record(
                self.audited_action("delete"),
                actor=actor_of(request),
                target=obj,
                before=before,
                now=timezone.now(),
            )

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[models.Model]) -> None:
        with transaction.atomic():
            for obj in queryset:
                self.delete_model(request, obj)

    def _record(
        self, request: HttpRequest, obj: models.Model, verb: str, before: dict[str, Any] | None
    ) -> None:
        after = self.snapshot(obj)
        if before is not None:
            changed = [name for name in after if after[name] != before[name]]
            before, after = {n: before[n] for n in changed}, {n: after[n] for n in changed}
        chain.record(
            self.audited_action(verb), actor=actor_of(request), target=obj, before=before, after=after,
            now=timezone.now(),
        )  # fmt: skip


def actor_of(request: HttpRequest) -> Any:
    return request.user if request.user.is_authenticated else None


def _plain(value: Any) -> Any:
    return value if isinstance(value, bool | int | str | None) else str(value)


class ActorFilter(admin.SimpleListFilter):
    title = "actor"
    parameter_name = "actor"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Filters:
        people = [
            (str(p.pk), str(p.user or p.name or "erased")) for p in Pseudonym.objects.select_related("user")
        ]
        return [(chain.SYSTEM, chain.SYSTEM), *sorted(people, key=lambda person: person[1].lower())]

    def queryset(self, request: HttpRequest, queryset: QuerySet[AuditEvent]) -> QuerySet[AuditEvent]:
        return queryset.filter(actor=self.value()) if self.value() else queryset


class TargetFilter(admin.SimpleListFilter):
    title = "target"
    parameter_name = "target_type"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Filters:
        found = AuditEvent.objects.order_by("target_type").values_list("target_type", flat=True).distinct()
        return [(kind, kind) for kind in found if kind]

    def queryset(self, request: HttpRequest, queryset: QuerySet[AuditEvent]) -> QuerySet[AuditEvent]:
        return queryset.filter(target_type=self.value()) if self.value() else queryset


@admin.register(AuditEvent)
class AuditEventAdmin(ReadOnlyAdmin):
    change_list_template = "admin/audit/auditevent/change_list.html"
    list_display = ("sequence", "at", "who", "action", "target", "reason")
    list_display_links = ("sequence", "action")
    list_filter = (("at", admin.DateFieldListFilter), ActorFilter, TargetFilter, "action")
    search_fields = ("=target_id", "=request_id", "action", "reason")
    search_help_text = "A target's id, a request's id, or words of the action or the reason"
    ordering = ("-sequence",)
    fields = (
        "sequence", "at", "who", "action", "target", "before_text", "after_text", "reason", "request_id", "origin_text",
        "previous", "hash",
    )  # fmt: skip
    readonly_fields = fields

    @admin.display(description="actor", ordering="actor")
    def who(self, event: AuditEvent) -> str:
        known: str | None = getattr(event, "who_name", None)
        return known or chain.name_of(event.actor)

    @admin.display(description="target")
    def target(self, event: AuditEvent) -> str:
        return f"{event.target_type} {event.target_id}".strip() or "-"

    @admin.display(description="before")
    def before_text(self, event: AuditEvent) -> str:
        return _pretty(event.before)

    @admin.display(description="after")
    def after_text(self, event: AuditEvent) -> str:
        return _pretty(event.after)

    @admin.display(description="origin")
    def origin_text(self, event: AuditEvent) -> str:
        origin = Origin.objects.filter(pk=event.pk).first()
        return f"{origin.address or ''} {origin.user_agent}".strip() if origin else "none, or erased"

    def get_changelist_instance(self, request: HttpRequest) -> Any:
        changelist = super().get_changelist_instance(request)
        names = chain.names_of({event.actor for event in changelist.result_list})
        for event in changelist.result_list:
            event.who_name = names[event.actor]
        return changelist

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse | TemplateResponse:
        verified = {"verified": last_verified(), "spooled": spool.pending()}
        return super().changelist_view(request, {**(extra_context or {}), **verified})

    def get_urls(self) -> list[URLPattern]:
        verify = self.admin_site.admin_view(require_POST(self.verify_view))
        return [path("verify/", verify, name="audit_auditevent_verify"), *super().get_urls()]

    def verify_view(self, request: HttpRequest) -> HttpResponse:
        """POST: walk the chain now and come back with what was found."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        found = verify_and_keep(now=timezone.now())
        tell(found, now=timezone.now())
        text = (
            f"The chain is whole: {found.checked} events."
            if found.ok
            else f"The chain is broken: {found.problem}"
        )
        self.message_user(request, text, messages.SUCCESS if found.ok else messages.ERROR)
        return HttpResponseRedirect(reverse("admin:audit_auditevent_changelist"))


def _pretty(value: Any) -> str:
    if value is None:
        return "-"
    return format_html("<pre>{}</pre>", json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False))
