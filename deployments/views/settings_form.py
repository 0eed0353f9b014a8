"""The form of a deployment's settings, each field with what its change means for the running machine."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from django import forms
from django.http import QueryDict
from django.utils.html import format_html

from billing import tags
from deployments import changes
from deployments.changes import Effect
from deployments.models import Deployment, Instance
from deployments.templatetags.states import COUNTRY_CHOICES, country
from deployments.views.form_fields import (
    DAYS,
    Moment,
    Several,
    Tags,
    check_context,
    dollars_field,
    hour_field,
)
from panel.ui.templatetags.ui import icon

_ICONS = {Effect.NOW: "zap", Effect.RELAUNCH: "rotate-cw", Effect.REPLACE: "replace"}


class SettingsForm(forms.Form):
    """Its fields are the columns. `seen` is the print of the values that the page showed."""

    name = forms.CharField(max_length=80, widget=forms.TextInput(attrs={"autocomplete": "off"}))
    tags = Tags("What they cost carries them, from the next machine on.")
    policy = forms.ChoiceField(choices=Deployment.Policy.choices, help_text="How offers are ranked.")
    purpose = forms.ChoiceField(choices=Deployment.Purpose.choices, help_text="What may be rented for it.")
    plan_b = forms.IntegerField(
        label="Plan B", min_value=0, max_value=10, help_text="Next-best offers tried after a definite no."
    )
    slo_percent = forms.DecimalField(
        label="Uptime goal", min_value=Decimal(50), max_value=Decimal("99.999"), decimal_places=3,
        help_text="Percent of the time that it is wanted. Planned stops do not count.",
    )  # fmt: skip
    price_ceiling = dollars_field("Price ceiling", "USD per hour; nothing dearer is rented.")
    stop_at = Moment("Stop date", "UTC.")
    delete_at = Moment("Delete after", "UTC. Every machine is given back for good then.")
    schedule_days = Several("Runs on", DAYS, required=False, help_text="No day: without a schedule.")
    schedule_from = hour_field("From")
    schedule_until = hour_field("Until")
    time_zone = forms.CharField(
        label="Time zone",
        max_length=64,
        widget=forms.TextInput(attrs={"list": "zones", "autocomplete": "off"}),
    )
    bid_policy = forms.ChoiceField(label="When outbid", choices=Deployment.BidPolicy.choices)
    bid_ceiling = dollars_field("Bid ceiling", "USD per hour of compute; no bid above it.")
    context = forms.IntegerField(
        label="Context length", min_value=256, help_text="Tokens of prompt and answer together."
    )
    allow_plaintext = forms.BooleanField(
        label="Allow an unencrypted endpoint", required=False,
        help_text="Keys and prompts travel in the clear.",
    )  # fmt: skip
    protected = forms.BooleanField(
        label="Protect from drills and budgets", required=False,
        help_text="Nobody can have its machine killed as an exercise, and no budget stops it: it may cost more than the budget has.",
    )  # fmt: skip
    allowed_countries = Several(
        "Allowed countries", COUNTRY_CHOICES, error_messages={"required": "Allow at least one country."}
    )
    seen = forms.CharField(max_length=24, widget=forms.HiddenInput, required=False)

    def __init__(self, deployment: Deployment, data: QueryDict | None = None) -> None:
        super().__init__(data, initial=_values(deployment))
        self.deployment = deployment
        for name, words in _promises(changes.standing(deployment)).items():
            field = self.fields[name]
            field.help_text = format_html("{} {}", field.help_text, words)

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        check_context(self, cleaned, self.deployment.model)
        return cleaned

    @property
    def is_old(self) -> bool:
        """Whether somebody changed the settings since this form was shown."""
        return str(self.data.get("seen", "")) != changes.fingerprint(self.deployment)

    def changed(self) -> dict[str, Any]:
        """Column -> value, of what was changed and can be read."""
        values = {
            n: v for n, v in self.cleaned_data.items() if n in self.changed_data and n in changes.TITLES
        }
        if "schedule_days" in values:
            values["schedule_days"] = "".join(sorted(values["schedule_days"]))
        if "allowed_countries" in values:
            values["allowed_countries"] = sorted(values["allowed_countries"])
        return values

    def refuse(self, refused: changes.ChangeRefused) -> None:
        """Put a refusal beside its field."""
        self.add_error(refused.field if refused.field in self.fields else None, str(refused))


def _values(d: Deployment) -> dict[str, Any]:
    """What the form shows first: dates to the minute, as their controls hold them."""
    values: dict[str, Any] = {name: getattr(d, name) for name in changes.TITLES}
    for name in ("stop_at", "delete_at"):
        values[name] = values[name] and values[name].replace(second=0, microsecond=0)
    values["schedule_days"] = list(d.schedule_days)
    values["tags"] = tags.text(d.tags)
    for name in ("price_ceiling", "bid_ceiling"):
        values[name] = None if values[name] is None else f"{values[name].normalize():f}"
    values["slo_percent"] = f"{d.slo_percent.normalize():f}"
    return values | {"seen": changes.fingerprint(d)}


def _promises(machine: Instance | None) -> dict[str, str]:
    """Beside each field: what changing it does to the machine that stands."""
    replaces = Effect.REPLACE if machine else Effect.RELAUNCH
    lines = {
        name: (changes.effect(machine, name, None), "") for name in changes.TITLES if name not in _JUDGED
    }
    lines["context"] = (replaces, "")
    lines["allowed_countries"] = (Effect.RELAUNCH, _countries(machine))
    clear = machine is not None and changes.unencrypted(machine)
    lines["allow_plaintext"] = (Effect.REPLACE if clear else Effect.RELAUNCH, "")
    return {name: _line(effect, more) for name, (effect, more) in lines.items()}


_JUDGED = {"context", "allowed_countries", "allow_plaintext"}


def _countries(machine: Instance | None) -> str:
    if machine is None or machine.offer.own_machine or not machine.country:
        return ""
    return f"; without {country(machine.country)} the machine is given back and a new one is rented"


def _line(effect: Effect, more: str) -> str:
    return format_html(
        '<span class="effect {}">{} {}{}</span>', effect.value, icon(_ICONS[effect], 12),
        effect.words[0].upper() + effect.words[1:], more,
    )  # fmt: skip
