"""The purge's runs, legal holds and receipts in the admin site. Holds are set and ended there; the rest is read."""

from __future__ import annotations

from typing import Any, ClassVar

from django import forms
from django.apps import apps
from django.contrib import admin
from django.core.exceptions import ValidationError
from django.db.models import QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html

from panel.audit import chain
from panel.audit.admin import AuditedAdmin, actor_of
from panel.privacy import receipts
from panel.privacy.evidence import who
from panel.privacy.models import ErasureReceipt, LegalHold, PurgeRun
from panel.readonly import ReadOnlyAdmin


def _lines(counts: dict[str, Any]) -> str:
    return "; ".join(f"{label}: {count}" for label, count in sorted(counts.items())) or "-"


@admin.register(PurgeRun)
class PurgeRunAdmin(ReadOnlyAdmin):
    list_display = ("started_at", "state", "rows", "went", "kept", "failed", "asked")
    list_filter = ("started_at",)
    ordering = ("-started_at",)
    fields = ("started_at", "ended_at", "state", "asked", "rows", "went", "kept", "failed")
    readonly_fields = fields

    @admin.display(description="asked for by")
    def asked(self, run: PurgeRun) -> str:
        return who(run.asked_by)

    @admin.display(description="rows that went")
    def went(self, run: PurgeRun) -> str:
        return _lines(run.by_model)

    @admin.display(description="kept by a legal hold")
    def kept(self, run: PurgeRun) -> str:
        return _lines(run.held)

    @admin.display(description="errors")
    def failed(self, run: PurgeRun) -> str:
        return _lines(run.errors)


def _models() -> list[tuple[str, str]]:
    found = [(str(m._meta.verbose_name_plural).capitalize(), m._meta.label) for m in apps.get_models()]
    return [("", "Every kind of row"), *((label, f"{title} ({label})") for title, label in sorted(found))]


class HoldForm(forms.ModelForm):  # type: ignore[type-arg]
    model = forms.ChoiceField(label="Rows", required=False, help_text="Which rows are held.")

    class Meta:
        model = LegalHold
        fields = ("person", "model", "reason", "since", "until")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if "model" in self.fields:
            self.fields["model"].choices = _models()  # type: ignore[attr-defined]
        if "since" in self.fields and not self.instance.pk:
            self.fields["since"].initial = timezone.now()

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        if not cleaned.get("person") and not cleaned.get("model") and not self.instance.pk:
            raise ValidationError(
                "Choose a person, a kind of row, or both: everything cannot be held at once."
            )
        since, until = cleaned.get("since"), cleaned.get("until")
        if since and until and until < since:
            raise ValidationError({"until": "It ends before it begins."})
        return cleaned


@admin.register(LegalHold)
class LegalHoldAdmin(AuditedAdmin):
    """Neither the purge nor an erasure takes what is held. A hold is ended by its date and stays as proof."""

    form = HoldForm
    list_display = ("__str__", "person", "model", "since", "until", "set_by_whom")
    list_filter = ("since", "until")
    list_select_related = ("person",)
    search_fields = ("reason", "model")
    ordering = ("-since",)
    readonly_fields = ("set_by_whom",)
    fields = ("person", "model", "reason", "since", "until", "set_by_whom")
    audited: ClassVar = ("person_id", "model", "since", "until")

    @admin.display(description="set by")
    def set_by_whom(self, hold: LegalHold) -> str:
        return who(hold.set_by) if hold.set_by else "-"

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:  # noqa: FBT001
        actor = actor_of(request)
        if not change and actor:
            obj.set_by = chain.pseudonym_of(actor)
        super().save_model(request, obj, form, change)


@admin.register(ErasureReceipt)
class ErasureReceiptAdmin(ReadOnlyAdmin):
    list_display = ("at", "reason", "by_whom", "reapplied", "open")
    list_filter = ("at",)
    search_fields = ("reason",)
    search_help_text = (
        "Words of the reason; or the whole e-mail address of somebody, to see whether they were erased"
    )
    ordering = ("-at",)
    fields = (
        "at",
        "by_whom",
        "reason",
        "document_sha256",
        "page_sha256",
        "reapplied",
        "reapplied_at",
        "open",
    )
    readonly_fields = fields

    @admin.display(description="by")
    def by_whom(self, receipt: ErasureReceipt) -> str:
        return who(receipt.by) if receipt.by else "-"

    @admin.display(description="receipt")
    def open(self, receipt: ErasureReceipt) -> str:
        return format_html('<a href="{}">Open</a>', reverse("privacy_receipt", args=[receipt.pk]))

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        return super().get_queryset(request).defer("document", "page")

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        """An address is looked for by its keyed hash: the receipts do not hold it."""
        if "@" not in search_term:
            return super().get_search_results(request, queryset, search_term)
        return queryset.filter(pk__in=[receipt.pk for receipt in receipts.of_email(search_term)]), False
