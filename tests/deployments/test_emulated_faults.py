"""The rows of the reliability plan that concern providers, by their numbers, by the real adapters over HTTP."""

from __future__ import annotations

import os
from datetime import timedelta
from decimal import Decimal

import pytest

from billing import budgets, ledger
from billing.models import Budget, Reservation
from deployments import acts, reconcile, services
from deployments.lifecycle import State
from deployments.models import Deployment, ProviderAccount
from panel.notices.notify import open_notices
from tests.deployments.emulated_world import EmulatedWorld, calm, lately, run_to
from tests.deployments.test_emulated_life import end
from tests.deployments.test_emulated_matrix import AFTER_CREATE, BEFORE_CREATE
from tests.deployments.world import FOREIGN, MINUTE, fresh, live, run_threads
from tests.emulators.common import Fault
from tests.providers.faulty import Point

PODS = pytest.mark.parametrize("emulated_world", ["pod", "vast"], indirect=True)
# In CI both providers; with REGIA_LONG=1 both tiers of each that behave otherwise, too.
TRIED = ["pod", "vast", *(["serverless", "bid"] if os.environ.get("REGIA_LONG") else [])]
EVERY = pytest.mark.parametrize("emulated_world", TRIED, indirect=True)
BIDS = pytest.mark.parametrize("emulated_world", ["bid"], indirect=True)


def ready(world: EmulatedWorld, **wishes) -> Deployment:
    deployment = world.launch(**wishes)
    run_to(world, deployment, State.READY, within=10 * MINUTE)
    return deployment


def held() -> int:
    return Reservation.objects.filter(released_at=None).count()


@EVERY
def test_1_killed_before_the_create_it_is_tried_again_and_reserved_once(
    emulated_world: EmulatedWorld,
) -> None:
    world = emulated_world
    world.die_at(BEFORE_CREATE)
    deployment = world.launch()
    world.run(MINUTE, check=world.check)
    assert (world.deaths, world.standing(), held()) == (1, [FOREIGN], 1)
    run_to(world, deployment, State.READY, within=15 * MINUTE)
    assert (len(world.ours()), held()) == (1, 1)
    end(world, deployment)


@EVERY
@pytest.mark.parametrize("where", [AFTER_CREATE, 3], ids=["2-after-the-request", "3-before-the-commit"])
def test_2_3_killed_with_the_machine_rented_it_is_adopted_by_its_label(
    emulated_world: EmulatedWorld, where
) -> None:
    world = emulated_world
    world.die_at(where)
    deployment = world.launch()
    run_to(world, deployment, State.READY, within=15 * MINUTE)
    assert (world.deaths, lately(deployment).attempt, len(world.creates())) == (1, 1, 1)
    end(world, deployment)


@EVERY
def test_4_an_error_after_the_machine_was_made_is_unknown_then_adopted(emulated_world: EmulatedWorld) -> None:
    world = emulated_world
    world.fail("create", Fault.ERROR_AFTER)
    deployment = world.launch()
    reconcile.look(deployment.pk, clock=world.clock)
    assert lately(deployment).state == State.UNKNOWN
    run_to(world, deployment, State.READY, within=15 * MINUTE)
    assert (lately(deployment).attempt, len(world.creates())) == (1, 1)
    end(world, deployment)


@EVERY
def test_5_a_machine_that_shows_late_is_found_and_its_spend_back_dated(emulated_world: EmulatedWorld) -> None:
    world = emulated_world
    world.fail("create", Fault.LOST_LATE)
    deployment = world.launch()
    world.run(MINUTE, check=world.check)
    assert lately(deployment).state == State.UNKNOWN
    run_to(world, deployment, State.READY, within=15 * MINUTE)
    assert (lately(deployment).attempt, len(world.creates())) == (1, 1)
    world.check_books(deployment, slack=MINUTE)
    end(world, deployment)


@PODS
def test_6_a_task_that_runs_twice_in_parallel_creates_once(emulated_world: EmulatedWorld) -> None:
    world = emulated_world
    deployment = world.launch()
    world.fail("create", Fault.DELAY)
    run_threads(*[lambda: reconcile.step(deployment.pk, clock=world.clock)] * 4)
    assert (len(world.creates()), deployment.instances.count()) == (1, 1)
    run_to(world, deployment, State.READY, within=15 * MINUTE)
    end(world, deployment)


@PODS
def test_7_a_worker_that_slept_past_its_lease_writes_nothing(emulated_world: EmulatedWorld) -> None:
    world = emulated_world
    deployment = world.launch()

    def sleep_past_the_lease(point: Point, method: str, subject: str) -> None:
        if (point, method) == AFTER_CREATE:
            world.provider.crash = None
            world.now += reconcile.LEASE + timedelta(seconds=1)
            reconcile.step(deployment.pk, clock=world.clock)

    world.provider.crash = sleep_past_the_lease
    reconcile.step(deployment.pk, clock=world.clock)
    i = lately(deployment)
    assert (i.state, i.remote_id) == (State.UNKNOWN, ""), "the sleeper wrote with a lost lease"
    run_to(world, deployment, State.READY, within=15 * MINUTE)
    assert len(world.creates()) == 1
    end(world, deployment)


@EVERY
def test_7_nothing_is_sent_past_the_deadline(emulated_world: EmulatedWorld, monkeypatch) -> None:
    world = emulated_world
    monkeypatch.setattr(acts, "CREATE_MARGIN", reconcile.LEASE.total_seconds() + 1)
    deployment = world.launch()
    reconcile.step(deployment.pk, clock=world.clock)
    assert world.creates() == []
    assert lately(deployment).state == State.REQUESTED


@PODS
def test_12_a_price_that_rises_opens_a_new_segment(emulated_world: EmulatedWorld) -> None:
    world = emulated_world
    deployment = ready(world)
    world.run(5 * MINUTE)
    before = lately(deployment).usd_per_hour
    world.emulator.set_price(world.of(deployment), Decimal("0.80"))
    world.run(5 * MINUTE, check=world.check)
    after = lately(deployment).usd_per_hour
    assert ledger.burn(now=world.now) == after > Decimal("0.80") > before
    assert deployment.events.filter(kind="price").count() == 1
    assert Reservation.objects.get(subject_id=lately(deployment).pk).usd_per_hour == after
    # Nobody tells us the moment: what the new price adds until the next list is seen later, in the bill.
    world.check_books(deployment, unseen=(after - before) * 20 / 3600)


@BIDS
def test_13_outbid_compute_ends_the_disk_goes_on_and_it_comes_back(emulated_world: EmulatedWorld) -> None:
    world = emulated_world
    deployment = ready(world, bid_policy="wait")
    i = lately(deployment)
    world.emulator.outbid(world.of(deployment))
    run_to(world, deployment, State.OUTBID, within=2 * MINUTE)
    assert open_notices().filter(key=f"outbid:{i.pk}").exists()
    world.run(20 * MINUTE, check=world.check)
    assert ledger.burn(now=world.now) == i.offer.held_usd_per_hour > 0, "the disk alone bills"
    world.check_books(deployment)
    world.emulator.resume(world.of(deployment))
    run_to(world, deployment, State.READY, within=10 * MINUTE)
    assert (deployment.instances.count(), len(world.creates())) == (1, 1)
    end(world, deployment)


@BIDS
def test_13_outbid_it_moves_to_another_offer_within_the_budget(emulated_world: EmulatedWorld) -> None:
    world = emulated_world
    deployment = ready(world, bid_policy="move")
    world.emulator.outbid(world.of(deployment))
    world.run(10 * MINUTE, check=world.check)
    assert (lately(deployment).attempt, lately(deployment).state) == (2, State.READY)
    assert len(world.ours()) == 1, "what was outbid is given back"
    end(world, deployment)


@BIDS
def test_13_outbid_it_bids_more_up_to_its_ceiling(emulated_world: EmulatedWorld) -> None:
    world = emulated_world
    lowest = world.choose().compute_usd_per_hour
    deployment = ready(world, bid_policy="raise", bid_ceiling=lowest * 2)
    world.emulator.outbid(world.of(deployment))
    world.run(10 * MINUTE, check=world.check)
    assert (lately(deployment).attempt, lately(deployment).state) == (1, State.READY)
    bid = lately(deployment).bid_usd_per_hour
    assert lowest < bid <= lowest * 2
    world.emulator.outbid(world.of(deployment), lowest * 3)
    world.run(10 * MINUTE, check=world.check)
    assert lately(deployment).state == State.OUTBID, "nothing is bid above the ceiling"
    end(world, deployment)


@BIDS
def test_13_what_came_back_while_lists_were_cut_short_is_billed_from_then(
    emulated_world: EmulatedWorld,
) -> None:
    world = emulated_world
    deployment = ready(world, bid_policy="wait")
    world.emulator.outbid(world.of(deployment))
    run_to(world, deployment, State.OUTBID, within=2 * MINUTE)
    world.always("list", Fault.TRUNCATED)
    world.run(MINUTE)
    world.emulator.resume(world.of(deployment))
    world.run(30 * MINUTE, check=world.check)
    world.calm_down()
    run_to(world, deployment, State.READY, within=10 * MINUTE)
    world.check_books(deployment)


@EVERY
def test_14_missing_from_one_list_it_is_not_gone(emulated_world: EmulatedWorld) -> None:
    world = emulated_world
    deployment = ready(world)
    machine = world.of(deployment)
    for _ in range(2):
        world.emulator.vanish(machine)
        lists = len(world.emulator.seen("list"))
        world.run(MINUTE, until=lambda seen=lists: len(world.emulator.seen("list")) > seen)
        world.emulator.vanish(machine, back=True)
        world.run(MINUTE, check=world.check)
    assert (lately(deployment).state, len(world.creates())) == (State.READY, 1)
    end(world, deployment)


@PODS
@pytest.mark.parametrize("fault", [Fault.EMPTY, Fault.TRUNCATED], ids=lambda f: f.name)
def test_15_a_list_that_is_suddenly_short_is_not_believed(
    emulated_world: EmulatedWorld, fault: Fault
) -> None:
    world = emulated_world
    deployments = [world.launch() for _ in range(3)]
    world.run(15 * MINUTE, until=lambda: all(lately(d).state == State.READY for d in deployments))
    rented = len(world.creates())
    spent = [ledger.cost_of(d.pk, now=world.now) for d in deployments]
    world.always("list", fault)
    world.run(5 * MINUTE, check=world.check)
    account = ProviderAccount.objects.get(pk=world.account.pk)
    assert account.list_error
    if fault is Fault.EMPTY:
        assert account.creates_blocked
        assert open_notices().filter(key=f"mass-disappearance:{account.pk}").exists()
    assert all(lately(d).state == State.READY for d in deployments)
    for d, before in zip(deployments, spent, strict=True):
        assert ledger.cost_of(d.pk, now=world.now) > before, "it must go on accruing"
    world.calm_down()
    world.run(3 * MINUTE, check=world.check)
    assert not ProviderAccount.objects.get(pk=world.account.pk).creates_blocked, "the lists are back"
    assert len(world.creates()) == rented
    for d in deployments:
        world.check_books(d)


@EVERY
def test_14_what_lists_leave_out_and_stands_by_its_id_is_not_gone(emulated_world: EmulatedWorld) -> None:
    world = emulated_world
    deployment = ready(world)
    world.always("list", Fault.EMPTY)
    world.run(8 * MINUTE, check=world.check)
    assert (lately(deployment).state, len(world.creates())) == (State.READY, 1)
    world.calm_down()
    end(world, deployment)


@EVERY
def test_14_what_hid_from_the_lists_until_it_was_replaced_is_given_back_and_billed(
    emulated_world: EmulatedWorld,
) -> None:
    world = emulated_world
    deployment = ready(world)
    machine = world.of(deployment)
    world.emulator.vanish(machine)
    world.now += timedelta(hours=1)
    world.run(8 * MINUTE, check=world.check)
    assert lately(deployment).attempt > 1, "it was taken for gone"
    assert len(world.ours()) == 2
    world.emulator.vanish(machine, back=True)
    world.run(5 * MINUTE, check=world.check)
    assert (lately(deployment).state, len(world.ours())) == (State.READY, 1)
    world.check_books(deployment)
    end(world, deployment)


@EVERY
def test_16_destroyed_in_the_console_it_is_over_once_confirmed(emulated_world: EmulatedWorld) -> None:
    world = emulated_world
    deployment = ready(world)
    first = lately(deployment)
    world.emulator.destroy(world.of(deployment))
    world.run(10 * MINUTE, check=world.check)
    first.refresh_from_db()
    assert first.state == State.TERMINATED
    cost = ledger.cost_of([first.pk], now=world.now)
    assert cost == ledger.cost_of([first.pk], now=world.now + 60 * MINUTE), "its accrual is closed"
    assert (lately(deployment).attempt, lately(deployment).state) == (2, State.READY)
    end(world, deployment)


@EVERY
def test_17_a_terminate_that_fails_for_hours_is_never_called_terminated(
    emulated_world: EmulatedWorld, monkeypatch
) -> None:
    world = emulated_world
    deployment = ready(world)
    calm(world, monkeypatch)
    world.always("terminate", Fault.ERROR_BEFORE)
    services.terminate(fresh(deployment), actor=world.owner, now=world.now)
    world.run(60 * MINUTE, check=world.check)
    i = lately(deployment)
    assert (i.state, len(world.ours())) == (State.TERMINATING, 1)
    assert i.end_tries > 30, "asked again and again"
    assert ledger.burn(now=world.now) == i.usd_per_hour, "it goes on accruing"
    assert open_notices().filter(key=f"terminate:{i.pk}").exists(), "somebody is paged"
    world.calm_down()
    run_to(world, deployment, State.TERMINATED, within=30 * MINUTE)
    assert not open_notices().filter(key=f"terminate:{i.pk}").exists()
    world.check_books(deployment)
    world.check_empty()


@PODS
def test_19_of_launches_that_race_for_the_last_dollar_what_fits_is_rented(
    emulated_world: EmulatedWorld,
) -> None:
    world = emulated_world
    offer = world.choose()
    needed = budgets.can_spend(offer.usd_per_hour, until=None, now=world.now).needed
    Budget.objects.create(amount_usd=needed * 2 + Decimal("0.01"))
    refused = []

    def launch() -> None:
        try:
            world.launch(offer_id=offer.pk)
        except services.LaunchRefused as e:
            refused.append(str(e))

    run_threads(*[launch] * 6)
    world.run(3 * MINUTE, check=world.check)
    assert (Deployment.objects.count(), len(refused)) == (2, 4)
    assert len(world.ours()) <= 2
    assert held() <= 2


@EVERY
def test_21_a_revoked_key_halts_creates_and_not_the_meter(emulated_world: EmulatedWorld) -> None:
    world = emulated_world
    deployment = ready(world)
    world.emulator.revoke()
    world.run(2 * MINUTE, check=world.check)
    account = ProviderAccount.objects.get(pk=world.account.pk)
    assert account.creates_blocked
    assert account.list_error
    assert open_notices().filter(key=f"account-key:{account.pk}").exists()
    assert ledger.burn(now=world.now) > 0
    with pytest.raises(services.LaunchRefused):
        world.launch()
    world.emulator.restore()
    world.run(5 * MINUTE, check=world.check)
    assert not ProviderAccount.objects.get(pk=world.account.pk).creates_blocked
    assert (lately(deployment).state, len(world.creates())) == (State.READY, 1)
    end(world, deployment)


@EVERY
def test_21_what_is_to_end_while_the_key_is_revoked_is_ended_when_it_is_good_again(
    emulated_world: EmulatedWorld,
) -> None:
    world = emulated_world
    deployment = ready(world)
    world.emulator.revoke()
    services.terminate(fresh(deployment), actor=world.owner, now=world.now)
    world.run(10 * MINUTE, check=world.check)
    assert (lately(deployment).state, len(world.ours())) == (State.TERMINATING, 1)
    world.emulator.restore()
    run_to(world, deployment, State.TERMINATED, within=10 * MINUTE)
    world.check_books(deployment)
    world.check_empty()


@EVERY
def test_22_terminate_goes_on_through_a_storm_of_429(emulated_world: EmulatedWorld) -> None:
    world = emulated_world
    deployment = ready(world)
    for kind in ("list", "create", "stop", "start", "inspect", "quotes"):
        world.always(kind, Fault.RATE_LIMITED)
    world.run(2 * MINUTE, check=world.check)
    services.terminate(fresh(deployment), actor=world.owner, now=world.now)
    world.run(MINUTE, check=world.check)
    assert world.standing() == [FOREIGN], "given back at once"
    asked = len(world.emulator.seen("list"))
    world.run(20 * MINUTE)
    assert len(world.emulator.seen("list")) - asked < 80, "it backs off"
    assert lately(deployment).state == State.TERMINATED, "the next terminate's definite 404 proved it"
    world.check_books(deployment)
    world.calm_down()
    world.check_empty()


@EVERY
def test_25_the_panel_is_dead_for_a_day_and_its_machine_ran_on(emulated_world: EmulatedWorld) -> None:
    world = emulated_world
    deployment = ready(world)
    world.now += timedelta(hours=24)
    world.run(2 * MINUTE, check=world.check)
    assert (lately(deployment).state, len(world.creates())) == (State.READY, 1)
    world.check_books(deployment)
    end(world, deployment)


@PODS
def test_25_the_panel_is_dead_for_a_day_and_the_watchdog_ended_its_machine(
    emulated_world: EmulatedWorld,
) -> None:
    world = emulated_world
    deployment = ready(world)
    first = lately(deployment)
    machine, last_seen = world.of(deployment), world.now
    world.now += timedelta(hours=1)
    world.emulator.destroy(machine)
    world.now += timedelta(hours=23)
    world.run(10 * MINUTE, check=world.check)
    first.refresh_from_db()
    assert first.state == State.TERMINATED
    assert (lately(deployment).attempt, lately(deployment).state) == (2, State.READY)
    assert len(live(deployment)) == 1
    # Nobody saw it go: it counts until the lists that prove it, and never less than the bill.
    assert ledger.cost_of([first.pk], now=world.now) >= world.emulator.bill(first.label)
    assert (
        ledger.cost_of([first.pk], now=world.now)
        <= first.usd_per_hour * Decimal((world.now - last_seen).total_seconds() + 300) / 3600
    )
    services.terminate(fresh(deployment), actor=world.owner, now=world.now)
    run_to(world, deployment, State.TERMINATED, within=10 * MINUTE)
    world.check_empty()
