"""Schedules, dates and settings: what the clock and the operator change of a deployment that runs."""

from __future__ import annotations

from datetime import time, timedelta
from decimal import Decimal

import pytest

from billing.models import Budget
from deployments import services
from deployments.lifecycle import Desired, State
from deployments.models import Deployment
from deployments.schedule import Schedule
from panel.audit.models import AuditEvent
from panel.notices.notify import open_notices
from tests.conftest import NOW
from tests.deployments.world import MINUTE, CloudWorld, fresh, settled

HOURS = timedelta(hours=1)


def _schedule(**span: timedelta) -> Schedule:
    """Each day from `begins` to `ends` from now on."""
    begins, ends = (NOW + span["begins"]).time(), (NOW + span["ends"]).time()
    return Schedule("1234567", _minute(begins), _minute(ends), "UTC")


def _minute(at: time) -> time:
    return at.replace(second=0, microsecond=0)


@pytest.fixture
def calm(world: CloudWorld, monkeypatch) -> CloudWorld:
    return world.calm(monkeypatch)


def test_a_schedule_stops_and_starts_by_the_minute(calm: CloudWorld) -> None:
    deployment = calm.launch(schedule=_schedule(begins=30 * MINUTE, ends=10 * MINUTE))
    calm.run(9 * MINUTE)
    assert settled(deployment) == State.READY, "it was launched outside its hours' edges, and runs"
    calm.run(4 * MINUTE)
    assert settled(deployment) == State.STOPPED
    stop = AuditEvent.objects.get(action="deployment.stop")
    assert stop.reason == "its schedule"
    calm.run(16 * MINUTE)
    assert settled(deployment) == State.STOPPED
    calm.run(4 * MINUTE, check=calm.check)
    assert settled(deployment) == State.READY
    assert deployment.instances.count() == 1


def test_what_the_operator_does_between_two_edges_stands(calm: CloudWorld) -> None:
    deployment = calm.launch(schedule=_schedule(begins=50 * MINUTE, ends=5 * MINUTE))
    calm.run(8 * MINUTE)
    assert fresh(deployment).desired == Desired.STOPPED
    services.start(fresh(deployment), actor=calm.owner, now=calm.now)
    calm.run(15 * MINUTE)
    assert settled(deployment) == State.READY, "the edge that is past does not come again"


def test_a_start_that_the_budget_refuses_is_told_and_not_tried_again(calm: CloudWorld) -> None:
    deployment = calm.launch(schedule=_schedule(begins=10 * MINUTE, ends=3 * MINUTE))
    calm.run(6 * MINUTE)
    assert settled(deployment) == State.STOPPED
    Budget.objects.create(amount_usd=Decimal("1.00"))
    calm.run(6 * MINUTE)
    assert fresh(deployment).desired == Desired.STOPPED
    notice = open_notices().get(key=f"schedule:{deployment.pk}")
    assert "$" in notice.detail
    Budget.objects.all().delete()
    calm.run(10 * MINUTE)
    assert fresh(deployment).desired == Desired.STOPPED, "not until the next edge, or a person"
    services.start(fresh(deployment), actor=calm.owner, now=calm.now)
    calm.run(3 * MINUTE)
    assert settled(deployment) == State.READY


def test_edges_that_were_slept_through_count_as_the_last_one(calm: CloudWorld) -> None:
    deployment = calm.launch(schedule=_schedule(begins=30 * MINUTE, ends=10 * MINUTE))
    calm.run(5 * MINUTE)
    calm.now += 48 * HOURS
    calm.run(3 * MINUTE)
    assert fresh(deployment).desired == Desired.RUNNING
    assert deployment.events.filter(kind__in=["stop", "start"]).count() == 0, "it ran before and is to run"


def test_a_delete_date_ends_everything_also_what_is_stopped(calm: CloudWorld) -> None:
    runs = calm.launch(delete_at=NOW + 10 * MINUTE)
    stopped = calm.launch(delete_at=NOW + 10 * MINUTE)
    calm.run(3 * MINUTE)
    services.stop(fresh(stopped), actor=calm.owner, now=calm.now)
    calm.run(6 * MINUTE)
    assert settled(stopped) == State.STOPPED
    calm.run(6 * MINUTE, check=calm.check)
    for deployment in (runs, stopped):
        assert settled(deployment) == State.TERMINATED
        assert fresh(deployment).desired == Desired.TERMINATED
    reasons = AuditEvent.objects.filter(action="deployment.terminate").values_list("reason", flat=True)
    assert set(reasons) == {"The delete date has come."}


def test_settings_that_a_machine_cannot_take_replace_it(world: CloudWorld) -> None:
    deployment = world.launch()
    world.run(2 * MINUTE, until=lambda: settled(deployment) == State.READY)
    Deployment.objects.update(generation=2, context=2048, next_look_at=world.now)
    world.run(3 * MINUTE, check=world.check)
    assert settled(deployment) == State.READY
    first, second = deployment.instances.order_by("attempt")
    assert (first.state, first.reason) == (State.TERMINATED, "confirmed: absent from two complete lists")
    assert (first.generation, second.generation) == (1, 2)
    assert deployment.events.filter(reason="its settings changed").exists()
