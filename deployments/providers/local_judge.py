"""What a local machine's files and processes amount to: its status, and the time it ran. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from deployments.providers.base import MachineStatus

Event = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Seen:
    """One look at a machine."""

    events: Sequence[Event] = ()
    state: Mapping[str, Any] | None = None
    """state.json; empty before it was first written, None when it cannot be read."""
    supervisor: bool = False
    """Its supervisor lives: the recorded one or, without a record, one found by label."""
    engine: bool = False
    """The recorded engine process lives."""
    changing: bool = False
    """Somebody holds its lock."""


@dataclass(frozen=True, slots=True)
class Span:
    """Time that is charged, at one price (USD per hour)."""

    start: datetime
    end: datetime
    usd_per_hour: Decimal


def judge(seen: Seen) -> tuple[MachineStatus, str]:
    """The machine's status, and in a few words why."""
    asked = _asked_to_end(seen.events)
    state = seen.state or {}
    phase = str(state.get("phase", ""))
    if seen.engine or (seen.supervisor and phase != "exited"):
        if asked:
            return MachineStatus.STOPPING, "It was asked to end."
        if seen.state is None:
            return MachineStatus.UNKNOWN, "It runs, but its state cannot be read."
        if not seen.supervisor:
            return MachineStatus.RUNNING, "Its supervisor is gone; the engine runs on."
        status = MachineStatus.RUNNING if state.get("port") else MachineStatus.PENDING
        return status, phase or "It is being started."
    if asked == "stop":
        return MachineStatus.STOPPED, ""
    if seen.changing and not _over(seen.events):
        return MachineStatus.PENDING, "It is being started."
    return MachineStatus.EXITED, _how_it_ended(seen.events)


def spans(events: Sequence[Event], *, alive: bool, last_seen: datetime | None, now: datetime) -> list[Span]:
    """The time a machine ran, cut where its price changed.

    A run whose end nobody wrote ends now while it is alive, else at its last heartbeat.
    """
    found: list[Span] = []
    start: datetime | None = None
    rate = Decimal(0)

    def close(at: datetime) -> None:
        # A clock that was set back must not make time that pays.
        if start is not None and at > start:
            found.append(Span(start, at, rate))

    for event in events:
        kind, at = event["event"], event["at"]
        if kind == "started":
            close(at)
            start, rate = at, Decimal(event["usd_per_hour"])
        elif kind == "price" and start is not None:
            close(at)
            start, rate = max(start, at), Decimal(event["usd_per_hour"])
        elif kind == "ended":
            close(at)
            start = None
    if start is not None:
        close(now if alive else last_seen or start)
    return found


def price_of(events: Sequence[Event]) -> Decimal | None:
    """The price that the journal last named, USD per hour; None before the first."""
    for event in reversed(events):
        if event["event"] in {"started", "price"}:
            return Decimal(event["usd_per_hour"])
    return None


def is_open(events: Sequence[Event]) -> bool:
    """Whether the journal's last run has no end yet."""
    marks = [e["event"] for e in events if e["event"] in {"started", "ended"}]
    return bool(marks) and marks[-1] == "started"


def is_unclear(events: Sequence[Event]) -> bool:
    """Whether a process may run that the files do not name: nothing says that the last run is over."""
    return is_open(events) or not events or events[-1]["event"] == "start"


def last_run(events: Sequence[Event]) -> int:
    return max((int(e.get("run", 0)) for e in events), default=0)


def _asked_to_end(events: Sequence[Event]) -> str:
    """ "stop" or "terminate" when that was asked since the last start, else ""."""
    for event in reversed(events):
        if event["event"] in {"stop", "terminate"}:
            return str(event["event"])
        if event["event"] in {"started", "start"}:
            return ""
    return ""


def _over(events: Sequence[Event]) -> bool:
    return bool(events) and events[-1]["event"] == "ended"


def _how_it_ended(events: Sequence[Event]) -> str:
    if _asked_to_end(events) == "terminate":
        return "It has ended and is being given back."
    last = events[-1] if events else None
    if last is None or not any(e["event"] == "started" for e in events):
        return "It was never started: whoever began that was killed."
    if is_open(events):
        return "Its processes are gone, and nobody saw their end."
    return str(next((e.get("detail", "") for e in reversed(events) if e["event"] == "ended"), ""))
