"""An incident's story: what the system saw, what happened to what it touched, and what people did; and as Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from deployments.models import Deployment, Event, Incident, IncidentEntry
from deployments.templatetags.states import event_words
from panel.audit import chain
from panel.ui import format

BEFORE, AFTER = timedelta(minutes=2), timedelta(minutes=1)
"""How long before its first sign and after its end the events of what it touched are told."""
MOST = 200
"""Events in a story; of more, the oldest and the newest are told."""
Kind = IncidentEntry.Kind


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the story. `deployment` is whom it is about, `icon` one of lucide's."""

    at: datetime
    who: str
    words: str
    detail: str
    icon: str
    deployment: Deployment | None = None


_ICONS = {
    Kind.OPENED: "siren",
    Kind.TOUCHES: "server",
    Kind.GREW: "git-merge",
    Kind.MERGED: "git-merge",
    Kind.ACKNOWLEDGED: "eye",
    Kind.COMMENT: "message-square",
    Kind.OVER: "heart-pulse",
    Kind.CLOSED: "circle-check",
}
_WORDS = {
    Kind.OPENED: "was opened",
    Kind.GREW: "turned out to be one cause for several",
    Kind.MERGED: "became part of another one",
    Kind.ACKNOWLEDGED: "was acknowledged",
    Kind.COMMENT: "commented",
    Kind.OVER: "has its cause gone",
    Kind.CLOSED: "was closed",
}


def touched(incident: Incident) -> list[IncidentEntry]:
    """The entries that say whom it touched, by name."""
    rows = incident.entries.filter(deployment__isnull=False).select_related("deployment")
    return sorted(rows, key=lambda e: (str(e.deployment), e.pk))


def story(incident: Incident, *, now: datetime) -> list[Line]:
    """Every line, oldest first; three queries."""
    entries = list(incident.entries.exclude(kind=Kind.TOUCHES).order_by("at", "pk"))
    events = list(_events(incident, now=now))
    names = chain.names_of({e.actor for e in entries} | {e.actor for e in events})
    lines = [_of_entry(e, names[e.actor]) for e in entries] + [_of_event(e, names[e.actor]) for e in events]
    return sorted(lines, key=lambda line: line.at)


def _events(incident: Incident, *, now: datetime) -> Iterable[Event]:
    since, until = incident.opened_at - BEFORE, (incident.over_at or now) + AFTER
    rows = Event.objects.filter(
        deployment__in=IncidentEntry.objects.filter(incident=incident, deployment__isnull=False).values("deployment"),
        at__range=(since, until),
    ).select_related("deployment")  # fmt: skip
    first = list(rows.order_by("at", "pk")[: MOST // 2])
    last = list(rows.order_by("-at", "-pk")[: MOST // 2])
    return {e.pk: e for e in [*first, *last]}.values()


def _of_entry(e: IncidentEntry, who: str) -> Line:
    kind = Kind(e.kind)
    words = f"{who} commented" if kind is Kind.COMMENT else f"The incident {_WORDS[kind]}"
    return Line(e.at, who, words, e.text, _ICONS[kind])


def _of_event(e: Event, who: str) -> Line:
    return Line(e.at, who, event_words(e), e.reason, "circle-dot", e.deployment)


# -- as Markdown --------------------------------------------------------------------------------------

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~!&])")


def plain(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))


def moment(at: datetime | None) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC" if at else format.UNKNOWN


def markdown(incident: Incident, *, money: bool, now: datetime) -> str:
    """The incident as a report that stands by itself; its cost only with `money`."""
    facts = [
        ("Kind", incident.get_kind_display()),
        ("Severity", incident.get_severity_display()),
        ("Began", moment(incident.opened_at)),
        ("Ended", moment(incident.over_at) if incident.over_at else "its cause still stands"),
        ("Lasted", format.duration(incident.lasted(now))),
        ("Downtime", format.duration(incident.downtime) + _sum_of(incident)),
        ("Acknowledged", moment(incident.acknowledged_at)),
        ("Closed", moment(incident.closed_at)),
    ]
    if money:
        facts.insert(6, ("Its cost", format.usd(incident.cost_usd)))
    if incident.account:
        facts.insert(2, ("Account", incident.account.name))
    head = [f"# Incident {incident.pk}: {plain(incident.title)}", "", "| | |", "|---|---|"]
    table = [f"| {name} | {plain(value)} |" for name, value in facts]
    names = [f"- {plain(str(e.deployment))}" for e in touched(incident)]
    parts = [
        [*head, *table],
        ["## What probably caused it", "", plain(incident.guess) or format.UNKNOWN],
        ["## What it touched", "", *(names or ["Nothing that serves."])],
        ["## Timeline", "", *(_line(line) for line in story(incident, now=now))],
    ]
    return "\n\n".join("\n".join(part) for part in parts) + "\n"


def _sum_of(incident: Incident) -> str:
    return " of all that it touched, summed" if incident.deployment_id is None else ""


def _line(line: Line) -> str:
    about = f"{plain(str(line.deployment))} " if line.deployment else ""
    by = f" ({plain(line.who)})" if line.who != "system" and line.deployment else ""
    detail = f": {plain(line.detail)}" if line.detail else ""
    return f"- {moment(line.at)} — {about}{plain(line.words)}{by}{detail}"
