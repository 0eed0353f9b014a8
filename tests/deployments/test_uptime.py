"""Uptime: what counts for and against a goal, and what does not count at all. Pure, from Events."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from itertools import pairwise
from uuid import UUID

import pytest

from deployments.models import Deployment, Event, Instance, ProviderAccount
from deployments.monitoring import guesses, uptime
from deployments.monitoring.uptime import Fact, Uptime, error_budget
from tests.conftest import NOW

A, B = UUID(int=1), UUID(int=2)
MINUTE = timedelta(minutes=1)


def facts(*told: str) -> list[Fact]:
    """Each a line: minute, then an intent ("stop") or "a ready [reason]"."""
    out = []
    for line in told:
        minute, first, *rest = line.split(maxsplit=3)
        at = NOW + MINUTE * float(minute)
        if first in ("a", "b"):
            out.append(Fact(at, "state", A if first == "a" else B, rest[0], rest[1] if rest[1:] else ""))
        else:
            out.append(Fact(at, first, None, "", ""))
    return out


def minutes(*told: str, until: float = 60) -> tuple[float, float]:
    """Up and down, in minutes."""
    end = NOW + MINUTE * until
    spans, _ = uptime.walk(facts(*told), until=end)
    assert all(x.end == y.start for x, y in pairwise(spans)), "no gap, no overlap"
    seen = uptime.uptime(spans, NOW, end)
    return seen.up / MINUTE, seen.down / MINUTE


LAUNCHED = ("0 launch", "0 a requested", "1 a provisioning", "5 a loading", "10 a ready")


def test_the_first_way_up_counts_neither_for_nor_against():
    assert minutes(*LAUNCHED) == (50, 0)
    assert minutes("0 launch", "0 a requested", "2 a failed", "3 b requested") == (0, 0)


def test_degraded_is_down_until_it_answers_again():
    assert minutes(*LAUNCHED, "20 a degraded", "24 a ready") == (46, 4)


def test_a_lost_machine_is_down_until_its_successor_is_ready():
    lost = ("20 a degraded", "23 a terminating", "24 a failed", "24 b requested", "30 b ready")
    assert minutes(*LAUNCHED, *lost) == (40, 10)


@pytest.mark.parametrize("verb", ["stop", "terminate"])
def test_a_planned_stop_does_not_count_and_neither_does_its_way_back(verb):
    assert minutes(*LAUNCHED, f"20 {verb}", "21 a stopping", "22 a stopped") == (10, 0)
    back = ("40 start", "40 a provisioning", "45 a ready", "50 a degraded")
    assert minutes(*LAUNCHED, f"20 {verb}", "22 a stopped", *back) == (15, 10)


def test_settings_that_replace_the_machine_do_not_count_unless_the_new_one_fails():
    replaced = ("20 a terminating its settings changed", "21 a terminated", "21 b requested")
    assert minutes(*LAUNCHED, *replaced, "30 b ready") == (40, 0)
    assert minutes(*LAUNCHED, *replaced, "30 b failed") == (10, 30)


def test_a_drill_is_planned_until_it_is_up_again_or_its_successor_fails():
    drill = (
        "20 drill",
        "21 drill-killed",
        "21 a degraded",
        "22 a terminating",
        "23 a failed",
        "23 b requested",
    )
    assert minutes(*LAUNCHED, *drill, "30 b ready", "40 b degraded") == (21, 20)
    assert minutes(*LAUNCHED, *drill, "30 b failed") == (11, 30)


def test_a_drill_that_killed_nothing_excuses_no_later_crash():
    assert minutes(*LAUNCHED, "20 drill", "40 a degraded") == (30, 20)
    once = ("20 drill-killed", "20 a degraded", "22 a ready", "25 a degraded", "30 a ready")
    assert minutes(*LAUNCHED, *once) == (43, 5)


def test_a_deployment_is_up_while_any_of_its_machines_answers():
    assert minutes(
        *LAUNCHED, "15 b requested", "20 b ready", "25 a terminating replaced by a newer attempt"
    ) == (50, 0)


def test_draining_still_answers_and_outbid_does_not():
    assert minutes(*LAUNCHED, "20 a draining") == (50, 0)
    assert minutes(*LAUNCHED, "20 a outbid", "35 a provisioning", "40 a ready") == (30, 20)


def test_only_what_nobody_asked_for_is_an_interruption():
    def breaks(*told: str) -> list[float]:
        _, found = uptime.walk(facts(*LAUNCHED, *told), until=NOW + 60 * MINUTE)
        return [(b.at - NOW) / MINUTE for b in found]

    assert breaks("20 a degraded", "21 a ready") == []
    assert breaks("20 a degraded", "23 a terminating dead for 3 minutes", "24 a failed") == [23]
    assert breaks("20 a outbid", "30 a provisioning", "31 a ready", "40 a outbid") == [20, 40]
    assert breaks("20 a stopping the provider stopped it, not we", "21 a provisioning") == [20]
    assert breaks("20 stop", "20 a stopping", "21 a stopped") == []
    assert breaks("20 a terminating its settings changed", "21 a terminated") == []
    assert breaks("20 drill", "20 a terminating", "21 a failed") == []


def test_what_came_after_the_window_changes_nothing_in_it():
    assert minutes(*LAUNCHED, "20 a degraded", "90 a ready", until=30) == (10, 10)


def test_a_goal_leaves_its_share_of_the_whole_month_while_it_is_wanted_on():
    seen = Uptime(up=timedelta(hours=99), down=timedelta(hours=1))
    left = error_budget(seen, Decimal("99.5"), ahead=timedelta(hours=620))
    assert left.allowed == timedelta(hours=3.6)
    assert left.left == timedelta(hours=2.6)
    assert not left.spent
    assert error_budget(seen, Decimal("99.5")).spent


def test_nothing_promised_is_no_figure():
    assert Uptime().share is None


# -- from rows ----------------------------------------------------------------------------------------


@pytest.fixture
def stored(db):
    """Store the facts as Events of one deployment with two machines; they end when told so."""
    account = ProviderAccount.objects.create(name="Cloud", backend="runpod")
    made = Deployment.objects.create(
        name="chat", model_key="m", context=1, desired="running", created_at=NOW, launch_key="k"
    )
    for n, pk in enumerate((A, B), 1):
        Instance.objects.create(
            id=pk, deployment=made, account=account, attempt=n, label=f"l{n}", quote={"tier": "secure"}, usd_per_hour=1,
            state="ready", state_since=NOW, created_at=NOW, api_key="k",
        )  # fmt: skip

    def store(*told: str) -> Deployment:
        for fact in facts(*told):
            Event.objects.create(
                deployment=made, instance_id=fact.instance, at=fact.at, kind=fact.kind, to_state=fact.to, reason=fact.reason
            )  # fmt: skip
            if fact.to in ("failed", "terminated"):
                Instance.objects.filter(pk=fact.instance).update(ended_at=fact.at)
        return made

    return store


DAY = 24 * 60


def test_a_machine_that_has_stood_for_half_a_year_was_up_last_month(stored):
    made = stored(*LAUNCHED)
    since, until = NOW + timedelta(days=150), NOW + timedelta(days=180)
    spans = uptime.spans_of(made.pk, since=since, until=until)
    assert uptime.uptime(spans, since, until) == Uptime(up=timedelta(days=30))


def test_a_stop_of_long_ago_still_holds(stored):
    made = stored(*LAUNCHED, "20 stop", "21 a stopping", "22 a terminating", "23 a terminated")
    since, until = NOW + timedelta(days=150), NOW + timedelta(days=180)
    spans = uptime.spans_of(made.pk, since=since, until=until)
    assert uptime.uptime(spans, since, until) == Uptime()


def test_the_window_cuts_what_reaches_over_its_edges(stored):
    made = stored(*LAUNCHED, f"{10 * DAY} a degraded", f"{12 * DAY} a terminating", f"{12 * DAY} a failed",
                  f"{12 * DAY} b requested", f"{13 * DAY} b ready")  # fmt: skip
    since, until = NOW + timedelta(days=11), NOW + timedelta(days=15)
    spans = uptime.spans_of(made.pk, since=since, until=until)
    assert uptime.uptime(spans, since, until) == Uptime(up=timedelta(days=2), down=timedelta(days=2))


# -- and what probably caused it ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"observed": "exited", "observed_detail": "CUDA out of memory."}, "ended by itself"),
        ({"observed": "exited", "observed_detail": "CUDA out of memory."}, "says: CUDA out of memory."),
        ({"probe_detail": "the connection was refused"}, "Nothing listens"),
        ({"probe_detail": "no answer within 5 s"}, "the engine hangs"),
        ({"probe_detail": "/health answered 500"}, "answers with errors"),
        ({"probe_detail": "/v1/models answered 401"}, "refuses its own key"),
        ({"probe_detail": "it does not speak TLS"}, "cannot be trusted"),
        ({"probe_detail": "something new"}, "Its probes fail: something new."),
        (
            {"probe_detail": "", "reason": "2 of the last 3 test chats failed"},
            "2 of the last 3 test chats failed.",
        ),
        ({"locked": True}, "locked"),
        ({"missing_lists": 2}, "no longer lists"),
    ],
)
def test_a_guess_is_read_from_what_the_row_says(row, words):
    i = Instance(state="degraded", **row)
    assert words in guesses.of_down(i)
    assert ".." not in guesses.of_down(i)
