"""The registers in the admin site: read and kept there, each change audited and the older version kept readable."""

from __future__ import annotations

from typing import Any, ClassVar

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.options import ActionLocation
from django.db import models, transaction
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from panel.audit import chain
from panel.audit.admin import AuditedAdmin, actor_of
from panel.registers import clocks, services, versions
from panel.registers.filters import (
    AgreementFilter,
    AssessmentFilter,
    BreachFilter,
    RequestFilter,
    ReviewFilter,
    StaleFilter,
)
from panel.registers.models import (
    DPIA,
    AdequacyDecision,
    Breach,
    Deadline,
    Holiday,
    ProcessingActivity,
    Processor,
    State,
    SubjectRequest,
    Transfer,
)

ABOUT_IT = ("owner", "last_review", "next_review", "notes")


def plain(model: type[Any], *but: str) -> tuple[str, ...]:
    """The fields whose values enter the audit: all but what somebody may have written about a person."""
    fields = (
        f for f in model._meta.concrete_fields if f.editable and not f.primary_key and not f.is_relation
    )
    return tuple(f.name for f in fields if f.name not in but)


class VersionedAdmin(AuditedAdmin):
    """Every saved change is an audit event and a version; "History" shows what each version changed."""

    # The forms of the registers are long; what they ask stands in groups.
    save_on_top = True
    list_per_page = 50
    object_history_template = "admin/registers/versions.html"
    change_form_template = "admin/registers/change_form.html"
    reads_as: ClassVar[str] = ""
    """The act under which opening a record is audited; empty: it holds nothing about a person."""

    def save_related(self, request: HttpRequest, form: Any, formsets: Any, change: bool) -> None:  # noqa: FBT001
        super().save_related(request, form, formsets, change)
        # Here what belongs to the record is saved too.
        versions.keep(form.instance, by=actor_of(request), now=timezone.now())
        self.after_save(form.instance)

    def after_save(self, obj: Any) -> None:
        """What follows from a saved record."""

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        response = super().change_view(request, object_id, form_url, extra_context)
        if response.status_code == 200:
            self._note_read(request, self.get_object(request, object_id))
        return response

    def history_view(
        self, request: HttpRequest, object_id: str, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        record = self.get_object(request, object_id)
        context = {**(extra_context or {}), "versions": versions.history(record) if record else []}
        response = super().history_view(request, object_id, context)
        self._note_read(request, record)
        return response

    def _note_read(self, request: HttpRequest, record: Any) -> None:
        if self.reads_as and record and request.method == "GET":
            chain.record(self.reads_as, actor=actor_of(request), target=record, now=timezone.now())

    @admin.display(description="complete")
    def complete(self, record: Any) -> SafeString:
        score = record.score
        level = "ok" if score == 100 else "warn" if score >= 50 else "critical"
        return format_html('<span class="score {}">{} %</span>', level, score)

    @admin.display(description="what is missing")
    def missing_text(self, record: Any) -> str:
        missing = record.missing if record.pk else []
        if not record.pk:
            return "Save it first."
        if not missing:
            return "Nothing."
        return format_html(
            "<ul>{}</ul>", format_html_join("", "<li>{}</li>", ((words,) for words in missing))
        )

    @admin.display(description="missing")
    def missing_short(self, record: Any) -> str:
        missing = record.missing
        more = f" and {len(missing) - 2} more" if len(missing) > 2 else ""
        return ", ".join(missing[:2]) + more if missing else "nothing"


class RecordAdmin(VersionedAdmin):
    """A register whose drafts the panel makes and a person confirms."""

    actions = ("confirm",)
    date_hierarchy = None
    readonly_fields = ("missing_text", "seen_text")

    @admin.action(description="Confirm: I have read them and they are right", permissions=["change"])
    def confirm(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        drafts = list(queryset.filter(state=State.DRAFT))
        with transaction.atomic():
            for record in drafts:
                services.confirm(record, actor=actor_of(request), now=timezone.now())
        self.message_user(request, f"{len(drafts)} confirmed.", messages.SUCCESS if drafts else messages.INFO)

    @admin.display(description="state", ordering="state")
    def status(self, record: Any) -> SafeString:
        word, level = {"draft": ("Draft", "warn"), "confirmed": ("Confirmed", "ok")}.get(
            record.state, ("Retired", "")
        )
        return format_html('<span class="score {}">{}</span>', level, word)

    @admin.display(description="what ran")
    def seen_text(self, record: Any) -> str:
        return record.seen or "Not made by the panel: somebody added it."


def groups(*named: tuple[str, tuple[Any, ...]]) -> Any:
    """The fieldsets of a record: its standing first, its reviews last."""
    middle = [(title, {"fields": fields}) for title, fields in named]
    return [
        (None, {"fields": ("state", "missing_text", "seen_text")}),
        *middle,
        ("Upkeep", {"fields": ABOUT_IT}),
    ]


@admin.register(ProcessingActivity)
class ProcessingActivityAdmin(RecordAdmin):
    audited: ClassVar = plain(
        ProcessingActivity, "controller", "joint_controller", "representative", "dpo", "on_behalf_of", "notes"
    )
    list_display = ("name", "role", "status", "complete", "missing_short", "next_review")
    list_filter = ("state", ReviewFilter, "role", "lawful_basis")
    search_fields = ("name", "purposes", "recipients")
    # Boxes: the two lists of Django's own widget have help that a screen reader is not told.
    formfield_overrides: ClassVar = {models.ManyToManyField: {"widget": forms.CheckboxSelectMultiple}}
    fieldsets = groups(
        ("What it is (Art. 30(1)(b))", ("name", "role", "purposes", "on_behalf_of")),
        ("Who (Art. 30(1)(a))", ("controller", "joint_controller", "representative", "dpo")),
        ("Why it is allowed (Art. 6, 9)", ("lawful_basis", "basis_detail", "special_categories")),
        ("Whose and which data (Art. 30(1)(c))", ("subject_categories", "data_categories")),
        ("Who is given it (Art. 30(1)(d), (e))", ("recipients", "transfers")),
        ("Limits and security (Art. 30(1)(f), (g))", ("erasure", "measures")),
        ("Assessments", ("dpia_needed", "dpia", "tia_needed")),
    )


@admin.register(Processor)
class ProcessorAdmin(RecordAdmin):
    audited: ClassVar = plain(Processor, "contact", "notes")
    list_display = (
        "legal_name",
        "role",
        "country",
        "status",
        "complete",
        "missing_short",
        "dpa_signed_on",
        "next_review",
    )
    list_filter = ("state", AgreementFilter, ReviewFilter, "role", "dpf_status")
    search_fields = ("legal_name", "service")
    fieldsets = groups(
        ("Who it is", ("legal_name", "role", "engaged_by", "contact", "country", "parent_country")),
        ("What it does, and where", ("service", "hosting_countries", "access_countries", "certifications")),
        (
            "The agreement (Art. 28(3))",
            ("dpa_signed_on", "dpa_version", "dpa_sha256", "dpa_expires_on", "change_notice_days"),
        ),
        ("What the agreement says (Art. 28(3)(a) to (h))", Processor.CHECKLIST),
        ("When it is outside the EEA", ("scc_status", "dpf_status", "dpf_checked_on")),
    )


@admin.register(Transfer)
class TransferAdmin(RecordAdmin):
    audited: ClassVar = plain(Transfer, "notes")
    list_display = ("name", "country", "mechanism", "status", "complete", "missing_short", "next_review")
    list_filter = ("state", ReviewFilter, AssessmentFilter, "mechanism", "country")
    list_select_related = ("processor",)
    search_fields = ("name", "importer")
    fieldsets = groups(
        ("From whom to whom", ("name", "exporter", "importer", "processor", "country", "data")),
        ("What allows it (Chapter V)", ("mechanism", "scc_module", "derogation")),
        ("Assessment of the law there", ("tia", "tia_on", "tia_reference", "supplementary")),
    )


@admin.register(DPIA)
class DPIAAdmin(RecordAdmin):
    audited: ClassVar = plain(DPIA, "dpo_advice", "subjects_views", "notes")
    list_display = ("name", "residual_risk", "status", "complete", "missing_short", "next_review")
    list_filter = ("state", ReviewFilter, "residual_risk")
    search_fields = ("name",)
    fieldsets = groups(
        ("The assessment (Art. 35(7))", ("name", "description", "necessity", "risks", "measures")),
        ("Who was asked", ("dpo_advice", "subjects_views")),
        ("The outcome", ("residual_risk", "decided_on")),
    )


@admin.register(Breach)
class BreachAdmin(VersionedAdmin):
    """Filed on the page that is made for it; every field can be put right here. None is ever deleted (Art. 33(5))."""

    reads_as = "breach.read"
    audited: ClassVar = tuple(
        services.TELLABLE & {f.name for f in Breach._meta.concrete_fields if f.editable}
    )
    list_display = ("__str__", "aware_at", "risk", "clock", "complete", "missing_short", "notified_at")
    list_filter = (BreachFilter, "risk", "contained", ("subjects_told_at", admin.EmptyFieldListFilter))
    ordering = ("-aware_at",)
    readonly_fields = ("missing_text", "clock", "filed_at", "closed_at")
    fieldsets = (
        (None, {"fields": ("missing_text", "clock")}),
        (
            "What happened (Art. 33(3)(a))",
            {"fields": ("facts", "occurred_at", "detected_at", "aware_at", "contained")},
        ),
        (
            "Whose and which data",
            {"fields": ("subject_categories", "subjects_count", "data_categories", "records_count")},
        ),
        (
            "What may come of it (Art. 33(3)(c), (d))",
            {"fields": ("effects", "remedies", "risk", "risk_reason", "contact")},
        ),
        ("The authority", {"fields": ("authority", "notified_at", "reference", "delay_reason")}),
        ("The people concerned (Art. 34)", {"fields": ("subjects_told_at", "subjects_told_how")}),
        ("Upkeep", {"fields": ("filed_at", "closed_at")}),
    )

    def add_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        """Whoever files one is in a hurry: the short form takes it from here."""
        if not self.has_add_permission(request):
            return super().add_view(request, *args, **kwargs)
        return HttpResponseRedirect(reverse("breach_add"))

    def after_save(self, obj: Any) -> None:
        clocks.look_soon(now=timezone.now())

    @admin.display(description="72 hours")
    def clock(self, breach: Breach) -> str:
        if not breach.is_running:
            return "told" if breach.notified_at else "no notice needed"
        clock = clocks.of_breach(breach, now=timezone.now())
        return "over" if clock.is_over else f"{clocks.hours_left(clock)} left"


@admin.register(SubjectRequest)
class SubjectRequestAdmin(VersionedAdmin):
    reads_as = "subject_request.read"
    audited: ClassVar = tuple(services.TELLABLE & {f.name for f in SubjectRequest._meta.concrete_fields})
    list_display = ("__str__", "kind", "received_on", "due_on", "identity", "outcome", "complete")
    list_filter = (RequestFilter, "kind", "identity", "outcome")
    ordering = ("-received_on", "-pk")
    readonly_fields = ("missing_text", "due_on", "filed_at")
    fieldsets = (
        (None, {"fields": ("missing_text", "due_on")}),
        ("Who asks what", {"fields": ("kind", "requester", "contact", "account", "details", "received_on")}),
        ("Identity (Art. 12(6))", {"fields": ("identity", "identity_how")}),
        ("Extension (Art. 12(3))", {"fields": ("extended_on", "extension_reason")}),
        ("The answer", {"fields": ("outcome", "answered_on", "refusal_reason", "evidence_sha256")}),
        ("Upkeep", {"fields": ("filed_at",)}),
    )

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:  # noqa: FBT001
        if not change:
            obj.filed_at = timezone.now()
        obj.due_on = clocks.answer_due(obj.received_on, extended=obj.extended_on is not None)
        super().save_model(request, obj, form, change)

    def after_save(self, obj: Any) -> None:
        clocks.look_soon(now=timezone.now())

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        # An answered one may go once nobody needs its proof any more; it holds somebody's name.
        may = request.user.has_perm("registers.delete_subjectrequest")
        return may and (obj is None or obj.answered_on is not None)

    def get_actions(self, request: HttpRequest, action_location: Any = ActionLocation.CHANGE_LIST) -> Any:
        # One at a time: each is looked at before it goes.
        found = super().get_actions(request, action_location)
        return {name: action for name, action in found.items() if name != "delete_selected"}

    def delete_model(self, request: HttpRequest, obj: Any) -> None:
        with transaction.atomic():
            versions.forget(obj)
            super().delete_model(request, obj)
            clocks.look_soon(now=timezone.now())


class TableAdmin(AuditedAdmin):
    """A table that the registers are judged by."""

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


@admin.register(AdequacyDecision)
class AdequacyDecisionAdmin(TableAdmin):
    list_display = ("code", "scope", "valid_from", "valid_until", "source", "checked_on")
    list_filter = (StaleFilter,)
    search_fields = ("=code", "scope", "source")
    audited: ClassVar = ("code", "scope", "valid_from", "valid_until", "source", "checked_on")


@admin.register(Deadline)
class DeadlineAdmin(TableAdmin):
    list_display = ("title", "amount", "unit", "reminders", "source", "checked_on")
    list_filter = (StaleFilter,)
    readonly_fields = ("title", "unit")
    fields = ("title", "amount", "unit", "reminders", "source", "checked_on")
    audited: ClassVar = ("amount", "reminders", "source", "checked_on")

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False


@admin.register(Holiday)
class HolidayAdmin(AuditedAdmin):
    list_display = ("day", "name")
    list_filter = ("day",)
    audited: ClassVar = ("day", "name")
