"""A month's reliability: by provider and tier, and by deployment against its goal."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from django.db.models import Q
from django.db.models.fields.json import KT

from billing.periods import Period
from deployments.lifecycle import Desired
from deployments.models import Deployment, IncidentEntry, Instance, ProviderAccount
from deployments.models.deployment import DeploymentQuerySet
from deployments.monitoring import uptime
from deployments.monitoring.uptime import ZERO, Break, ErrorBudget, Fact, Span, Uptime


class Place(NamedTuple):
    """Where machines are rented: a backend and one of its tiers."""

    provider: str
    tier: str

    @property
    def title(self) -> str:
        return str(ProviderAccount.Backend(self.provider).label)


@dataclass(slots=True)
class PlaceRow:
    """One provider and tier in the month."""

    place: Place
    seen: Uptime = field(default_factory=Uptime)
    deployments: int = 0
    incidents: int = 0
    interruptions: int = 0
    """Machines that served and were lost, outbid or dead for good, without anybody's asking."""
    launches: int = 0
    """Machines that were asked for in the month."""
    ready: int = 0
    """Those of them that became Ready."""
    to_ready: timedelta = ZERO
    """Of those, summed."""

    @property
    def mean_to_ready(self) -> timedelta | None:
        return self.to_ready / self.ready if self.ready else None


@dataclass(frozen=True, slots=True)
class DeploymentRow:
    """One deployment in the month."""

    deployment: Deployment
    seen: Uptime
    budget: ErrorBudget
    incidents: int
    interruptions: int

    @property
    def missed(self) -> bool:
        return self.budget.spent

    @property
    def over(self) -> timedelta:
        """By how much the goal is missed."""
        return max(-self.budget.left, ZERO)


@dataclass(frozen=True, slots=True)
class Report:
    period: Period
    until: datetime
    """The end of what is counted: the month's, or now."""
    places: list[PlaceRow]
    deployments: list[DeploymentRow]

    @property
    def total(self) -> Uptime:
        return sum((row.seen for row in self.deployments), Uptime())


class _Machine(NamedTuple):
    deployment: UUID
    place: Place
    created_at: datetime
    ready_at: datetime | None


def report(deployments: DeploymentQuerySet, period: Period, *, now: datetime) -> Report:
    """Of these deployments in the period; five queries, whatever their number."""
    start, until = period.start, max(period.start, min(period.end, now))
    machines = _machines(deployments, start, until)
    rows = Deployment.objects.filter(pk__in={m.deployment for m in machines.values()}).in_bulk()
    places: dict[Place, PlaceRow] = {}
    for m in machines.values():
        places.setdefault(m.place, PlaceRow(m.place))
    incidents = _incidents(rows, machines, start, until)
    found: list[DeploymentRow] = []
    for pk, facts in uptime.facts_of(rows, since=start, until=until):
        spans, breaks = uptime.walk(facts, until=until)
        breaks = [b for b in breaks if start <= b.at < until]
        _add_to_places(places, machines, spans, breaks, start, until)
        touched = len({i for i, _ in incidents[pk]})
        found.append(_row(rows[pk], spans, touched, len(breaks), start, until, period=period, now=now))
    _count_launches(places, machines, start, until)
    _count_incidents(places, incidents)
    found.sort(key=lambda r: (r.seen.share if r.seen.share is not None else 2.0, r.deployment.name))
    ranked = sorted(places.values(), key=lambda r: (r.place.title, r.place.tier))
    return Report(period, until, ranked, found)


def _machines(deployments: DeploymentQuerySet, start: datetime, until: datetime) -> dict[UUID, _Machine]:
    """Every machine of the month and, for what was down all through it, those before."""
    over = Q(ended_at=None) | Q(ended_at__gte=start) | Q(deployment__desired=Desired.RUNNING)
    rows = (
        Instance.objects.filter(over, deployment__in=deployments, created_at__lt=until)
        .values_list("pk", "deployment_id", "account__backend", KT("quote__tier"), "created_at", "ready_at")
        .order_by()
    )
    return {
        pk: _Machine(d, Place(backend, tier or ""), at, ready) for pk, d, backend, tier, at, ready in rows
    }


def _incidents(
    rows: Iterable[UUID], machines: dict[UUID, _Machine], start: datetime, until: datetime
) -> dict[UUID, set[tuple[int, Place | None]]]:
    """Which incidents touched each deployment in the month, and where its machine stood."""
    entries = (
        IncidentEntry.objects.filter(deployment__in=list(rows), incident__merged_into=None)
        .filter(Q(incident__over_at=None) | Q(incident__over_at__gte=start), incident__opened_at__lt=until)
        .values_list("deployment_id", "incident_id", "instance_id")
    )
    found: dict[UUID, set[tuple[int, Place | None]]] = defaultdict(set)
    for deployment, incident, instance in entries:
        machine = machines.get(instance) if instance else None
        found[deployment].add((incident, machine.place if machine else None))
    return found


def _add_to_places(
    places: dict[Place, PlaceRow], machines: dict[UUID, _Machine], spans: Iterable[Span], breaks: Iterable[Break],
    start: datetime, until: datetime,
) -> None:  # fmt: skip
    mine: dict[Place, list[Span]] = defaultdict(list)
    for span in spans:
        if span.instance in machines and span.within(start, until):
            mine[machines[span.instance].place].append(span)
    for place, some in mine.items():
        seen = uptime.uptime(some, start, until)
        places[place].seen += seen
        places[place].deployments += bool(seen.counted)
    for b in breaks:
        if b.instance in machines:
            places[machines[b.instance].place].interruptions += 1


def _row(
    deployment: Deployment, spans: list[Span], incidents: int, interruptions: int, start: datetime, until: datetime,
    *, period: Period, now: datetime,
) -> DeploymentRow:  # fmt: skip
    seen = uptime.uptime(spans, start, until)
    budget = uptime.error_budget(seen, deployment.slo_percent, ahead=_ahead(deployment, period, now=now))
    return DeploymentRow(deployment, seen, budget, incidents, interruptions)


def _ahead(deployment: Deployment, period: Period, *, now: datetime) -> timedelta:
    """The rest of the month, if it is wanted until then."""
    if deployment.desired != Desired.RUNNING or now >= period.end:
        return ZERO
    ends = [at for at in (deployment.stop_at, deployment.delete_at) if at]
    return max(min([period.end, *ends]) - max(now, period.start), ZERO)


def _count_launches(
    places: dict[Place, PlaceRow], machines: dict[UUID, _Machine], start: datetime, until: datetime
) -> None:
    for m in machines.values():
        if not start <= m.created_at < until:
            continue
        row = places[m.place]
        row.launches += 1
        if m.ready_at is not None:
            row.ready += 1
            row.to_ready += m.ready_at - m.created_at


def _count_incidents(
    places: dict[Place, PlaceRow], incidents: dict[UUID, set[tuple[int, Place | None]]]
) -> None:
    by_place: dict[Place, set[int]] = defaultdict(set)
    for some in incidents.values():
        for incident, place in some:
            if place is not None:
                by_place[place].add(incident)
    for place, mine in by_place.items():
        places[place].incidents = len(mine)


def goal(deployment: Deployment, period: Period, *, facts: Sequence[Fact], now: datetime) -> DeploymentRow:
    """One deployment against its goal in a period, for its own page; `facts` as `uptime.facts_of_one` gives them."""
    until = max(period.start, min(period.end, now))
    spans, breaks = uptime.walk(facts, until=until)
    lost = sum(period.start <= b.at < until for b in breaks)
    return _row(deployment, spans, 0, lost, period.start, until, period=period, now=now)
