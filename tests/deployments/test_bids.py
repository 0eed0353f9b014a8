"""Interruptible machines: outbid is seen, costs what it costs, and is answered by policy."""

from __future__ import annotations

from decimal import Decimal

import pytest

from billing import budgets, ledger
from billing.models import Budget, Reservation
from deployments import bids, services
from deployments.lifecycle import State
from deployments.models import Instance
from panel.audit.models import AuditEvent
from panel.notices.notify import open_notices
from tests.deployments.world import MINUTE, CloudWorld, fresh, settled
from tests.providers.fakecloud import fake_quote
from tests.providers.faulty import Fault

DISK = Decimal("0.02")
BID = fake_quote(
    "bid", usd_per_hour=Decimal("0.22"), compute_usd_per_hour=Decimal("0.20"), disk_usd_per_hour=DISK,
    tier="interruptible", interruptible=True, host="host-1",
)  # fmt: skip
FIRM = fake_quote("firm", usd_per_hour=Decimal("0.50"), tier="datacenter", host="host-2", reliability=0.9)
OTHER_BID = fake_quote(
    "other-bid", usd_per_hour=Decimal("0.21"), compute_usd_per_hour=Decimal("0.19"), disk_usd_per_hour=DISK,
    tier="interruptible", interruptible=True, host="host-3", reliability=0.999,
)  # fmt: skip


@pytest.fixture
def bidding(world: CloudWorld) -> CloudWorld:
    world.offer(BID)
    return world


def _ready(world: CloudWorld, **wishes):
    wishes = {"purpose": "development", "bid_policy": "wait", **wishes}
    deployment = world.launch("bid", **wishes)
    world.run(until=lambda: settled(deployment) == State.READY)
    assert settled(deployment) == State.READY
    return deployment


def _outbid(world: CloudWorld, deployment, *, lowest: str = "0.30") -> Instance:
    i = deployment.instances.get()
    world.cloud.outbid(i.label, lowest=Decimal(lowest))
    world.run(MINUTE, until=lambda: settled(deployment) == State.OUTBID)
    i.refresh_from_db()
    assert i.state == State.OUTBID
    return i


def test_the_first_bid_is_what_was_asked_for_and_is_what_is_held(bidding: CloudWorld) -> None:
    deployment = bidding.launch("bid", purpose="development", bid_usd_per_hour=Decimal("0.24"))
    i = deployment.instances.get()
    assert (i.bid_usd_per_hour, i.usd_per_hour) == (Decimal("0.24"), Decimal("0.26"))
    assert Reservation.objects.get(subject_id=i.pk).usd_per_hour == Decimal("0.26")
    assert (i.generation, i.host) == (1, "host-1")
    bidding.run(MINUTE)
    with bidding.cloud._machines() as machines:
        assert Decimal(machines["fake-2"]["bid"]) == Decimal("0.24"), "the order carried it"


@pytest.mark.parametrize(
    ("wishes", "field"),
    [
        ({"bid_ceiling": Decimal("0.19")}, "bid_ceiling"),
        ({"bid_policy": "raise"}, "bid_ceiling"),
        ({"bid_usd_per_hour": Decimal("0.19")}, "bid_usd_per_hour"),
        ({"bid_usd_per_hour": Decimal("0.40"), "bid_ceiling": Decimal("0.30")}, "bid_usd_per_hour"),
        ({"bid_usd_per_hour": Decimal("0.40"), "price_ceiling": Decimal("0.41")}, "bid_usd_per_hour"),
    ],
)
def test_a_bid_that_cannot_win_or_passes_its_ceiling_is_not_launched(bidding, wishes, field) -> None:
    with pytest.raises(services.LaunchRefused) as refused:
        bidding.launch("bid", purpose="development", **wishes)
    assert refused.value.field == field


def test_outbid_bills_the_disk_alone_and_all_of_it_when_it_is_back(bidding: CloudWorld) -> None:
    deployment = _ready(bidding)
    i = _outbid(bidding, deployment)
    assert i.outbid_at is not None
    assert i.interruptions == 1
    assert not i.bills
    assert ledger.burn(now=bidding.now) == DISK
    assert open_notices().filter(key=f"outbid:{i.pk}").exists()
    assert deployment.events.filter(kind="outbid").count() == 1
    bidding.run(5 * MINUTE, check=bidding.check)
    assert settled(deployment) == State.OUTBID, "it waits"
    bidding.cloud.give_back(i.label)
    bidding.run(2 * MINUTE, until=lambda: settled(deployment) == State.READY)
    i.refresh_from_db()
    assert (settled(deployment), i.outbid_at) == (State.READY, None)
    assert ledger.burn(now=bidding.now) == Decimal("0.22")
    assert not open_notices().filter(key=f"outbid:{i.pk}").exists()
    assert deployment.instances.count() == 1
    bidding.check_books(deployment)


def test_a_bid_is_raised_just_so_reserved_before_it_is_asked_and_audited(bidding: CloudWorld) -> None:
    deployment = _ready(bidding, bid_policy="raise", bid_ceiling=Decimal("0.40"))
    i = _outbid(bidding, deployment)
    bidding.run(2 * MINUTE, check=bidding.check, until=lambda: settled(deployment) == State.READY)
    i.refresh_from_db()
    assert settled(deployment) == State.READY
    assert i.bid_usd_per_hour == Decimal("0.301")
    assert Reservation.objects.get(subject_id=i.pk).usd_per_hour == Decimal("0.321")
    assert ledger.burn(now=bidding.now) == Decimal("0.321")
    assert AuditEvent.objects.filter(action="instance.bid").count() == 1
    bidding.check_books(deployment)


def test_a_bid_is_not_raised_past_its_ceiling_nor_past_the_budget(bidding: CloudWorld) -> None:
    deployment = _ready(bidding, bid_policy="raise", bid_ceiling=Decimal("0.29"))
    _outbid(bidding, deployment)
    bidding.run(3 * MINUTE)
    assert settled(deployment) == State.OUTBID
    assert bidding.provider.count("change_bid") == 0
    type(deployment).objects.update(bid_ceiling=Decimal("0.90"))
    held = Reservation.objects.get().usd_per_hour
    spent = ledger.cost_of(deployment.pk, now=bidding.now)
    need = budgets.can_spend(held, until=None, now=bidding.now).needed
    Budget.objects.create(amount_usd=spent + need + Decimal("0.01"), hard_stop=False)
    bidding.run(3 * MINUTE)
    assert bidding.provider.count("change_bid") == 0, "nothing is bid that is not held"
    assert Reservation.objects.get().usd_per_hour == held


def test_a_refused_raise_takes_back_what_was_held_and_waits_a_minute(bidding: CloudWorld) -> None:
    deployment = _ready(bidding, bid_policy="raise", bid_ceiling=Decimal("0.40"))
    bidding.fail("change_bid", Fault.REJECTED, Fault.REJECTED)
    i = _outbid(bidding, deployment)
    bidding.run(MINUTE / 2)
    i.refresh_from_db()
    assert bidding.provider.count("change_bid") == 1
    assert i.bid_usd_per_hour == Decimal("0.20")
    assert Reservation.objects.get().usd_per_hour == Decimal("0.22")
    bidding.run(4 * MINUTE, until=lambda: settled(deployment) == State.READY)
    assert bidding.provider.count("change_bid") == 3
    assert settled(deployment) == State.READY


def test_it_moves_to_what_nobody_can_outbid_once(bidding: CloudWorld) -> None:
    bidding.offer(BID, FIRM, OTHER_BID)
    deployment = _ready(bidding, bid_policy="move", policy="cheapest")
    first = deployment.instances.get()
    bidding.cloud.outbid(first.label, lowest=Decimal("0.90"))
    bidding.run(3 * MINUTE, check=bidding.check, until=lambda: deployment.instances.count() > 1)
    first.refresh_from_db()
    assert (first.state, first.failure) == (State.FAILED, bids.MOVED)
    bidding.run(3 * MINUTE, until=lambda: settled(deployment) == State.READY)
    second = fresh(deployment).current
    assert second.offer.key == "firm", "the dearer one, which is not interruptible"
    bidding.check_books(deployment)


def test_it_does_not_move_twice_within_the_hour(bidding: CloudWorld) -> None:
    bidding.offer(BID, OTHER_BID)
    deployment = _ready(bidding, bid_policy="move")
    first = deployment.instances.get()
    bidding.cloud.outbid(first.label, lowest=Decimal("0.90"))
    bidding.run(
        4 * MINUTE, until=lambda: deployment.instances.count() > 1 and settled(deployment) == State.READY
    )
    second = fresh(deployment).current
    bidding.cloud.outbid(second.label, lowest=Decimal("0.90"))
    bidding.run(4 * MINUTE, check=bidding.check)
    assert settled(deployment) == State.OUTBID
    assert deployment.instances.count() == 2


def test_what_is_outbid_can_be_stopped_and_does_not_come_back(bidding: CloudWorld) -> None:
    deployment = _ready(bidding)
    _outbid(bidding, deployment)
    services.stop(fresh(deployment), actor=bidding.owner, now=bidding.now)
    bidding.run(MINUTE, until=lambda: settled(deployment) == State.STOPPED)
    assert settled(deployment) == State.STOPPED
    assert ledger.burn(now=bidding.now) == DISK
    assert Reservation.objects.get().usd_per_hour == DISK
    services.terminate(fresh(deployment), actor=bidding.owner, now=bidding.now)
    bidding.run(3 * MINUTE, until=lambda: settled(deployment) == State.TERMINATED)
    assert settled(deployment) == State.TERMINATED
    bidding.check_books(deployment)


def test_a_bid_that_we_stopped_is_stopped_whichever_process_reads_the_list(bidding: CloudWorld) -> None:
    deployment = _ready(bidding)
    services.stop(deployment, actor=bidding.owner, now=bidding.now)
    bidding.run(MINUTE / 2, until=lambda: settled(deployment) == State.STOPPED)
    i = deployment.instances.get()
    bidding.cloud.outbid(i.label, lowest=Decimal("0.30"))  # so a stopped bid reads to who did not stop it
    bidding.run(MINUTE)
    i.refresh_from_db()
    assert (i.state, i.observed, i.interruptions) == (State.STOPPED, "stopped", 0)


def test_what_was_outbid_before_its_create_was_clear_bills_from_its_creation(bidding: CloudWorld) -> None:
    deployment = bidding.launch("bid", purpose="development", bid_policy="wait")
    i = deployment.instances.get()
    bidding.fail("create", Fault.TIMEOUT_AFTER)
    bidding.run(MINUTE / 20)
    bidding.cloud.outbid(i.label, lowest=Decimal("0.30"))
    bidding.run(5 * MINUTE)
    assert settled(deployment) == State.OUTBID
    bidding.check_books(deployment)
