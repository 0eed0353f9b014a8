"""The forms of the Compliance pages: few questions at a time, in plain words."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from django import forms
from django.conf import settings
from django.utils import timezone

from panel.registers import periods
from panel.registers.models import Breach, BreachEntry, SubjectRequest

_DAY = forms.DateInput(attrs={"type": "date"}, format="%Y-%m-%d")


class Moment(forms.DateTimeField):
    """A date and time where the team works; its zone is said beside it."""

    widget = forms.DateTimeInput(attrs={"type": "datetime-local"}, format="%Y-%m-%dT%H:%M")

    def prepare_value(self, value: Any) -> Any:
        local = ZoneInfo(settings.OFFICE_TIME_ZONE)
        return value.astimezone(local).replace(tzinfo=None) if isinstance(value, datetime) else value

    def to_python(self, value: Any) -> datetime | None:
        found = super().to_python(value)
        if found is None:
            return None
        # The field reads what was typed as UTC: it was meant where the team works.
        typed = found.replace(tzinfo=None)
        return typed.replace(tzinfo=ZoneInfo(settings.OFFICE_TIME_ZONE))


class _Fields:
    """How fields of the models look here."""

    def __call__(self, field: Any, **more: Any) -> Any:
        name = type(field).__name__
        if name == "DateTimeField":
            zone = f"{settings.OFFICE_TIME_ZONE} time."
            return field.formfield(
                form_class=Moment,
                widget=Moment.widget,
                **more | {"help_text": f"{field.help_text} {zone}".strip()},
            )
        if name == "DateField":
            return field.formfield(widget=_DAY, **more)
        found = field.formfield(**more)
        if isinstance(found, forms.CharField) and isinstance(found.widget, forms.Textarea):
            found.widget.attrs["rows"] = 3
        return found


_callback = _Fields()


class Part(forms.ModelForm):  # type: ignore[type-arg]
    """One part of a record. A moment that has not come is refused: what is asked has happened."""

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        for name, value in list(cleaned.items()):
            if isinstance(value, datetime) and value > timezone.now():
                self.add_error(name, "That moment has not come yet.")
        return cleaned

    def refuse(self, field: str, message: str) -> None:
        self.add_error(field if field in self.fields else None, message)


class FileBreachForm(Part):
    """Enough to start: the rest can wait, the clock does not."""

    class Meta:
        model = Breach
        fields = ("facts", "aware_at", "contained", "data_categories", "subject_categories")
        formfield_callback = _callback


class BreachWhatForm(Part):
    class Meta:
        model = Breach
        fields = ("facts", "aware_at", "occurred_at", "detected_at", "contained")
        formfield_callback = _callback


class BreachWhomForm(Part):
    class Meta:
        model = Breach
        fields = ("subject_categories", "subjects_count", "data_categories", "records_count")
        formfield_callback = _callback


class BreachEffectsForm(Part):
    class Meta:
        model = Breach
        fields = ("effects", "remedies", "risk", "risk_reason", "contact")
        formfield_callback = _callback


class BreachAuthorityForm(Part):
    class Meta:
        model = Breach
        fields = ("authority", "notified_at", "reference", "delay_reason")
        formfield_callback = _callback


class BreachPeopleForm(Part):
    class Meta:
        model = Breach
        fields = ("subjects_told_at", "subjects_told_how")
        formfield_callback = _callback


BREACH_PARTS: dict[str, tuple[str, type[Part]]] = {
    "what": ("What happened", BreachWhatForm),
    "whom": ("Whose and which data", BreachWhomForm),
    "effects": ("What may come of it", BreachEffectsForm),
    "authority": ("The authority", BreachAuthorityForm),
    "people": ("The people concerned", BreachPeopleForm),
}


class EntryForm(forms.ModelForm):  # type: ignore[type-arg]
    class Meta:
        model = BreachEntry
        fields = ("kind", "text")
        labels = {"kind": "What it is", "text": "What you found, did or told"}
        widgets = {"text": forms.Textarea(attrs={"rows": 3})}


class FileRequestForm(Part):
    class Meta:
        model = SubjectRequest
        fields = (
            "kind",
            "requester",
            "contact",
            "received_on",
            "details",
            "account",
            "identity",
            "identity_how",
        )
        formfield_callback = _callback

    def clean_received_on(self) -> Any:
        received = self.cleaned_data["received_on"]
        if received and received > periods.today(timezone.now()):
            raise forms.ValidationError("That day has not come yet.")
        return received


class RequestDetailsForm(FileRequestForm):
    pass


class RequestExtendForm(Part):
    class Meta:
        model = SubjectRequest
        fields = ("extended_on", "extension_reason")
        formfield_callback = _callback


class RequestAnswerForm(Part):
    class Meta:
        model = SubjectRequest
        fields = ("outcome", "answered_on", "refusal_reason", "evidence_sha256")
        formfield_callback = _callback


REQUEST_PARTS: dict[str, tuple[str, type[Part]]] = {
    "details": ("Who asks what", RequestDetailsForm),
    "extend": ("Take longer", RequestExtendForm),
    "answer": ("The answer", RequestAnswerForm),
}
