"""What happened along the time axis of a chart: launches, restarts, incidents, stops."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.apps import apps
from django.db.models import Q
from django.urls import reverse

from deployments.lifecycle import State
from deployments.models import Event
from deployments.views.timerange import TimeRange

MOST = 100
"""The newest are shown: more lines than this hide the chart."""
SAME = timedelta(minutes=1)
"""How long before an incident's first sign a state may have changed that it is about."""

_TROUBLE = {
    State.DEGRADED: "warn",
    State.OUTBID: "warn",
    State.UNKNOWN: "warn",
    State.FAILED: "critical",
}
_ENDS = {State.STOPPED, State.TERMINATED}
_ASKED = {"launch": "Launch", "start": "Start", "adopt": "Adopted"}


@dataclass(frozen=True, slots=True)
class Marker:
    """One moment, or with `until` a time, on the axis."""

    at: datetime
    tone: str
    """ok, warn, critical, or empty: how it is coloured."""
    icon: str
    word: str
    detail: str
    subject: str
    """What the link is called: the deployment, or the incident's title."""
    url: str
    x: str
    """Where it stands on the time axis, in percent."""
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Band:
    """A time in which an incident stood, or several at once."""

    since: datetime
    until: datetime
    tone: str
    """critical when one of them is."""
    x: str
    width: str
    """Where it begins on the axis and how much of it it lasts, in percent."""


def bands(markers: Sequence[Marker], shown: TimeRange) -> list[Band]:
    """What lasts among the markers (oldest first), what overlaps as one: many shades over each other hide the lines."""
    found: list[tuple[datetime, datetime, str]] = []
    for m in markers:
        if m.until is None:
            continue
        since = max(m.at, shown.since)
        if found and since <= found[-1][1]:
            before, end, tone = found.pop()
            found.append((before, max(end, m.until), "critical" if "critical" in (tone, m.tone) else tone))
        else:
            found.append((since, m.until, m.tone))
    return [
        Band(since, end, tone, _share(since, shown), f"{max((end - since) / shown.span, 0) * 100:.2f}%")
        for since, end, tone in found
    ]


def of(deployments: Sequence[UUID], shown: TimeRange) -> list[Marker]:
    """The markers of these deployments within the range, oldest first; one query for events, one for incidents."""
    incidents = _incidents(deployments, shown)
    return sorted([*_events(deployments, shown, incidents), *incidents], key=lambda m: m.at)[-MOST:]


def _events(deployments: Sequence[UUID], shown: TimeRange, incidents: Sequence[Marker]) -> list[Marker]:
    events = (
        Event.objects.filter(deployment__in=deployments, at__gte=shown.since, at__lte=shown.until)
        .filter(Q(kind__in=_ASKED) | Q(to_state__in=[State.REQUESTED, State.READY, *_TROUBLE, *_ENDS]))
        .order_by("-at", "-pk")
        .values_list(
            "at",
            "kind",
            "from_state",
            "to_state",
            "reason",
            "instance__attempt",
            "deployment__name",
            "deployment_id",
        )[:MOST]
    )
    found = []
    for at, kind, before, after, reason, attempt, name, deployment in events:
        told = _told(kind, before, after, attempt or 1)
        if told and not (after in _TROUBLE and _within(at, incidents)):
            url = reverse("deployment", args=[deployment])
            found.append(Marker(at, *told, reason, name, url, _share(at, shown)))
    return found


def _told(kind: str, before: str, after: str, attempt: int) -> tuple[str, str, str] | None:
    """Tone, icon and word; None for what another event tells already."""
    if not after:
        return "", "rocket", _ASKED[kind]
    state = State(after)
    if state is State.REQUESTED:
        # The first attempt is the launch itself.
        return ("warn", "rotate-ccw", f"Restart, attempt {attempt}") if attempt > 1 else None
    if state is State.READY:
        recovered = before in (State.DEGRADED, State.UNKNOWN)
        return "ok", "circle-check", "Recovered" if recovered else "Ready"
    if state in _ENDS:
        return "", "circle-slash", state.word
    return _TROUBLE[state], "triangle-alert", state.word


def _incidents(deployments: Sequence[UUID], shown: TimeRange) -> list[Marker]:
    model: Any = apps.all_models["deployments"].get("incident")
    if model is None:
        return []
    touched = Q(deployment__in=deployments) | Q(entries__deployment__in=deployments)
    found = (
        model.objects.filter(touched, opened_at__lte=shown.until, merged_into=None)
        .filter(Q(over_at=None) | Q(over_at__gte=shown.since))
        .distinct()
        .order_by("-opened_at")[:MOST]
    )
    return [_incident(incident, shown) for incident in found]


def _incident(incident: Any, shown: TimeRange) -> Marker:
    begin = max(incident.opened_at, shown.since)
    end = min(incident.over_at or shown.now, shown.until)
    return Marker(
        incident.opened_at, "critical" if incident.severity == "critical" else "warn", "triangle-alert",
        f"Incident: {incident.get_kind_display()}", incident.guess, incident.title, incident.get_absolute_url(),
        _share(begin, shown), end,
    )  # fmt: skip


def _within(at: datetime, incidents: Sequence[Marker]) -> bool:
    """Whether an incident tells of this moment already."""
    return any(m.at - SAME <= at <= (m.until or m.at) for m in incidents)


def _share(at: datetime, shown: TimeRange) -> str:
    return f"{(at - shown.since) / shown.span * 100:.2f}%"
