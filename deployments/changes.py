"""What an operator changes of a deployment that exists, and what each change means for its machine.

now        it takes effect at once
relaunch   the next machine is chosen by it; the one that stands keeps what it has
replace    the machine that stands cannot take it: it is given back and a new one is rented
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, time
from decimal import Decimal
from enum import StrEnum
from typing import Any
from zoneinfo import ZoneInfo

from django.db import transaction

from billing import budgets, tags
from billing.models import Reservation
from deployments import residency, services
from deployments.lifecycle import TERMINAL, Desired
from deployments.models import Deployment, Instance
from panel.accounts.models import User
from panel.audit import chain


class Effect(StrEnum):
    NOW = "now"
    RELAUNCH = "relaunch"
    REPLACE = "replace"

    @property
    def words(self) -> str:
        return _WORDS[self]


_WORDS = {
    Effect.NOW: "takes effect at once",
    Effect.RELAUNCH: "at the next relaunch",
    Effect.REPLACE: "replaces the machine: it is given back and a new one is rented",
}

SCHEDULE = ("schedule_days", "schedule_from", "schedule_until", "time_zone")
TITLES: dict[str, str] = {
    "name": "Name",
    "tags": "Tags",
    "policy": "Policy",
    "purpose": "Purpose",
    "price_ceiling": "Price ceiling",
    "plan_b": "Plan B",
    "slo_percent": "Uptime goal",
    "protected": "Protected from drills and budgets",
    "stop_at": "Stop date",
    "delete_at": "Delete after",
    "schedule_days": "Runs on",
    "schedule_from": "From",
    "schedule_until": "Until",
    "time_zone": "Time zone",
    "bid_policy": "When outbid",
    "bid_ceiling": "Bid ceiling",
    "context": "Context length",
    "allow_plaintext": "Unencrypted endpoint",
    "allowed_countries": "Allowed countries",
}
"""The columns that may be changed, as the page names them."""
_AT_RELAUNCH = frozenset({"policy", "purpose", "price_ceiling", "plan_b", "tags"})


class ChangeRefused(Exception):
    """A change that is not admitted; nothing was changed. `field` names the column."""

    def __init__(self, message: str, *, field: str = "") -> None:
        super().__init__(message)
        self.field = field


class NeedsReplacing(ChangeRefused):
    """The change replaces the machine, and that was not agreed to."""


@dataclass(frozen=True, slots=True)
class Change:
    """One column's change. `before` and `after` as the audit and the page show them."""

    name: str
    effect: Effect
    before: str
    after: str
    value: Any

    @property
    def title(self) -> str:
        return TITLES[self.name]


def standing(deployment: Deployment) -> Instance | None:
    """The machine that a change meets; None when none stands or may stand."""
    current = deployment.current
    return current if current and current.status not in TERMINAL else None


def plan(deployment: Deployment, changes: Mapping[str, Any]) -> tuple[Change, ...]:
    """What of `changes` (column -> value) is a change at all, and what it does to the machine that stands."""
    machine = standing(deployment)
    return tuple(
        Change(name, effect(machine, name, value), shown(name, getattr(deployment, name)), shown(name, value), value)
        for name, value in changes.items()
        if name in TITLES and shown(name, getattr(deployment, name)) != shown(name, value)
    )  # fmt: skip


def effect(machine: Instance | None, name: str, value: Any) -> Effect:
    """What it does to `machine` that the column becomes `value`."""
    if name in _AT_RELAUNCH:
        return Effect.RELAUNCH
    if name == "context":
        return Effect.REPLACE if machine else Effect.RELAUNCH
    if name == "allow_plaintext":
        return Effect.REPLACE if machine and not value and unencrypted(machine) else Effect.RELAUNCH
    if name == "allowed_countries":
        return Effect.REPLACE if machine and _outside(machine, value) else Effect.RELAUNCH
    return Effect.NOW


def unencrypted(machine: Instance) -> bool:
    """Whether prompts and keys travel to it in the clear, over more than this computer."""
    return machine.endpoint_url.startswith("http://") and not machine.offer.own_machine


def _outside(machine: Instance, allowed: list[str]) -> bool:
    if machine.offer.own_machine:
        return False
    countries = [country for _, country in machine.places] or [machine.country or machine.offer.country]
    return not all(residency.verdict(country, allowed).allowed for country in countries)


def shown(name: str, value: Any) -> str:
    """A column's value as text: equal texts are equal values."""
    if value is None or value in ("", [], {}):
        return "none"
    if isinstance(value, bool):
        yes, no = ("yes", "no") if name == "protected" else ("allowed", "not allowed")
        return yes if value else no
    if name == "slo_percent":
        return f"{value.normalize():f} %"
    if isinstance(value, Decimal):
        return f"${value.normalize():f}/h"
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M} UTC"
    if isinstance(value, time):
        return f"{value:%H:%M}"
    if name == "schedule_days":
        return ", ".join(_DAYS[int(day) - 1] for day in sorted(value))
    if isinstance(value, list):
        return ", ".join(sorted(value))
    if isinstance(value, dict):
        return tags.text(value)
    return _CHOICES.get(str(value), str(value)) if name in _CHOSEN else str(value)


_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_CHOSEN = {"policy", "purpose", "bid_policy"}
_CHOICES = {
    str(value): str(label)
    for choices in (Deployment.Policy, Deployment.Purpose, Deployment.BidPolicy)
    for value, label in choices.choices
}


def fingerprint(deployment: Deployment) -> str:
    """Of every column that may be changed: two of them differ when somebody changed something meanwhile."""
    values = {name: shown(name, getattr(deployment, name)) for name in TITLES}
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:24]


def change_settings(
    deployment: Deployment, changes: Mapping[str, Any], *, actor: User, now: datetime, may_replace: bool = True
) -> tuple[Change, ...]:  # fmt: skip
    """Write the changes of `deployment` (as it was loaded), their audit row and Event, and ring: all or nothing.

    Raises ChangeRefused, and NeedsReplacing when the machine would have to be replaced and may not be.
    Returns what was changed; nothing is written when nothing is.
    """
    with transaction.atomic():
        held = Deployment.objects.select_for_update().get(pk=deployment.pk)
        if fingerprint(held) != fingerprint(deployment):
            raise ChangeRefused("Somebody else changed these settings a moment ago. Look again and decide.")
        if held.desired == Desired.TERMINATED:
            raise ChangeRefused("It is terminated or on its way to. Launch a new one instead.")
        planned = plan(held, changes)
        if not planned:
            return ()
        _check(held, planned, now=now)
        replaces = any(c.effect is Effect.REPLACE for c in planned)
        if replaces and not may_replace:
            raise NeedsReplacing("This gives the machine back and rents a new one. Look it over and agree.")
        Deployment.objects.filter(pk=held.pk).update(**_columns(held, planned, replaces=replaces, now=now))
        after = Deployment.objects.get(pk=held.pk)
        _hold(held, after, now=now)
        if after.protected != held.protected:
            budgets.protect(held.pk, protected=after.protected)
        services.note(held, "settings", now=now, actor=actor, reason=_sentence(planned))
        services.ring(held, now=now)
        chain.record(
            "deployment.settings", actor=actor, target=held, now=now,
            before={c.name: c.before for c in planned} | {"generation": held.generation},
            after={c.name: c.after for c in planned} | {"generation": after.generation},
        )  # fmt: skip
    deployment.refresh_from_db()
    return planned


def _columns(
    held: Deployment, planned: tuple[Change, ...], *, replaces: bool, now: datetime
) -> dict[str, Any]:
    columns = {c.name: c.value for c in planned}
    if replaces:
        columns["generation"] = held.generation + 1
    if columns.keys() & set(SCHEDULE):
        # What the new hours would have done before now is not made up for: they count from their next edge on.
        columns["schedule_at"] = now
    return columns


def _sentence(planned: tuple[Change, ...]) -> str:
    return "; ".join(f"{c.title}: {c.before} to {c.after}" for c in planned)


def _check(held: Deployment, planned: tuple[Change, ...], *, now: datetime) -> None:
    after = {c.name: c.value for c in planned}
    model = held.model
    if "context" in after and not 256 <= after["context"] <= (model.max_context if model else 0):
        most = f"256 to {model.max_context:,}" if model else "those of a model in the catalogue"
        raise ChangeRefused(f"The context must be {most} tokens.", field="context")
    for name, words in (("stop_at", "stop date"), ("delete_at", "delete date")):
        if after.get(name) and after[name] <= now:
            raise ChangeRefused(f"The {words} has passed. Choose a later one or none.", field=name)
    if "allowed_countries" in after and not set(after["allowed_countries"]) & residency.EEA:
        raise ChangeRefused("Allow at least one country.", field="allowed_countries")
    raises = after.get("bid_policy", held.bid_policy) == Deployment.BidPolicy.RAISE
    if (
        after.keys() & {"bid_policy", "bid_ceiling"}
        and raises
        and after.get("bid_ceiling", held.bid_ceiling) is None
    ):
        raise ChangeRefused("To raise the bid, say how far: give it a ceiling.", field="bid_ceiling")
    if after.keys() & set(SCHEDULE):
        _check_schedule({name: after.get(name, getattr(held, name)) for name in SCHEDULE})


def _check_schedule(hours: Mapping[str, Any]) -> None:
    try:
        ZoneInfo(hours["time_zone"])
    except (KeyError, ValueError, OSError):
        raise ChangeRefused(
            "There is no such time zone. Write it as Europe/Berlin or UTC.", field="time_zone"
        ) from None
    if not hours["schedule_days"]:
        return
    for name in ("schedule_from", "schedule_until"):
        if hours[name] is None:
            raise ChangeRefused("A schedule needs both hours.", field=name)
    if hours["schedule_from"] == hours["schedule_until"]:
        raise ChangeRefused("It begins and ends at the same time.", field="schedule_until")


def _hold(before: Deployment, after: Deployment, *, now: datetime) -> None:
    """What is held of the budget reaches to the new end. Raises ChangeRefused when that does not fit."""
    old, new = held_until(before), held_until(after)
    if old == new:
        return
    mine = [i for i in after.instances.select_for_update() if i.status not in TERMINAL]
    held = Reservation.objects.filter(subject_id__in=[i.pk for i in mine], released_at=None)
    if new is not None and (old is None or new < old):
        held.update(until=new)  # less is held: it always fits
        return
    for reservation in held:
        try:
            budgets.reserve(reservation.subject_id, reservation.usd_per_hour, until=new, now=now)
        except budgets.OverBudget as e:
            raise ChangeRefused(str(e), field="stop_at") from e


def held_until(deployment: Deployment) -> datetime | None:
    """The moment to which its budget is held: its stop date; None: the period's end."""
    return deployment.stop_at
