"""What a machine says that it failed of: it is asked at once, written for this life alone, and shown."""

from __future__ import annotations

import threading
from datetime import datetime, timedelta

import pytest
from django.db import connections
from django.test import Client
from django.utils import timezone

from deployments import services
from deployments.lifecycle import State
from deployments.models import Deployment, Event, Instance, KeyStep
from deployments.monitoring import lease, probe
from deployments.providers.base import MachineStatus
from tests import factories
from tests.deployments.door import Door, fresh, machine
from tests.deployments.world import CloudWorld

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("on_this_computer")]
START = timezone.now().replace(microsecond=0)
DIED = {"code": 70, "cause": "The engine ended with exit code 1. Its last words: out of memory"}
SAID = f"code 70: {DIED['cause']}"


def renew(at: datetime = START) -> int:
    return lease.renew_due(clock=lambda: at)


def look(at: datetime = START) -> None:
    probe.probe_due(clock=lambda: at)


@pytest.mark.parametrize("state", [State.LOADING, State.WARMING, State.READY, State.DEGRADED])
def test_a_probe_that_is_told_of_a_failure_has_the_lease_ask_at_once(door: Door, state: State) -> None:
    made = machine(door, state=state, next_lease_at=START + timedelta(seconds=50))
    door.failed = DIED
    look()
    assert fresh(made).next_lease_at == START
    assert renew() == 1
    assert fresh(made).told_failure == SAID
    assert fresh(made).lease_renewed_at is None
    assert door.leases == []


def test_the_deployment_is_looked_at_at_once(door: Door, rung, django_capture_on_commit_callbacks) -> None:
    made = machine(door, state=State.LOADING)
    door.failed = DIED
    with django_capture_on_commit_callbacks(execute=True):
        renew()
    assert fresh(made).deployment.next_look_at == START
    assert (services.LOOK, (str(made.deployment_id),)) in rung


def test_a_failed_machine_does_not_seem_to_come_up(door: Door) -> None:
    made = machine(door, state=State.LOADING)
    door.failed = DIED
    look()
    assert fresh(made).probe_seen_at is None


def test_what_has_no_lease_is_probed_as_ever(door: Door) -> None:
    made = machine(door, lease_seconds=0)
    door.failed = DIED
    look()
    assert (fresh(made).next_lease_at, fresh(made).probe_failures, renew()) == (None, 1, 0)
    assert fresh(made).told_failure == ""


@pytest.mark.parametrize(
    "body", [b'{"error":"failed"}', b"failed", b'{"state":"failed","x":1}', b"[", b"[" * 512, b""]
)
def test_another_servers_503_is_no_failure_of_ours(body: bytes) -> None:
    assert not probe._says_failed(body)


@pytest.mark.parametrize(
    ("told", "written"),
    [
        ({"code": 64, "cause": "REGIA_CONTEXT is missing."}, "code 64: REGIA_CONTEXT is missing."),
        ({"code": 70, "cause": "a\n\x1b[31m  b\u202ec\x00"}, "code 70: a [31m b c"),
        ({"code": 70, "cause": ""}, "code 70: it gives no cause"),
        ({"code": 70, "cause": ["x"]}, "code 70: it gives no cause"),
        ({"code": True, "cause": "x"}, "code unknown: x"),
        ({"code": "70", "cause": "x"}, "code unknown: x"),
        ({"code": 10**40, "cause": "x"}, "code unknown: x"),
        ({}, "code unknown: it gives no cause"),
        ({"code": 70, "cause": "y" * 2000}, "code 70: " + "y" * 291),
    ],
    ids=range(9),
)
def test_whatever_it_sends_one_short_line_is_written(door: Door, told: dict, written: str) -> None:
    made = machine(door)
    door.failed = told
    renew()
    assert fresh(made).told_failure == written


def test_a_wrong_key_is_told_nothing_and_the_first_key_is_tried(door: Door) -> None:
    made = machine(
        door, api_key="sk-the-key-that-it-has-now", birth_key=door.birth, key_step=KeyStep.SWITCHED
    )
    door.failed = DIED
    renew()
    assert fresh(made).told_failure == SAID
    other = machine(door, name="other", api_key="sk-a-key-of-nobody-here")
    renew(START + lease.INTERVAL)
    assert fresh(other).told_failure == ""


@pytest.mark.django_db(transaction=True)
def test_a_probe_in_between_does_not_make_the_answer_be_lost(door: Door) -> None:
    """It moves the lease's time, and the machine says it only once."""
    made = machine(door, state=State.LOADING)
    door.failed = DIED
    asking = _asking(door)
    Instance.objects.update(next_lease_at=START + timedelta(seconds=1), state=State.WARMING)
    door.may_answer.set()
    asking.join()
    assert fresh(made).told_failure == SAID


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    "news",
    [
        {"state": State.STOPPED}, {"state": State.TERMINATING}, {"stop_asked_at": START}, {"interruptions": 1},
        {"endpoint_url": "https://another.example"},
    ],
    ids=range(5),
)  # fmt: skip
def test_what_a_former_life_said_is_not_written_into_a_new_one(door: Door, news: dict) -> None:
    made = machine(door)
    door.failed = DIED
    asking = _asking(door)
    Instance.objects.update(**news)
    door.may_answer.set()
    asking.join()
    assert fresh(made).told_failure == ""


def _asking(door: Door) -> threading.Thread:
    """A worker that has asked and has no answer yet."""

    def ask() -> None:
        renew()
        connections.close_all()

    door.may_answer.clear()
    thread = threading.Thread(target=ask)
    thread.start()
    assert door.taken.wait(5)
    return thread


def test_one_that_serves_again_has_no_failure_any_more(door: Door) -> None:
    made = machine(door, told_failure=SAID)
    renew()
    assert fresh(made).told_failure == ""


# -- what becomes of it


def fail(world: CloudWorld, deployment: Deployment) -> None:
    Instance.objects.filter(deployment=deployment).update(told_failure=SAID)
    services.ring(deployment, now=world.now)


def test_a_machine_that_failed_is_given_back_and_replaced_within_bounds(world: CloudWorld) -> None:
    deployment = world.launch()
    world.run()
    fail(world, deployment)
    world.run()
    first, second = deployment.instances.order_by("attempt")
    assert (first.state, first.reason, first.failure) == ("failed", SAID, SAID)
    assert (second.state, second.told_failure) == ("ready", "")
    assert Event.objects.filter(instance=first, reason=SAID, to_state="terminating").count() == 1
    assert [label for label in world.standing() if label in (first.label, second.label)] == [second.label]


def test_a_start_after_a_stop_knows_nothing_of_it(world: CloudWorld) -> None:
    deployment = world.launch()
    world.run()
    services.stop(deployment, actor=world.owner, now=world.now)
    world.run()
    fail(world, deployment)
    services.start(Deployment.objects.get(pk=deployment.pk), actor=world.owner, now=world.now)
    world.run()
    [made] = deployment.instances.all()
    assert (made.state, made.told_failure) == ("ready", "")


@pytest.mark.parametrize("tab", ["", "?tab=settings", "?tab=events"])
def test_the_page_shows_why(door: Door, client: Client, tab: str) -> None:
    made = machine(
        door, state=State.FAILED, reason=SAID, failure=SAID, told_failure=SAID, observed=MachineStatus.EXITED
    )
    Event.objects.create(
        deployment=made.deployment, instance=made, at=START, kind="state", to_state="failed", reason=SAID
    )
    client.force_login(factories.viewer())
    assert SAID in client.get(f"{made.deployment.get_absolute_url()}{tab}").text


def test_the_page_shows_it_before_anything_was_done_and_as_text(door: Door, client: Client) -> None:
    made = machine(door, told_failure="code 70: <script>alert(1)</script>")
    client.force_login(factories.viewer())
    page = client.get(made.deployment.get_absolute_url()).text
    assert "code 70: &lt;script&gt;alert(1)&lt;/script&gt;" in page
