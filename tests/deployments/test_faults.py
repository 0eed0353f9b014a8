"""The faults that the reconciler must survive, by their number in the reliability plan."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

import pytest
from django.db import DatabaseError, connection

from billing import budgets, ledger
from billing.models import Budget, Reservation
from deployments import acts, reconcile, services
from deployments.lifecycle import State
from deployments.models import Deployment, ProviderAccount
from panel.audit.models import AuditEvent
from panel.notices.notify import open_notices
from tests.deployments.world import FOREIGN, MINUTE, CloudWorld, fresh, live, run_threads, settled
from tests.providers.faulty import Fault, Point


def test_6_a_task_that_runs_twice_in_parallel_creates_once(world: CloudWorld) -> None:
    deployment = world.launch()
    world.provider.latency = 0.1
    run_threads(*[lambda: reconcile.step(deployment.pk, clock=world.clock)] * 4)
    assert world.provider.count("create") == 1
    assert deployment.instances.count() == 1
    world.run(check=world.check)
    assert settled(deployment) == State.READY


def test_7_a_worker_that_slept_past_its_lease_writes_nothing(world: CloudWorld) -> None:
    deployment = world.launch()

    def sleep_past_the_lease(point, method, label) -> None:
        if point is Point.AFTER_ANSWER and method == "create":
            world.now += reconcile.LEASE + timedelta(seconds=1)
            reconcile.step(deployment.pk, clock=world.clock)
            assert deployment.instances.get().state == State.UNKNOWN

    world.provider.crash = sleep_past_the_lease
    reconcile.step(deployment.pk, clock=world.clock)
    instance = deployment.instances.get()
    assert (instance.state, instance.remote_id) == (State.UNKNOWN, ""), "the sleeper wrote with a lost lease"
    world.provider.crash = None
    world.run(check=world.check)
    assert settled(deployment) == State.READY
    assert world.provider.count("create") == 1


def test_7_nothing_is_sent_past_the_deadline(world: CloudWorld, monkeypatch) -> None:
    monkeypatch.setattr(acts, "CREATE_MARGIN", reconcile.LEASE.total_seconds() + 1)
    deployment = world.launch()
    reconcile.step(deployment.pk, clock=world.clock)
    assert world.cloud.labels() == [FOREIGN]
    assert deployment.instances.get().state == State.REQUESTED


def test_9_nothing_is_lost_while_the_broker_is_gone(world: CloudWorld, monkeypatch) -> None:
    def gone(*_args, **_options):
        raise OSError("the broker's folder is gone")

    monkeypatch.setattr(services.app, "send_task", gone)
    deployment = world.launch()
    for _ in range(60):
        reconcile.observe_due(clock=world.clock)
        # Without a broker no bell arrives; whoever has hands looks at what is due.
        reconcile.look(deployment.pk, clock=world.clock)
        world.now += timedelta(seconds=2)
    assert settled(deployment) == State.READY


def _read_only(on: bool) -> None:
    with connection.cursor() as cursor:
        if connection.vendor == "sqlite":
            cursor.execute(f"PRAGMA query_only = {'ON' if on else 'OFF'}")
        else:
            cursor.execute(f"SET default_transaction_read_only = {'on' if on else 'off'}")


def test_10_no_create_without_a_durable_intent(world: CloudWorld) -> None:
    deployment = world.launch()
    _read_only(True)
    try:
        with pytest.raises(DatabaseError):
            reconcile.step(deployment.pk, clock=world.clock)
    finally:
        _read_only(False)
    assert world.provider.count("create") == 0


def test_10_terminate_is_tried_although_nothing_can_be_written(world: CloudWorld) -> None:
    deployment = world.launch()
    world.run()
    services.terminate(fresh(deployment), actor=world.owner, now=world.now)
    reconcile.step(deployment.pk, clock=world.clock)
    instance = deployment.instances.get()
    assert instance.state == State.TERMINATING
    _read_only(True)
    try:
        reconcile.terminate(instance.pk, clock=world.clock)
    finally:
        _read_only(False)
    assert world.cloud.labels() == [FOREIGN]
    world.run()
    assert not live(deployment)


def test_12_a_price_change_opens_a_new_segment(world: CloudWorld) -> None:
    deployment = world.launch()
    world.run(5 * MINUTE)
    label = deployment.instances.get().label
    world.cloud.set_price(label, Decimal("0.80"))
    world.run(5 * MINUTE, check=world.check)
    assert ledger.burn(now=world.now) == Decimal("0.80")
    assert deployment.events.filter(kind="price").count() == 1
    assert Reservation.objects.get(subject_id=deployment.instances.get().pk).usd_per_hour == Decimal("0.80")
    # Nobody tells us the moment: what the new price adds until the next list is seen later, in the bill.
    world.check_books(deployment, unseen=Decimal("0.40") * 6 / 3600)


def test_14_one_list_without_it_is_not_gone(world: CloudWorld) -> None:
    deployment = world.launch()
    world.run()
    world.fail("list_machines", Fault.MISSING, Fault.OK, Fault.MISSING)
    world.run(MINUTE, check=world.check)
    assert settled(deployment) == State.READY
    assert deployment.instances.count() == 1


def test_14_what_stands_by_its_id_is_not_gone_whatever_lists_say(world: CloudWorld) -> None:
    deployment = world.launch()
    world.run()
    world.fail("list_machines", *[Fault.MISSING] * 200)
    world.run(10 * MINUTE, check=world.check)
    assert settled(deployment) == State.READY
    assert deployment.instances.count() == 1
    assert world.cloud.ever(deployment.instances.get().label) == 1


def test_14_what_nobody_says_by_its_id_is_left_to_the_lists_after_half_an_hour(world: CloudWorld) -> None:
    deployment = world.launch()
    world.run()
    first = deployment.instances.get()
    world.cloud.remove(first.label)
    world.fail("stands", *[Fault.UNAVAILABLE] * 2000)
    world.run(25 * MINUTE, check=world.check)
    assert world.provider.count("stands") > 0
    first.refresh_from_db()
    assert first.state == State.READY
    world.run(15 * MINUTE, check=world.check)
    first.refresh_from_db()
    assert first.state == State.TERMINATED


def test_14_each_end_is_confirmed_by_one_question_by_its_id(world: CloudWorld) -> None:
    deployments = [world.launch() for _ in range(3)]
    world.run()
    for deployment in deployments:
        services.terminate(fresh(deployment), actor=world.owner, now=world.now)
    world.run(5 * MINUTE)
    asked = [remote_id for method, remote_id in world.provider.calls if method == "stands"]
    assert sorted(asked) == sorted(i.remote_id for d in deployments for i in d.instances.all())
    assert not any(live(d) for d in deployments)


def test_15_an_empty_list_is_not_believed(world: CloudWorld) -> None:
    deployments = [world.launch() for _ in range(3)]
    world.run()
    world.fail("list_machines", *[Fault.EMPTY] * 20)
    world.run(2 * MINUTE, check=world.check)
    assert all(settled(d) == State.READY for d in deployments)
    assert all(d.instances.count() == 1 for d in deployments)
    account = ProviderAccount.objects.get(pk=world.account.pk)
    assert account.creates_blocked
    assert open_notices().filter(key=f"mass-disappearance:{account.pk}").exists()
    before = ledger.cost_of(deployments[0].pk, now=world.now)
    world.now += MINUTE
    assert ledger.cost_of(deployments[0].pk, now=world.now) > before, "it must go on accruing"

    world.run(4 * MINUTE, check=world.check)
    assert not ProviderAccount.objects.get(pk=world.account.pk).creates_blocked, "the lists are back"
    assert not open_notices().filter(key=f"mass-disappearance:{account.pk}").exists()


@pytest.mark.parametrize(
    "fault", [Fault.INCOMPLETE, Fault.ERROR_BEFORE, Fault.RATE_LIMITED, Fault.UNAVAILABLE]
)
def test_15_a_failed_or_partial_list_is_never_gone(world: CloudWorld, fault: Fault) -> None:
    deployment = world.launch()
    world.run()
    world.fail("list_machines", *[fault] * 8)
    world.run(2 * MINUTE, check=world.check)
    assert settled(deployment) == State.READY
    assert deployment.instances.count() == 1


def test_16_destroyed_in_the_console_is_over_once_confirmed(world: CloudWorld) -> None:
    deployment = world.launch()
    world.run()
    first = deployment.instances.get()
    world.cloud.remove(first.label)
    world.run(check=world.check)
    first.refresh_from_db()
    assert first.state == State.TERMINATED
    cost = ledger.cost_of([first.pk], now=world.now)
    assert cost == ledger.cost_of([first.pk], now=world.now + 60 * MINUTE), "its accrual is closed"
    assert settled(deployment) == State.READY, "what is wanted runs again"
    world.check_books(deployment)


def test_17_a_terminate_that_fails_for_hours_is_never_called_terminated(
    world: CloudWorld, monkeypatch
) -> None:
    world.calm(monkeypatch)
    deployment = world.launch()
    world.run()
    world.fail("terminate", *[Fault.ERROR_BEFORE] * 200)
    services.terminate(fresh(deployment), actor=world.owner, now=world.now)
    world.run(2 * 60 * MINUTE, check=world.check)
    instance = deployment.instances.get()
    assert instance.state == State.TERMINATING
    assert instance.end_tries > 60, "asked again each minute"
    assert ledger.burn(now=world.now) == instance.usd_per_hour, "it goes on accruing"
    assert open_notices().filter(key=f"terminate:{instance.pk}").exists(), "somebody is paged"
    world.run(3 * 60 * MINUTE)
    assert settled(deployment) == State.TERMINATED
    assert not open_notices().filter(key=f"terminate:{instance.pk}").exists()
    world.check_books(deployment)


def test_18_a_budget_that_is_crossed_at_night_stops_what_runs(world: CloudWorld, monkeypatch) -> None:
    world.calm(monkeypatch)
    Budget.objects.create(amount_usd=Decimal(1000), period=Budget.Period.DAY)
    deployment = world.launch()
    world.run()
    spent = ledger.cost_of(deployment.pk, now=world.now)
    Budget.objects.update(amount_usd=spent + Decimal("0.30"))
    bound = budgets.status(now=world.now).bound
    world.run(90 * MINUTE, check=world.check)
    assert fresh(deployment).desired == "stopped"
    assert settled(deployment) == State.STOPPED
    assert ledger.burn(now=world.now) == 0
    assert ledger.cost_of(deployment.pk, now=world.now) <= spent + Decimal("0.30") + bound
    stop = AuditEvent.objects.get(action="deployment.stop")
    assert "budget" in stop.reason.lower()


def test_18_a_price_that_rises_past_the_budget_stops_what_runs(world: CloudWorld) -> None:
    Budget.objects.create(amount_usd=Decimal(10), period=Budget.Period.DAY)
    deployment = world.launch()
    world.run(MINUTE)
    bound = budgets.status(now=world.now).bound
    world.cloud.set_price(deployment.instances.get().label, Decimal(600))
    world.run(10 * MINUTE, check=world.check)
    assert settled(deployment) == State.STOPPED
    # The price was seen a list later, and the stop began when a reaction's worth was left.
    assert (
        ledger.spent(world.now.replace(hour=0), world.now, now=world.now)
        <= 10 + bound + 600 * Decimal(210) / 3600
    )
    assert "budget" in AuditEvent.objects.get(action="deployment.stop").reason.lower()


def test_18_a_launch_that_does_not_fit_is_refused_with_the_figures(world: CloudWorld) -> None:
    Budget.objects.create(amount_usd=Decimal(1), period=Budget.Period.MONTH)
    with pytest.raises(services.LaunchRefused, match=r"It needs \$62\.40 .*, \$1\.00 is free of \$1\.00"):
        world.launch()
    assert not Deployment.objects.exists()
    assert not Reservation.objects.exists()


def test_19_ten_launches_race_for_the_last_dollar(world: CloudWorld) -> None:
    per_launch = budgets.can_spend(Decimal("0.40"), until=None, now=world.now).needed
    Budget.objects.create(amount_usd=per_launch * 3 + Decimal("0.01"))
    refused = []

    def launch() -> None:
        try:
            world.launch()
        except services.LaunchRefused as e:
            refused.append(str(e))

    run_threads(*[launch] * 10)
    assert (Deployment.objects.count(), len(refused)) == (3, 7)
    assert Reservation.objects.count() == 3
    assert all("$" in text for text in refused)


@pytest.mark.parametrize("hours", [2, -2])
def test_20_the_clock_jumps(world: CloudWorld, hours: int) -> None:
    deployment = world.launch()
    world.run(3 * MINUTE)
    before = ledger.cost_of(deployment.pk, now=world.now)
    world.now += timedelta(hours=hours)
    world.run(10 * MINUTE, check=world.check)
    assert ledger.cost_of(deployment.pk, now=world.now) >= (before if hours > 0 else 0)
    services.terminate(fresh(deployment), actor=world.owner, now=world.now)
    world.run(10 * MINUTE, check=world.check)
    assert settled(deployment) == State.TERMINATED
    assert ledger.cost_of(deployment.pk, now=world.now) >= before, "what was accrued never shrinks"


def test_21_a_revoked_key_halts_creates_and_not_the_meter(world: CloudWorld) -> None:
    deployment = world.launch()
    world.run()
    world.fail("list_machines", *[Fault.UNAUTHORIZED] * 10)
    world.run(MINUTE // 2)
    account = ProviderAccount.objects.get(pk=world.account.pk)
    assert account.creates_blocked
    assert account.list_error
    assert open_notices().filter(key=f"account-key:{account.pk}").exists()
    assert ledger.burn(now=world.now) > 0
    with pytest.raises(services.LaunchRefused):
        world.launch()
    world.run(5 * MINUTE, check=world.check)
    assert settled(deployment) == State.READY
    assert not ProviderAccount.objects.get(pk=world.account.pk).creates_blocked


def test_22_terminate_goes_on_through_a_storm_of_429(world: CloudWorld) -> None:
    deployment = world.launch()
    world.run()
    world.fail("list_machines", *[Fault.RATE_LIMITED] * 10)
    services.terminate(fresh(deployment), actor=world.owner, now=world.now)
    world.run(MINUTE // 2, check=world.check)
    assert world.cloud.labels() == [FOREIGN], "given back at once"
    world.run(10 * MINUTE, check=world.check)
    assert settled(deployment) == State.TERMINATED, "and confirmed when lists answer again"
