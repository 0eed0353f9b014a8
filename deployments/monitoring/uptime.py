"""Uptime: when each deployment answered, read from its Events alone.

up        one of its machines is Ready (or drains, still answering)
down      it is wanted, it has been up, and no machine answers
planned   not wanted, on its first way up after a launch or a start, or between two machines at somebody's wish;
          it counts neither for nor against the goal

A degraded endpoint counts as down from the moment at which the panel said so: what the probes needed to
notice it (20 s) is not in the Events.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import NamedTuple
from uuid import UUID

from django.db.models import Q

from deployments.lifecycle import TERMINAL, State
from deployments.models import Event

ANSWERING = frozenset({State.READY, State.DRAINING})
_WANTED = frozenset({"launch", "start", "adopt"})
_UNWANTED = frozenset({"stop", "terminate", "found"})
DRILLS = {"drill": timedelta(minutes=6), "drill-killed": timedelta(minutes=15)}
"""A machine that stops answering so soon after one of these was killed on purpose."""
INTENTS = _WANTED | _UNWANTED | DRILLS.keys()
"""The kinds of Events of what people asked for."""
ON_PURPOSE = frozenset({"its settings changed", "replaced by a newer attempt", "terminate was asked for"})
"""The reasons for which a machine is given back at somebody's wish."""
LOOK_BACK = timedelta(days=92)
"""How long before a window the Events of machines that were over before it are read."""
ZERO = timedelta()


class Was(StrEnum):
    UP = "up"
    DOWN = "down"
    PLANNED = "planned"


class Fact(NamedTuple):
    """One Event, as far as uptime needs it."""

    at: datetime
    kind: str
    instance: UUID | None
    to: str
    reason: str


@dataclass(frozen=True, slots=True)
class Span:
    """From `start` to `end` it was so. `instance` answered, or was the last that did; None before any did."""

    was: Was
    start: datetime
    end: datetime
    instance: UUID | None

    @property
    def took(self) -> timedelta:
        return self.end - self.start

    def within(self, start: datetime, end: datetime) -> timedelta:
        """How much of it lies between `start` and `end`."""
        return max(min(self.end, end) - max(self.start, start), ZERO)


class Break(NamedTuple):
    """A machine that answered stopped doing so for good, and nobody had asked for it: lost, outbid or dead."""

    at: datetime
    instance: UUID
    reason: str


@dataclass(slots=True)
class _Walk:
    """The Events of one deployment, oldest first, step by step."""

    wanted: bool = True
    was_up: bool = False
    on_purpose: bool = False
    drill_until: datetime | None = None
    answered: UUID | None = None
    states: dict[UUID, State] = field(default_factory=dict)
    ever_up: set[UUID] = field(default_factory=set)
    breaks: list[Break] = field(default_factory=list)

    @property
    def now(self) -> Was:
        if not self.wanted:
            return Was.PLANNED
        if any(state in ANSWERING for state in self.states.values()):
            return Was.UP
        return Was.DOWN if self.was_up and not self.on_purpose else Was.PLANNED

    def step(self, fact: Fact) -> None:
        if fact.instance is not None and fact.to:
            self._state(fact, fact.instance, State(fact.to))
        elif fact.kind in _WANTED:
            # Of a start only what comes after its first Ready is promised to anybody.
            self.was_up = self.was_up and self.wanted
            self.wanted = True
        elif fact.kind in _UNWANTED:
            self.wanted = self.on_purpose = False
        elif fact.kind in DRILLS:
            self.drill_until = fact.at + DRILLS[fact.kind]

    def _state(self, fact: Fact, instance: UUID, to: State) -> None:
        before = self.states.pop(instance, State.REQUESTED)
        if to not in TERMINAL:
            self.states[instance] = to
        if to in ANSWERING:
            self.was_up, self.on_purpose, self.answered = True, False, instance
            self.ever_up.add(instance)
        elif before in ANSWERING and (fact.reason in ON_PURPOSE or self._is_drill(fact.at)):
            self.on_purpose = True
        elif to is State.FAILED and instance not in self.ever_up:
            # The one that was to take over did not come up: from here on nobody wished for it.
            self.on_purpose = False
        if before in _IN_USE and to not in _IN_USE:
            self._note_break(fact, instance)

    def _is_drill(self, at: datetime) -> bool:
        """Whether this is what a drill brought about; it brings about one."""
        drilled = self.drill_until is not None and at <= self.drill_until
        self.drill_until = None if drilled else self.drill_until
        return drilled

    def _note_break(self, fact: Fact, instance: UUID) -> None:
        if self.wanted and not self.on_purpose and fact.reason not in ON_PURPOSE:
            self.breaks.append(Break(fact.at, instance, fact.reason))


_IN_USE = ANSWERING | {State.DEGRADED}


def walk(facts: Iterable[Fact], *, until: datetime) -> tuple[list[Span], list[Break]]:
    """The spans from the first Event to `until`, without gaps, and the breaks. `facts` are one deployment's, oldest first."""
    going, spans = _Walk(), list[Span]()
    was, since, by = Was.PLANNED, None, None
    for fact in facts:
        if fact.at >= until:
            break
        going.step(fact)
        if since is None:
            was, since, by = going.now, fact.at, going.answered
        elif (going.now, going.answered) != (was, by):
            if fact.at > since:
                spans.append(Span(was, since, fact.at, by))
            was, since, by = going.now, max(fact.at, since), going.answered
    if since is not None and until > since:
        spans.append(Span(was, since, until, by))
    return spans, going.breaks


def facts_of(
    deployments: Collection[UUID], *, since: datetime, until: datetime
) -> Iterator[tuple[UUID, list[Fact]]]:
    """Each deployment's Events that matter for a window, oldest first; one query.

    All that people asked for, all states of machines that were not over before `since`, and those of the last
    `LOOK_BACK` before it.
    """
    standing = Q(instance__ended_at=None) | Q(instance__ended_at__gte=since)
    matters = Q(kind__in=INTENTS) | (Q(kind="state") & (Q(at__gte=since - LOOK_BACK) | standing))
    rows = (
        Event.objects.filter(matters, deployment__in=deployments, at__lt=until)
        .order_by("deployment_id", "at", "pk")
        .values_list("deployment_id", "at", "kind", "instance_id", "to_state", "reason")
    )
    mine: list[Fact] = []
    current: UUID | None = None
    for deployment, at, kind, instance, to, reason in rows.iterator(chunk_size=5000):
        if deployment != current and current is not None:
            yield current, mine
            mine = []
        current = deployment
        mine.append(Fact(at, kind, instance, to, reason))
    if current is not None:
        yield current, mine


def facts_of_one(deployment: UUID, *, since: datetime, until: datetime) -> list[Fact]:
    """One deployment's, as `facts_of` says."""
    return next((facts for _, facts in facts_of([deployment], since=since, until=until)), [])


def spans_of(deployment: UUID, *, since: datetime, until: datetime) -> list[Span]:
    """One deployment's spans within a window."""
    return walk(facts_of_one(deployment, since=since, until=until), until=until)[0]


@dataclass(frozen=True, slots=True)
class Uptime:
    """How long it was up and down; what was planned is left out."""

    up: timedelta = ZERO
    down: timedelta = ZERO

    @property
    def counted(self) -> timedelta:
        return self.up + self.down

    @property
    def share(self) -> float | None:
        """0 to 1; None where nothing was promised."""
        return self.up / self.counted if self.counted else None

    def __add__(self, other: Uptime) -> Uptime:
        return Uptime(self.up + other.up, self.down + other.down)


def uptime(spans: Iterable[Span], start: datetime, end: datetime) -> Uptime:
    """Of the window from `start` to `end`."""
    up = down = ZERO
    for span in spans:
        if span.was is Was.UP:
            up += span.within(start, end)
        elif span.was is Was.DOWN:
            down += span.within(start, end)
    return Uptime(up, down)


@dataclass(frozen=True, slots=True)
class ErrorBudget:
    """How much downtime a goal leaves in a window, and what is used of it."""

    allowed: timedelta
    used: timedelta

    @property
    def left(self) -> timedelta:
        """Negative once the goal is missed."""
        return self.allowed - self.used

    @property
    def spent(self) -> bool:
        return self.used > self.allowed


def error_budget(seen: Uptime, slo_percent: Decimal, *, ahead: timedelta = ZERO) -> ErrorBudget:
    """What the goal leaves of the time that counted, and of `ahead`: the rest of the window, if it is wanted on."""
    share = float((100 - slo_percent) / 100)
    return ErrorBudget((seen.counted + ahead) * share, seen.down)
