"""The lease: machines are told in time that they are wanted, and somebody learns when one cannot be told."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from django.conf import settings as real
from django.db import connections
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from deployments import services
from deployments.lifecycle import Desired, State
from deployments.models import Deployment, Instance
from deployments.monitoring import lease
from panel import sandbox
from panel.notices.models import Notice
from panel.notices.notify import open_notices
from tests import factories
from tests.deployments import door as doors
from tests.deployments.door import Door, fresh, machine
from tests.deployments.world import CloudWorld, run_threads
from tests.providers.fakecloud import fake_quote

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("on_this_computer")]
START = timezone.now().replace(microsecond=0)
HOUR = timedelta(hours=1)


def renew(at: datetime = START) -> int:
    return lease.renew_due(clock=lambda: at)


def notice() -> Notice | None:
    return open_notices().filter(key__startswith="lease:").first()


# -- in time


def test_a_renewal_says_how_long_and_its_facts_are_written(door: Door) -> None:
    made = machine(door)
    assert renew() == 1
    row = fresh(made)
    assert door.leases == [{"seconds": 7200}]
    assert (row.lease_renewed_at, row.lease_expires_at) == (START, START + 2 * HOUR)
    assert (row.lease_failures, row.lease_detail, row.state) == (0, "", "ready")


def test_it_is_renewed_every_minute_and_not_between(door: Door) -> None:
    machine(door)
    tried = [renew(START + timedelta(seconds=s)) for s in range(0, 185, 5)]
    assert sum(tried) == len(door.leases) == 4


def test_a_clock_that_was_put_back_does_not_stop_it(door: Door) -> None:
    machine(door)
    renew(START + timedelta(days=2))
    assert renew(START) == 1


def test_each_lives_as_long_as_it_was_ordered_to(door: Door, settings) -> None:
    made = machine(door, lease_seconds=900)
    settings.INFERENCE_LEASE_SECONDS = 0
    renew()
    assert door.leases == [{"seconds": 900}]
    assert fresh(made).lease_expires_at == START + timedelta(minutes=15)


def test_it_is_renewed_at_once_when_it_becomes_ready(world: CloudWorld) -> None:
    deployment = world.launch()
    world.run()
    [made] = deployment.instances.all()
    assert (made.state, made.lease_seconds) == ("ready", 7200)
    # The world's engines take no lease; here it only matters when it is due.
    assert made.next_lease_at == made.ready_at


@pytest.mark.parametrize(
    "why_not",
    [
        {"quote": fake_quote(serverless=True), "lease_seconds": 0},
        {"quote": fake_quote(own_machine=True), "lease_seconds": 0},
        {"lease_seconds": 0},
        {"endpoint_url": ""},
        {"state": State.STOPPED},
        {"state": State.OUTBID},
        {"state": State.TERMINATING},
        {"state": State.FAILED},
    ],
    ids=range(8),
)
def test_what_has_no_lease_or_is_not_wanted_is_not_told_to_live(door: Door, why_not: dict) -> None:
    machine(door, **why_not)
    assert (renew(), door.asked) == (0, 0)


def test_a_machine_of_which_nothing_is_known_just_now_is_kept_alive(door: Door) -> None:
    machine(door, state=State.UNKNOWN)
    machine(door, state=State.DEGRADED)
    machine(door, state=State.LOADING)
    renew()
    assert len(door.leases) == 3


def test_all_that_are_due_are_renewed_at_once(door: Door) -> None:
    door.pause = 0.4
    made = [machine(door) for _ in range(40)]
    began = time.perf_counter()
    assert renew() == 40
    # One after the other would take 16 s.
    assert time.perf_counter() - began < 5
    assert all(fresh(i).lease_renewed_at == START for i in made)


def test_one_that_hangs_keeps_no_other_from_its_renewal(door: Door) -> None:
    slow = machine(door)
    with doors.opened() as quick:
        other = machine(quick)
        door.pause = 7
        renew()
        assert fresh(other).lease_renewed_at == START
    assert fresh(slow).lease_detail == "no answer within 5 s"


@pytest.mark.django_db(transaction=True)
def test_two_workers_renew_once(door: Door) -> None:
    for _ in range(5):
        machine(door)
    run_threads(renew, renew, renew)
    assert len(door.leases) == 5


@pytest.mark.django_db(transaction=True)
def test_a_worker_that_stalled_writes_nothing_over_newer_facts(door: Door) -> None:
    made = machine(door)
    door.pause = 1.0

    def stalled() -> None:
        renew()
        connections.close_all()

    thread = threading.Thread(target=stalled)
    thread.start()
    assert door.taken.wait(5)
    newer = START + timedelta(minutes=3)
    Instance.objects.update(lease_renewed_at=newer, next_lease_at=newer + lease.INTERVAL)
    thread.join()
    assert fresh(made).lease_renewed_at == newer


def test_what_drains_is_asked_again_at_once_until_it_serves(door: Door) -> None:
    made, door.state = machine(door), "draining"
    renew()
    assert fresh(made).lease_detail == "the machine is draining"
    door.state = "serving"
    assert renew(START + timedelta(seconds=5)) == 1
    assert fresh(made).lease_detail == ""
    assert renew(START + timedelta(seconds=10)) == 0


# -- when it cannot be told


def test_a_failure_is_tried_again_before_a_lapsed_machine_ends(door: Door) -> None:
    made = machine(door)
    door.answer = (500, b"")
    renew()
    assert (fresh(made).lease_failures, fresh(made).lease_detail) == (1, "/lease answered 500")
    assert renew(START + timedelta(seconds=15)) == 0
    assert renew(START + timedelta(seconds=20)) == 1
    assert fresh(made).lease_failures == 2
    # REGIA_DRAIN_SECONDS is 120.
    assert timedelta(seconds=120) > lease.RETRY + lease.RETRY


def test_before_it_is_ready_a_failure_is_no_news(door: Door) -> None:
    made = machine(door, state=State.LOADING)
    door.answer = (502, b"")
    assert renew() == 1
    assert (fresh(made).lease_failures, fresh(made).lease_detail) == (0, "")


def _fails_for(door: Door, made: Instance, minutes: int) -> Notice | None:
    door.answer = (500, b"")
    Instance.objects.filter(pk=made.pk).update(
        lease_renewed_at=START, next_lease_at=START + timedelta(minutes=minutes)
    )
    renew(START + timedelta(minutes=minutes))
    return notice()


def test_a_quarter_of_its_length_warns_and_half_is_critical_and_a_renewal_clears_it(door: Door) -> None:
    made = machine(door)
    assert _fails_for(door, made, 29) is None
    warned = _fails_for(door, made, 30)
    assert warned
    assert (warned.severity, warned.url) == ("warning", made.deployment.get_absolute_url())
    assert "30 of 120 minutes: /lease answered 500" in warned.detail
    alarm = _fails_for(door, made, 60)
    assert alarm
    assert (alarm.severity, alarm.pk) == ("critical", warned.pk)
    door.answer = None
    renew(START + timedelta(minutes=61))
    assert notice() is None
    assert fresh(made).lease_failures == 0


def test_a_panel_that_was_away_tells_nobody_when_all_is_well(door: Door) -> None:
    made = machine(door, lease_renewed_at=START - timedelta(minutes=100))
    renew()
    assert notice() is None
    assert fresh(made).lease_renewed_at == START


def test_a_machine_that_was_never_told_is_reckoned_from_when_it_served(door: Door) -> None:
    made = machine(door, state_since=START - timedelta(minutes=31))
    door.answer = (404, b"")
    renew()
    found = notice()
    assert found
    assert "knows no lease" in found.detail
    Instance.objects.update(state=State.LOADING, next_lease_at=None)
    assert fresh(made).lease_spent(START + HOUR) == 0


def test_a_start_after_a_stop_begins_a_lease_anew(world: CloudWorld) -> None:
    deployment = world.launch()
    world.run()
    long_ago = world.now - timedelta(hours=9)
    Instance.objects.update(lease_renewed_at=long_ago, lease_expires_at=long_ago, lease_failures=3)
    lease._tell(deployment.instances.select_related("deployment").get(), "x", now=world.now)
    assert notice()
    services.stop(deployment, actor=world.owner, now=world.now)
    world.run()
    assert notice() is None
    services.start(Deployment.objects.get(pk=deployment.pk), actor=world.owner, now=world.now)
    world.run()
    [made] = deployment.instances.all()
    assert (made.state, made.lease_renewed_at, made.lease_expires_at) == ("ready", None, None)
    assert made.lease_failures == 0


def test_the_end_of_a_machine_clears_its_notice(world: CloudWorld) -> None:
    deployment = world.launch()
    world.run()
    Instance.objects.update(lease_renewed_at=world.now - HOUR)
    lease._tell(deployment.instances.select_related("deployment").get(), "x", now=world.now)
    services.terminate(deployment, actor=world.owner, now=world.now)
    world.run()
    assert deployment.instances.get().state == "terminated"
    assert notice() is None


ODD = {
    b"": "no machine of ours", b"<html>": "no machine of ours", b"[]": "no machine of ours", b"{}": "no machine of ours",
    b'{"expires_in": true}': "no machine of ours", b'{"expires_in": "7200"}': "no machine of ours",
    b'{"expires_in": NaN}': "no machine of ours", b'{"expires_in": 1e999}': "no machine of ours",
    b"[" * 4000: "no machine of ours", b'{"expires_in": -5}': "-5 seconds", b'{"expires_in": 0}': "0 seconds",
    b'{"expires_in": 1e15}': "seconds", b'{"expires_in": 10, "x": "' + b"y" * 9000 + b'"}': "no machine of ours",
}  # fmt: skip


@pytest.mark.parametrize(("body", "says"), ODD.items(), ids=range(len(ODD)))
def test_an_odd_answer_is_a_failure_with_a_sentence(door: Door, body: bytes, says: str) -> None:
    made = machine(door)
    door.answer = (200, body)
    renew()
    assert says in fresh(made).lease_detail
    assert fresh(made).lease_renewed_at is None


@pytest.mark.parametrize(
    ("status", "says"), [(302, "302"), (400, "400"), (401, "did not accept its key"), (404, "knows no lease"), (409, "too late"), (503, "503")]
)  # fmt: skip
def test_a_refusal_is_told_in_words(door: Door, status: int, says: str) -> None:
    made = machine(door)
    door.answer = (status, b'{"error":"x"}')
    renew()
    assert says in fresh(made).lease_detail


def test_a_machine_that_is_gone_is_told_in_words() -> None:
    with doors.opened() as gone:
        made = machine(gone)
    renew()
    assert fresh(made).lease_detail == "the connection was refused"


def test_nothing_is_sent_into_a_private_network_or_in_the_clear(door: Door, settings) -> None:
    settings.ALLOW_INSECURE_ENDPOINTS = False
    inside = machine(door, endpoint_url="https://10.0.0.1:8000")
    clear = machine(door, endpoint_url="http://8.8.8.8:8000")
    renew()
    assert "private network" in fresh(inside).lease_detail
    assert "not encrypted" in fresh(clear).lease_detail


# -- what is shown


@pytest.fixture
def viewer(client: Client) -> Client:
    client.force_login(factories.viewer())
    return client


def page(client: Client, made: Instance) -> str:
    return client.get(made.deployment.get_absolute_url()).text


def test_a_page_says_when_the_machine_ends_by_itself(viewer: Client, door: Door) -> None:
    made = machine(door)
    assert "2 h after its start, unless this panel renews its lease" in page(viewer, made)
    renew(timezone.now() - timedelta(minutes=3))
    row, text = fresh(made), page(viewer, made)
    assert row.lease_expires_at
    assert f"{row.lease_expires_at:%b, %H:%M} UTC</time>, unless its lease is renewed" in text
    assert "3 min ago" in text.split("Lease renewed")[1][:300]


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({"quote": fake_quote(serverless=True), "lease_seconds": 0}, "never: a serverless endpoint has no watchdog"),
        ({"quote": fake_quote(own_machine=True), "lease_seconds": 0}, "never: an engine on this computer has no watchdog"),
        ({"lease_seconds": 0}, "no lease: this panel gave it none"),
    ],
)  # fmt: skip
def test_a_page_says_that_there_is_no_watchdog(viewer: Client, door: Door, columns: dict, says: str) -> None:
    assert says in page(viewer, machine(door, **columns))


def test_a_page_and_the_list_say_that_it_is_not_renewed(viewer: Client, door: Door) -> None:
    made = machine(
        door, lease_renewed_at=timezone.now() - timedelta(minutes=20), lease_failures=2, lease_detail="why"
    )
    made.refresh_from_db()
    Instance.objects.update(lease_expires_at=timezone.now() + HOUR)
    assert "2 failures since: why" in page(viewer, made)
    assert "Lease not renewed" not in viewer.get(reverse("deployments")).text
    Instance.objects.update(lease_renewed_at=timezone.now() - timedelta(minutes=40))
    assert "Lease not renewed" in viewer.get(reverse("deployments")).text


# -- what is set


def test_the_clock_rings_for_it() -> None:
    from panel.celery import app

    app.loader.import_default_modules()
    bell = real.CELERY_BEAT_SCHEDULE["lease"]
    assert bell["task"] in app.tasks
    assert bell["task"] == services.LEASE
    assert timedelta(seconds=bell["schedule"]) < lease.RETRY


def test_the_sandboxs_machines_are_ordered_without_one(tmp_path: Path) -> None:
    sandbox.mark_of(tmp_path).write_text("{}")
    assert sandbox.environment(tmp_path)["INFERENCE_LEASE_SECONDS"] == "0"


@pytest.mark.parametrize("value", ["299", "604801", "-1", "soon"])
def test_a_length_that_the_image_would_refuse_is_refused_at_the_start(value: str) -> None:
    found = subprocess.run(
        [sys.executable, "-c", "import panel.settings"], capture_output=True, text=True, check=False,
        env={**os.environ, "INFERENCE_LEASE_SECONDS": value},
    )  # fmt: skip
    assert found.returncode == 1
    assert "INFERENCE_LEASE_SECONDS must be" in found.stderr


def test_what_is_not_wanted_any_more_may_end_itself(door: Door) -> None:
    made = machine(door)
    Deployment.objects.update(desired=Desired.TERMINATED)
    Instance.objects.update(state=State.TERMINATING)
    assert renew() == 0
    assert fresh(made).lease_renewed_at is None
