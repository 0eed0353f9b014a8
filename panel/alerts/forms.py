"""The forms of the Alerts pages."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from zoneinfo import available_timezones

from django import forms
from django.apps import apps
from django.conf import settings
from django.db.models import QuerySet

from panel.accounts.models import User
from panel.alerts import chat, webhook
from panel.alerts.models import Channel, Rule
from panel.alerts.services import ChannelWish
from panel.notices.models import Notice
from panel.outbound import Refused

ZONES = frozenset(available_timezones())
_OFF = {"autocomplete": "off", "spellcheck": "false"}
_ADDRESS_LENGTH = 2000


def _name() -> forms.CharField:
    return forms.CharField(max_length=80, widget=forms.TextInput(attrs={"autocomplete": "off"}))


def _secret(label: str, help_text: str) -> forms.CharField:
    return forms.CharField(
        label=label, max_length=_ADDRESS_LENGTH, required=False, help_text=help_text,
        widget=forms.PasswordInput(render_value=False, attrs=_OFF),
    )  # fmt: skip


class ChannelForm(forms.Form):
    """What every kind asks for. `channel` None: a new one."""

    kind: str
    name = _name()

    def __init__(self, *args: Any, channel: Channel | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.channel = channel
        if channel and not self.is_bound:
            self.initial = {"name": channel.name, **self.stored(channel)}

    def stored(self, channel: Channel) -> dict[str, Any]:
        return {}

    def clean_name(self) -> str:
        name = str(self.cleaned_data["name"]).strip()
        taken = Channel.objects.filter(name__iexact=name)
        if self.channel:
            taken = taken.exclude(pk=self.channel.pk)
        if taken.exists():
            raise forms.ValidationError("There is a channel of this name already.")
        return name

    def wish(self) -> ChannelWish:
        """What was typed, once it is valid; a channel to people has a form with its own."""
        c = self.cleaned_data
        return ChannelWish(
            c["name"], self.kind, address=c["address"], leads_to=getattr(self, "leads_to", "")[:200],
            signing_key=c.get("signing_key", ""),
        )  # fmt: skip

    def _address(self, words: str) -> str:
        """What was typed; may be empty only where there is one already."""
        text = str(self.cleaned_data.get("address") or "").strip()
        if not text and not (self.channel and self.channel.address):
            raise forms.ValidationError(words)
        return text


class MailForm(ChannelForm):
    kind = Channel.Kind.MAIL
    people: forms.ModelMultipleChoiceField[User] = forms.ModelMultipleChoiceField(
        queryset=User.objects.none(), required=False, widget=forms.CheckboxSelectMultiple,
        help_text="Who is let go later gets nothing any more.",
    )  # fmt: skip
    mailbox = forms.EmailField(
        label="Shared address", required=False, help_text="Say of a rota. It gets every message too.",
        widget=forms.EmailInput(attrs=_OFF),
    )  # fmt: skip

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        people: QuerySet[User] = User.objects.filter(is_active=True).order_by("email")
        self.fields["people"].queryset = people  # type: ignore[attr-defined]

    def stored(self, channel: Channel) -> dict[str, Any]:
        return {"people": channel.people.all(), "mailbox": channel.mailbox}

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        if not cleaned.get("people") and not cleaned.get("mailbox") and not self.errors:
            raise forms.ValidationError("Choose somebody, or name a shared address.")
        return cleaned

    def wish(self) -> ChannelWish:
        c = self.cleaned_data
        return ChannelWish(c["name"], self.kind, people=tuple(c["people"]), mailbox=c["mailbox"])


class WebhookForm(ChannelForm):
    kind = Channel.Kind.WEBHOOK
    address = _secret(
        "Address", "https. It may hold a token, so it is kept encrypted and only its host is shown again."
    )
    signing_key = _secret(
        "Signing key", "whsec_…, if your receiver has one already. Left empty, one is made and shown once."
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.channel:
            del self.fields["signing_key"]
            self.fields["address"].help_text = f"Left empty, it stays the one at {self.channel.leads_to}."

    def clean_address(self) -> str:
        text = self._address("Paste the receiver's address.")
        if text:
            try:
                self.leads_to = webhook.check_address(text, private=settings.ALERTS_ALLOW_PRIVATE)
            except Refused as e:
                raise forms.ValidationError(str(e)) from None
        return text

    def clean_signing_key(self) -> str:
        text = str(self.cleaned_data["signing_key"])
        try:
            return webhook.check_key(text) if text else ""
        except ValueError as e:
            raise forms.ValidationError(str(e)) from None


class ChatForm(ChannelForm):
    kind = Channel.Kind.CHAT
    address = _secret(
        "Address",
        "As Apprise writes it: slack://…, discord://…, mmosts://…. Kept encrypted and never shown again.",
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.channel:
            self.fields["address"].help_text = f"Left empty, it stays {self.channel.leads_to}."

    def clean_address(self) -> str:
        text = self._address("Paste the address of the room.")
        if text:
            try:
                self.leads_to = chat.check_address(text, private=settings.ALERTS_ALLOW_PRIVATE)
            except chat.BadAddress as e:
                raise forms.ValidationError(str(e)) from None
        return text


CHANNEL_FORMS: dict[str, type[ChannelForm]] = {f.kind: f for f in (MailForm, WebhookForm, ChatForm)}


def deployments() -> list[tuple[str, str]]:
    """(id, name) of those a rule may name. Through the registry: the panel imports nothing of the apps above it."""
    rows = apps.get_model("deployments", "Deployment")._default_manager.exclude(desired="terminated")
    return [(str(pk), str(name)) for pk, name in rows.order_by("name").values_list("pk", "name")]


def names_of(subjects: list[str], known: dict[str, str]) -> str:
    """ "everything", or the deployments' names; one that is gone is said to be."""
    return ", ".join(known.get(s, "one that is gone") for s in subjects) if subjects else "everything"


class _About(forms.Form):
    subjects = forms.MultipleChoiceField(
        label="Only about", required=False, widget=forms.CheckboxSelectMultiple,
        help_text="None chosen: everything, the provider accounts and the audit too.",
    )  # fmt: skip

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        known = dict(deployments())
        # A rule about a deployment that has been ended keeps it until somebody unchecks it.
        kept = [s for s in self.initial.get("subjects", []) if s not in known]
        choices = [*known.items(), *((s, "one that is gone") for s in kept)]
        self.fields["subjects"].choices = choices  # type: ignore[attr-defined]
        if not choices:
            self.fields["subjects"].widget = forms.MultipleHiddenInput()


def _hour(label: str) -> forms.TimeField:
    return forms.TimeField(
        label=label, required=False, widget=forms.TimeInput(attrs={"type": "time"}, format="%H:%M")
    )


class RuleForm(_About):
    name = _name()
    severity = forms.ChoiceField(
        label="From", choices=[("info", "Info"), ("warning", "Warning"), ("critical", "Critical only")],
        initial=Notice.Severity.WARNING,
    )  # fmt: skip
    channels: forms.ModelMultipleChoiceField[Channel] = forms.ModelMultipleChoiceField(
        queryset=Channel.objects.order_by("name"), widget=forms.CheckboxSelectMultiple,
        error_messages={"required": "Choose at least one channel."},
    )  # fmt: skip
    after_minutes = forms.IntegerField(
        label="Only if nobody acknowledges it within", min_value=0, max_value=10_080, initial=0,
        help_text="Minutes. 0: at once.",
    )  # fmt: skip
    tells_end = forms.BooleanField(label="Also tell when it is over", required=False, initial=True)
    quiet_from = _hour("Quiet from")
    quiet_until = _hour("Quiet until")
    time_zone = forms.CharField(
        max_length=64, initial="UTC", help_text="Of the quiet hours, as in Europe/Berlin.",
        widget=forms.TextInput(attrs=_OFF),
    )  # fmt: skip
    critical_passes = forms.BooleanField(
        label="Critical ones pass in quiet hours", required=False, initial=True
    )
    enabled = forms.BooleanField(label="This rule is on", required=False, initial=True)
    field_order = (
        "name", "severity", "after_minutes", "channels", "subjects", "quiet_from", "quiet_until", "time_zone",
        "critical_passes", "tells_end", "enabled",
    )  # fmt: skip

    def __init__(self, *args: Any, rule: Rule | None = None, **kwargs: Any) -> None:
        self.rule = rule
        if rule:
            kwargs["initial"] = {name: getattr(rule, name) for name in self.base_fields if name != "channels"}
            kwargs["initial"]["channels"] = list(rule.channels.all())
        super().__init__(*args, **kwargs)

    def clean_name(self) -> str:
        name = str(self.cleaned_data["name"]).strip()
        taken = Rule.objects.filter(name__iexact=name)
        if (taken.exclude(pk=self.rule.pk) if self.rule else taken).exists():
            raise forms.ValidationError("There is a rule of this name already.")
        return name

    def clean_time_zone(self) -> str:
        zone = str(self.cleaned_data["time_zone"]).strip()
        if zone not in ZONES:
            raise forms.ValidationError("There is no such time zone. One of them is Europe/Berlin.")
        return zone

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        start, end = cleaned.get("quiet_from"), cleaned.get("quiet_until")
        if (start is None) != (end is None):
            self.add_error(
                "quiet_from" if start is None else "quiet_until", "Quiet hours need a beginning and an end."
            )
        elif start is not None and start == end:
            self.add_error("quiet_until", "Quiet hours that end when they begin would never or always hold.")
        return cleaned


def _moment(label: str, *, required: bool, help_text: str) -> forms.DateTimeField:
    return forms.DateTimeField(
        label=label, required=required, help_text=help_text,
        widget=forms.DateTimeInput(attrs={"type": "datetime-local"}, format="%Y-%m-%dT%H:%M"),
    )  # fmt: skip


class WindowForm(_About):
    reason = forms.CharField(
        label="What is done", max_length=200, widget=forms.TextInput(attrs={"autocomplete": "off"})
    )
    starts_at = _moment("Begins", required=False, help_text="UTC. Left empty: now.")
    ends_at = _moment("Ends", required=True, help_text="UTC.")
    field_order = ("reason", "starts_at", "ends_at", "subjects")

    def __init__(self, *args: Any, now: datetime, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.now = now

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        starts = cleaned["starts_at"] = cleaned.get("starts_at") or self.now.astimezone(UTC)
        ends = cleaned.get("ends_at")
        if ends and not starts < ends:
            self.add_error("ends_at", "It ends before it begins.")
        elif ends and ends <= self.now:
            self.add_error("ends_at", "This is over already.")
        elif ends and (ends - starts).days > 30:
            self.add_error("ends_at", "At most 30 days: what is muted for longer is forgotten.")
        return cleaned
