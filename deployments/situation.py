"""What `decide` is told of a deployment, and what it answers: plain values. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from uuid import UUID

from deployments.lifecycle import Desired, State
from deployments.schedule import Edge


@dataclass(frozen=True, slots=True)
class Seen:
    """One instance as its row and the last lists and probes tell it."""

    id: UUID
    state: State
    since: datetime
    create_sent_at: datetime | None = None
    remote_id: str = ""
    observed: str = ""
    """A MachineStatus, empty before the first sight."""
    missing_lists: int = 0
    missing_since: datetime | None = None
    gone_after: timedelta = timedelta()
    """How long it must be missing, besides, before it counts as gone without our asking."""
    creates_blocked: str = ""
    """Why nothing may be rented at its account now (revoked key, frozen list, no key); empty: it may."""
    held: bool = False
    """The breaker of its account's creates is open, or another create on the same offer is under way."""
    switched_off: bool = False
    """Its account is switched off."""
    duplicates: tuple[str, ...] = ()
    endpoint: bool = False
    probe_ok: bool = False
    """The last probe succeeded."""
    probe_seen: bool = False
    """The server answered at all (loading counts)."""
    probe_failures: int = 0
    probe_flaps: bool = False
    """Too many of the last probes failed, though not in a row."""
    probe_steady: bool = True
    """The last probes succeeded, and enough of those before."""
    answered_at: datetime | None = None
    """The last probe that succeeded."""
    canary: str = ""
    """Why the last canaries count as failed; empty: they do not."""
    canary_silent: bool = False
    """Not one token came of the last canary."""
    end_tried_at: datetime | None = None
    end_asked_at: datetime | None = None
    end_tries: int = 0
    stop_asked_at: datetime | None = None
    spared_until: datetime | None = None
    refused: str = ""
    """Why the residency guard refuses where the machine really stands; empty: it does not."""
    can_stop: bool = True
    start_timeout: timedelta = timedelta(minutes=30)
    phase_timeouts: Mapping[str, float] = field(default_factory=dict)
    """Seconds that a state on the way to Ready may last, by its value."""
    outdated: bool = False
    """The deployment's settings changed in a way that a running machine cannot take."""
    adopted: bool = False
    """A machine nobody asked for that somebody adopted: it is kept, and never ended but by hand."""
    bid: Decimal | None = None
    min_bid: Decimal | None = None
    bid_ceiling: Decimal | None = None
    bid_changed_at: datetime | None = None
    starts: int = 0
    """Starts within the last hour, counted while it ought to come up and stands still."""
    failure: str = ""
    """What the machine itself says that it failed of; empty: it does not."""
    drift: str = ""
    mend_wanted: bool = False
    """Somebody asked to put back what the provider changed by itself."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """The deployment's side."""

    desired: Desired
    stop_at: datetime | None = None
    retry_at: datetime | None = None
    attempts_last_hour: int = 0
    """Those that came to something; a definite no is counted by itself."""
    max_attempts: int = 4
    budget_stop: str = ""
    """Why the budget's hard stop holds now; empty: it does not."""
    noes: int = 0
    """How many of the newest attempts in a row were refused by their provider, within the hour."""
    plan_b: int = 3
    """How many next-best offers are tried after a definite no."""
    bid_policy: str = "wait"
    """What is done when it is outbid: wait, raise, move."""
    moved: bool = False
    """It moved away from a higher bid within the last hour already."""
    adopted: bool = False
    delete_at: datetime | None = None
    edge: Edge | None = None
    """The newest edge of its schedule that was not carried out yet."""
    next_edge_at: datetime | None = None
    """When its schedule has its next edge."""


@dataclass(frozen=True, slots=True)
class Action:
    """One thing to do. `instance` is None for what concerns the deployment as a whole."""

    instance: UUID | None = None
    reason: str = ""


class Create(Action):
    """Send the one create request."""


class NewAttempt(Action):
    """Insert the next instance, on the best offer that is left."""


class Alert(Action):
    """Tell somebody: the bound of relaunches is reached."""


@dataclass(frozen=True, slots=True)
class SetDesired(Action):
    """A date or the budget changes what is wanted."""

    desired: Desired = Desired.STOPPED


@dataclass(frozen=True, slots=True)
class TakeEdge(Action):
    """The schedule starts or stops the deployment, once."""

    edge: Edge | None = None


class Stop(Action):
    """Ask the provider to stop the machine."""


class Start(Action):
    """Ask the provider to start the stopped machine."""


class BeginEnd(Action):
    """Give the machine back: its work is done, or it is not wanted any more."""


class BeginFail(Action):
    """Give the machine back because it failed; it ends as Failed."""


class Expel(BeginFail):
    """Give the machine back: it stands where it may not."""


@dataclass(frozen=True, slots=True)
class RaiseBid(Action):
    """Bid more on an outbid machine's compute, USD per hour."""

    usd: Decimal = Decimal(0)


class Mend(Action):
    """Ask the provider to put back what it changed by itself."""


class AskEnd(Action):
    """Ring the terminate worker."""


class EndDuplicates(Action):
    """Terminate the extra machines under this instance's label."""


class ConfirmEnd(Action):
    """The provider confirmed that the machine is gone."""


@dataclass(frozen=True, slots=True)
class Advance(Action):
    to: State = State.UNKNOWN


@dataclass(frozen=True, slots=True)
class Decision:
    actions: tuple[Action, ...]
    next_look: timedelta | None
    """None: nothing is left to look at until somebody rings."""
