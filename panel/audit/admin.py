"""The audit in the admin site: read, filtered, exported and verified there, never written."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import batched
from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.options import IncorrectLookupParameters
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase, HttpResponseRedirect
from django.shortcuts import get_object_or_404
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.utils.html import format_html
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_POST

from panel.audit import chain, exporting, spool
from panel.audit.anchors import last_anchor
from panel.audit.audited import AuditedAdmin, actor_of
from panel.audit.keeping import tell
from panel.audit.listing import (
    COUNTED,
    ActionFilter,
    ActorFilter,
    FromFilter,
    Pages,
    TargetFilter,
    UntilFilter,
)
from panel.audit.models import AnchorMessage, AuditEvent, Head, Origin
from panel.audit.verification import last_verified, verify_and_keep
from panel.csvfile import csv_response, download
from panel.readonly import ReadOnlyAdmin

__all__ = ["AuditedAdmin", "actor_of"]

AT_ONCE = 100_000
"""Events that somebody waits for: a few seconds."""
SHORT = 8
"""Of an id, in the list."""
LIST = "admin:audit_auditevent_changelist"


@admin.register(AuditEvent)
class AuditEventAdmin(ReadOnlyAdmin):
    change_list_template = "admin/audit/auditevent/change_list.html"
    change_form_template = "admin/audit/auditevent/change_form.html"
    list_display = ("sequence", "when", "who", "action", "target", "reason")
    list_display_links = ("sequence", "action")
    list_filter = (FromFilter, UntilFilter, ActorFilter, ActionFilter, TargetFilter)
    paginator = Pages
    # In the chain's order alone: any other would have a million rows sorted.
    sortable_by = ("sequence",)
    search_fields = ("=target_id", "=request_id", "action", "reason")
    search_help_text = "A target's id, a request's id, or words of the action or the reason"
    ordering = ("-sequence",)
    fields = (
        "sequence", "at", "who", "action", "target_text", "before_text", "after_text", "reason", "request_id", "previous",
        "hash",
    )  # fmt: skip
    readonly_fields = fields

    @admin.display(description="time (UTC)")
    def when(self, event: AuditEvent) -> str:
        return f"{event.at:%Y-%m-%d %H:%M:%S}"

    @admin.display(description="actor")
    def who(self, event: AuditEvent) -> str:
        known: str | None = getattr(event, "who_name", None)
        return known or chain.name_of(event.actor)

    @admin.display(description="target")
    def target(self, event: AuditEvent) -> str:
        kind = event.target_type.rpartition(".")[2]
        return f"{kind} {event.target_id[:SHORT]}".strip() or "-"

    @admin.display(description="target")
    def target_text(self, event: AuditEvent) -> str:
        return f"{event.target_type} {event.target_id}".strip() or "-"

    @admin.display(description="before")
    def before_text(self, event: AuditEvent) -> str:
        return _pretty(event.before)

    @admin.display(description="after")
    def after_text(self, event: AuditEvent) -> str:
        return _pretty(event.after)

    def get_changelist_instance(self, request: HttpRequest) -> Any:
        changelist = super().get_changelist_instance(request)
        names = chain.names_of({event.actor for event in changelist.result_list})
        for event in changelist.result_list:
            event.who_name = names[event.actor]
        return changelist

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse | TemplateResponse:
        context = {**(extra_context or {}), **_state(), "counted": COUNTED, "title": "Audit"}
        return super().changelist_view(request, context)

    def get_urls(self) -> list[URLPattern]:
        own: dict[str, tuple[str, Callable[..., HttpResponseBase]]] = {
            "verify/": ("verify", require_POST(self.verify_view)),
            "export/<str:ending>/": ("export", require_GET(self.export_view)),
            "<int:pk>/origin/": ("origin", never_cache(require_POST(self.origin_view))),
        }
        added = [
            path(route, self.admin_site.admin_view(view), name=f"audit_auditevent_{name}")
            for route, (name, view) in own.items()
        ]
        return [*added, *super().get_urls()]

    def verify_view(self, request: HttpRequest) -> HttpResponse:
        """POST: walk the chain now and come back with what was found; of a long one, what is new."""
        self._only_readers(request)
        head = Head.objects.filter(pk=1).values_list("sequence", flat=True).first() or 0
        try:
            found = verify_and_keep(now=timezone.now(), whole=head <= AT_ONCE)
        except OSError as e:
            self.message_user(request, f"The anchor file cannot be read: {e.strerror}.", messages.ERROR)
            return HttpResponseRedirect(reverse(LIST))
        tell(found, now=timezone.now())
        text = (
            f"The chain is whole: {found.checked} events."
            if found.ok and not found.since
            else f"The chain is whole from event {found.since} on. All of it is walked every night."
            if found.ok
            else f"The chain is broken: {found.problem}"
        )
        self.message_user(request, text, messages.SUCCESS if found.ok else messages.ERROR)
        return HttpResponseRedirect(reverse(LIST))

    def export_view(self, request: HttpRequest, ending: str) -> HttpResponseBase:
        """What the filters leave, as `csv` or `jsonl`, however much it is; that it was asked for is audited first."""
        self._only_readers(request)
        if ending not in ("csv", "jsonl"):
            raise Http404(f"There is no export as {ending}.")
        try:
            changelist = super().get_changelist_instance(request)
        except IncorrectLookupParameters:
            self.message_user(request, "Nothing was exported: a filter cannot be read.", messages.ERROR)
            return HttpResponseRedirect(reverse(LIST))
        now = timezone.now()
        # What was searched for may name somebody; that something was is enough.
        specs = [spec for spec in changelist.filter_specs if isinstance(spec, admin.SimpleListFilter)]
        chosen = {str(spec.parameter_name): spec.value() for spec in specs if spec.value()}
        after = {"as": ending, **chosen, "searched": bool(changelist.query)}
        chain.record("export.audit", actor=actor_of(request), after=after, now=now)
        name = f"regia-audit-{now:%Y-%m-%d}.{ending}"
        found = changelist.queryset.order_by()
        if ending == "csv":
            return csv_response(name, exporting.HEADER, exporting.as_rows(found))
        pieces = ("".join(some) for some in batched(exporting.as_lines(found), 500))
        return download(name, pieces, content_type="application/jsonl; charset=utf-8")

    def origin_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """POST: show where an act came from. It is personal data, so that it was read is an act itself."""
        self._only_readers(request)
        event = get_object_or_404(AuditEvent, pk=pk)
        origin = Origin.objects.filter(pk=pk).first()
        chain.record("origin.read", actor=actor_of(request), target=event, now=timezone.now())
        context = {**self.admin_site.each_context(request), "title": f"Origin of event {pk}", "event": event,
                   "origin": origin, "opts": self.opts}  # fmt: skip
        return TemplateResponse(request, "admin/audit/auditevent/origin.html", context)

    def _only_readers(self, request: HttpRequest) -> None:
        if not self.has_view_permission(request):
            raise PermissionDenied


def _state() -> dict[str, Any]:
    """For the badge: what was found last, what waits, and how far the anchors are."""
    try:
        anchor = last_anchor()
    except OSError:
        anchor = None
    return {
        "verified": last_verified(),
        "spooled": spool.pending(),
        "anchor": anchor,
        "told": AnchorMessage.objects.order_by("-sequence").first(),
    }


def _pretty(value: Any) -> str:
    if value is None:
        return "-"
    return format_html("<pre>{}</pre>", json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False))
