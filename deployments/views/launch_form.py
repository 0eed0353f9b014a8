"""What the Launch page may be told, and how each wrong value is answered."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Self
from zoneinfo import ZoneInfo

from django import forms
from django.http import QueryDict
from django.utils import timezone

from deployments import catalog
from deployments.fit import CONCURRENCY
from deployments.models import Deployment
from deployments.providers.base import Quote
from deployments.residency import EEA
from deployments.schedule import Schedule
from deployments.services import ADOPTABLE, LaunchRequest
from deployments.templatetags.states import COUNTRY_CHOICES
from deployments.views.form_fields import (
    DAYS,
    ZONES,
    Moment,
    Several,
    Tags,
    check_context,
    dollars_field,
    hour_field,
)
from panel.ui import format

_DEFAULT_MODEL = "smollm2-135m"
PLAN_B = 3
_DEFAULTS: dict[str, Any] = {
    "policy": Deployment.Policy.RELIABILITY, "purpose": Deployment.Purpose.PRODUCTION, "plan_b": PLAN_B,
    "concurrency": CONCURRENCY, "bid_policy": Deployment.BidPolicy.MOVE, "time_zone": "UTC",
}  # fmt: skip
"""What an absent value means; the purpose that excludes the most comes first."""
_MANY = ("countries", "schedule_days")
_TORN = "nothing was launched. Look it over and send it again."
_CHANGED = f"This form was changed on its way, and {_TORN}"


class LaunchForm(forms.Form):
    """Its dates are times of the wall clock in `time_zone`."""

    name = forms.CharField(
        max_length=80, required=False, help_text="What your team calls it; empty: the model's name.",
        widget=forms.TextInput(attrs={"autocomplete": "off", "placeholder": "the model's name"}),
    )  # fmt: skip
    tags = Tags("Its costs carry them: Spend groups and filters by them.")
    model = forms.ChoiceField(
        choices=[(m.key, m.title) for m in catalog.MODELS],
        error_messages={"invalid_choice": "This model is not in the catalogue. Choose one from the list."},
    )
    purpose = forms.ChoiceField(choices=Deployment.Purpose.choices, required=False)
    policy = forms.ChoiceField(choices=Deployment.Policy.choices, required=False)
    context = forms.IntegerField(
        label="Context length", min_value=256, help_text="Tokens of prompt and answer together."
    )
    concurrency = forms.IntegerField(
        label="Requests at once", min_value=1, max_value=256, required=False,
        help_text="Whole contexts that must fit in memory side by side.",
    )  # fmt: skip
    price_ceiling = dollars_field("Price ceiling", "USD per hour, all-in; nothing dearer is rented.")
    plan_b = forms.IntegerField(
        label="Plan B", min_value=0, max_value=10, required=False,
        help_text="How many next-best offers are tried after a definite no.",
    )  # fmt: skip
    stop_at = Moment("Stop date", "Empty: it runs until somebody stops it.")
    delete_at = Moment("Delete after", "Every machine is given back for good then.")
    schedule_days = Several(
        "Runs on", DAYS, required=False, error_messages={"invalid_choice": "Choose days of the week."}
    )
    schedule_from = hour_field("From")
    schedule_until = hour_field("Until")
    time_zone = forms.CharField(
        label="Time zone", max_length=64, required=False, help_text="Of every date and hour here.",
        widget=forms.TextInput(attrs={"list": "zones", "autocomplete": "off", "spellcheck": "false"}),
    )  # fmt: skip
    allow_plaintext = forms.BooleanField(
        label="Allow an unencrypted endpoint", required=False,
        help_text="Keys and prompts travel in the clear, and the deployment is labelled so.",
    )  # fmt: skip
    bid_usd_per_hour = dollars_field("First bid", "Empty: the lowest that wins.")
    bid_ceiling = dollars_field("Ceiling", "No bid above it.")
    bid_policy = forms.ChoiceField(label="When outbid", choices=Deployment.BidPolicy.choices, required=False)
    countries = Several(
        "Allowed countries", COUNTRY_CHOICES, error_messages={"required": "Allow at least one country."}
    )
    offer = forms.IntegerField(
        error_messages={
            "required": "Choose an offer.",
            "invalid": "This offer has vanished. Choose another one; nothing was rented.",
        }
    )
    launch_key = forms.CharField(
        max_length=64,
        error_messages={
            "required": f"This form did not arrive whole, and {_TORN}",
            "max_length": _CHANGED,
        },
    )

    def __init__(self, *args: Any, now: datetime, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.now = now
        for name in (*_DEFAULTS, "bid_usd_per_hour", "bid_ceiling"):
            # It may be left out of what is sent, but is never without a value: "optional" would mislead.
            self.fields[name].has_default = True  # type: ignore[attr-defined]

    @classmethod
    def from_query(cls, query: QueryDict, *, now: datetime) -> Self:
        """The form of a GET: its own defaults, over them what the address says."""
        model = (
            catalog.get_model(query.get("model", ""))
            or catalog.get_model(_DEFAULT_MODEL)
            or catalog.MODELS[0]
        )
        values: dict[str, Any] = {
            name: query.getlist(name) if name in _MANY else query.get(name) or _DEFAULTS.get(name, "")
            for name in cls.base_fields
        }
        values |= {"model": model.key, "context": values["context"] or model.default_context}
        values["countries"] = values["countries"] or sorted(EEA)
        # The last model's context means nothing to another one.
        if query.get("shown_model") and query["shown_model"] != model.key:
            values["context"] = model.default_context
        return cls(initial=values, now=now)

    @property
    def own_key(self) -> str:
        """The key of a form that was sent whole; empty for another one, which then needs a fresh key."""
        return str(getattr(self, "cleaned_data", {}).get("launch_key", ""))

    @property
    def zone(self) -> ZoneInfo:
        """Of the dates and hours; UTC while the one that was typed is none."""
        name = str(self["time_zone"].value() or "")
        return ZoneInfo(name if name in ZONES else "UTC")

    def clean_launch_key(self) -> str:
        key = str(self.cleaned_data["launch_key"])
        # Such a key says: nobody launched this, it was found.
        if key.startswith(ADOPTABLE):
            raise forms.ValidationError(_CHANGED)
        return key

    def full_clean(self) -> None:
        with timezone.override(self.zone):
            super().full_clean()

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        for name, value in _DEFAULTS.items():
            if name in cleaned and cleaned[name] in (None, ""):
                cleaned[name] = value
        check_context(self, cleaned, catalog.get_model(cleaned.get("model", "")))
        if cleaned.get("time_zone") and cleaned["time_zone"] not in ZONES:
            self.add_error("time_zone", "There is no such time zone. One of them is Europe/Berlin.")
        self._clean_dates(cleaned)
        self._clean_schedule(cleaned)
        return cleaned

    def _clean_dates(self, cleaned: dict[str, Any]) -> None:
        stop, delete = cleaned.get("stop_at"), cleaned.get("delete_at")
        if delete and delete <= self.now:
            self.add_error("delete_at", "This date has passed. Choose a later one or none.")
        elif delete and stop and delete < stop:
            self.add_error("delete_at", "It would be deleted before its stop date.")

    def _clean_schedule(self, cleaned: dict[str, Any]) -> None:
        days = cleaned.get("schedule_days")
        hours = {name: cleaned.get(name) for name in ("schedule_from", "schedule_until")}
        for name, hour in hours.items():
            if days and hour is None and name not in self.errors:
                self.add_error(name, "A schedule needs this hour, or no day.")
        if not days and any(h is not None for h in hours.values()) and "schedule_days" not in self.errors:
            self.add_error("schedule_days", "Choose the days on which it runs, or clear its hours.")

    def check_bid(self, quote: Quote) -> bool:
        """Whether the bid wins `quote`; if not, the reason stands beside its field. Others take no bid."""
        c = self.cleaned_data
        bid, ceiling = c["bid_usd_per_hour"], c["bid_ceiling"]
        lowest = quote.compute_usd_per_hour
        if not quote.interruptible:
            return True
        if bid is not None and bid < lowest:
            self.add_error("bid_usd_per_hour", f"The lowest bid that wins now is {format.price(lowest)}/h.")
        if ceiling is not None and ceiling < (lowest if bid is None else bid):
            self.add_error("bid_ceiling", "The ceiling is below the first bid.")
        if c["bid_policy"] == Deployment.BidPolicy.RAISE and ceiling is None:
            self.add_error("bid_ceiling", "To raise the bid, it must be known up to where.")
        return not self.errors

    def refuse(self, field: str, sentence: str) -> None:
        """Put a refusal of the launch itself beside its field."""
        self.add_error(field if field in self.fields else None, sentence)

    def request(self) -> LaunchRequest:
        """What a valid form asks for."""
        return _request(self.cleaned_data)

    def readable(self) -> LaunchRequest:
        """What can be read of the values as they stand, defaults for the rest: enough to rank and price."""
        with timezone.override(self.zone):
            values = {name: self._read(name) for name in self.fields}
        model = (
            catalog.get_model(values["model"] or "") or catalog.get_model(_DEFAULT_MODEL) or catalog.MODELS[0]
        )
        values["model"], values["context"] = model.key, values["context"] or model.default_context
        # A longer one is refused beside its field; priced it would only be a number too large to tell.
        values["context"] = min(values["context"], model.max_context)
        for name, value in _DEFAULTS.items():
            values[name] = values[name] if values[name] not in (None, "") else value
        return _request(values | {"time_zone": self.zone.key})

    def _read(self, name: str) -> Any:
        try:
            return self.fields[name].clean(self[name].value())
        except forms.ValidationError:
            return None


def _request(c: dict[str, Any]) -> LaunchRequest:
    days, start, end = c["schedule_days"], c["schedule_from"], c["schedule_until"]
    whole = days and start is not None and end is not None
    return LaunchRequest(
        name=c["name"] or "", tags=c["tags"] or {}, model_key=c["model"], context=c["context"], offer_id=c["offer"] or 0, launch_key=c["launch_key"] or "",
        policy=c["policy"], allowed_countries=tuple(c["countries"] or ()), price_ceiling=c["price_ceiling"],
        stop_at=_utc(c["stop_at"]), delete_at=_utc(c["delete_at"]), purpose=c["purpose"], plan_b=c["plan_b"],
        allow_plaintext=bool(c["allow_plaintext"]), concurrency=c["concurrency"], bid_usd_per_hour=c["bid_usd_per_hour"],
        bid_policy=c["bid_policy"], bid_ceiling=c["bid_ceiling"],
        schedule=Schedule("".join(sorted(days)), start, end, c["time_zone"]) if whole else None,
    )  # fmt: skip


def _utc(moment: datetime | None) -> datetime | None:
    return moment.astimezone(UTC) if moment else None
