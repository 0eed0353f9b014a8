"""Probes: who is dead is noted at once, who flaps is judged by n of m, and who hangs delays nobody."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments import damping, decide, reconcile
from deployments.damping import CANARIES, PROBES
from deployments.lifecycle import State
from deployments.models import Instance, Sample
from deployments.monitoring import connection, probe
from tests.conftest import NOW
from tests.deployments.engine import Engine, status, whole
from tests.playground.rows import attempt, chatting_deployment

pytestmark = pytest.mark.django_db
GOAL = timedelta(seconds=30)
SECOND = timedelta(seconds=1)
BELL = 2 * SECOND


@pytest.fixture
def engine() -> Iterator[Engine]:
    server = Engine()
    well(server)
    yield server
    server.close()


def well(engine: Engine) -> None:
    engine.on |= {"/health": whole(""), "/v1/models": whole("{}")}


def ill(engine: Engine) -> None:
    engine.on["/health"] = status(503)


def machine(engine: Engine, **options) -> Instance:
    return chatting_deployment(engine.url, now=NOW, **options).instances.get()


class Watch:
    """The bell every two seconds and what `decide` makes of the row, on a clock of the test's own."""

    def __init__(self, instance: Instance) -> None:
        self.instance, self.now = instance, NOW
        self.moves: list[tuple[timedelta, str]] = []

    def tick(self, bells: int = 1) -> None:
        for _ in range(bells):
            self.now += BELL
            if self.probed() and self.probed() > self.now:
                continue  # the bell rings for nothing
            probe.probe_due(clock=lambda: self.now)
            i = Instance.objects.get(pk=self.instance.pk)
            match decide._serving(reconcile._seen(i, now=self.now), now=self.now):
                case decide.Advance(to=to, reason=reason):
                    i.advance(to, reason=reason, now=self.now)
                    self.moves.append((self.now - NOW, to.value))

    def probed(self) -> datetime:
        return Instance.objects.get(pk=self.instance.pk).next_probe_at


def test_a_dead_endpoint_is_degraded_within_the_goal_whenever_it_dies(engine: Engine) -> None:
    for died in (1, 3, 5, 6):
        well(engine)
        watch = Watch(machine(engine))
        watch.tick(died)
        ill(engine)
        watch.tick(15)
        ((at, state),) = watch.moves
        assert state == "degraded"
        # Both were refused at once; had both taken the whole of their time it would still be within the goal.
        assert at - died * BELL + 2 * SECOND * connection.TIMEOUT.total <= GOAL
        Instance.objects.all().update(state=State.TERMINATED)


def test_one_failure_is_no_news(engine: Engine) -> None:
    watch = Watch(machine(engine))
    watch.tick()
    ill(engine)
    watch.now = watch.probed()
    watch.tick()
    well(engine)
    watch.tick(30)
    assert watch.moves == []


def test_a_flapping_endpoint_moves_once_and_comes_back_when_it_is_steady(engine: Engine) -> None:
    watch = Watch(machine(engine))
    for _ in range(10):
        ill(engine)
        watch.now = max(watch.now, watch.probed() or NOW)
        watch.tick()
        well(engine)
        watch.now = max(watch.now, watch.probed())
        watch.tick()
    assert [state for _, state in watch.moves] == ["degraded"]
    watch.tick(30)
    assert [state for _, state in watch.moves] == ["degraded", "ready"]


def test_what_speaks_against_the_state_is_asked_again_soon(engine: Engine) -> None:
    watch = Watch(machine(engine))
    watch.tick()
    assert watch.probed() - watch.now == probe.STEADY_INTERVAL
    ill(engine)
    watch.tick(5)
    assert watch.probed() - watch.now == probe.RETRY


def test_each_probe_is_a_sample(engine: Engine) -> None:
    watch = Watch(machine(engine))
    watch.tick(7)
    ill(engine)
    watch.tick(5)
    assert list(Sample.objects.order_by("bucket").values_list("up", flat=True)) == [1.0, 0.0]


def test_what_is_still_starting_has_no_uptime(engine: Engine) -> None:
    machine(engine, state=State.LOADING)
    probe.probe_due(clock=lambda: NOW)
    assert not Sample.objects.exists()


def test_who_hangs_keeps_nobody_elses_answer_waiting(engine: Engine, monkeypatch) -> None:
    slow = Engine()
    slow.on["/health"] = slow.hangs
    good = machine(engine)
    for _ in range(4):
        attempt(good.deployment, slow.url, now=NOW)
    # Not even when there is a place for one alone: who hangs gives it to another.
    monkeypatch.setattr(connection, "AT_ONCE", 1)
    monkeypatch.setattr(connection, "HANGS", 0.05)
    stood: list[int] = []
    note = probe._note

    def look(found, *, now):
        note(found, now=now)
        stood.append(Instance.objects.filter(probe_ok_at=NOW).count())
        if stood[-1]:
            slow.released.set()

    monkeypatch.setattr(probe, "_note", look)
    assert probe.probe_due(clock=lambda: NOW) == 5
    # Those that hang were let go only after the good one's answer stood in its row.
    assert stood[0] == 1
    assert len(stood) > 1
    slow.close()


def test_what_fails_while_answers_are_written_is_raised(engine: Engine, monkeypatch) -> None:
    machine(engine)
    monkeypatch.setattr(probe, "check_url", lambda *args, **options: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        probe.probe_due(clock=lambda: NOW)


@given(st.lists(st.booleans(), max_size=20))
def test_damping_counts_the_last_looks(failed: list[bool]) -> None:
    recent = 0
    for one in failed:
        recent = damping.after(recent, failed=one)
    assert 0 <= recent < 256
    for rule in (PROBES, CANARIES):
        assert rule.is_bad(recent) == (sum(failed[-rule.of :]) >= rule.bad)
        assert rule.is_steady(recent) == (not rule.is_bad(recent) and not any(failed[-rule.good :]))
