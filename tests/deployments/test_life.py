"""The life of a deployment against a cloud that misbehaves: what is lost, late, doubled or not ours."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

import pytest

from billing import ledger
from deployments import decide, reconcile, services
from deployments.lifecycle import State
from deployments.models import Event, Instance, ProviderAccount
from deployments.providers.base import MachineStatus
from panel.audit.models import AuditEvent
from panel.notices.notify import open_notices
from tests.deployments.world import FOREIGN, MINUTE, CloudWorld, fresh, live, run_threads, settled
from tests.providers.faulty import Fault


def test_a_dead_engine_is_degraded_then_failed_and_replaced_within_bounds(
    world: CloudWorld, monkeypatch
) -> None:
    world.calm(monkeypatch)
    deployment = world.launch()
    world.run()
    for _ in range(6):
        for i in live(deployment):
            world.cloud.set_status(i.label, MachineStatus.EXITED)
        world.run(3 * MINUTE, check=world.check)
    path = Event.objects.filter(instance__attempt=1, kind="state").order_by("at", "pk")
    assert [e.to_state for e in path][-3:] == ["degraded", "terminating", "failed"]
    assert deployment.instances.count() == 4, "at most so many attempts in an hour"
    assert open_notices().filter(key=f"relaunch:{deployment.pk}").exists()
    world.run(60 * MINUTE, check=world.check)
    assert settled(deployment) == State.READY, "the hour has passed: it is tried again"
    assert not open_notices().filter(key=f"relaunch:{deployment.pk}").exists()


def test_a_silent_endpoint_is_degraded_and_recovers(world: CloudWorld, endpoint) -> None:
    deployment = world.launch()
    world.run()
    endpoint.alive = False
    world.run(MINUTE // 2)
    assert settled(deployment) == State.DEGRADED
    endpoint.alive = True
    world.run(MINUTE // 2)
    assert settled(deployment) == State.READY
    assert deployment.instances.count() == 1


def test_stop_and_start_keep_the_machine(world: CloudWorld, monkeypatch) -> None:
    world.calm(monkeypatch)
    deployment = world.launch()
    world.run()
    services.stop(fresh(deployment), actor=world.owner, now=world.now)
    world.run(check=world.check)
    assert settled(deployment) == State.STOPPED
    cost = ledger.cost_of(deployment.pk, now=world.now)
    world.run(60 * MINUTE)
    assert ledger.cost_of(deployment.pk, now=world.now) == cost, "a stopped machine bills no compute"
    services.start(fresh(deployment), actor=world.owner, now=world.now)
    world.run(check=world.check)
    assert settled(deployment) == State.READY
    assert deployment.instances.count() == 1
    world.check_books(deployment, slack=4 * MINUTE)


def test_a_stop_date_stops(world: CloudWorld) -> None:
    deployment = world.launch(stop_at=world.now + 10 * MINUTE)
    world.run(12 * MINUTE, check=world.check)
    assert settled(deployment) == State.STOPPED
    assert AuditEvent.objects.get(action="deployment.stop").reason == "The stop date has come."


def test_a_machine_in_the_wrong_country_is_given_back(world: CloudWorld) -> None:
    deployment = world.launch()
    world.run(MINUTE)
    i = deployment.instances.get()
    Instance.objects.filter(pk=i.pk).update(country="US")
    world.cloud.list_shows_price = True
    with world.cloud._machines() as machines:
        for row in machines.values():
            if row["label"] == i.label:
                row["country"] = "US"
    world.run(5 * MINUTE, check=world.check)
    i.refresh_from_db()
    assert i.state == State.FAILED
    assert "US is outside the EEA" in i.reason


def test_an_unknown_machine_under_our_label_is_shown_then_ended(world: CloudWorld) -> None:
    deployment = world.launch()
    world.run()
    label = deployment.instances.get().label
    stray = label.rsplit("-", 1)[0] + "-77"
    world.cloud.place(stray)
    world.run(MINUTE // 6)  # the next list
    world.run(2 * MINUTE, check=world.check)
    found = Instance.objects.get(label=stray)
    assert ledger.cost_of([found.pk], now=world.now) > 0, "it accrues"
    assert open_notices().filter(key=f"found:{stray}").exists()
    assert stray in world.cloud.labels(), "it is spared for ten minutes"
    world.run(15 * MINUTE, check=world.check)
    assert stray not in world.cloud.labels()
    found.refresh_from_db()
    assert found.state == State.TERMINATED
    assert settled(deployment) == State.READY


def test_two_machines_under_one_label_leave_the_oldest(world: CloudWorld) -> None:
    deployment = world.launch()
    world.run()
    label = deployment.instances.get().label
    world.now += MINUTE
    world.cloud.place(label)
    world.run(2 * MINUTE)
    assert world.cloud.ids_of(label) == [deployment.instances.get().remote_id]
    assert settled(deployment) == State.READY


def test_attempt_1_is_not_attempt_10(world: CloudWorld) -> None:
    deployment = world.launch()
    world.fail("create", Fault.TIMEOUT_BEFORE)
    label = deployment.instances.get().label
    world.cloud.place(f"{label}0")
    world.run(MINUTE // 6)  # the next list
    world.run(MINUTE, check=world.check)
    assert deployment.instances.get(attempt=1).remote_id == "", "a label that only begins alike was adopted"


def test_a_failed_attempts_machine_that_shows_up_hours_later_is_given_back(
    world: CloudWorld, monkeypatch
) -> None:
    world.calm(monkeypatch)
    deployment = world.launch()
    world.fail("create", Fault.LATE)
    world.late_until = world.now + timedelta(hours=5)
    world.provider = world._provider()
    world.run(timedelta(hours=1))
    first = deployment.instances.get(attempt=1)
    assert first.state == State.FAILED
    assert settled(deployment) == State.READY
    world.run(timedelta(hours=5))
    first.refresh_from_db()
    assert first.state == State.TERMINATED
    assert not world.cloud.ids_of(first.label)
    assert ledger.cost_of([first.pk], now=world.now) >= Decimal("0.40") * 4, "its spend is back-dated"
    assert deployment.instances.count() == 2


def test_the_same_launch_key_is_the_same_launch(world: CloudWorld) -> None:
    made = []
    run_threads(*[lambda: made.append(world.launch(launch_key="form-1").pk)] * 5)
    assert len(made) == 5
    assert len(set(made)) == 1
    assert Instance.objects.count() == 1


def test_decide_is_asked_with_the_clock_of_the_step(world: CloudWorld) -> None:
    """A step that finds nothing to do sets the next look from its own clock."""
    deployment = world.launch()
    world.run()
    reconcile.step(deployment.pk, clock=world.clock)
    assert fresh(deployment).next_look_at == world.now + decide.STEADY


def test_a_second_machine_is_not_lost_when_the_first_one_goes(world: CloudWorld) -> None:
    deployment = world.launch()
    world.run()
    i = deployment.instances.get()
    world.now += MINUTE
    world.cloud.place(i.label)
    world.fail("terminate", *[Fault.ERROR_BEFORE] * 5)
    world.cloud.terminate(i.remote_id)
    services.terminate(fresh(deployment), actor=world.owner, now=world.now)
    world.run(30 * MINUTE)
    assert world.standing() == [FOREIGN]
    assert settled(deployment) == State.TERMINATED


def test_a_switched_off_account_is_still_watched_for_what_may_come(world: CloudWorld) -> None:
    deployment = world.launch()
    world.fail("create", Fault.LATE)
    world.late_until = world.now + 20 * MINUTE
    world.provider = world._provider()
    ProviderAccount.objects.filter(pk=world.account.pk).update(enabled=True)
    world.run(4 * MINUTE)
    ProviderAccount.objects.filter(pk=world.account.pk).update(enabled=False)
    services.terminate(fresh(deployment), actor=world.owner, now=world.now)
    world.run(40 * MINUTE)
    assert world.standing() == [FOREIGN]


def test_a_revoked_key_does_not_cost_a_stopped_machine(world: CloudWorld) -> None:
    deployment = world.launch()
    world.run()
    services.stop(fresh(deployment), actor=world.owner, now=world.now)
    world.run(until=lambda: settled(deployment) == State.STOPPED)
    world.fail("start", *[Fault.UNAUTHORIZED] * 2)
    services.start(fresh(deployment), actor=world.owner, now=world.now)
    world.run(10 * MINUTE, check=world.check)
    assert settled(deployment) == State.READY
    assert deployment.instances.count() == 1


def test_an_unclear_start_accrues_and_is_stopped_when_nobody_wants_it(world: CloudWorld) -> None:
    deployment = world.launch()
    world.run()
    services.stop(fresh(deployment), actor=world.owner, now=world.now)
    world.run(until=lambda: settled(deployment) == State.STOPPED)
    world.fail("start", Fault.TIMEOUT_AFTER)
    services.start(fresh(deployment), actor=world.owner, now=world.now)
    reconcile.step(deployment.pk, clock=world.clock)
    assert ledger.burn(now=world.now) == Decimal("0.40"), "it may run, so it accrues"
    services.stop(fresh(deployment), actor=world.owner, now=world.now)
    world.run(10 * MINUTE, check=world.check)
    assert settled(deployment) == State.STOPPED
    world.check_books(deployment, slack=5 * MINUTE)


def test_a_start_after_the_stop_date_says_so(world: CloudWorld) -> None:
    deployment = world.launch(stop_at=world.now + 10 * MINUTE)
    world.run(12 * MINUTE)
    with pytest.raises(services.ActionRefused, match="stop date"):
        services.start(fresh(deployment), actor=world.owner, now=world.now)
