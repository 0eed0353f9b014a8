"""The states of an instance and the ways between them. Pure.

REQUESTED -> PROVISIONING -> PULLING -> LOADING -> WARMING -> READY <-> DEGRADED
    |             (a machine may skip what its provider does not tell)      |
    +-> UNKNOWN (asked for, and nobody knows whether it exists)             |
    +-> FAILED                                     STOPPING -> STOPPED -> PROVISIONING
READY and what leads there <-> OUTBID (a higher bid holds its GPU; it is kept and comes back by itself)
anything that may exist -> TERMINATING -> TERMINATED (confirmed by the provider)
"""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    REQUESTED = "requested"
    PROVISIONING = "provisioning"
    PULLING = "pulling"
    LOADING = "loading"
    WARMING = "warming"
    READY = "ready"
    DEGRADED = "degraded"
    DRAINING = "draining"
    OUTBID = "outbid"
    STOPPING = "stopping"
    STOPPED = "stopped"
    TERMINATING = "terminating"
    TERMINATED = "terminated"
    FAILED = "failed"
    UNKNOWN = "unknown"

    @property
    def word(self) -> str:
        """What the operator reads."""
        return _WORDS.get(self, self.value.capitalize())


_WORDS = {
    State.PULLING: "Pulling image",
    State.LOADING: "Loading weights",
    State.TERMINATED: "Terminated (confirmed)",
}


class Desired(StrEnum):
    """What the operator wants of a deployment."""

    RUNNING = "running"
    STOPPED = "stopped"
    TERMINATED = "terminated"


STARTING = frozenset({State.PROVISIONING, State.PULLING, State.LOADING, State.WARMING})
"""On the way to Ready, in this order."""
PHASES = (State.REQUESTED, State.PROVISIONING, State.PULLING, State.LOADING, State.WARMING, State.READY)
"""The launch waterfall's rows."""
SERVING = frozenset({State.READY, State.DEGRADED, State.DRAINING})
TERMINAL = frozenset({State.TERMINATED, State.FAILED})
"""Nothing is at the provider and nothing accrues."""
MAY_EXIST = frozenset(State) - TERMINAL - {State.REQUESTED}
"""A machine may stand at the provider: it accrues until the provider confirms that it is gone."""
HELD = frozenset({State.STOPPED, State.OUTBID})
"""Kept without a GPU: no compute bills, a disk may go on."""
COMPUTE_BILLS = MAY_EXIST - HELD

_EXIT = frozenset({State.TERMINATING, State.TERMINATED, State.UNKNOWN})
_GOING = STARTING | {State.READY, State.DEGRADED, State.DRAINING}

TRANSITIONS: dict[State, frozenset[State]] = {
    State.REQUESTED: frozenset({State.PROVISIONING, State.UNKNOWN, State.FAILED}),
    # Unknown is adopted into any state the machine is found in, or shown to be no machine at all.
    State.UNKNOWN: STARTING | _EXIT | {State.FAILED, *HELD, State.STOPPING} - {State.UNKNOWN},
    **{s: (_GOING - {s}) | _EXIT | {State.STOPPING, State.FAILED, *HELD} for s in _GOING},
    State.OUTBID: _EXIT | STARTING | {State.FAILED, State.STOPPING, State.STOPPED},
    State.STOPPING: _EXIT | {State.STOPPED, State.FAILED} | STARTING,
    State.STOPPED: _EXIT | STARTING | {State.FAILED, State.STOPPING},
    State.TERMINATING: frozenset({State.TERMINATED, State.FAILED}),
    # A failed attempt whose machine shows up late is given back (reliability.md, fault 5).
    State.FAILED: frozenset({State.TERMINATING, State.TERMINATED}),
    State.TERMINATED: frozenset({State.TERMINATING}),
}


def may_advance(before: State, after: State) -> bool:
    """Whether `after` may follow `before`."""
    return after in TRANSITIONS[before]
