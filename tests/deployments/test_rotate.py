"""The change of a machine's key: whatever dies in between, one key opens it in the end, and it is the panel's."""

from __future__ import annotations

import asyncio
import os
import threading
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from django.db import connections
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from deployments import certificates, services
from deployments.lifecycle import Desired, State
from deployments.models import Deployment, Event, Instance, KeyStep
from deployments.monitoring import lease, probe
from deployments.playground import upstream
from panel.accounts.models import User
from panel.audit import chain
from panel.audit.models import AuditEvent
from panel.notices.models import Notice
from tests import factories
from tests.deployments import door as doors
from tests.deployments.door import BIRTH, Door, fresh, machine, server_context

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("on_this_computer")]
START = timezone.now().replace(microsecond=0)
STEP = timedelta(seconds=5)


@pytest.fixture
def operator(db) -> User:
    return factories.operator()


class Clockwork:
    """The lease's bell every five seconds, from one moment on."""

    def __init__(self) -> None:
        self.now = START

    def ring(self, times: int = 1) -> None:
        for _ in range(times):
            lease.renew_due(clock=lambda: self.now)
            self.now += STEP


@pytest.fixture
def clock() -> Clockwork:
    return Clockwork()


def rotate(made: Instance, actor: User, clock: Clockwork) -> None:
    services.rotate_machine_key(made.deployment, actor=actor, now=clock.now)


def is_done(made: Instance, door: Door) -> bool:
    row = fresh(made)
    return not row.key_step and not row.next_key and door.keys == [row.api_key] and row.api_key != BIRTH


# -- the way of it


def test_a_key_is_changed_step_by_step(door: Door, operator: User, clock: Clockwork) -> None:
    made = machine(door)
    clock.ring()
    rotate(made, operator, clock)
    asked = fresh(made)
    assert (asked.api_key, asked.birth_key, asked.key_step) == (BIRTH, BIRTH, KeyStep.ASKED)
    assert len(asked.next_key) >= 40

    clock.ring()
    switched = fresh(made)
    assert door.keys == [BIRTH, asked.next_key]
    assert (switched.api_key, switched.next_key, switched.key_step) == (asked.next_key, "", KeyStep.SWITCHED)
    clock.ring()
    assert door.keys == [BIRTH, asked.next_key], "who read the old key a moment ago is not shut out"

    clock.ring(2)
    assert is_done(made, door)
    assert fresh(made).birth_key == BIRTH
    clock.ring(30)
    assert door.refused == 0
    assert "keys" not in door.leases[-1]


def test_it_is_done_within_half_a_minute(door: Door, operator: User, clock: Clockwork) -> None:
    made = machine(door)
    rotate(made, operator, clock)
    clock.ring(6)
    assert is_done(made, door)


def test_it_is_audited_and_stands_in_the_events(door: Door, operator: User, clock: Clockwork) -> None:
    made = machine(door)
    rotate(made, operator, clock)
    clock.ring(6)
    event = AuditEvent.objects.get(action="deployment.rotate")
    assert (event.actor, event.target_id) == (chain.pseudonym_of(operator), str(made.deployment_id))
    assert [e.kind for e in Event.objects.order_by("pk")] == ["rotate", "rotated"]
    assert chain.verify().ok


def test_the_keys_show_nowhere(door: Door, operator: User, clock: Clockwork, caplog, client: Client) -> None:
    made, keys = machine(door), {BIRTH}
    client.force_login(operator)
    texts = []
    rotate(made, operator, clock)
    for _ in range(6):
        row = fresh(made)
        keys |= {row.api_key, row.next_key, row.birth_key} - {""}
        texts += [repr(row), client.get(f"{made.deployment.get_absolute_url()}?tab=settings").text]
        texts.append(repr(lease._renewal(row, now=clock.now)))
        clock.ring()
    texts += [str(list(model.objects.values())) for model in (AuditEvent, Event, Notice)] + [caplog.text]
    assert len(keys) == 2
    assert not [key for key in keys for text in texts if key in text]


def test_the_bell_is_rung_so_that_nobody_waits_a_minute(
    door: Door, operator: User, clock: Clockwork, rung, django_capture_on_commit_callbacks
) -> None:
    made = machine(door)
    with django_capture_on_commit_callbacks(execute=True):
        rotate(made, operator, clock)
    assert (services.LEASE, ()) in rung


# -- what dies in between


class Killed(BaseException):
    """The process is gone: nothing after it runs."""


@pytest.mark.parametrize("place", ["ask_all", "_renewed", "_told_keys", "_finish"])
@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
@pytest.mark.parametrize("time", [1, 2])
def test_a_worker_that_dies_anywhere_leaves_it_to_the_next(
    door: Door, operator: User, clock: Clockwork, monkeypatch, place: str, before: bool, time: int
) -> None:
    made = machine(door)
    rotate(made, operator, clock)
    real, calls = getattr(lease, place), []

    def dies(*args, **kwargs):
        calls.append(1)
        if len(calls) != time:
            return real(*args, **kwargs)
        if place == "ask_all":
            # Either nobody heard it, or the machine did and the answer is lost.
            answers = [] if before else asyncio.run(real(*args, **kwargs))
            raise Killed(answers)
        if not before:
            real(*args, **kwargs)
        raise Killed

    monkeypatch.setattr(lease, place, dies)
    for _ in range(40):
        try:
            clock.ring()
        except Killed:
            clock.now += timedelta(seconds=30)
    if place != "_finish" or time == 1:
        assert len(calls) >= time
    assert is_done(made, door)
    assert fresh(made).lease_failures == 0


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("point", ["_renewed", "_told_keys", "_finish"])
def test_a_process_that_is_really_killed_leaves_it_to_the_next(
    door: Door, operator: User, clock: Clockwork, point: str
) -> None:
    made = machine(door)
    rotate(made, operator, clock)
    for _ in range(8):
        connections.close_all()
        pid = os.fork()
        if pid == 0:
            with suppress(BaseException):
                setattr(lease, point, lambda *args, **kwargs: os._exit(137))
                lease.renew_due(clock=lambda: clock.now)
                os._exit(0)
            os._exit(1)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        clock.now += STEP
        assert code in {0, 137}
        if code == 137:
            break
    assert code == 137
    clock.now += lease.INTERVAL
    clock.ring(10)
    assert is_done(made, door)


@pytest.mark.parametrize("bells", range(7))
def test_a_machine_that_starts_again_at_any_step_is_told_its_present_key(
    door: Door, operator: User, clock: Clockwork, bells: int
) -> None:
    made = machine(door)
    rotate(made, operator, clock)
    clock.ring(bells)
    door.restart()
    clock.ring(30)
    assert is_done(made, door)
    assert fresh(made).lease_failures == 0


def test_after_many_changes_it_still_starts_again_with_its_first_key(
    door: Door, operator: User, clock: Clockwork
) -> None:
    made = machine(door)
    for _ in range(3):
        rotate(made, operator, clock)
        clock.ring(6)
        assert is_done(made, door)
    door.restart()
    clock.ring(13)
    assert is_done(made, door)
    assert fresh(made).birth_key == BIRTH


def test_a_probe_that_is_refused_has_the_key_told_at_once(
    door: Door, operator: User, clock: Clockwork
) -> None:
    made = machine(door)
    rotate(made, operator, clock)
    clock.ring(6)
    door.restart()
    probe.probe_due(clock=lambda: clock.now)
    assert fresh(made).probe_detail == "/v1/models answered 401"
    clock.ring()
    assert is_done(made, door)


def test_a_machine_that_starts_with_its_birth_key_becomes_ready(
    door: Door, operator: User, clock: Clockwork
) -> None:
    """It was stopped and started after a change: until it is told, the probe is refused."""
    made = machine(door)
    rotate(made, operator, clock)
    clock.ring(6)
    door.restart()
    Instance.objects.update(state=State.WARMING, next_probe_at=None)
    probe.probe_due(clock=lambda: clock.now)
    clock.ring()
    Instance.objects.update(next_probe_at=None)
    probe.probe_due(clock=lambda: clock.now)
    assert fresh(made).probe_ok_at == clock.now


def test_a_stranger_that_refuses_every_key_is_told_no_key(
    door: Door, operator: User, clock: Clockwork
) -> None:
    made = machine(door)
    rotate(made, operator, clock)
    clock.ring(6)
    door.keys = ["sk-a-key-of-nobody-here"]
    clock.ring(30)
    assert door.keys == ["sk-a-key-of-nobody-here"]
    assert fresh(made).lease_detail == "the machine did not accept its key (401)"


def test_one_that_was_never_changed_has_no_other_key_to_try(door: Door, clock: Clockwork) -> None:
    machine(door)
    door.keys = ["sk-a-key-of-nobody-here"]
    clock.ring()
    assert door.asked == 1


@pytest.mark.django_db(transaction=True)
def test_a_worker_that_stalled_over_a_whole_change_tells_no_old_key(
    door: Door, operator: User, clock: Clockwork
) -> None:
    """It is refused, looks again, and sees that its claim is over."""
    made = machine(door, birth_key="sk-an-earlier-key-of-it")
    door.birth, door.pause = "sk-an-earlier-key-of-it", 1.0

    def stalled() -> None:
        lease.renew_due(clock=lambda: START)
        connections.close_all()

    thread = threading.Thread(target=stalled)
    thread.start()
    assert door.taken.wait(5)
    # Meanwhile another worker changed the key, and the machine started again.
    present = "sk-the-key-that-it-has-now"
    Instance.objects.update(api_key=present, next_lease_at=START + timedelta(minutes=9))
    door.restart()
    thread.join()
    assert (door.keys, door.leases) == (["sk-an-earlier-key-of-it"], [])
    assert fresh(made).api_key == present


# -- those who use it meanwhile


@pytest.mark.django_db(transaction=True)
def test_an_open_stream_goes_on_and_new_ones_are_never_refused(
    tmp_path: Path, operator: User, clock: Clockwork
) -> None:
    pk = uuid4()
    pair = certificates.make(pk, now=timezone.now())
    with doors.opened(server_context(tmp_path, pair)) as door:
        made = machine(door, id=pk, tls_key=pair.key, tls_certificate=pair.certificate)
        door.tokens = 40

        async def chat(key: str, during) -> bytes:
            engine = upstream.Engine(door.url, key, loopback=True, pin=made.pin)
            async with upstream.new_session(loopback=True) as session:
                response = await upstream.open_stream(session, engine, {})
                await response.content.readany()
                await asyncio.to_thread(during)
                return await response.read()

        def change() -> None:
            rotate(made, operator, clock)
            door.tokens = 1
            for _ in range(8):
                asyncio.run(chat(fresh(made).api_key, lambda: None))
                clock.ring()
            connections.close_all()

        assert asyncio.run(chat(BIRTH, change)).endswith(b"[DONE]\n\n")
        assert is_done(made, door)
        assert door.refused == 0
        with pytest.raises(upstream.EngineRefused, match="did not accept"):
            asyncio.run(chat(BIRTH, lambda: None))


# -- who may, and when


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({"lease_seconds": 0}, "without the lease"),
        ({"state": State.LOADING}, "until it is Ready"),
        ({"state": State.STOPPED}, "until it is Ready"),
        ({"key_step": KeyStep.ASKED}, "being changed already"),
        ({"key_step": KeyStep.SWITCHED}, "being changed already"),
    ],
)
def test_it_is_refused_in_words_where_it_cannot_be(
    door: Door, operator: User, clock: Clockwork, columns: dict, says: str
) -> None:
    made = machine(door, **columns)
    with pytest.raises(services.ActionRefused, match=says):
        rotate(made, operator, clock)
    assert "rotate" not in services.valid_actions(made.deployment)
    assert not AuditEvent.objects.exists()


@pytest.mark.parametrize("desired", [Desired.STOPPED, Desired.TERMINATED])
def test_what_is_on_its_way_out_gets_no_new_key(
    door: Door, operator: User, clock: Clockwork, desired: Desired
) -> None:
    made = machine(door)
    Deployment.objects.update(desired=desired)
    with pytest.raises(services.ActionRefused, match="no running machine"):
        rotate(made, operator, clock)


def test_an_operator_asks_for_it_on_the_settings_tab(door: Door, operator: User, client: Client) -> None:
    made = machine(door)
    client.force_login(operator)
    address = reverse("deployment_action", args=[made.deployment_id, "rotate"])
    tab = client.get(f"{made.deployment.get_absolute_url()}?tab=settings").text
    assert f'href="{address}"' in tab
    assert 'id="dialog-rotate"' in tab
    assert "Answers that are under way go on" in client.get(address).text
    said = client.post(address, follow=True).text
    assert "is getting a new key" in said
    assert fresh(made).key_step == KeyStep.ASKED
    tab = client.get(f"{made.deployment.get_absolute_url()}?tab=settings").text
    assert "being changed" in tab
    assert address not in tab
    assert "cannot be changed now" in client.get(address).text
    assert "being changed already" in client.post(address, follow=True).text


def test_a_viewer_may_not(door: Door, client: Client) -> None:
    made = machine(door)
    client.force_login(factories.viewer())
    assert client.post(reverse("deployment_action", args=[made.deployment_id, "rotate"])).status_code == 403
    assert "a-rotate" not in client.get(f"{made.deployment.get_absolute_url()}?tab=settings").text
    assert fresh(made).key_step == ""
