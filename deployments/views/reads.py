"""What the pages read: a fixed number of queries whatever the number of rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from django.db.models import Count, Exists, OuterRef, Q
from django.http import Http404

from deployments.lifecycle import MAY_EXIST, SERVING, STARTING, TERMINAL, Desired, State
from deployments.models import Deployment, Event, Instance, Launch
from deployments.models.deployment import DeploymentQuerySet
from deployments.models.instance import SECRETS, InstanceQuerySet
from deployments.monitoring import launches, phases
from deployments.monitoring.phases import Move, Phase, Span, Usual, Verdict
from deployments.monitoring.uptime import Fact
from panel import logs
from panel.accounts.models import User
from panel.audit.models import Pseudonym
from panel.ui.charts import share_of_time
from panel.ui.format import UNKNOWN, duration

UNHEALTHY = (State.DEGRADED, State.UNKNOWN)


def get_deployment_or_404(user: User, pk: UUID) -> Deployment:
    """The deployment with its newest attempt as `current`, if the user may see it; what may not be seen does not exist.

    One query, for every deployment has an attempt from its launch on. The attempt comes without its secrets.
    """
    seen = Deployment.objects.visible_to(user).filter(pk=pk)
    newest = (
        Instance.objects.filter(deployment__in=seen)
        .select_related("deployment__owner", "account", "launch", "monitor")
        .defer(*SECRETS, "monitor__counters")
        .order_by("-attempt")
        .first()
    )
    found = newest.deployment if newest else seen.select_related("owner").first()
    if found is None:
        raise Http404
    _attach(found, newest)
    logs.about(deployment=pk)
    return found


def page_of(deployments: DeploymentQuerySet, start: int, size: int) -> list[Deployment]:
    """`size` deployments from `start` on, each with its newest attempt as `current`, in two queries."""
    found = list(deployments.select_related("owner")[start : start + size])
    attempts = (
        Instance.objects.filter(~Exists(_LATER), deployment__in=found)
        .select_related("account")
        .without_secrets()
    )
    newest = {instance.deployment_id: instance for instance in attempts}
    for d in found:
        _attach(d, newest.get(d.pk))
    return found


_LATER = Instance.objects.filter(deployment=OuterRef("deployment"), attempt__gt=OuterRef("attempt"))
"""For `~Exists`: the attempt is the newest of its deployment."""


def fleet(user: User, counted: Counts, *, size: int) -> list[Deployment]:
    """What an operator must see first, at most `size`: the troubled and what bills on its way out, then the newest.

    One query. Every deployment has an attempt from its launch on.
    """
    seen = Deployment.objects.visible_to(user)
    newest_wanted = seen.wanted().order_by("-created_at").values("pk")[:size]
    shown_first = Q(pk__in=_pressing(seen).values("pk")[:size]) if counted.pressing else Q()
    attempts = (
        Instance.objects.filter(shown_first | (Q(deployment__in=newest_wanted) & ~Exists(_LATER)))
        .select_related("deployment__owner", "account")
        .without_secrets()
    )
    shown: dict[UUID, Deployment] = {}
    for instance in sorted(attempts, key=lambda i: (not _presses(i), -i.deployment.created_at.timestamp())):
        _attach(instance.deployment, instance)
        shown.setdefault(instance.deployment_id, instance.deployment)
    return list(shown.values())[:size]


def _presses(instance: Instance) -> bool:
    """As `_pressing` says it of the rows."""
    leaving = instance.deployment.desired == Desired.TERMINATED
    return instance.status in MAY_EXIST and (instance.status in UNHEALTHY or leaving)


def _pressing(seen: DeploymentQuerySet) -> InstanceQuerySet:
    leaving = Q(deployment__desired=Desired.TERMINATED)
    return (
        Instance.objects.may_exist()
        .filter(Q(state__in=UNHEALTHY) | leaving, deployment__in=seen)
        .order_by("-state_since")
    )


def _attach(deployment: Deployment, instance: Instance | None) -> None:
    deployment.__dict__["current"] = instance
    if instance:
        instance.deployment = deployment


@dataclass(frozen=True, slots=True)
class Counts:
    """Machines by what they do now."""

    serving: int
    starting: int
    unhealthy: int
    existing: int
    pressing: int
    """Unhealthy, or still there though nobody wants them."""


def counts() -> Counts:
    """One query over the machines that may exist."""
    found = (
        Instance.objects.may_exist()
        .order_by()
        .values_list("state", "deployment__desired")
        .annotate(n=Count("pk"))
    )
    rows = [(State(state), desired == Desired.TERMINATED, n) for state, desired, n in found]
    return Counts(
        serving=sum(n for s, _, n in rows if s in SERVING),
        starting=sum(n for s, _, n in rows if s in STARTING),
        unhealthy=sum(n for s, _, n in rows if s in UNHEALTHY),
        existing=sum(n for _, _, n in rows),
        pressing=sum(n for s, leaving, n in rows if leaving or s in UNHEALTHY),
    )


@dataclass(frozen=True, slots=True)
class Line:
    """An event as a page shows it."""

    event: Event
    who: str
    """The actor's name, "system", or "erased person"."""


def named(events: Iterable[Event]) -> list[Line]:
    """The events with their actors' names, in one query."""
    told = list(events)
    ids = {e.actor for e in told if _is_uuid(e.actor)}
    people = Pseudonym.objects.select_related("user").in_bulk(ids) if ids else {}
    names = {str(pk): str(p.user or p.name or "erased person") for pk, p in people.items()}
    return [Line(e, names.get(e.actor, "erased person" if _is_uuid(e.actor) else e.actor)) for e in told]


def _is_uuid(text: str) -> bool:
    try:
        UUID(text)
    except ValueError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class PhaseRow:
    """One row of the launch waterfall. `x`, `width` and `mark` (how long is usual) are percent of the whole way."""

    phase: Phase
    took: timedelta
    typical: timedelta | None
    x: str
    width: str
    mark: str
    going_on: bool
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Waterfall:
    phases: tuple[PhaseRow, ...]
    total: timedelta
    ready: bool
    """Whether the launch reached Ready."""
    over: bool
    """Whether it ended in something else."""
    usual: Usual
    usual_total: timedelta | None
    progress: str
    """What the machine last said of itself on its way."""
    ended: str
    """Why its container ended, in its own words."""
    advice: Verdict | None
    """Of the phase that goes on, or of the last one, when it is not as usual."""


def moves_of(instance: Instance | None, facts: Iterable[Fact], *, since: datetime) -> list[Move]:
    """When the attempt took each state, oldest first: out of its deployment's `facts` since then, where they hold it."""
    if instance is None:
        return []
    if instance.ended_at and instance.ended_at < since:
        return launches.moves([instance.pk])[instance.pk]
    return [(State(f.to), f.at) for f in facts if f.instance == instance.pk and f.kind == "state" and f.to]


def waterfall(instance: Instance | None, moves: Sequence[Move], *, now: datetime) -> Waterfall | None:
    """The way of one attempt to its first token, from the states that it took, oldest first. None before the first."""
    launch: Launch | None = getattr(instance, "launch", None)
    way = phases.way(moves, launches.marks_of(launch))
    if instance is None or way is None:
        return None
    usual = _usual(instance, now=now)
    total = max((way.ready_at or way.over_at or now) - way.began, timedelta(milliseconds=1))
    left = _left(instance, now=now) if way.going_on else None
    rows = [_row(span, launch, usual, way.began, total, now=now, left=left) for span in way.spans]
    if way.ready_at and launch and launch.first_token is not None:
        first = Span(Phase.FIRST_TOKEN, way.ready_at, way.ready_at + timedelta(seconds=launch.first_token))
        rows.append(_row(first, launch, usual, way.began, total, now=now, left=None))
    return Waterfall(
        tuple(rows), total, ready=way.ready_at is not None, over=way.over_at is not None, usual=usual,
        usual_total=_span(usual.seconds.get("total")), progress=launch.progress if launch and way.going_on else "",
        ended=launch.ended if launch and way.ready_at is None else "",
        advice=next((row.verdict for row in reversed(rows) if row.verdict.act), None),
    )  # fmt: skip


def _usual(instance: Instance, *, now: datetime) -> Usual:
    d = instance.deployment
    where = " ".join(filter(None, (instance.account.get_backend_display(), instance.quote.get("tier", ""))))
    model = d.model.title if d.model else d.model_key
    return phases.usual(launches.past_of(instance, now=now), model_key=d.model_key, where=where, model=model)


def _row(
    span: Span, launch: Launch | None, usual: Usual, began: datetime, total: timedelta, *, now: datetime, left: timedelta | None
) -> PhaseRow:  # fmt: skip
    took, typical = span.took(now), usual.seconds.get(span.phase)
    at = share_of_time(span.began - began, total)
    mark = None if typical is None else at + typical / total.total_seconds() * 100
    return PhaseRow(
        span.phase, took, _span(typical), f"{min(at, 99.6):.2f}%", f"{max(0.4, share_of_time(took, total)):.2f}%",
        f"{mark:.2f}%" if mark is not None and mark < 100 else "", span.ended is None,
        phases.judge(span, typical, launch, now=now, left=left),
    )  # fmt: skip


def _span(seconds: float | None) -> timedelta | None:
    return None if seconds is None else timedelta(seconds=seconds)


def _left(instance: Instance, *, now: datetime) -> timedelta | None:
    """How long until the panel gives the attempt up by itself; None when it would not."""
    if instance.deployment.desired != Desired.RUNNING or instance.status not in STARTING:
        return None
    try:
        traits = instance.account.adapter().traits
    except LookupError:
        return None
    limit = min(traits.start_timeout, traits.phase_timeouts.get(instance.state, traits.start_timeout))
    return instance.state_since + timedelta(seconds=limit) - now


def lease_silence(instance: Instance | None, *, now: datetime) -> str:
    """What there is to say instead of the moment at which the machine ends by itself; empty when one is known."""
    if instance is None or instance.is_over:
        return UNKNOWN
    offer = instance.offer
    if offer.own_machine:
        return "never: an engine on this computer has no watchdog"
    if offer.serverless:
        return "never: a serverless endpoint has no watchdog and bills on while this panel is down"
    if not instance.lease_seconds:
        return "no lease: this panel gave it none"
    if instance.lease_expires_at:
        return ""
    length = duration(timedelta(seconds=instance.lease_seconds))
    return f"{length} after its start, unless this panel renews its lease by then"


def poll_seconds(deployment: Deployment) -> int | None:
    """How often an open page asks: 2 s on the way up or out, 5 s while it stands, never once it is over."""
    current = deployment.current
    if deployment.desired == Desired.TERMINATED and (current is None or current.status in TERMINAL):
        return None
    if current is None or current.status not in MAY_EXIST:
        return 2
    steady = SERVING | {State.STOPPED}
    settled = deployment.desired != Desired.TERMINATED and (
        (current.status in SERVING) == (deployment.desired == Desired.RUNNING)
    )
    return 5 if current.status in steady and settled else 2
