"""What happened along the time axis of a chart: launches, restarts, incidents, stops."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

from django.db.models import (
    BigIntegerField,
    BooleanField,
    CharField,
    DateTimeField,
    Q,
    QuerySet,
    UUIDField,
    Value,
)
from django.db.models.functions import Cast, Coalesce
from django.urls import reverse

from deployments.lifecycle import State
from deployments.models import Deployment, Event, Incident, IncidentEntry
from deployments.views.timerange import TimeRange
from panel.notices.models import Notice

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


type Deployments = Collection[UUID] | QuerySet[Deployment, Any]
"""Their ids, or a query for them."""


class _Row(NamedTuple):
    """An event, or an incident: `word` is then its severity, and `number` its own."""

    is_incident: bool
    at: datetime
    until: datetime | None
    kind: str
    before: str
    word: str
    detail: str
    number: int
    subject: str
    deployment: UUID | None


def of(deployments: Deployments, shown: TimeRange) -> list[Marker]:
    """The markers of these deployments within the range, oldest first; one query."""
    rows = [_Row(*row) for row in _incidents(deployments, shown).union(_events(deployments, shown), all=True)]
    incidents = [_incident(row, shown) for row in rows if row.is_incident]
    events = [m for row in rows if not row.is_incident and (m := _event(row, incidents, shown))]
    return sorted([*events, *incidents], key=lambda m: m.at)[-MOST:]


def _events(deployments: Deployments, shown: TimeRange) -> QuerySet[Event, Any]:
    """As rows, the newest."""
    told = Q(kind__in=_ASKED) | Q(to_state__in=[State.REQUESTED, State.READY, *_TROUBLE, *_ENDS])
    within = Q(at__gte=shown.since, at__lte=shown.until)
    # A query for every deployment finds what no query does, and would sort all events of the time first.
    if not isinstance(deployments, QuerySet) or deployments.query.where:
        within &= Q(deployment__in=deployments)
    newest = Event.objects.filter(told, within).order_by("-at", "-pk")
    attempt = Coalesce("instance__attempt", 1, output_field=BigIntegerField())
    # SQLite takes no limit within a union, but in a query for keys it does.
    return Event.objects.filter(pk__in=newest.values("pk")[:MOST]).values_list(
        _is(value=False), "at", Cast(Value(None), DateTimeField()), "kind", "from_state", "to_state", "reason", attempt,
        "deployment__name", "deployment_id",
    )  # fmt: skip


def _incidents(deployments: Deployments, shown: TimeRange) -> QuerySet[Incident, Any]:
    touched = IncidentEntry.objects.filter(deployment__in=deployments).values("incident")
    stood = Q(over_at=None) | Q(over_at__gte=shown.since)
    newest = Incident.objects.filter(
        Q(deployment__in=deployments) | Q(pk__in=touched), stood, merged_into=None, opened_at__lte=shown.until
    ).order_by("-opened_at")
    return Incident.objects.filter(pk__in=newest.values("pk")[:MOST]).values_list(
        _is(value=True), "opened_at", "over_at", "kind", Cast(Value(""), CharField()), "severity", "guess",
        Cast("pk", BigIntegerField()), "title", Cast(Value(None), UUIDField()),
    )  # fmt: skip


def _is(*, value: bool) -> Cast:
    # Columns of a union need a type of their own.
    return Cast(Value(value), BooleanField())


def _event(row: _Row, incidents: Sequence[Marker], shown: TimeRange) -> Marker | None:
    told = _told(row.kind, row.before, row.word, row.number)
    if told is None or (row.word in _TROUBLE and _within(row.at, incidents)):
        return None
    url = reverse("deployment", args=[row.deployment])
    return Marker(row.at, *told, row.detail, row.subject, url, _share(row.at, shown))


def _incident(row: _Row, shown: TimeRange) -> Marker:
    begin, end = max(row.at, shown.since), min(row.until or shown.now, shown.until)
    return Marker(
        row.at, "critical" if row.word == Notice.Severity.CRITICAL else "warn", "triangle-alert",
        f"Incident: {Incident.Kind(row.kind).label}", row.detail, row.subject, reverse("incident", args=[row.number]),
        _share(begin, shown), end,
    )  # fmt: skip


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


def _within(at: datetime, incidents: Sequence[Marker]) -> bool:
    """Whether an incident tells of this moment already."""
    return any(m.at - SAME <= at <= (m.until or m.at) for m in incidents)


def _share(at: datetime, shown: TimeRange) -> str:
    return f"{(at - shown.since) / shown.span * 100:.2f}%"
