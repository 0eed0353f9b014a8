"""What the Compare page may be asked, and how each wrong value is answered."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Self

from django import forms
from django.http import QueryDict

from deployments import catalog, price_list
from deployments.compare import Need
from deployments.models import Deployment
from deployments.residency import EEA, EU
from deployments.templatetags.states import COUNTRY_CHOICES
from deployments.views.form_fields import Several, check_context

_DEFAULT_MODEL = "qwen3-4b-awq"
_AREAS = (("eea", "EEA"), ("eu", "EU"), ("some", "Some"))


@dataclass(frozen=True, slots=True)
class Asked:
    """The need, every value usable: what could not be read is its default."""

    model: catalog.Model
    context: int
    concurrency: int
    purpose: str
    where: str
    allowed: tuple[str, ...]
    budget: Decimal | None
    busy_hours: Decimal
    prices: str
    """A dated price list's key; empty: the live offers."""

    @property
    def need(self) -> Need:
        production = self.purpose == Deployment.Purpose.PRODUCTION
        return Need(production=production, budget=self.budget, busy_hours=self.busy_hours)


class CompareForm(forms.Form):
    model = forms.ChoiceField(
        choices=[(m.key, m.title) for m in catalog.MODELS],
        error_messages={"invalid_choice": "This model is not in the catalogue. Choose one from the list."},
    )
    context = forms.IntegerField(label="Context", min_value=256, help_text="Tokens each.")
    concurrency = forms.IntegerField(
        label="Requests at once", min_value=1, max_value=256, help_text="Of full context."
    )
    purpose = forms.ChoiceField(
        choices=Deployment.Purpose.choices, help_text="Production excludes community and bids."
    )
    where = forms.ChoiceField(label="Countries", choices=_AREAS, help_text="Where it may stand.")
    countries = Several(
        "Countries",
        COUNTRY_CHOICES,
        required=False,
        error_messages={"invalid_choice": "%(value)s is outside the EEA: nothing is rented there."},
    )
    budget = forms.DecimalField(
        label="Budget a month",
        required=False,
        min_value=0,
        max_digits=9,
        decimal_places=2,
        help_text="USD for 730 h.",
    )
    busy_hours = forms.DecimalField(
        label="Busy hours a day", min_value=0, max_value=24, max_digits=4, decimal_places=1, help_text="Of a flex worker."
    )  # fmt: skip
    prices = forms.ChoiceField(
        choices=[("", "Live offers"), *((k, price_list.load(k).title) for k in price_list.LISTS)],
        required=False,
    )

    @classmethod
    def from_query(cls, query: QueryDict) -> Self:
        """The form of a GET: its own defaults, over them what the address says."""
        model = (
            catalog.get_model(query.get("model", ""))
            or catalog.get_model(_DEFAULT_MODEL)
            or catalog.MODELS[0]
        )
        picked = query.getlist("countries")
        values: dict[str, Any] = {
            "model": _DEFAULT_MODEL, "context": str(model.default_context), "concurrency": "4", "busy_hours": "24",
            "purpose": Deployment.Purpose.PRODUCTION, "where": "some" if picked else "eea",
        } | {k: v for k, v in query.items() if v}  # fmt: skip
        # The last model's context means nothing to another one.
        if query.get("shown_model") and query["shown_model"] != model.key:
            values["context"] = str(model.default_context)
        return cls({**values, "countries": picked})

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        check_context(self, cleaned, catalog.get_model(cleaned.get("model", "")))
        if cleaned.get("where") == "some" and not cleaned.get("countries") and "countries" not in self.errors:
            self.add_error("countries", "Tick at least one country.")
        return cleaned

    def asked(self) -> Asked:
        """What can be read of the values; defaults stand for the rest, each wrong one is said beside its field."""
        got = self.cleaned_data if self.is_valid() else getattr(self, "cleaned_data", {})
        model = (
            catalog.get_model(got.get("model", "")) or catalog.get_model(_DEFAULT_MODEL) or catalog.MODELS[0]
        )
        where = got.get("where") or "eea"
        return Asked(
            model=model, context=got.get("context") or model.default_context, concurrency=got.get("concurrency") or 4,
            purpose=got.get("purpose") or Deployment.Purpose.PRODUCTION, where=where,
            allowed=tuple(sorted(_allowed(where, got.get("countries") or ()))), budget=got.get("budget"),
            busy_hours=Decimal(24) if got.get("busy_hours") is None else got["busy_hours"], prices=got.get("prices") or "",
        )  # fmt: skip


def _allowed(where: str, countries: Collection[str]) -> Collection[str]:
    return {"eea": EEA, "eu": EU}.get(where, countries)
