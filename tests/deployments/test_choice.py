"""The next attempt: plan B in order, hosts that failed, one create for each offer, and phases that are overrun."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

from deployments import reconcile
from deployments.lifecycle import State
from deployments.providers.base import MachineStatus
from panel.notices.notify import open_notices
from tests.deployments.world import MINUTE, CloudWorld, run_threads, settled
from tests.providers.fakecloud import TRAITS, fake_quote
from tests.providers.faulty import Fault

OFFERS = [
    fake_quote(f"offer-{n}", usd_per_hour=Decimal("0.40") + n / Decimal(100), host=f"host-{n}", reliability=0.99)
    for n in range(6)
]  # fmt: skip


def _keys(deployment) -> list[str]:
    return [i.offer.key for i in deployment.instances.order_by("attempt")]


def test_plan_b_tries_the_next_best_offers_in_order_and_then_says_so(world: CloudWorld) -> None:
    world.offer(*OFFERS)
    deployment = world.launch("offer-0", plan_b=2, policy="cheapest")
    world.fail("create", *[Fault.NO_CAPACITY] * 9)
    world.run(5 * MINUTE, check=world.check)
    assert _keys(deployment) == ["offer-0", "offer-1", "offer-2"], "two next-best offers, and no more"
    assert "3 offers in a row said no" in open_notices().get(key=f"relaunch:{deployment.pk}").detail
    world.fail("create")
    world.run(60 * MINUTE, until=lambda: settled(deployment) == State.READY)
    assert settled(deployment) == State.READY, "the hour has passed: it is tried again"


def test_plan_b_reaches_further_than_the_bound_of_relaunches(world: CloudWorld) -> None:
    world.offer(*OFFERS)
    deployment = world.launch("offer-0", plan_b=5, policy="cheapest")
    world.fail("create", *[Fault.NO_CAPACITY] * 5)
    world.run(10 * MINUTE, until=lambda: settled(deployment) == State.READY)
    assert _keys(deployment) == [f"offer-{n}" for n in range(6)]
    assert settled(deployment) == State.READY


def test_plan_b_never_follows_an_unknown(world: CloudWorld) -> None:
    world.offer(*OFFERS)
    deployment = world.launch("offer-0", policy="cheapest")
    world.fail("create", Fault.TIMEOUT_BEFORE)
    world.run(MINUTE, check=world.check)
    assert settled(deployment) == State.UNKNOWN
    assert world.provider.count("create") == 1


def test_a_phase_that_is_overrun_gives_up_and_goes_to_another_host(world: CloudWorld) -> None:
    world.cloud.traits = replace(TRAITS, list_interval=2.0, phase_timeouts={"pulling": 120.0})
    same_host = replace(OFFERS[1], key="same-host", host="host-0")
    world.offer(OFFERS[0], same_host, OFFERS[2])
    deployment = world.launch("offer-0", policy="cheapest")
    world.run(MINUTE / 6, until=lambda: bool(world.cloud.ids_of(deployment.instances.get().label)))
    world.cloud.set_status(deployment.instances.get().label, MachineStatus.PULLING)
    world.run(4 * MINUTE, check=world.check, until=lambda: deployment.instances.count() > 1)
    first = deployment.instances.get(attempt=1)
    assert first.failure == "stuck: pulling image for 2 minutes"
    world.run(2 * MINUTE, until=lambda: settled(deployment) == State.READY)
    assert _keys(deployment) == ["offer-0", "offer-2"]


def test_when_only_a_host_that_failed_is_left_it_is_tried_again(world: CloudWorld) -> None:
    world.offer(OFFERS[0])
    deployment = world.launch()
    world.run(2 * MINUTE, until=lambda: settled(deployment) == State.READY)
    world.cloud.set_status(deployment.instances.get().label, MachineStatus.EXITED)
    world.run(
        4 * MINUTE, until=lambda: deployment.instances.count() > 1 and settled(deployment) == State.READY
    )
    assert _keys(deployment) == ["offer-0", "offer-0"]
    assert settled(deployment) == State.READY


def test_one_offer_has_one_create_at_a_time(world: CloudWorld) -> None:
    world.cloud.traits = replace(TRAITS, list_interval=2.0, one_create_per_offer=True)
    world.provider.latency = 0.05
    first, second = world.launch(), world.launch()
    run_threads(*[lambda d=d: reconcile.step(d.pk, clock=world.clock) for d in (first, second)])
    world.provider.latency = 0.0
    assert world.provider.count("create") == 1
    asked = [d.instances.get() for d in (first, second)]
    assert sorted(bool(i.create_sent_at) for i in asked) == [False, True]
    world.run(4 * MINUTE, check=world.check, until=lambda: {settled(first), settled(second)} == {State.READY})
    assert {settled(first), settled(second)} == {State.READY}
    sent = sorted(d.instances.get().create_sent_at for d in (first, second))
    assert sent[1] - sent[0] >= 2 * MINUTE


def test_a_rate_limit_of_one_attempt_does_not_delay_the_end_of_another(world: CloudWorld) -> None:
    old = world.launch()
    world.run(2 * MINUTE, until=lambda: settled(old) == State.READY)
    label = old.instances.get().label
    world.cloud.set_status(label, MachineStatus.EXITED)
    world.run(4 * MINUTE, until=lambda: old.instances.count() > 1)
    world.fail("create", *[Fault.RATE_LIMITED] * 20)
    stray = world.cloud.place(label)  # the first attempt's machine is back
    world.run(MINUTE, until=lambda: not world.cloud.ids_of(label))
    assert not world.cloud.ids_of(label), f"{stray} is given back although creates are held"
