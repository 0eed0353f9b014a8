"""Controls that the Launch form and the settings share."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any
from zoneinfo import available_timezones

from django import forms

from billing import tags
from deployments import catalog

DAYS = [("1", "Mon"), ("2", "Tue"), ("3", "Wed"), ("4", "Thu"), ("5", "Fri"), ("6", "Sat"), ("7", "Sun")]
ZONES = frozenset(available_timezones())
"""Read once: it walks through hundreds of files."""
PLACES = ["UTC", *sorted(zone for zone in ZONES if zone.startswith("Europe/"))]
"""Suggested as time zones; every other one may be typed."""
YEARS = range(1970, 3000)
"""Nobody means another one, and a date at an end of time cannot be told in every zone."""


class Moment(forms.DateTimeField):
    """A date and time, in the zone that is active."""

    def __init__(self, label: str, help_text: str) -> None:
        super().__init__(
            label=label, required=False, help_text=help_text,
            widget=forms.DateTimeInput(attrs={"type": "datetime-local"}, format="%Y-%m-%dT%H:%M"),
        )  # fmt: skip

    def clean(self, value: Any) -> datetime | None:
        found: datetime | None = super().clean(value)
        if found and found.year not in YEARS:
            raise forms.ValidationError(
                "This date is centuries away. Choose a nearer one or none.", code="invalid"
            )
        return found


def hour_field(label: str) -> forms.TimeField:
    return forms.TimeField(
        label=label, required=False, widget=forms.TimeInput(attrs={"type": "time"}, format="%H:%M")
    )


def dollars_field(label: str, help_text: str) -> forms.DecimalField:
    """USD per hour."""
    return forms.DecimalField(
        label=label, required=False, min_value=0, max_digits=9, decimal_places=4, help_text=help_text,
        widget=forms.NumberInput(attrs={"inputmode": "decimal", "step": "any"}),
    )  # fmt: skip


class Tags(forms.CharField):
    """Tags as one line, "team=search, env=prod"; their value is a dict of text to text."""

    def __init__(self, help_text: str) -> None:
        super().__init__(
            label="Tags", required=False, max_length=1500, help_text=help_text,
            widget=forms.TextInput(attrs={"autocomplete": "off", "spellcheck": "false", "placeholder": "team=search, env=prod"}),
        )  # fmt: skip

    def clean(self, value: Any) -> dict[str, str]:
        try:
            return tags.parse(super().clean(value))
        except tags.BadTags as e:
            raise forms.ValidationError(str(e), code="invalid") from None

    def has_changed(self, initial: Any, data: Any) -> bool:
        try:
            return tags.parse(data or "") != tags.parse(initial or "")
        except tags.BadTags:
            return True


class Several(forms.MultipleChoiceField):
    """Check boxes: what is sent twice is there once."""

    def __init__(self, label: str, choices: Iterable[tuple[str, str]], **options: Any) -> None:
        super().__init__(label=label, choices=choices, widget=forms.CheckboxSelectMultiple, **options)

    def clean(self, value: Any) -> list[str]:
        return list(dict.fromkeys(super().clean(value)))


def check_context(form: forms.Form, cleaned: dict[str, Any], model: catalog.Model | None) -> None:
    """Say beside its field that the model takes no context that long."""
    if model and (cleaned.get("context") or 0) > model.max_context:
        form.add_error("context", f"{model.title} takes at most {model.max_context:,} tokens.")
