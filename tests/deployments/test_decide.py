"""The decision as a table: every (desired, observed, budget, clock) that matters."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments import bids
from deployments import decide as d
from deployments.decide import Seen, Wanted, decide
from deployments.lifecycle import TERMINAL, TRANSITIONS, Desired, State
from deployments.providers.base import MachineStatus as M
from deployments.schedule import Edge
from tests.conftest import NOW

RUN, STOP, END = Desired.RUNNING, Desired.STOPPED, Desired.TERMINATED
S = timedelta(seconds=1)


def seen(state: State, **facts) -> Seen:
    given_id = {} if state in {State.REQUESTED, State.UNKNOWN} else {"remote_id": "m1"}
    return Seen(id=uuid4(), state=state, since=facts.pop("since", NOW - 5 * S), **{**given_id, **facts})


def names(decision: d.Decision) -> list[str]:
    return [
        f"{type(a).__name__}:{a.to}" if isinstance(a, d.Advance) else type(a).__name__
        for a in decision.actions
    ]


SENT = {"create_sent_at": NOW - 10 * S}
TABLE = [
    # what it is                          desired  the instance                                     what is done
    ("asked for", RUN, seen(State.REQUESTED), ["Create"]),
    ("asked for, creates are blocked", RUN, seen(State.REQUESTED, creates_blocked="key refused"), []),
    ("asked for, its account is switched off", RUN, seen(State.REQUESTED, switched_off=True), ["Advance:failed"]),
    ("asked for, never answered", RUN, seen(State.REQUESTED, since=NOW - timedelta(minutes=11)), ["Advance:failed"]),
    ("asked for, stopped meanwhile", STOP, seen(State.REQUESTED), ["Advance:failed"]),
    ("asked for, terminated meanwhile", END, seen(State.REQUESTED), ["Advance:failed"]),
    ("marked, its worker died", RUN, seen(State.REQUESTED, **SENT), ["Advance:unknown"]),
    ("marked, its worker died, terminated", END, seen(State.REQUESTED, **SENT), ["Advance:unknown"]),
    ("unknown, not listed once", RUN, seen(State.UNKNOWN, missing_lists=1, **SENT), []),
    ("unknown, not listed twice", RUN, seen(State.UNKNOWN, missing_lists=2, **SENT), ["Advance:failed"]),
    ("unknown, terminate asked for", END, seen(State.UNKNOWN, **SENT), []),
    ("unknown, found", RUN, seen(State.UNKNOWN, remote_id="m1", observed=M.PENDING), ["Advance:provisioning"]),
    ("unknown, found running", RUN, seen(State.UNKNOWN, remote_id="m1", observed=M.RUNNING), ["Advance:loading"]),
    ("unknown, found, terminated", END, seen(State.UNKNOWN, remote_id="m1", observed=M.PENDING), ["BeginEnd"]),
    ("unknown, found twice", RUN, seen(State.UNKNOWN, remote_id="m1", observed=M.PENDING, duplicates=("m2",)), ["EndDuplicates", "Advance:provisioning"]),
    ("provisioning", RUN, seen(State.PROVISIONING, observed=M.PENDING), []),
    ("pulling", RUN, seen(State.PROVISIONING, observed=M.PULLING), ["Advance:pulling"]),
    ("container runs", RUN, seen(State.PULLING, observed=M.RUNNING), ["Advance:loading"]),
    ("engine answers 503", RUN, seen(State.LOADING, observed=M.RUNNING, endpoint=True, probe_seen=True), ["Advance:warming"]),
    ("engine ready", RUN, seen(State.LOADING, observed=M.RUNNING, endpoint=True, probe_seen=True, probe_ok=True), ["Advance:ready"]),
    ("a phase is not left backwards", RUN, seen(State.WARMING, observed=M.PULLING), []),
    ("stuck", RUN, seen(State.PULLING, observed=M.PULLING, since=NOW - timedelta(minutes=31)), ["BeginFail"]),
    ("exited while loading", RUN, seen(State.LOADING, observed=M.EXITED), ["BeginFail"]),
    ("loading, and it says why it failed", RUN, seen(State.LOADING, observed=M.RUNNING, failure="code 70: x"), ["BeginFail"]),
    ("provisioning, and it says why it failed", RUN, seen(State.PROVISIONING, observed=M.PENDING, failure="code 66: x"), ["BeginFail"]),
    ("ready, and it says why it failed", RUN, seen(State.READY, observed=M.RUNNING, endpoint=True, failure="code 71: x"), ["BeginFail"]),
    ("ready, it said why it failed, and exited", RUN, seen(State.READY, observed=M.EXITED, endpoint=True, failure="code 71: x"), ["BeginFail"]),
    ("degraded, and it says why it failed", RUN, seen(State.DEGRADED, observed=M.RUNNING, endpoint=True, failure="code 71: x"), ["BeginFail"]),
    ("unknown, and it says why it failed", RUN, seen(State.UNKNOWN, remote_id="m1", observed=M.RUNNING, failure="code 70: x"), ["BeginFail"]),
    ("failed, and not wanted", STOP, seen(State.READY, observed=M.RUNNING, endpoint=True, failure="code 71: x"), ["Stop"]),
    ("failed, terminate", END, seen(State.READY, observed=M.RUNNING, endpoint=True, failure="code 71: x"), ["BeginEnd"]),
    ("stopped, its failure is of a former life", RUN, seen(State.STOPPED, observed=M.STOPPED, failure="code 71: x"), ["Start"]),
    ("outbid, its failure is of a former life", RUN, seen(State.OUTBID, observed=M.OUTBID, failure="code 71: x"), []),
    ("terminating, its failure changes nothing", RUN, seen(State.TERMINATING, end_tried_at=NOW, failure="code 71: x"), []),
    ("adopted, and it says why it failed", RUN, seen(State.LOADING, observed=M.RUNNING, adopted=True, failure="code 70: x"), []),
    ("starting, terminate", END, seen(State.PULLING, observed=M.PULLING), ["BeginEnd"]),
    ("starting, stop", STOP, seen(State.LOADING, observed=M.RUNNING), ["Stop"]),
    ("ready", RUN, seen(State.READY, observed=M.RUNNING, endpoint=True, probe_ok=True), []),
    ("one probe failed", RUN, seen(State.READY, observed=M.RUNNING, endpoint=True, probe_failures=1), []),
    ("two probes failed", RUN, seen(State.READY, observed=M.RUNNING, endpoint=True, probe_failures=2), ["Advance:degraded"]),
    ("engine killed", RUN, seen(State.READY, observed=M.EXITED), ["Advance:degraded"]),
    ("engine killed, then", RUN, seen(State.DEGRADED, observed=M.EXITED), ["BeginFail"]),
    ("too many of the last probes failed", RUN, seen(State.READY, observed=M.RUNNING, endpoint=True, probe_ok=True, probe_flaps=True), ["Advance:degraded"]),
    ("the canary failed", RUN, seen(State.READY, observed=M.RUNNING, endpoint=True, probe_ok=True, canary="2 of 3"), ["Advance:degraded"]),
    ("answers again, not yet steadily", RUN, seen(State.DEGRADED, observed=M.RUNNING, endpoint=True, probe_ok=True, probe_steady=False), []),
    ("answers probes, not the canary", RUN, seen(State.DEGRADED, observed=M.RUNNING, endpoint=True, probe_ok=True, canary="2 of 3"), []),
    ("no token for long", RUN, seen(State.DEGRADED, observed=M.RUNNING, endpoint=True, probe_ok=True, canary="2 of 3", canary_silent=True, since=NOW - timedelta(minutes=11)), ["BeginFail"]),
    ("wrong answers for long", RUN, seen(State.DEGRADED, observed=M.RUNNING, endpoint=True, probe_ok=True, canary="2 of 3", since=NOW - timedelta(hours=9)), []),
    ("flaps for long", RUN, seen(State.DEGRADED, observed=M.RUNNING, endpoint=True, probe_failures=1, answered_at=NOW - timedelta(minutes=2), since=NOW - timedelta(hours=9)), []),
    ("answers again", RUN, seen(State.DEGRADED, observed=M.RUNNING, endpoint=True, probe_ok=True), ["Advance:ready"]),
    ("dead for long", RUN, seen(State.DEGRADED, observed=M.RUNNING, endpoint=True, probe_failures=9, since=NOW - timedelta(minutes=4)), ["BeginFail"]),
    ("ready, missing once", RUN, seen(State.READY, observed=M.RUNNING, endpoint=True, missing_lists=1, probe_ok=True), []),
    ("ready, destroyed elsewhere", RUN, seen(State.READY, observed=M.RUNNING, endpoint=True, missing_lists=2), ["ConfirmEnd"]),
    ("ready, missing twice, a moment ago", RUN, seen(State.READY, missing_lists=2, missing_since=NOW - 9 * S, gone_after=60 * S, observed=M.RUNNING, endpoint=True), []),
    ("ready, missing twice, for long", RUN, seen(State.READY, missing_lists=2, missing_since=NOW - 61 * S, gone_after=60 * S), ["ConfirmEnd"]),
    ("ready, its address is gone", RUN, seen(State.READY, observed=M.PENDING, probe_ok=True), ["Advance:degraded"]),
    ("degraded, its address is gone", RUN, seen(State.DEGRADED, observed=M.PENDING, probe_ok=True), []),
    ("stopped, and it runs", STOP, seen(State.STOPPED, observed=M.RUNNING), ["Stop"]),
    ("stopping, wanted again", RUN, seen(State.STOPPING, observed=M.RUNNING, stop_asked_at=NOW - 5 * S), []),
    ("stopping, wanted again, the stop did not take", RUN, seen(State.STOPPING, observed=M.RUNNING, stop_asked_at=NOW - 31 * S), ["Advance:loading"]),
    ("started, still stopped", RUN, seen(State.PROVISIONING, observed=M.STOPPED), []),
    ("started, still stopped for long", RUN, seen(State.PROVISIONING, observed=M.STOPPED, since=NOW - 31 * S), ["Start"]),
    ("ready, wrong country", RUN, seen(State.READY, observed=M.RUNNING, endpoint=True, refused="US is outside the EEA."), ["Expel"]),
    ("ready, stop", STOP, seen(State.READY, observed=M.RUNNING, endpoint=True), ["Stop"]),
    ("ready, stop, cannot", STOP, seen(State.READY, observed=M.RUNNING, endpoint=True, can_stop=False), ["BeginEnd"]),
    ("ready, terminate", END, seen(State.READY, observed=M.RUNNING, endpoint=True), ["BeginEnd"]),
    ("stopped by the provider", RUN, seen(State.READY, observed=M.STOPPED), ["Start"]),
    ("stopping", STOP, seen(State.STOPPING, observed=M.RUNNING, stop_asked_at=NOW - 5 * S), []),
    ("stopping, asked long ago", STOP, seen(State.STOPPING, observed=M.RUNNING, stop_asked_at=NOW - 40 * S), ["Stop"]),
    ("stopping, done", STOP, seen(State.STOPPING, observed=M.STOPPED), ["Advance:stopped"]),
    ("stopped", STOP, seen(State.STOPPED, observed=M.STOPPED), []),
    ("stopped, start", RUN, seen(State.STOPPED, observed=M.STOPPED), ["Start"]),
    ("stopped, terminate", END, seen(State.STOPPED, observed=M.STOPPED), ["BeginEnd"]),
    ("stopped, destroyed elsewhere", STOP, seen(State.STOPPED, missing_lists=2), ["ConfirmEnd"]),
    ("terminating", END, seen(State.TERMINATING), ["AskEnd"]),
    ("terminating, asked", END, seen(State.TERMINATING, end_tried_at=NOW - 5 * S, end_asked_at=NOW - 5 * S), []),
    ("terminating, still listed", END, seen(State.TERMINATING, end_tried_at=NOW - 31 * S, end_asked_at=NOW - 31 * S), ["AskEnd"]),
    ("terminating, refused just now", END, seen(State.TERMINATING, end_tried_at=NOW - 1 * S, end_tries=3), []),
    ("terminating, refused for hours", END, seen(State.TERMINATING, end_tried_at=NOW - 61 * S, end_tries=400), ["AskEnd"]),
    ("terminating, the clock was set back", END, seen(State.TERMINATING, end_tried_at=NOW + 7200 * S, end_tries=1), ["AskEnd"]),
    ("terminating, missing once", END, seen(State.TERMINATING, missing_lists=1, end_tried_at=NOW), []),
    ("terminating, missing twice", END, seen(State.TERMINATING, missing_lists=2), ["ConfirmEnd"]),
    ("terminating is not undone by start", RUN, seen(State.TERMINATING, end_tried_at=NOW), []),
    ("over", END, seen(State.TERMINATED), []),
    ("failed, shows up late", RUN, seen(State.FAILED, observed=M.RUNNING), ["BeginEnd"]),
    ("terminated, back in the list", END, seen(State.TERMINATED, observed=M.RUNNING), ["BeginEnd"]),
    ("asked for, the breaker holds", RUN, seen(State.REQUESTED, held=True), []),
    ("asked for, settings changed", RUN, seen(State.REQUESTED, outdated=True), ["Advance:failed"]),
    ("marked, settings changed", RUN, seen(State.REQUESTED, outdated=True, **SENT), ["Advance:unknown"]),
    ("ready, settings changed", RUN, seen(State.READY, observed=M.RUNNING, endpoint=True, outdated=True), ["BeginEnd"]),
    ("stopped, settings changed", STOP, seen(State.STOPPED, observed=M.STOPPED, outdated=True), ["BeginEnd"]),
    ("a phase is overrun", RUN, seen(State.PULLING, observed=M.PULLING, since=NOW - timedelta(minutes=6), phase_timeouts={"pulling": 300.0}), ["BeginFail"]),
    ("another phase's limit does not count", RUN, seen(State.LOADING, observed=M.RUNNING, since=NOW - timedelta(minutes=6), phase_timeouts={"pulling": 300.0}), []),
    ("a phase's limit is never longer than the start's", RUN, seen(State.PULLING, observed=M.PULLING, since=NOW - timedelta(minutes=31), phase_timeouts={"pulling": 9999.0}), ["BeginFail"]),
    ("ready, outbid", RUN, seen(State.READY, observed=M.OUTBID, endpoint=True), ["Advance:outbid"]),
    ("loading, outbid", RUN, seen(State.LOADING, observed=M.OUTBID), ["Advance:outbid"]),
    ("outbid", RUN, seen(State.OUTBID, observed=M.OUTBID), []),
    ("outbid, back", RUN, seen(State.OUTBID, observed=M.RUNNING), ["Advance:provisioning"]),
    ("outbid, no heartbeat: assume that it bills", RUN, seen(State.OUTBID, observed=M.UNKNOWN), ["Advance:provisioning"]),
    ("outbid, now merely stopped", RUN, seen(State.OUTBID, observed=M.STOPPED), ["Start"]),
    ("outbid, stop", STOP, seen(State.OUTBID, observed=M.OUTBID), ["Stop"]),
    ("outbid, terminate", END, seen(State.OUTBID, observed=M.OUTBID), ["BeginEnd"]),
    ("outbid, destroyed elsewhere", RUN, seen(State.OUTBID, missing_lists=2), ["ConfirmEnd"]),
    ("stopping, and outbid meanwhile", STOP, seen(State.STOPPING, observed=M.OUTBID, stop_asked_at=NOW - 1 * S), ["Advance:stopped"]),
    ("stopped, read as outbid", STOP, seen(State.STOPPED, observed=M.OUTBID), []),
    ("stopping, asked twice, not yet again", STOP, seen(State.STOPPING, observed=M.RUNNING, since=NOW - 150 * S, stop_asked_at=NOW - 50 * S), []),
    ("stopping, asked twice, again", STOP, seen(State.STOPPING, observed=M.RUNNING, since=NOW - 150 * S, stop_asked_at=NOW - 101 * S), ["Stop"]),
    ("stopping, for hours: again each five minutes", STOP, seen(State.STOPPING, observed=M.RUNNING, since=NOW - 9000 * S, stop_asked_at=NOW - 301 * S), ["Stop"]),
    ("drifted, does not serve", RUN, seen(State.READY, observed=M.RUNNING, endpoint=True, drift="scaled to 0", probe_failures=2), ["Advance:degraded"]),
    ("drifted, for long: it waits for the click", RUN, seen(State.DEGRADED, observed=M.STOPPED, endpoint=True, drift="scaled to 0", probe_failures=9, since=NOW - timedelta(hours=4)), []),
    ("drifted, to be mended", RUN, seen(State.DEGRADED, observed=M.STOPPED, endpoint=True, drift="scaled to 0", mend_wanted=True), ["Mend"]),
    ("drifted, mended", RUN, seen(State.DEGRADED, observed=M.RUNNING, endpoint=True, probe_ok=True), ["Advance:ready"]),
    ("drifted, stopped: nothing is mended", STOP, seen(State.STOPPED, observed=M.STOPPED, drift="scaled to 0", mend_wanted=True), []),
    ("adopted, runs", RUN, seen(State.PROVISIONING, observed=M.RUNNING, adopted=True), ["Advance:loading"]),
    ("adopted, loads for a day", RUN, seen(State.LOADING, observed=M.RUNNING, adopted=True, since=NOW - timedelta(days=1)), []),
    ("adopted, exited", RUN, seen(State.LOADING, observed=M.EXITED, adopted=True), []),
    ("adopted, stands outside the EEA", RUN, seen(State.LOADING, observed=M.RUNNING, adopted=True, refused="US"), []),
    ("adopted, terminate", END, seen(State.LOADING, observed=M.RUNNING, adopted=True), ["BeginEnd"]),
    ("adopted, gone", RUN, seen(State.LOADING, adopted=True, missing_lists=2), ["ConfirmEnd"]),
    ("found, spared for a while", END, seen(State.UNKNOWN, remote_id="m", observed=M.RUNNING, spared_until=NOW + 60 * S), ["Advance:provisioning"]),
    ("found, still spared", END, seen(State.PROVISIONING, observed=M.RUNNING, spared_until=NOW + 60 * S), []),
    ("found, spared long enough", END, seen(State.PROVISIONING, observed=M.RUNNING, spared_until=NOW - S), ["BeginEnd"]),
]  # fmt: skip


@pytest.mark.parametrize(("what", "desired", "instance", "expected"), TABLE, ids=[row[0] for row in TABLE])
def test_each_situation_has_its_act(what, desired, instance, expected) -> None:
    assert names(decide(Wanted(desired), [instance], now=NOW)) == expected


def test_a_failure_is_the_reason_that_is_given() -> None:
    failed = seen(State.LOADING, observed=M.EXITED, failure="code 70: It died.")
    assert decide(Wanted(RUN), [failed], now=NOW).actions == (d.BeginFail(failed.id, "code 70: It died."),)


HALTS = [
    ("the stop date", Wanted(RUN, stop_at=NOW), ["SetDesired"]),
    ("before the stop date", Wanted(RUN, stop_at=NOW + S), []),
    ("the budget", Wanted(RUN, budget_stop="$0.01 is left"), ["SetDesired"]),
    ("the budget, already stopped", Wanted(STOP, budget_stop="$0.01 is left"), []),
    ("the delete date", Wanted(RUN, delete_at=NOW), ["SetDesired"]),
    ("the delete date of what is stopped", Wanted(STOP, delete_at=NOW), ["SetDesired"]),
    ("before the delete date", Wanted(STOP, delete_at=NOW + S), []),
    ("an edge that starts", Wanted(STOP, edge=Edge(NOW, runs=True)), ["TakeEdge"]),
    ("an edge that stops", Wanted(RUN, edge=Edge(NOW, runs=False)), ["TakeEdge"]),
]


@pytest.mark.parametrize(("what", "wanted", "expected"), HALTS, ids=[row[0] for row in HALTS])
def test_budget_and_stop_date_change_what_is_wanted(what, wanted, expected) -> None:
    state = State.READY if wanted.desired is RUN else State.STOPPED
    observed = M.RUNNING if wanted.desired is RUN else M.STOPPED
    ready = seen(state, observed=observed, probe_ok=True, endpoint=True)
    assert names(decide(wanted, [ready], now=NOW)) == expected


RELAUNCHES = [
    ("nothing there", Wanted(RUN), ["NewAttempt"]),
    ("not before its time", Wanted(RUN, retry_at=NOW + 4 * S, attempts_last_hour=2), []),
    ("its time has come", Wanted(RUN, retry_at=NOW - S, attempts_last_hour=2), ["NewAttempt"]),
    ("the bound is reached", Wanted(RUN, attempts_last_hour=4), ["Alert"]),
    ("nobody wants it", Wanted(STOP), []),
    ("a definite no: the next offer", Wanted(RUN, noes=3, plan_b=3), ["NewAttempt"]),
    ("one no more than plan B has", Wanted(RUN, noes=4, plan_b=3), ["Alert"]),
    ("no plan B", Wanted(RUN, noes=1, plan_b=0), ["Alert"]),
    ("an adopted machine is gone", Wanted(RUN, adopted=True), []),
    ("a retry time from a clock set back", Wanted(RUN, retry_at=NOW + timedelta(hours=3)), ["NewAttempt"]),
]


@pytest.mark.parametrize(("what", "wanted", "expected"), RELAUNCHES, ids=[row[0] for row in RELAUNCHES])
def test_a_failed_attempt_is_replaced_within_bounds(what, wanted, expected) -> None:
    assert names(decide(wanted, [seen(State.FAILED)], now=NOW)) == expected


OUTBID = seen(
    State.OUTBID, observed=M.OUTBID, bid=Decimal("0.20"), min_bid=Decimal("0.25"), bid_ceiling=Decimal("0.30")
)
POLICIES = [
    ("wait", Wanted(RUN, bid_policy="wait"), OUTBID, []),
    ("move", Wanted(RUN, bid_policy="move"), OUTBID, ["BeginFail"]),
    ("moved a moment ago", Wanted(RUN, bid_policy="move", moved=True), OUTBID, []),
    ("raise", Wanted(RUN, bid_policy="raise"), OUTBID, ["RaiseBid"]),
    ("raised a moment ago", Wanted(RUN, bid_policy="raise"), replace(OUTBID, bid_changed_at=NOW - 59 * S), []),
    ("raised a minute ago", Wanted(RUN, bid_policy="raise"), replace(OUTBID, bid_changed_at=NOW - 61 * S), ["RaiseBid"]),
    ("the ceiling is too low", Wanted(RUN, bid_policy="raise"), replace(OUTBID, bid_ceiling=Decimal("0.24")), []),
    ("nobody said how far", Wanted(RUN, bid_policy="raise"), replace(OUTBID, bid_ceiling=None), []),
    ("the lowest bid is not known", Wanted(RUN, bid_policy="raise"), replace(OUTBID, min_bid=None), []),
    ("it bids enough already", Wanted(RUN, bid_policy="raise"), replace(OUTBID, bid=Decimal("0.26"), bid_changed_at=NOW - 90 * S), []),
    ("its bid should win for ten minutes", Wanted(RUN, bid_policy="raise"), replace(OUTBID, bid=Decimal("0.26"), bid_changed_at=NOW - 601 * S), ["RaiseBid"]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("what", "wanted", "instance", "expected"), POLICIES, ids=[row[0] for row in POLICIES]
)
def test_what_is_outbid_follows_its_policy(what, wanted, instance, expected) -> None:
    assert names(decide(wanted, [instance], now=NOW)) == expected


def test_a_list_from_before_a_start_takes_no_machine_for_outbid() -> None:
    started = replace(OUTBID, state=State.PROVISIONING, since=NOW - 5 * S)
    assert names(decide(Wanted(RUN, bid_policy="move"), [started], now=NOW)) == []
    waited = replace(started, since=NOW - 31 * S)
    assert names(decide(Wanted(RUN, bid_policy="move"), [waited], now=NOW)) == ["Advance:outbid"]


def test_a_machine_that_sleeps_through_its_starts_gives_way() -> None:
    still = Seen(uuid4(), State.PROVISIONING, NOW - 31 * S, remote_id="m", observed=M.STOPPED)
    assert names(decide(Wanted(RUN), [still], now=NOW)) == ["Start"]
    assert names(decide(Wanted(RUN), [replace(still, starts=2)], now=NOW)) == ["Start"]
    assert names(decide(Wanted(RUN), [replace(still, starts=3)], now=NOW)) == ["BeginFail"]


def test_an_adopted_machine_that_is_outbid_is_shown_so_until_it_is_back() -> None:
    wanted = Wanted(RUN, adopted=True, bid_policy="move")
    outbid = replace(OUTBID, state=State.READY, adopted=True)
    assert decide(wanted, [outbid], now=NOW).actions[0].to is State.OUTBID
    assert names(decide(wanted, [replace(outbid, state=State.OUTBID)], now=NOW)) == []
    back = replace(outbid, state=State.OUTBID, observed=M.RUNNING)
    assert decide(wanted, [back], now=NOW).actions[0].to is State.PROVISIONING


@given(
    bid=st.decimals("0.001", "2", places=4), lowest=st.decimals("0.001", "2", places=4),
    ceiling=st.decimals("0.001", "2", places=4),
)  # fmt: skip
def test_a_raised_bid_wins_just_so_and_never_passes_its_ceiling(bid, lowest, ceiling) -> None:
    raised = bids.higher(bid, lowest, ceiling, None, now=NOW)
    if raised is not None:
        assert bid < raised <= ceiling
        assert lowest <= raised <= lowest + bids.STEP


def test_the_next_look_is_due_at_the_next_edge_and_date() -> None:
    stopped = Wanted(STOP, next_edge_at=NOW + 42 * S, delete_at=NOW + 90 * S)
    assert decide(stopped, [], now=NOW).next_look == 42 * S
    assert decide(Wanted(STOP, delete_at=NOW + 17 * S), [], now=NOW).next_look == 17 * S
    assert decide(Wanted(STOP, next_edge_at=NOW + timedelta(days=2)), [], now=NOW).next_look == d.FAR
    assert decide(Wanted(STOP), [], now=NOW).next_look is None
    ready = seen(State.READY, observed=M.RUNNING, endpoint=True, probe_ok=True)
    assert decide(Wanted(RUN, stop_at=NOW + 3 * S), [ready], now=NOW).next_look == 3 * S


def test_giving_back_comes_before_everything_else() -> None:
    late = seen(State.FAILED, observed=M.RUNNING)
    asked = seen(State.REQUESTED)
    ended = seen(State.TERMINATING)
    decision = decide(Wanted(RUN), [asked, late, ended, seen(State.REQUESTED)], now=NOW)
    assert names(decision)[-1] == "Create"
    assert {"BeginEnd", "AskEnd"} <= set(names(decision)[:2])


def test_an_older_machine_is_given_back_when_a_newer_one_lives() -> None:
    old, new = seen(State.READY, observed=M.RUNNING, endpoint=True), seen(State.LOADING, observed=M.RUNNING)
    (action,) = decide(Wanted(RUN), [old, new], now=NOW).actions
    assert (type(action), action.instance) == (d.BeginEnd, old.id)


def test_a_late_machine_does_not_supersede_the_one_that_serves() -> None:
    late = seen(State.FAILED, observed=M.RUNNING)
    serving = seen(State.READY, observed=M.RUNNING, endpoint=True, probe_ok=True)
    decision = decide(Wanted(RUN), [late, serving], now=NOW)
    assert [(type(a), a.instance) for a in decision.actions] == [(d.BeginEnd, late.id)]


@given(
    desired=st.sampled_from(list(Desired)),
    state=st.sampled_from(list(State)),
    observed=st.sampled_from(["", *[m.value for m in M]]),
    missing=st.integers(0, 3),
    remote=st.sampled_from(["", "m1"]),
    sent=st.booleans(),
    ok=st.booleans(),
    budget=st.sampled_from(["", "gone"]),
    age=st.integers(-7200, 7200),
    odd=st.fixed_dictionaries(
        {name: st.booleans() for name in ("outdated", "adopted", "held", "mend_wanted")}
    ),
    drift=st.sampled_from(["", "scaled to 0"]),
    failure=st.sampled_from(["", "code 70: x"]),
    policy=st.sampled_from(["wait", "raise", "move"]),
)
def test_every_decision_is_a_way_that_the_lifecycle_knows(
    desired, state, observed, missing, remote, sent, ok, budget, age, odd, drift, failure, policy
) -> None:
    at = NOW - age * S
    i = Seen(
        id=uuid4(), state=state, since=at, create_sent_at=at if sent else None, remote_id=remote,
        observed=observed, missing_lists=missing, probe_ok=ok, end_tried_at=at, stop_asked_at=at,
        drift=drift, failure=failure, **odd,
    )  # fmt: skip
    for action in decide(Wanted(desired, budget_stop=budget, bid_policy=policy), [i], now=NOW).actions:
        to = {
            d.BeginEnd: State.TERMINATING, d.BeginFail: State.TERMINATING, d.Expel: State.TERMINATING,
            d.ConfirmEnd: State.TERMINATED,
        }.get(type(action), getattr(action, "to", None))  # fmt: skip
        if to:
            assert to in TRANSITIONS[state], f"{state} -> {to}"
        if isinstance(action, d.Create):
            assert state is State.REQUESTED
            assert not sent


@given(state=st.sampled_from(sorted(set(State) - TERMINAL)), desired=st.sampled_from(list(Desired)))
def test_what_may_exist_is_always_looked_at_again(state, desired) -> None:
    i = Seen(id=uuid4(), state=state, since=NOW, remote_id="m1", observed=M.RUNNING)
    assert decide(Wanted(desired), [i], now=NOW).next_look is not None
