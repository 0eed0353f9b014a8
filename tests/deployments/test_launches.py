"""The way of an attempt to its first token: what is told of it, kept of it, and said about it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from uuid import uuid4

import pytest
from django.utils import timezone
from hypothesis import given
from hypothesis import strategies as st

from deployments import services
from deployments.lifecycle import PHASES, State
from deployments.models import Breaker, Deployment, Event, Instance, Launch
from deployments.models.account import ADAPTERS
from deployments.monitoring import launches, phases, samples
from deployments.monitoring.phases import Pace, Phase, Span, judge, told, usual, way
from deployments.providers.base import LogLine, RateLimited, Unavailable
from deployments.views import reads
from tests import factories
from tests.browser import scene
from tests.deployments.local_world import LocalWorld
from tests.deployments.test_logs import Teller
from tests.deployments.world import CloudWorld, fresh, settled

T0 = datetime(2026, 11, 24, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def at(seconds: float) -> datetime:
    return T0 + timedelta(seconds=seconds)


def moves(*pairs: tuple[str, float]) -> list[tuple[State, datetime]]:
    return [(State(state), at(seconds)) for state, seconds in pairs]


UP = moves(
    ("requested", 0), ("provisioning", 1), ("pulling", 30), ("loading", 90), ("warming", 140), ("ready", 150)
)


def lengths(found: phases.Way | None, now: float = 1000) -> dict[str, float]:
    assert found
    return {str(s.phase): s.took(at(now)).total_seconds() for s in found.spans}


# -- where a phase begins and ends ------------------------------------------------------------------------


def test_without_a_log_the_states_are_the_phases() -> None:
    found = way(UP, {})
    assert lengths(found) == {"queue": 30, "pull": 60, "load": 50, "warm": 10}
    assert found
    assert found.ready_at == at(150)


def test_the_log_is_more_exact_and_knows_the_download() -> None:
    marks = {"checking": at(80), "downloading": at(82), "loading": at(110), "warming": at(135)}
    assert lengths(way(UP, marks)) == {"queue": 30, "pull": 50, "download": 30, "load": 25, "warm": 15}


def test_weights_that_came_with_the_image_are_not_downloaded() -> None:
    assert lengths(way(UP, {"checking": at(80), "loading": at(81)})) == {
        "queue": 30,
        "pull": 50,
        "load": 60,
        "warm": 10,
    }


def test_a_download_that_goes_on_is_the_last_phase() -> None:
    found = way(UP[:4], {"checking": at(80), "downloading": at(82)})
    assert lengths(found, now=200) == {"queue": 30, "pull": 50, "download": 120}
    assert found
    assert found.going_on


def test_a_machine_that_skips_phases_has_none_of_them() -> None:
    skipping = moves(("requested", 0), ("provisioning", 1), ("loading", 20), ("ready", 30))
    assert lengths(way(skipping, {})) == {"queue": 20, "load": 10}


def test_it_ends_with_the_attempt() -> None:
    found = way(moves(("requested", 0), ("provisioning", 1), ("terminating", 61), ("failed", 70)), {})
    assert lengths(found) == {"queue": 61}
    assert found
    assert (found.over_at, found.ready_at) == (at(61), None)


def test_a_second_start_is_not_the_launch() -> None:
    again = [*UP, *moves(("stopping", 500), ("stopped", 510), ("provisioning", 600), ("ready", 700))]
    assert way(again, {}) == way(UP, {})


@given(
    st.lists(st.floats(0, 600), min_size=6, max_size=6),
    st.integers(1, 6),
    st.dictionaries(
        st.sampled_from(["checking", "downloading", "loading", "warming"]), st.floats(-600, 1200)
    ),
)
def test_phases_follow_each_other_without_gap_whatever_the_clocks_say(
    offsets: list[float], count: int, marks: dict[str, float]
) -> None:
    seen = [(state, at(s)) for state, s in zip(PHASES, sorted(offsets), strict=True)][:count]
    found = way(seen, {phase: at(s) for phase, s in marks.items()})
    if seen[0][0] is State.READY:
        return
    assert found
    assert [a.ended for a in found.spans[:-1]] == [b.began for b in found.spans[1:]]
    assert all(s.ended is None or s.ended >= s.began for s in found.spans)
    if found.ready_at:
        total = sum((s.took(found.ready_at) for s in found.spans), timedelta())
        assert total == found.ready_at - found.began


# -- what a log tells ------------------------------------------------------------------------------------------


def line(text: str, seconds: float | None = None, source: str = "container") -> LogLine:
    return LogLine(None if seconds is None else at(seconds), source, text)


def test_marks_are_the_first_of_each_phase() -> None:
    said = told([
        line("regia phase=checking", 1), line("regia phase=downloading bytes=10 of=100 percent=10", 2),
        line("regia phase=downloading bytes=60 of=100 percent=60", 9), line("regia phase=loading seconds=0", 12),
        line("regia phase=loading seconds=10", 22), line("INFO regia phase=ready", 23),
    ], now=at(30))  # fmt: skip
    assert said.marks == {"checking": at(1), "downloading": at(2), "loading": at(12)}
    assert (said.starts, said.bytes_there, said.bytes_of) == (1, 60, 100)
    assert said.progress == "Loading the model for 10 s"


def test_without_times_a_phase_began_as_long_ago_as_it_says() -> None:
    said = told([line("regia phase=loading seconds=0"), line("regia phase=loading seconds=40")], now=at(100))
    assert said.marks == {"loading": at(60)}


def test_a_container_that_starts_again_begins_anew() -> None:
    said = told([
        line("regia phase=checking", 1), line("regia phase=loading", 2), line('regia exit code=70 cause="out of memory"', 9),
        line("regia phase=checking", 20),
    ], now=at(30))  # fmt: skip
    assert said.marks == {"checking": at(20)}
    assert said.starts == 2
    assert said.ended == "Ended with code 70: out of memory"


def test_what_somebody_else_writes_tells_nothing() -> None:
    assert (
        told([line("regia phase=ready", 1, source="system"), line("phase=loading", 1)], now=at(2))
        == phases.Told()
    )


# -- as usual? -----------------------------------------------------------------------------------------------------


def past(model: str, **seconds: float) -> Launch:
    return Launch(instance_id=uuid4(), model_key=model, began_at=T0, **seconds)


def test_the_median_is_of_the_same_model_where_there_are_enough() -> None:
    same = [past("a", load=s, total=s) for s in (10, 20, 90)]
    found = usual([*same, past("b", load=500, total=500)], model_key="a", where="RunPod secure", model="A")
    assert (found.seconds["load"], found.count, found.alike) == (20, 3, "A on RunPod secure")
    other = usual([*same, past("b", load=500, total=500)], model_key="b", where="RunPod secure", model="B")
    assert (other.seconds["load"], other.count, other.alike) == (55, 4, "any model on RunPod secure")


def test_two_launches_make_no_median() -> None:
    assert usual([past("a", load=1, total=1)] * 2, model_key="a", where="x", model="A").seconds == {}
    only_one_downloaded = [past("a", load=1), past("a", load=1), past("a", load=1, download=5)]
    assert "download" not in usual(only_one_downloaded, model_key="a", where="x", model="A").seconds


@pytest.mark.parametrize(
    ("seconds", "over", "typical", "pace"),
    [
        (50, True, 50, Pace.USUAL), (64, True, 50, Pace.USUAL), (80, True, 50, Pace.SLOW), (500, True, 50, Pace.SLOW),
        (80, False, 50, Pace.SLOW), (151, False, 50, Pace.STALLED), (20, False, 2, Pace.SLOW), (9, False, 2, Pace.USUAL),
        (250, False, None, Pace.USUAL), (301, False, None, Pace.STALLED), (9000, True, None, Pace.USUAL),
    ],
)  # fmt: skip
def test_how_a_phase_does(seconds: float, over: bool, typical: float | None, pace: Pace) -> None:
    span = Span(Phase.LOAD, T0, at(seconds) if over else None)
    verdict = judge(span, typical, None, now=at(seconds))
    assert verdict.pace is pace
    assert bool(verdict.words) is (pace is not Pace.USUAL)
    assert bool(verdict.act) is (pace is not Pace.USUAL and not over), "what is over needs no act"


def test_every_phase_says_what_to_do_and_when_it_is_given_up() -> None:
    for phase in Phase:
        verdict = judge(Span(phase, T0, None), 1.0, None, now=at(4000), left=timedelta(minutes=4))
        assert verdict.pace is Pace.STALLED
        assert verdict.act.endswith("it is given up in 4 min, and the next offer is tried.")


def test_a_download_that_brings_nothing_stands_still_however_usual_its_length() -> None:
    launch = past("a")
    launch.bytes_grown_at = at(100)
    span = Span(Phase.DOWNLOAD, T0, None)
    assert judge(span, 600, launch, now=at(150)).pace is Pace.USUAL
    assert judge(span, 600, launch, now=at(190)).words == "Nothing has come for 1 min 30 s."
    assert judge(Span(Phase.LOAD, T0, None), 600, launch, now=at(190)).pace is Pace.USUAL


def test_a_container_that_starts_again_and_again_has_stalled() -> None:
    launch = past("a")
    launch.starts, launch.ended = 3, "Ended with code 70: out of memory"
    verdict = judge(Span(Phase.LOAD, T0, None), 600, launch, now=at(5))
    assert verdict.pace is Pace.STALLED
    assert verdict.words == "Its container has started 3 times. Ended with code 70: out of memory"


# -- what is kept ---------------------------------------------------------------------------------------------


def follow(now: datetime) -> int:
    return launches.follow_due(clock=lambda: now)


def test_what_a_launch_took_outlives_its_machine(world: CloudWorld) -> None:
    deployment = world.launch()
    world.run(until=lambda: bool(fresh(deployment).current.ready_at))
    follow(world.now)
    ready = Launch.objects.get(instance__deployment=deployment)
    total = fresh(deployment).current.ready_at - fresh(deployment).current.created_at
    assert ready.total == total.total_seconds()
    assert sum(filter(None, (ready.queue, ready.pull, ready.load, ready.warm))) == pytest.approx(ready.total)
    services.terminate(fresh(deployment), actor=world.owner, now=world.now)
    world.run()
    follow(world.now + MINUTE)
    after = Launch.objects.get(pk=ready.pk)
    assert settled(deployment) == State.TERMINATED
    assert after.total == ready.total
    assert after.next_read_at is None


@pytest.mark.engine
def test_the_real_engines_log_tells_its_phases(local_world: LocalWorld) -> None:
    deployment = local_world.launch()
    local_world.run(until=lambda: settled(deployment) == State.READY)
    follow(local_world.now)
    kept = Launch.objects.get(instance__deployment=deployment)
    assert {"loading", "warming"} <= kept.marks.keys()
    assert kept.total
    assert kept.load
    assert kept.download is None
    assert kept.progress


# -- at what pace --------------------------------------------------------------------------------------------------


@pytest.fixture
def teller(monkeypatch) -> Teller:
    made = Teller()
    monkeypatch.setitem(ADAPTERS, "runpod", lambda account: made)
    return made


@pytest.fixture
def made(db) -> scene.Scene:
    return scene.build(now=timezone.now())


@pytest.fixture
def starting(made, teller) -> SimpleNamespace:
    """A machine of our image that loads since now, and whose launch is due; nothing else is."""
    now = timezone.now()
    Launch.objects.update(next_read_at=None)
    instance = made.starting.instances.get()
    Instance.objects.filter(pk=instance.pk).update(state=State.LOADING, state_since=now)
    Launch.objects.filter(pk=instance.pk).update(next_read_at=now)
    return SimpleNamespace(now=now, pk=instance.pk)


def kept(starting: SimpleNamespace) -> Launch:
    return Launch.objects.get(pk=starting.pk)


def test_a_log_is_read_while_it_starts_and_what_it_tells_is_kept(starting, teller) -> None:
    now = starting.now
    teller.said = [LogLine(now, "container", "regia phase=downloading bytes=10 of=100 percent=10")]
    assert follow(now) == 1
    assert (kept(starting).bytes_there, kept(starting).bytes_grown_at) == (10, now)
    assert kept(starting).progress == "Downloading the weights: 10 %, 0.0 of 0.0 GB"
    later = now + MINUTE
    follow(later)
    assert kept(starting).bytes_grown_at == now, "nothing has come since"
    teller.said = [LogLine(None, "container", "regia phase=loading seconds=5")]
    follow(later + MINUTE)
    assert set(kept(starting).marks) == {"downloading", "loading"}, (
        "what was told once stays, whatever is cut off"
    )


def test_a_log_without_times_is_as_exact_as_its_first_reading(starting, teller) -> None:
    teller.said = [LogLine(None, "container", "regia phase=warming")]
    follow(starting.now)
    follow(starting.now + MINUTE)
    assert kept(starting).marks == {"warming": starting.now.isoformat()}


def test_a_container_that_started_again_forgets_the_marks_of_the_one_before(starting, teller) -> None:
    teller.said = [line("regia phase=checking", 1), line("regia phase=loading", 2)]
    follow(starting.now)
    teller.said += [line("regia phase=checking", 50)]
    follow(starting.now + MINUTE)
    assert set(kept(starting).marks) == {"checking"}
    assert kept(starting).starts == 2


def test_nothing_is_read_before_it_is_due(starting, teller) -> None:
    follow(starting.now)
    assert follow(starting.now + timedelta(seconds=1)) == 0
    assert teller.asked == 1
    assert kept(starting).next_read_at >= starting.now + launches.INTERVAL


def test_the_more_there_are_at_one_account_the_more_seldom_each_is_read(starting, teller, made) -> None:
    instance = made.starting.instances.get()
    for n in range(40):
        Instance.objects.create(
            deployment=instance.deployment, account=instance.account, attempt=n + 2, label=uuid4().hex,
            quote=instance.quote, usd_per_hour=1, state=State.LOADING, state_since=starting.now, created_at=starting.now,
        )  # fmt: skip
    follow(starting.now)
    assert kept(starting).next_read_at == starting.now + 41 * launches.INTERVAL_EACH


def test_a_rate_limit_puts_it_off(starting, teller) -> None:
    def limited() -> None:
        raise RateLimited("Too many.", retry_after=300)

    teller.fails = limited
    follow(starting.now)
    assert kept(starting).next_read_at == starting.now + timedelta(seconds=300)


def test_an_account_that_is_held_back_is_not_asked(starting, teller, made) -> None:
    Breaker.objects.create(
        account=made.starting.instances.get().account,
        call=Breaker.Call.READ,
        open_until=starting.now + MINUTE,
    )
    follow(starting.now)
    assert teller.asked == 0


@pytest.mark.parametrize("error", [Unavailable("no answer"), KeyError("odd")])
def test_a_log_that_cannot_be_had_leaves_the_states_to_tell(starting, teller, error) -> None:
    def fail() -> None:
        raise error

    teller.fails = fail
    follow(starting.now)
    assert kept(starting).queue == pytest.approx(39.2)
    assert kept(starting).read_at is None


def test_one_odd_launch_keeps_no_other_from_being_followed(starting, teller, made) -> None:
    other = made.failed.instances.get()
    Launch.objects.filter(pk=starting.pk).update(marks={"loading": "no time"})
    Launch.objects.filter(pk=other.pk).update(next_read_at=starting.now, queue=None)
    assert follow(starting.now) == 2
    assert Launch.objects.get(pk=other.pk).queue is not None


def test_a_machine_that_failed_is_read_once_more_for_why(starting, teller, made) -> None:
    instance = made.starting.instances.get()
    Instance.objects.filter(pk=instance.pk).update(state=State.TERMINATING)
    Event.objects.create(
        deployment=made.starting, instance=instance, at=starting.now, kind="state", to_state=State.TERMINATING
    )
    teller.said = [LogLine(None, "container", 'regia exit code=70 cause="out of memory"')]
    follow(starting.now)
    follow(starting.now + MINUTE)
    assert kept(starting).ended == "Ended with code 70: out of memory"
    assert teller.asked == 1


def test_a_serverless_endpoint_is_not_asked_for_a_log(starting, teller, made) -> None:
    instance = made.starting.instances.get()
    Instance.objects.filter(pk=instance.pk).update(quote=instance.quote | {"serverless": True})
    follow(starting.now)
    assert teller.asked == 0


def test_a_launch_that_was_claimed_is_followed_once(starting, teller) -> None:
    assert len(launches.claim(now=starting.now)) == 1
    assert launches.claim(now=starting.now) == []


def test_a_clock_that_was_put_back_delays_nothing_for_long(starting, teller) -> None:
    Launch.objects.filter(pk=starting.pk).update(next_read_at=starting.now + timedelta(hours=2))
    assert follow(starting.now) == 1


# -- the first token ------------------------------------------------------------------------------------------


@pytest.fixture
def ready(made, teller) -> SimpleNamespace:
    now = timezone.now()
    Launch.objects.update(next_read_at=None)
    instance = made.ready.instances.get()
    Instance.objects.filter(pk=instance.pk).update(ready_at=now)
    Event.objects.filter(instance=instance, to_state=State.READY).update(at=now)
    Launch.objects.filter(pk=instance.pk).update(next_read_at=now, total=None)
    return SimpleNamespace(now=now, pk=instance.pk)


def test_the_first_chat_through_its_endpoint_is_the_first_token(ready, teller) -> None:
    follow(ready.now)
    assert kept(ready).first_token is None
    assert kept(ready).next_read_at == ready.now + launches.WAITING
    asked = teller.asked
    samples.record(ready.pk, ready.now + timedelta(seconds=40), {"canary_ttft": 0.41})
    samples.record(ready.pk, ready.now + timedelta(seconds=340), {"canary_ttft": 9.0})
    follow(ready.now + MINUTE)
    assert kept(ready).first_token == pytest.approx(0.41)
    assert kept(ready).next_read_at is None
    assert teller.asked == asked, "its log has told all it can"


def test_a_first_chat_that_never_comes_is_not_waited_for(ready) -> None:
    follow(ready.now + timedelta(minutes=11))
    assert kept(ready).first_token is None
    assert kept(ready).next_read_at is None


# -- the page -------------------------------------------------------------------------------------------------


def page(client, deployment: Deployment) -> str:
    client.force_login(factories.viewer())
    return client.get(f"/deployments/{deployment.pk}/").text


def test_the_page_sets_each_phase_against_the_median(client, made) -> None:
    text = page(client, made.starting)
    assert "usually 2 min 54 s" in text
    assert "the median of 3 launches of any model on RunPod secure" in text
    assert "No median yet: 2 launches there" in page(client, made.ready)


def test_a_stalled_phase_says_why_what_to_do_and_when_it_is_given_up(client, made) -> None:
    now = timezone.now()
    instance = made.starting.instances.get()
    Instance.objects.filter(pk=instance.pk).update(state_since=now)
    ago = now - timedelta(seconds=20)
    Launch.objects.filter(pk=instance.pk).update(
        marks={"downloading": ago.isoformat()}, bytes_grown_at=now - 2 * MINUTE, progress="Downloading: 24 %"
    )
    text = page(client, made.starting)
    assert "Downloading: 24 %" in text
    assert "Nothing has come for 2 min." in text
    assert "Take an image that holds them" in text
    assert "given up in 14 min 59 s" in text or "given up in 15 min" in text


def test_why_a_container_ended_stands_there_after_its_machine_is_gone(client, made) -> None:
    Launch.objects.filter(instance__deployment=made.failed).update(ended="Ended with code 70: out of memory")
    assert "Ended with code 70: out of memory" in page(client, made.failed)


def test_the_first_token_is_a_row_of_the_waterfall(made) -> None:
    instance = made.ready.instances.get()
    Launch.objects.filter(pk=instance.pk).update(first_token=0.41)
    found = reads.waterfall(instance, launches.moves([instance.pk])[instance.pk], now=timezone.now())
    assert found
    assert [row.phase for row in found.phases][-2:] == [Phase.WARM, Phase.FIRST_TOKEN]
    assert found.phases[-1].took == timedelta(seconds=0.41)
