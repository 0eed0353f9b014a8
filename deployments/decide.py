"""What to do next for a deployment: a pure function of desired, observed, budget and clock.

It reads no database and calls nobody. `reconcile.step` loads the facts, asks `decide`, acts and applies.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

from deployments import bids, damping
from deployments.lifecycle import SERVING, STARTING, TERMINAL, Desired, State
from deployments.providers.base import MachineStatus
from deployments.situation import (
    Action,
    Advance,
    Alert,
    AskEnd,
    BeginEnd,
    BeginFail,
    ConfirmEnd,
    Create,
    Decision,
    EndDuplicates,
    Expel,
    Mend,
    NewAttempt,
    RaiseBid,
    Seen,
    SetDesired,
    Start,
    Stop,
    TakeEdge,
    Wanted,
)

__all__ = [
    "Action",
    "Advance",
    "Alert",
    "AskEnd",
    "BeginEnd",
    "BeginFail",
    "ConfirmEnd",
    "Create",
    "Decision",
    "EndDuplicates",
    "Expel",
    "Mend",
    "NewAttempt",
    "RaiseBid",
    "Seen",
    "SetDesired",
    "Start",
    "Stop",
    "TakeEdge",
    "Wanted",
    "backoff",
    "decide",
]

LISTS_THAT_PROVE = 2
"""Complete lists in a row without a machine, before it counts as gone."""
PROBE_FAILURES_TO_DEGRADE = 2
DEGRADED_LIMIT = timedelta(minutes=3)
"""An endpoint that stays dead for this long while its machine runs is given back and replaced."""
SILENT_LIMIT = timedelta(minutes=10)
"""One that answers probes but gives no token for this long is, too. One that answers wrongly is not: another machine
with the same model may say the same."""
START_TRIES = 3
"""Starts within an hour that a machine may sleep through before it gives way to the next offer."""
STOP_AGAIN_AFTER = timedelta(seconds=30)
STOP_BACKOFF_LIMIT = timedelta(minutes=5)
"""A stop that does not take is asked again after 30 s, then ever more seldom, at this distance at the most."""
END_AGAIN_AFTER = timedelta(seconds=30)
"""A terminate that was taken but whose machine is still listed is asked again after this."""
REQUEST_LIMIT = timedelta(minutes=10)
"""An attempt that could not be sent for this long gives way to the next offer."""
GONE_AFTER = timedelta(minutes=2)
"""A rented machine that we are not ending is missing for this long before it counts as gone."""
END_BACKOFF_LIMIT = timedelta(minutes=1)
PAGE_AFTER = timedelta(minutes=5)
"""A machine that cannot be ended for this long pages someone."""

SOON = timedelta(seconds=0.3)
MOVING = timedelta(seconds=1)
STEADY = timedelta(seconds=20)
WAITING = timedelta(seconds=5)
FAR = timedelta(minutes=10)
"""What waits for its next edge or date is looked at this often all the same."""


def decide(wanted: Wanted, instances: Sequence[Seen], *, now: datetime) -> Decision:
    """The actions of this look, at most one for each instance, and when to look again."""
    turn = _turn(wanted, now=now)
    if turn:
        return Decision((turn,), SOON)
    live = [i for i in instances if not _is_over(i)]
    newest = live[-1] if live else None
    actions = [a for i in live for a in _for_instance(wanted, i, superseded=i is not newest, now=now)]
    if not live and wanted.desired is Desired.RUNNING and not wanted.adopted:
        decision = _relaunch(wanted, now=now)
    else:
        # Giving back comes first: nothing that another act waits for may stand before it.
        actions.sort(key=lambda a: not isinstance(a, _GIVES_BACK))
        decision = Decision(tuple(actions), _next_look(live, actions, now=now))
    return Decision(decision.actions, _not_past(decision.next_look, wanted, now=now))


_GIVES_BACK = (BeginEnd, BeginFail, AskEnd, EndDuplicates, ConfirmEnd)


def _is_over(i: Seen) -> bool:
    # A machine that shows up after its attempt was over is not over: it bills, and is given back.
    return i.state in TERMINAL and not i.observed and not i.duplicates


def _turn(wanted: Wanted, *, now: datetime) -> Action | None:
    """What a date, the schedule or the budget changes of what is wanted."""
    if wanted.desired is Desired.TERMINATED:
        return None
    if wanted.delete_at and now >= wanted.delete_at:
        return SetDesired(reason="The delete date has come.", desired=Desired.TERMINATED)
    if wanted.edge:
        return TakeEdge(edge=wanted.edge)
    if wanted.desired is not Desired.RUNNING:
        return None
    past = wanted.stop_at and now >= wanted.stop_at
    reason = "The stop date has come." if past else wanted.budget_stop
    return SetDesired(reason=reason) if reason else None


def _not_past(wait: timedelta | None, wanted: Wanted, *, now: datetime) -> timedelta | None:
    """The next look, at the latest when the next date or edge comes."""
    dates = [wanted.delete_at, wanted.next_edge_at]
    if wanted.desired is Desired.RUNNING:
        dates.append(wanted.stop_at)
    ahead = [at - now for at in dates if at and at > now]
    if wanted.desired is Desired.TERMINATED or not ahead:
        return wait
    return min([FAR, *ahead, *([] if wait is None else [wait])])


def _for_instance(wanted: Wanted, i: Seen, *, superseded: bool, now: datetime) -> Iterator[Action]:
    if i.duplicates:
        yield EndDuplicates(i.id, "more than one machine under one label: the oldest stays")
    if i.mend_wanted and wanted.desired is Desired.RUNNING and i.state not in {State.TERMINATING, *TERMINAL}:
        yield Mend(i.id)
    action = _one(wanted, i, superseded=superseded, now=now)
    if action:
        yield action


def _one(wanted: Wanted, i: Seen, *, superseded: bool, now: datetime) -> Action | None:
    running = wanted.desired is Desired.RUNNING and not superseded
    if i.state is State.REQUESTED:
        return _requested(i, running=running, now=now)
    if i.state in TERMINAL:
        return (
            BeginEnd(i.id, "it showed up at the provider after the attempt was over") if i.observed else None
        )
    if i.state is State.UNKNOWN and not i.remote_id:
        if i.missing_lists >= LISTS_THAT_PROVE:
            return Advance(i.id, "the provider's lists do not have it: nothing was rented", State.FAILED)
        return None
    if i.state is State.TERMINATING:
        return _ending(i, now=now)
    if _is_gone(i, now=now):
        return ConfirmEnd(i.id, "it is gone from the provider, and not by us")
    if i.spared_until and timedelta() < i.spared_until - now <= timedelta(hours=1):
        return (
            Advance(i.id, "found under our label", State.PROVISIONING) if i.state is State.UNKNOWN else None
        )
    if wanted.desired is Desired.TERMINATED or superseded:
        return BeginEnd(i.id, "replaced by a newer attempt" if superseded else "terminate was asked for")
    if i.adopted and running:
        return _adopted(i)
    if i.refused:
        return Expel(i.id, i.refused)
    if i.outdated:
        return BeginEnd(i.id, "its settings changed")
    if running:
        return _towards_running(wanted, i, now=now)
    return _towards_stopped(i, now=now)


def _is_gone(i: Seen, *, now: datetime) -> bool:
    """Gone without our asking: lists alone may be wrong together, so time must have passed as well."""
    if i.missing_lists < LISTS_THAT_PROVE:
        return False
    return not i.gone_after or (i.missing_since is not None and now - i.missing_since >= i.gone_after)


def _requested(i: Seen, *, running: bool, now: datetime) -> Action | None:
    if i.create_sent_at:
        # We hold the lease and the mark stands: whoever sent the request is gone, so nobody knows its answer.
        return Advance(i.id, "the request was sent and its answer was lost", State.UNKNOWN)
    if not running:
        return Advance(i.id, "no longer wanted before it was asked for", State.FAILED)
    if i.outdated:
        return Advance(i.id, "its settings changed before it was asked for", State.FAILED)
    if i.switched_off:
        return Advance(i.id, "its account is switched off", State.FAILED)
    if now - i.since > REQUEST_LIMIT:
        return Advance(i.id, "the provider could not be asked for it", State.FAILED)
    return None if i.creates_blocked or i.held else Create(i.id)


def _ending(i: Seen, *, now: datetime) -> Action | None:
    if i.missing_lists >= LISTS_THAT_PROVE:
        return ConfirmEnd(i.id, "confirmed: absent from two complete lists")
    if i.end_tried_at is None:
        return AskEnd(i.id)
    if i.end_asked_at and i.end_asked_at >= i.end_tried_at:
        wait = END_AGAIN_AFTER
    else:
        wait = min(END_BACKOFF_LIMIT, timedelta(seconds=2 ** min(i.end_tries, 6)))
    # A clock that was set back must not put the next try off.
    return AskEnd(i.id) if not timedelta() <= now - i.end_tried_at < wait else None


def _towards_stopped(i: Seen, *, now: datetime) -> Action | None:
    if i.state is State.STOPPED:
        runs = i.observed in {MachineStatus.PENDING, MachineStatus.PULLING, MachineStatus.RUNNING}
        return Stop(i.id, "it runs and is not wanted") if runs else None
    if not i.can_stop:
        return BeginEnd(i.id, "stopped; this provider cannot keep a stopped machine")
    if i.state is State.STOPPING:
        if i.observed in _AT_REST:
            return Advance(i.id, "the provider stopped it", State.STOPPED)
        if i.observed == MachineStatus.EXITED:
            return BeginFail(i.id, "it ended by itself while stopping")
        return Stop(i.id) if _stop_again(i, now=now) else None
    return Stop(i.id)


_AT_REST = {MachineStatus.STOPPED, MachineStatus.OUTBID}
"""What was asked to stop, and a higher bid stopped first, is stopped."""


def _stop_again(i: Seen, *, now: datetime) -> bool:
    """Each time it is asked after as long again as it has been asked for already, within the two limits."""
    if i.stop_asked_at is None:
        return True
    wait = min(STOP_BACKOFF_LIMIT, max(STOP_AGAIN_AFTER, i.stop_asked_at - i.since))
    return not timedelta() <= now - i.stop_asked_at < wait


def _adopted(i: Seen) -> Action | None:
    """It is kept as it is: how far it got is shown, and nothing is done about it."""
    if i.state is State.OUTBID:
        back = i.observed != MachineStatus.OUTBID
        return Advance(i.id, "it is back", State.PROVISIONING) if back else None
    if i.observed == MachineStatus.OUTBID and i.state in {*STARTING, *SERVING, State.UNKNOWN}:
        return Advance(i.id, "a higher bid holds its GPU", State.OUTBID)
    if i.state in STARTING or i.state is State.UNKNOWN:
        phase = _phase(i)
        return Advance(i.id, _PHASE_REASONS[phase], phase) if phase is not i.state else None
    if i.state is State.STOPPED:
        return Start(i.id)
    if i.state is State.STOPPING and i.observed == MachineStatus.RUNNING:
        return Advance(i.id, "it runs, and it is kept", State.LOADING)
    return None


def _towards_running(wanted: Wanted, i: Seen, *, now: datetime) -> Action | None:
    if i.failure and i.state in _SAY_FAILURES:
        return BeginFail(i.id, i.failure)
    if i.observed == MachineStatus.EXITED:
        if i.state is State.READY:
            return Advance(i.id, "the engine ended by itself", State.DEGRADED)
        return BeginFail(i.id, "the engine ended by itself")
    if i.state is State.STOPPED or (i.state is State.STOPPING and i.observed in _AT_REST):
        return Start(i.id)
    if i.state is State.OUTBID:
        return _outbid(wanted, i, now=now)
    if i.observed == MachineStatus.OUTBID and not _just_started(i, now=now):
        return Advance(i.id, "a higher bid holds its GPU", State.OUTBID)
    if i.drift and (i.state in SERVING or i.observed == MachineStatus.STOPPED):
        # The provider changed it by itself: that is shown, and mended by a click.
        return _drifted(i)
    if i.state in SERVING and i.observed == MachineStatus.STOPPED:
        return Start(i.id, "the provider stopped it, not we")
    if i.state is State.STOPPING:
        asked = i.stop_asked_at or i.since
        if i.observed == MachineStatus.RUNNING and not timedelta() <= now - asked < STOP_AGAIN_AFTER:
            return Advance(i.id, "the stop did not take, and it is wanted again", State.LOADING)
        return None
    if i.state in STARTING and i.observed == MachineStatus.STOPPED and now - i.since > STOP_AGAIN_AFTER:
        if i.starts >= START_TRIES:
            return BeginFail(i.id, f"it was started {i.starts} times within an hour and did not come up")
        return Start(i.id, "it did not start")
    if i.state in STARTING or i.state is State.UNKNOWN:
        return _starting(i, now=now)
    return _serving(i, now=now)


_SAY_FAILURES = STARTING | {State.READY, State.DEGRADED, State.UNKNOWN}
"""Where a failure is this life's own: what rests begins anew when it starts."""


def _just_started(i: Seen, *, now: datetime) -> bool:
    """A bid that was stopped reads like one that was outbid, and a list may be older than the start."""
    return i.state is State.PROVISIONING and timedelta() <= now - i.since < STOP_AGAIN_AFTER


def _outbid(wanted: Wanted, i: Seen, *, now: datetime) -> Action | None:
    """By policy: raise the bid, move to another offer, or wait until it comes back."""
    if i.observed == MachineStatus.STOPPED:
        return Start(i.id, "it is kept, and nobody bids more any longer")
    if i.observed != MachineStatus.OUTBID:
        return Advance(i.id, "it is back", State.PROVISIONING)
    if wanted.bid_policy == "move" and not wanted.moved:
        return BeginFail(i.id, bids.MOVED)
    if wanted.bid_policy == "raise":
        bid = bids.higher(i.bid, i.min_bid, i.bid_ceiling, i.bid_changed_at, now=now)
        return RaiseBid(i.id, "it was outbid", bid) if bid is not None else None
    return None


def _drifted(i: Seen) -> Action | None:
    if i.state is State.READY and _fails(i):
        return Advance(i.id, i.drift, State.DEGRADED)
    if i.state is State.DEGRADED and _is_well(i):
        return Advance(i.id, "it answers again", State.READY)
    return None


def _starting(i: Seen, *, now: datetime) -> Action | None:
    phase = _phase(i)
    if phase is not i.state:
        return Advance(i.id, _PHASE_REASONS[phase], phase)
    limit = i.start_timeout
    if i.state.value in i.phase_timeouts:
        limit = min(limit, timedelta(seconds=i.phase_timeouts[i.state.value]))
    if now - i.since > limit:
        return BeginFail(i.id, f"stuck: {i.state.word.lower()} for {_minutes(limit)} minutes")
    return None


def _phase(i: Seen) -> State:
    """How far the machine is. A phase that is reached is not left backwards."""
    if i.probe_ok:
        return State.READY
    if i.observed == MachineStatus.RUNNING:
        reached = State.WARMING if i.probe_seen and i.endpoint else State.LOADING
    elif i.observed == MachineStatus.PULLING:
        reached = State.PULLING
    else:
        reached = State.PROVISIONING
    order = [State.UNKNOWN, State.PROVISIONING, State.PULLING, State.LOADING, State.WARMING]
    return max(reached, i.state, key=order.index)


_PHASE_REASONS = {
    State.PROVISIONING: "the provider has the machine",
    State.PULLING: "the image is being pulled",
    State.LOADING: "the container runs; the engine loads the weights",
    State.WARMING: "the engine answers and warms up",
    State.READY: "it serves the model",
}


def _serving(i: Seen, *, now: datetime) -> Action | None:
    if i.state is State.READY and (why := _fails(i)):
        return Advance(i.id, why, State.DEGRADED)
    if i.state is State.READY and not i.endpoint:
        return Advance(i.id, "it has no address any more", State.DEGRADED)
    if i.state is State.DEGRADED and _is_well(i):
        return Advance(i.id, "it answers again", State.READY)
    if i.state is State.DEGRADED and now - i.since > DEGRADED_LIMIT and _is_dead(i, now=now):
        return BeginFail(i.id, f"its endpoint was dead for {_minutes(DEGRADED_LIMIT)} minutes")
    if i.state is State.DEGRADED and now - i.since > SILENT_LIMIT and i.canary and i.canary_silent:
        return BeginFail(i.id, f"it gave no token for {_minutes(SILENT_LIMIT)} minutes")
    return None


def _fails(i: Seen) -> str:
    """Why it is degraded; empty: it is not."""
    if i.probe_failures >= PROBE_FAILURES_TO_DEGRADE:
        return f"{i.probe_failures} probes in a row failed"
    if i.probe_flaps:
        return f"{damping.PROBES.bad} of the last {damping.PROBES.of} probes failed"
    return i.canary


def _is_well(i: Seen) -> bool:
    return i.endpoint and i.probe_ok and i.probe_steady and not i.canary


def _is_dead(i: Seen, *, now: datetime) -> bool:
    """It did not answer for as long. One that flaps, or is overloaded, is not replaced for that."""
    return not i.probe_ok and (i.answered_at is None or now - i.answered_at > DEGRADED_LIMIT)


def _relaunch(wanted: Wanted, *, now: datetime) -> Decision:
    if wanted.noes > wanted.plan_b:
        reason = f"{wanted.noes} offers in a row said no: waiting for the hour to pass"
        return Decision((Alert(reason=reason),), timedelta(minutes=1))
    if wanted.attempts_last_hour >= wanted.max_attempts:
        reason = f"{wanted.attempts_last_hour} attempts in an hour failed: waiting for the hour to pass"
        return Decision((Alert(reason=reason),), timedelta(minutes=1))
    if wanted.retry_at and timedelta() < wanted.retry_at - now <= timedelta(hours=1):
        return Decision((), wanted.retry_at - now)
    return Decision((NewAttempt(),), SOON)


def backoff(attempts_last_hour: int) -> timedelta:
    """How long to wait before the next attempt: 2 s, doubling, five minutes at most."""
    return timedelta(seconds=min(300, 2 ** min(attempts_last_hour, 9)))


def _next_look(live: Sequence[Seen], actions: Sequence[Action], *, now: datetime) -> timedelta | None:
    if any(not isinstance(a, (AskEnd, EndDuplicates, Mend, RaiseBid)) for a in actions):
        return SOON
    if actions:
        # Only the provider can bring news. What stands twice is asked for its end at this pace, no quicker.
        return MOVING if any(isinstance(a, AskEnd) for a in actions) else WAITING
    if not live:
        return None
    return min(_pace(i, now=now) for i in live)


def _pace(i: Seen, *, now: datetime) -> timedelta:
    if i.spared_until:
        return STEADY
    if i.state in STARTING:
        # Quick at first, so that a fast engine is found ready at once; patient with a slow one.
        return SOON if now - i.since < timedelta(seconds=20) else MOVING * 2
    if i.state in {State.TERMINATING, State.STOPPING}:
        return MOVING if now - i.since < timedelta(minutes=1) else STEADY
    if i.state in {State.UNKNOWN, State.REQUESTED}:
        return WAITING
    if i.state in {State.DEGRADED, State.OUTBID}:
        return WAITING
    return STEADY if i.state is State.READY else STEADY * 4


def _minutes(span: timedelta) -> int:
    return int(span.total_seconds() // 60)
