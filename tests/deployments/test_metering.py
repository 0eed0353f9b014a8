"""What each component costs at each provider, against the emulators' own books and by hand."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from billing import ledger
from billing.models import Adjustment, Component, LedgerEntry, PriceSegment, Subject, UsageCharge
from deployments import money, observe, places, traffic, volumes
from deployments.lifecycle import State
from deployments.models import Instance, ProviderAccount
from deployments.models.offer import freeze_quote
from deployments.providers.base import Bills, Inspection, Listing, Machine, MachineStatus, Unavailable, Volume
from deployments.providers.runpod import TRAITS as RUNPOD
from tests.billing.conftest import LONG, PROFILE
from tests.billing.laws import assert_books_balance, total
from tests.conftest import NOW
from tests.deployments.emulated_world import ROUNDING, EmulatedWorld, run_to
from tests.playground.rows import chatting_deployment
from tests.providers.fakecloud import TRAITS, FakeCloud, fake_quote

pytestmark = pytest.mark.django_db
H, MIN, SEC = timedelta(hours=1), timedelta(minutes=1), timedelta(seconds=1)
ZERO = Decimal(0)
IN, OUT = Component.TRAFFIC_IN, Component.TRAFFIC_OUT
QUOTE = fake_quote(
    usd_per_hour=Decimal("1.10"), compute_usd_per_hour=Decimal(1), disk_usd_per_hour=Decimal("0.10"),
    stopped_usd_per_hour=Decimal("0.10"),
)  # fmt: skip
BY_THE_BYTE = replace(
    QUOTE, traffic_usd_per_gb=Decimal("0.04"), traffic_in_usd_per_gb=Decimal("0.02"),
    traffic_out_usd_per_gb=Decimal("0.04"),
)  # fmt: skip
WORKER = fake_quote(
    "flex", usd_per_hour=Decimal("1.00"), compute_usd_per_hour=Decimal("0.90"), disk_usd_per_hour=Decimal("0.10"),
    tier="serverless-flex", serverless=True, stopped_usd_per_hour=ZERO,
)  # fmt: skip


def rented(quote=QUOTE, *, state: State = State.READY, **columns) -> Instance:
    """A machine that is metered from NOW on."""
    deployment = chatting_deployment("http://127.0.0.1:9", now=NOW)
    i = deployment.instances.get()
    values = {
        "quote": freeze_quote(quote), "usd_per_hour": quote.usd_per_hour, "state": state.value, "remote_id": "77",
        "create_sent_at": NOW, "remote_created_at": NOW, "observed": "running", **columns,
    }  # fmt: skip
    Instance.objects.filter(pk=i.pk).update(**values)
    i = Instance.objects.select_related("deployment", "account").get(pk=i.pk)
    money.open_subject(i, now=NOW)
    money.price(i, at=NOW, reason="rented")
    return i


def listed(i: Instance, *, at, complete: bool = True, **machine) -> None:
    """The account's list shows it so, at that moment."""
    shown = Machine(i.remote_id, i.label, **{"status": MachineStatus.RUNNING, "created_at": NOW, **machine})
    account = ProviderAccount.objects.get(pk=i.account_id)
    observe._apply(account, FakeCloud(traits=TRAITS), Listing((shown,), complete=complete), now=at)


def cost(i: Instance, at) -> Decimal:
    return ledger.cost_of([i.pk], now=at)


# -- the real adapters over HTTP ---------------------------------------------------------------------------


@pytest.mark.parametrize("emulated_world", ["vast"], indirect=True)
def test_vast_is_metered_as_it_bills(emulated_world: EmulatedWorld) -> None:
    """Its GPU from the container's start, its disk always but offline, its traffic by the counters."""
    world, vast = emulated_world, emulated_world.emulator
    vast.boot_seconds = 120.0
    deployment = world.launch()
    world.run(MIN)
    i = deployment.instances.get()
    assert (i.bills_only, vast.bill(i.label, component="gpu")) == ("disk", 0)
    seconds = Decimal((world.now - i.create_sent_at).total_seconds())
    assert cost(i, world.now) <= i.offer.disk_usd_per_hour * (seconds + 30) / 3600, "no GPU while it boots"
    run_to(world, deployment, State.READY, within=30 * MIN)
    vast.traffic(i.remote_id, down_gb=20, up_gb=0.5)
    look(world, MIN)
    used = UsageCharge.objects.filter(subject_id=i.pk)
    assert dict(used.values_list("component", "quantity")) == {IN: 20, OUT: Decimal("0.5")}
    assert {u.usd_per_unit for u in used} == {Decimal("0.001953125")}
    vast.fail(i.remote_id, status="offline")
    look(world, MIN)
    before = cost(i, world.now)
    world.now += MIN
    assert cost(i, world.now) == before, "nothing bills while its host is offline"
    assert ZERO <= before - vast.bill(i.label) + ROUNDING < i.usd_per_hour * 3 / 60
    assert_books_balance()


@pytest.mark.parametrize("emulated_world", ["pod"], indirect=True)
def test_network_volumes_are_metered_as_long_as_they_stand(emulated_world: EmulatedWorld) -> None:
    world, runpod = emulated_world, emulated_world.emulator
    look(world, MIN)
    id = runpod.place_volume("weights", gb=100)
    fast = runpod.place_volume("fast", gb=10, type="HIGH_PERFORMANCE")
    look(world, 2 * H)
    runpod.resize_volume(id, 200)
    look(world, 2 * H)
    runpod.drop_volume(id)
    look(world, 2 * H)
    subject = Subject.objects.get(label="weights")
    assert (subject.tier, subject.country, subject.account) == ("network-volume", "RO", world.account.pk)
    assert [s.subject.label for s in PriceSegment.objects.filter(ended_at=None)] == ["fast"]
    assert set(PriceSegment.objects.values_list("component", flat=True)) == {Component.VOLUME}
    charged = {name: runpod.bill(name) for name in (id, fast)}
    counted = {s.label: cost(s, world.now) for s in Subject.objects.all()}
    assert abs(counted["fast"] - charged[fast]) < ROUNDING, "from the list that did not show it yet"
    # It went some time before the list without it; and what grew did so some time before.
    assert counted["weights"] + ROUNDING >= charged[id]
    told = world.account.adapter().charges(world.now - 24 * H, world.now)
    mine = [c for c in told if c.remote_id == f"volume-{id}"]
    assert {c.component for c in mine} == {"volume"}
    assert volumes.subject_id(world.account.pk, mine[0].remote_id) == subject.pk


def look(world: EmulatedWorld, later: timedelta) -> None:
    """The clock jumps, and the account is listed."""
    world.now += later
    assert observe.observe(world.account.pk, now=world.now)


# -- what a list tells of the charges ------------------------------------------------------------------------


def test_until_its_container_runs_only_the_disk_costs_and_then_from_the_list_before() -> None:
    i = rented(state=State.PROVISIONING, observed="")
    listed(i, at=NOW + MIN, status=MachineStatus.PULLING, bills=Bills.DISK)
    assert cost(i, NOW + H) == Decimal("0.10"), "before its first boot nothing has run"
    listed(i, at=NOW + 3 * MIN, status=MachineStatus.PULLING, bills=Bills.DISK)
    ledger.meter(NOW + 4 * MIN)
    listed(i, at=NOW + 5 * MIN)
    assert cost(i, NOW + 63 * MIN) == Decimal("0.105") + 1, "it may have run since the list before"
    assert_books_balance()


@pytest.mark.parametrize(
    ("minutes", "status"),
    [(1, MachineStatus.OUTBID), (600, MachineStatus.OUTBID), (600, MachineStatus.STOPPED), (600, MachineStatus.PULLING)],
)  # fmt: skip
def test_what_the_first_list_shows_at_rest_or_after_a_gap_counts_as_having_run(minutes, status) -> None:
    i = rented(state=State.PROVISIONING, observed="")
    first = NOW + minutes * MIN
    listed(i, at=first, status=status, bills=Bills.DISK)
    ran = Decimal("1.10") * minutes / 60
    assert abs(cost(i, first) - ran) < Decimal("1e-8")
    assert abs(cost(i, first + H) - ran - Decimal("0.10")) < Decimal("1e-8"), "from then on its disk alone"
    assert_books_balance()


def test_a_machine_whose_host_is_offline_costs_nothing_until_it_is_back() -> None:
    i = rented()
    listed(i, at=NOW + H, status=MachineStatus.UNKNOWN, bills=Bills.NOTHING)
    assert cost(i, NOW + 3 * H) == Decimal("1.10")
    for minute in (1, 2, 3):
        listed(i, at=NOW + 3 * H + minute * MIN, status=MachineStatus.UNKNOWN, bills=Bills.NOTHING)
    listed(i, at=NOW + 3 * H + 4 * MIN)
    assert ledger.burn(now=NOW + 4 * H) == Decimal("1.10")
    back = PriceSegment.objects.filter(component=Component.COMPUTE, ended_at=None).get()
    assert back.started_at == NOW + 3 * H + 3 * MIN
    assert "container runs" in back.reason


@pytest.mark.parametrize("how", ["lists fail", "the panel was down"])
def test_without_lists_nobody_knows_and_all_of_it_counts(how) -> None:
    i = rented(state=State.PULLING, observed="pulling")
    pulling = {"status": MachineStatus.PULLING, "bills": Bills.DISK}
    listed(i, at=NOW + MIN, **pulling)
    before = cost(i, NOW + MIN)
    if how == "lists fail":
        account = ProviderAccount.objects.get(pk=i.account_id)
        for minutes in (2, 61):
            observe._failed(account, Unavailable("no answer"), now=NOW + minutes * MIN)
    else:
        listed(i, at=NOW + 61 * MIN, **pulling)
    assert cost(i, NOW + 61 * MIN) == before + Decimal("1.10")
    listed(i, at=NOW + 62 * MIN, **pulling)
    assert ledger.burn(now=NOW + 2 * H) == Decimal("0.10")
    assert_books_balance()


def test_what_is_kept_costs_what_the_list_tells() -> None:
    """A pod that was found, with a volume: the double of it stopped, and its offer knew nothing of that."""
    i = rented(fake_quote(usd_per_hour=Decimal(1), stopped_usd_per_hour=ZERO), state=State.STOPPED)
    money.hold(i, at=NOW, reason="stopped")
    kept = {"status": MachineStatus.STOPPED, "kept_usd_per_hour": Decimal("0.027")}
    listed(i, at=NOW + SEC, **kept)
    listed(i, at=NOW + 10 * SEC, **kept)
    assert ledger.burn(now=NOW + H) == Decimal("0.027")


def test_billing_reprices_within_the_hour_whatever_is_charged() -> None:
    i = rented()
    listed(i, at=NOW + 30 * MIN, usd_per_hour=Decimal("2.10"))
    assert cost(i, NOW + H) == Decimal("1.60")


# -- traffic -------------------------------------------------------------------------------------------------


def told(i: Instance, *, at, down: str | None = None, up: str | None = None) -> int:
    i = Instance.objects.select_related("deployment", "account").get(pk=i.pk)
    gb = {"traffic_in_gb": Decimal(down) if down else None, "traffic_out_gb": Decimal(up) if up else None}
    return traffic.note(
        [i], {i.remote_id: Machine(i.remote_id, i.label, MachineStatus.RUNNING, **gb)}, now=at
    )


def used(i: Instance) -> dict[str, Decimal]:
    entries = LedgerEntry.objects.filter(subject_id=i.pk, component__in=(IN, OUT))
    found = {IN: ZERO, OUT: ZERO}
    for component, usd in entries.values_list("component", "usd"):
        found[component] += usd
    return found


def test_counters_are_charged_by_what_they_gain_each_way_at_its_price() -> None:
    i = rented(BY_THE_BYTE)
    assert told(i, at=NOW + MIN, down="10", up="1") == 2
    assert told(i, at=NOW + 2 * MIN, down="10", up="1") == 0
    told(i, at=NOW + 3 * MIN, down="12", up="1")
    told(i, at=NOW + H, down="13", up="1.5")
    assert used(i) == {IN: Decimal("0.26"), OUT: Decimal("0.06")}
    assert UsageCharge.objects.count() == 4, "one for each way and hour"
    assert_books_balance()


def test_a_counter_that_fell_began_anew() -> None:
    i = rented(BY_THE_BYTE)
    told(i, at=NOW + MIN, down="10")
    told(i, at=NOW + 2 * MIN, down="3")
    told(i, at=NOW + 3 * MIN, down="4")
    assert used(i)[IN] == Decimal("0.28")


def test_little_waits_for_more_for_the_day_or_for_the_end() -> None:
    i = rented(BY_THE_BYTE)
    told(i, at=NOW + MIN, down="1")
    assert told(i, at=NOW + 2 * MIN, down="1.05") == 0
    assert told(i, at=NOW + 13 * H, down="1.05") == 1, "a day has ended"
    assert told(i, at=NOW + 14 * H, down="1.06") == 0
    Instance.objects.filter(pk=i.pk).update(state=State.TERMINATING.value)
    assert told(i, at=NOW + 14 * H + MIN, down="1.06") == 1
    assert used(i)[IN] == Decimal("0.0212")


def test_two_workers_that_read_the_same_list_charge_once() -> None:
    i = rented(BY_THE_BYTE)
    stale = Instance.objects.select_related("deployment", "account").get(pk=i.pk)
    told(i, at=NOW + MIN, down="10")
    shown = {
        stale.remote_id: Machine(
            stale.remote_id, stale.label, MachineStatus.RUNNING, traffic_in_gb=Decimal(11)
        )
    }
    assert traffic.note([stale], shown, now=NOW + MIN + SEC) == 0
    told(i, at=NOW + 2 * MIN, down="11")
    assert used(i)[IN] == Decimal("0.22")


def test_a_clock_that_was_put_back_takes_no_hour_back() -> None:
    i = rented(BY_THE_BYTE)
    told(i, at=NOW + 2 * H, down="10")
    told(i, at=NOW + 3 * H, down="15")
    told(i, at=NOW + H, down="20")
    told(i, at=NOW + 3 * H, down="21")
    assert used(i)[IN] == Decimal("0.42")


def test_a_counter_that_gains_more_than_a_line_carries_is_not_believed() -> None:
    i = rented(BY_THE_BYTE)
    told(i, at=NOW + MIN, down="10")
    assert told(i, at=NOW + 2 * MIN, down="10000") == 0
    assert used(i)[IN] == Decimal("0.20")


def test_what_nobody_tells_is_an_estimate_for_each_day_until_a_counter_does(settings) -> None:
    settings.EXPECTED_TRAFFIC_GB = 60
    i = rented(BY_THE_BYTE)
    assert told(i, at=NOW + MIN) == 1
    assert told(i, at=NOW + 2 * MIN) == 0
    assert told(i, at=NOW + timedelta(days=3)) == 3, "the days in which nobody looked count too"
    assert used(i) == {IN: ZERO, OUT: 4 * 2 * Decimal("0.04")}, "at the dearer way"
    assert set(UsageCharge.objects.values_list("estimate", flat=True)) == {True}
    ledger.close_period(NOW + 24 * H, now=NOW + timedelta(days=3))
    told(i, at=NOW + timedelta(days=3, minutes=1), down="1", up="0")
    assert total(UsageCharge) == Decimal("0.02")
    assert [a.usd for a in Adjustment.objects.all()] == 2 * [Decimal("-0.08")], "what was closed is adjusted"
    assert told(i, at=NOW + timedelta(days=5)) == 0, "once a counter was told nothing is guessed"
    assert_books_balance()


@settings(PROFILE, max_examples=1_000 if LONG else 30)
@given(
    readings=st.lists(
        st.tuples(st.decimals(0, 100, places=6), st.integers(-3, 30), st.booleans()), max_size=12
    )
)
def test_whatever_a_counter_and_the_clock_do_each_gain_is_charged_once(readings) -> None:
    """The charges by name, the last word of each, are what the counter gained in all its lives."""
    counter = {"epoch": 0, "hour": "", "base": "0", "seen": "0"}
    charges: dict[tuple[int, str], Decimal] = {}
    gained, last = ZERO, ZERO
    for gb, hours, twice in readings:
        for _ in range(1 + twice):
            counter = traffic._counted(counter, gb, NOW + hours * H)
            charges[counter["epoch"], counter["hour"]] = Decimal(counter["seen"]) - Decimal(counter["base"])
        gained += gb - last if gb >= last else gb
        last = gb
    assert sum(charges.values(), ZERO) == gained
    assert all(gb >= 0 for gb in charges.values())


def test_a_second_machine_under_one_label_is_charged_by_its_own_counters() -> None:
    i = rented(BY_THE_BYTE)
    account = ProviderAccount.objects.get(pk=i.account_id)
    double = money.duplicate_id(i, "88")

    def both(own: str, second: str, *, at) -> None:
        shown = [
            Machine(r, i.label, MachineStatus.RUNNING, created_at=NOW, traffic_in_gb=Decimal(gb))
            for r, gb in ((i.remote_id, own), ("88", second))
        ]  # fmt: skip
        observe._apply(account, FakeCloud(traits=TRAITS), Listing(tuple(shown), complete=True), now=at)

    both("10", "3", at=NOW + MIN)
    both("10", "3", at=NOW + 2 * MIN)
    both("10.01", "3.02", at=NOW + H)
    both("11", "1", at=NOW + 2 * H)  # its counter began anew
    own, beside = (UsageCharge.objects.filter(subject_id=pk) for pk in (i.pk, double))
    # What is little waits at the own one, and never at the second: it is ended soon.
    assert sum(u.usd for u in own) == Decimal("0.22")
    assert sum(u.usd for u in beside) == Decimal("0.0804")
    listed(i, at=NOW + 3 * H, traffic_in_gb=Decimal(11))
    both("11", "1", at=NOW + 3 * H + MIN)
    assert sum(u.usd for u in beside.all()) == Decimal("0.0804"), "a list without it forgets nothing"
    assert_books_balance()


def test_where_traffic_costs_nothing_nothing_is_charged() -> None:
    i = rented(fake_quote(usd_per_hour=Decimal(1)))
    assert told(i, at=NOW + MIN) == told(i, at=NOW + MIN, down="10") == 0


# -- serverless workers --------------------------------------------------------------------------------------


def inspected(i: Instance, workers: int, *, at) -> None:
    i = Instance.objects.select_related("deployment", "account").get(pk=i.pk)
    told = Inspection(("EU-DE-1",) * workers, ("DE",) * workers, workers, serves=True)
    places._write(i, told, gap=places.MISSED * timedelta(seconds=20), now=at)


def endpoint() -> Instance:
    i = rented(WORKER, observed="running", inspected_at=NOW)
    inspected(i, 0, at=NOW)
    return i


def test_a_worker_costs_from_the_inspection_before_it_to_a_second_after_it_was_gone() -> None:
    i = endpoint()
    start = cost(i, NOW + SEC)
    inspected(i, 0, at=NOW + 20 * SEC)
    inspected(i, 2, at=NOW + 40 * SEC)
    assert ledger.burn(now=NOW + MIN) == 2
    disk = PriceSegment.objects.get(component=Component.DISK, ended_at=None)
    assert disk.usd_per_unit_hour == Decimal("0.20"), "each worker has its disk"
    inspected(i, 0, at=NOW + 60 * SEC)
    spent = cost(i, NOW + H) - start
    assert abs(spent - 2 * Decimal(41) / 3600) < Decimal("1e-8")


@pytest.mark.parametrize(("after", "seconds"), [(0, 601), (1, 3600)])
def test_what_workers_did_while_nobody_inspected_counts_as_having_run(after, seconds) -> None:
    i = endpoint()
    start = cost(i, NOW + SEC)
    inspected(i, after, at=NOW + 600 * SEC)
    assert abs(cost(i, NOW + H) - start - Decimal(seconds) / 3600) < Decimal("0.0003")
    assert (
        "not inspected" in PriceSegment.objects.filter(component=Component.COMPUTE).order_by("pk")[1].reason
    )


# -- volumes -------------------------------------------------------------------------------------------------


class Told:
    traits = RUNPOD

    def __init__(self, *volumes: Volume, error: Exception | None = None) -> None:
        self.told, self.error = volumes, error

    def volumes(self) -> tuple[Volume, ...]:
        if self.error:
            raise self.error
        return self.told


def test_a_list_of_volumes_that_fails_ends_none() -> None:
    account = ProviderAccount.objects.create(name="Cloud", backend="runpod", credentials="key-of-a-test")
    volume = Volume("volume-a", "a", 100, Decimal("0.01"))
    look = partial(volumes.look, account)
    assert look(Told(volume), now=NOW)
    account.refresh_from_db()
    assert not look(Told(), now=NOW + MIN), "once an hour"
    assert not look(Told(error=Unavailable("no")), now=NOW + H)
    account.refresh_from_db()
    assert ledger.burn(now=NOW + 2 * H) == Decimal("0.01")
    assert look(Told(), now=NOW + 2 * H)
    assert ledger.burn(now=NOW + 2 * H) == 0
    assert ledger.spent(NOW, NOW + 3 * H, now=NOW + 3 * H) == Decimal("0.02")
