"""`{% load states %}`: a state as an icon, a word and a tone, and what it means for the bill."""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal
from math import floor
from typing import Any

from django import template
from django.utils import timezone

from deployments import changes
from deployments.lifecycle import MAY_EXIST, State
from deployments.models import Event, Incident, Instance
from deployments.monitoring.lease import WARN
from panel.ui import format

register = template.Library()

_BUSY = ("busy", "loader-circle")
_LEAVING = ("leaving", "loader-circle")
_LOOKS: dict[str, tuple[str, str]] = {
    State.REQUESTED: ("busy", "loader-circle"),
    State.READY: ("ok", "circle-check"),
    State.DEGRADED: ("warn", "triangle-alert"),
    State.DRAINING: ("warn", "hourglass"),
    State.OUTBID: ("warn", "gavel"),
    State.STOPPING: _LEAVING,
    State.STOPPED: ("", "circle-pause"),
    State.TERMINATING: _LEAVING,
    State.TERMINATED: ("", "circle-slash"),
    State.FAILED: ("critical", "circle-x"),
    State.UNKNOWN: ("warn", "circle-question-mark"),
    "outbid": ("warn", "gavel"),
}


@register.inclusion_tag("deployments/state_badge.html")
def state_badge(state: str, *, pill: bool = False, still: bool = False) -> dict[str, Any]:
    """The state of an instance; "Requested" for a deployment that has none yet. `still`: it was so once, nothing turns."""
    known = State(state) if state else State.REQUESTED
    tone, icon = _LOOKS.get(known, _BUSY)
    if still and icon == "loader-circle":
        tone, icon = "", "circle-dot"
    return {"word": known.word, "tone": tone, "icon": icon, "pill": pill}


@register.filter
def billing_sentence(instance: Instance | None) -> str:
    """Whether it bills now, and how much, as far as anybody knows."""
    if instance is None or instance.status is State.REQUESTED:
        return "does not bill yet"
    if instance.status not in MAY_EXIST:
        return "bills nothing"
    if instance.status is State.UNKNOWN:
        return f"may bill {format.price(instance.usd_per_hour)}/h until the provider answers"
    if _is_held(instance):
        held = instance.offer.held_usd_per_hour
        word = "while stopped" if instance.status is State.STOPPED else "while outbid"
        return f"its disk bills {format.price(held)}/h" if held else f"bills nothing {word}"
    return f"bills {format.price(instance.usd_per_hour)}/h"


def _is_held(instance: Instance) -> bool:
    """Kept without its GPU: no compute bills, its disk may."""
    return instance.status is State.STOPPED or instance.outbid_at is not None


@register.filter
def stop_meaning(instance: Instance | None) -> str:
    """What a stop means and costs for this provider and tier, in a sentence; empty before there is a machine."""
    if instance is None or instance.status not in MAY_EXIST:
        return ""
    offer = instance.offer
    if offer.own_machine:
        return "The engine ends and this computer is free; it bills nothing."
    if offer.serverless:
        return "The endpoint keeps its address and is scaled to no workers; it bills nothing."
    if offer.held_usd_per_hour:
        return f"The disk goes on at {format.price(offer.held_usd_per_hour)}/h."
    return "A stop saves nothing here: the container disk is wiped, and a start loads everything again."


@register.filter
def unencrypted(instance: Instance | None) -> bool:
    """Whether its endpoint is plain http over more than this computer."""
    return instance is not None and changes.unencrypted(instance)


@register.filter
def lease_is_late(instance: Instance | None) -> bool:
    """Whether its lease was not renewed for so long that somebody is told."""
    return (
        instance is not None
        and instance.lease_failures > 0
        and not instance.is_over
        and instance.lease_spent(timezone.now()) >= WARN
    )


@register.filter
def rate_now(instance: Instance | None) -> Decimal:
    """USD per hour that it bills now, 0 when nothing stands at the provider."""
    if instance is None or instance.status not in MAY_EXIST:
        return Decimal(0)
    if _is_held(instance):
        return instance.offer.held_usd_per_hour
    return instance.usd_per_hour


_EVENTS = {
    "launch": "was launched",
    "stop": "was asked to stop",
    "start": "was asked to start",
    "terminate": "was asked to terminate",
    "settings": "was changed",
    "mend": "was asked to be mended",
    "adopt": "was adopted",
    "found": "was found",
    "price": "changed its price",
    "bid": "changed its bid",
    "bid-refused": "kept its bid",
    "mended": "was mended",
    "mend-refused": "could not be mended",
    "rotate": "was asked to take a new key",
    "rotated": "has a new key",
    "drill": "begins a drill",
    "drill-killed": "lost its machine to a drill",
    "drill-over": "ended a drill",
}


@register.filter
def event_words(event: Event) -> str:
    """What happened, to be read after the deployment's name."""
    if event.to_state:
        return (
            f"is now {State(event.to_state).word}" if event.from_state else State(event.to_state).word.lower()
        )
    return _EVENTS.get(event.kind, event.kind.replace("_", " ").replace("-", " "))


@register.filter
def uptime(share: float | None) -> str:
    """ "99.95 %": rounded down, so that 100 is said of no time with an outage; "n/a" where nothing was promised."""
    return (
        format.UNKNOWN
        if share is None
        else f"{floor(share * 100_000) / 1000:.3f}".rstrip("0").rstrip(".") + " %"
    )


@register.filter
def as_it_is(value: Decimal) -> str:
    """A decimal without the zeros at its end: "99.5"."""
    return f"{value.normalize():f}"


@register.filter
def lasted(incident: Incident, now: datetime) -> timedelta:
    return incident.lasted(now)


_COUNTRIES = {
    "AT": "Austria", "BE": "Belgium", "BG": "Bulgaria", "HR": "Croatia", "CY": "Cyprus", "CZ": "Czechia",
    "DK": "Denmark", "EE": "Estonia", "FI": "Finland", "FR": "France", "DE": "Germany", "GR": "Greece",
    "HU": "Hungary", "IS": "Iceland", "IE": "Ireland", "IT": "Italy", "LV": "Latvia", "LI": "Liechtenstein",
    "LT": "Lithuania", "LU": "Luxembourg", "MT": "Malta", "NL": "Netherlands", "NO": "Norway", "PL": "Poland",
    "PT": "Portugal", "RO": "Romania", "SK": "Slovakia", "SI": "Slovenia", "ES": "Spain", "SE": "Sweden",
}  # fmt: skip
COUNTRY_CHOICES = sorted(_COUNTRIES.items(), key=lambda pair: pair[1])
"""The EEA, where a machine may stand."""
_ELSEWHERE = {
    "US": "United States",
    "GB": "United Kingdom",
    "CH": "Switzerland",
    "CA": "Canada",
    "UA": "Ukraine",
}
COUNTRIES = sorted((_COUNTRIES | _ELSEWHERE).items(), key=lambda pair: pair[1])
"""Every country that has a name here."""


@register.filter
def country(code: str | None) -> str:
    """The country's name, its code where the name is not known here, "country unknown" for None."""
    return (_COUNTRIES | _ELSEWHERE).get(code, code) if code else "country unknown"
