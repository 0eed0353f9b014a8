"""Vast.ai's adapter keeps the contract, on demand and by bid, with the real SDK on a real server."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from deployments.providers.base import (
    Gone,
    MachineStatus,
    NoCapacity,
    Order,
    Provider,
    ProviderError,
    Quote,
    RateLimited,
    Rejected,
    Secret,
    Unauthorized,
    Unavailable,
)
from deployments.providers.vast import VastProvider
from tests.emulators.vast import Vast
from tests.providers.contract import API_KEY, ProviderContract, found, new_label, soon
from tests.providers.vast import IMAGE, KEY, adapter, order_for


@pytest.fixture
def emulator() -> Iterator[Vast]:
    with Vast() as vast:
        yield vast
        assert vast.violations == []


@pytest.fixture
def provider(emulator: Vast) -> VastProvider:
    return adapter(emulator.url)


class _VastContract(ProviderContract):
    refuses_a_used_label = False
    interruptible = False

    def quote(self, provider: Provider) -> Quote:
        return next(q for q in provider.quotes() if q.interruptible is self.interruptible)

    def order(self, provider: Provider, label: str, **changes: Any) -> Order:
        order = super().order(provider, label, image=IMAGE, **changes)
        if not self.interruptible:
            return order
        return replace(order, bid_usd_per_hour=order.quote.compute_usd_per_hour * Decimal("1.5"))


class TestOnDemand(_VastContract):
    pass


class TestInterruptible(_VastContract):
    interruptible = True


def quote_of(provider: VastProvider, tier: str) -> Quote:
    return next(q for q in provider.quotes() if q.tier == tier and q.country not in {"US", "GB", "CH", "CA"})


def rent(provider: VastProvider, tier: str = "community", **changes: Any) -> tuple[str, str]:
    """A machine; its label and id."""
    label = new_label()
    order = order_for(quote_of(provider, tier), label, **changes)
    return label, provider.create(order, deadline=soon())


# -- offers -------------------------------------------------------------------------------------


def test_the_market_is_shown_without_a_key_and_nothing_else_is(emulator: Vast) -> None:
    provider = adapter(emulator.url, key=None)
    quotes = provider.quotes()
    assert {q.tier for q in quotes} == {"community", "datacenter", "interruptible"}
    assert "Authorization" not in str(emulator.seen("quotes"))
    order = order_for(quotes[0], new_label())
    for call in (
        provider.list_machines, provider.balance, lambda: provider.terminate("1"), lambda: provider.stop("1"),
        lambda: provider.start("1"), lambda: provider.logs("1"), lambda: provider.change_bid("1", Decimal(1)),
        lambda: provider.charges(datetime(2026, 11, 1, tzinfo=UTC), datetime(2026, 11, 2, tzinfo=UTC)),
        lambda: provider.create(order, deadline=soon()),
    ):  # fmt: skip
        with pytest.raises(Unauthorized):
            call()
    assert {seen.kind for seen in emulator.log()} == {"quotes"}
    assert [(r.name, r.ok) for r in provider.rights()] == [
        ("catalogue", True), ("balance", False), ("instances", False),
    ]  # fmt: skip


def test_offers_outside_the_eea_are_shown_so_that_the_page_can_refuse_them(provider: VastProvider) -> None:
    countries = {q.country for q in provider.quotes()}
    assert {"DE", "FR", "US", "GB"} <= countries


def test_an_offer_that_some_rule_turns_down_is_not_shown(provider: VastProvider) -> None:
    places = {q.data_center for q in provider.quotes()}
    assert not places & {"Rome, IT", "Vienna, AT", "Brussels, BE", "Riga, LV"}


def test_the_price_of_an_offer_is_what_the_machine_then_bills(provider: VastProvider) -> None:
    for tier in ("community", "datacenter"):
        quote = quote_of(provider, tier)
        label = new_label()
        provider.create(order_for(quote, label), deadline=soon())
        machine = found(provider, label)[0]
        assert machine.usd_per_hour == quote.usd_per_hour
        assert machine.gpu_name == quote.gpu_name
        assert machine.country == quote.country
        assert machine.ends_at


# -- create -------------------------------------------------------------------------------------


def test_the_machine_is_told_its_key_name_model_and_port(emulator: Vast, provider: VastProvider) -> None:
    rent(provider, environment={"HF_TOKEN": "hf_planted"})
    [seen] = emulator.seen("create")
    assert seen.body["env"] == {
        "HF_TOKEN": "hf_planted", "REGIA_API_KEY": API_KEY, "REGIA_SERVED_NAME": "qwen3-4b",
        "REGIA_MODEL": "Qwen/Qwen3-4B", "REGIA_REVISION": "abc123", "REGIA_CONTEXT": "16384",
        "REGIA_PORT": "8000", "-p 8000:8000": "1",
    }  # fmt: skip
    assert seen.body["cancel_unavail"] is True
    assert seen.body["price"] is None
    assert "args" not in seen.body
    assert seen.body["runtype"] == "args"


def test_a_bid_is_sent_with_its_price(emulator: Vast, provider: VastProvider) -> None:
    label, _ = rent(provider, "interruptible", bid_usd_per_hour=Decimal("0.5"))
    assert emulator.seen("create")[0].body["price"] == 0.5
    machine = found(provider, label)[0]
    assert machine.min_bid
    assert machine.usd_per_hour
    assert machine.usd_per_hour > Decimal("0.5")


def test_an_interruptible_order_without_a_bid_is_never_sent(emulator: Vast, provider: VastProvider) -> None:
    with pytest.raises(Rejected, match="bid"):
        rent(provider, "interruptible", bid_usd_per_hour=None)
    assert emulator.seen("create") == []


@pytest.mark.parametrize("status", [200, 400, 404, 410])
def test_an_offer_that_is_gone_is_no_capacity_however_it_is_said(
    emulator: Vast, provider: VastProvider, status: int
) -> None:
    emulator.set(gone_as=status)
    quote = quote_of(provider, "community")
    emulator.withdraw(int(quote.key.partition(":")[2]))
    with pytest.raises(NoCapacity):
        provider.create(order_for(quote, new_label()), deadline=soon())
    assert emulator.machines() == []


def test_a_bid_that_was_too_low_but_left_a_machine_counts_as_rented(
    emulator: Vast, provider: VastProvider
) -> None:
    label, remote_id = rent(provider, "interruptible", bid_usd_per_hour=Decimal("0.002"))
    assert [m["id"] for m in emulator.machines()] == [remote_id]
    assert found(provider, label)[0].status is MachineStatus.OUTBID
    emulator.set(low_bid_leaves_instance=False)
    with pytest.raises(Rejected):
        rent(provider, "interruptible", bid_usd_per_hour=Decimal("0.002"))


def test_without_credit_it_is_refused_and_the_key_is_not_blamed(
    emulator: Vast, provider: VastProvider
) -> None:
    quote = quote_of(provider, "community")
    emulator.set_balance(0)
    with pytest.raises(Rejected, match="credit") as refused:
        provider.create(order_for(quote, new_label()), deadline=soon())
    assert type(refused.value) is Rejected


# -- life ---------------------------------------------------------------------------------------


def test_outbid_is_seen_bills_the_disk_alone_and_ends_by_itself(
    emulator: Vast, provider: VastProvider
) -> None:
    label, remote_id = rent(provider, "interruptible", bid_usd_per_hour=Decimal("0.2"))
    running = found(provider, label)[0]
    emulator.outbid(remote_id)
    machine = found(provider, label)[0]
    assert machine.status is MachineStatus.OUTBID
    assert machine.endpoint_url is None
    assert machine.usd_per_hour is not None
    assert 0 < machine.usd_per_hour == running.usd_per_hour - Decimal("0.2")
    assert machine.min_bid > Decimal("0.2")
    emulator.resume(remote_id)
    assert found(provider, label)[0].status is MachineStatus.RUNNING


def test_a_higher_bid_brings_it_back(emulator: Vast, provider: VastProvider) -> None:
    label, remote_id = rent(provider, "interruptible", bid_usd_per_hour=Decimal("0.2"))
    emulator.outbid(remote_id)
    lowest = found(provider, label)[0].min_bid
    assert lowest
    provider.change_bid(remote_id, lowest + Decimal("0.01"))
    provider.start(remote_id)
    assert found(provider, label)[0].status is MachineStatus.RUNNING


def test_an_on_demand_machine_takes_no_bid(provider: VastProvider) -> None:
    _, remote_id = rent(provider)
    with pytest.raises(Rejected):
        provider.change_bid(remote_id, Decimal("0.5"))


def test_a_start_waits_while_the_gpu_is_taken(emulator: Vast, provider: VastProvider) -> None:
    label, remote_id = rent(provider)
    provider.stop(remote_id)
    assert found(provider, label)[0].status is MachineStatus.STOPPED
    emulator.take_gpu(remote_id)
    provider.start(remote_id)
    assert found(provider, label)[0].status is MachineStatus.PENDING


@pytest.mark.parametrize(
    ("trouble", "status"),
    [
        ("exited", MachineStatus.EXITED), ("clashed", MachineStatus.EXITED), ("unknown", MachineStatus.UNKNOWN),
        ("offline", MachineStatus.UNKNOWN), ("frozen", MachineStatus.UNKNOWN),
    ],
)  # fmt: skip
def test_troubles_of_a_machine_are_told_in_our_words(
    emulator: Vast, provider: VastProvider, trouble: str, status: MachineStatus
) -> None:
    label, remote_id = rent(provider)
    emulator.fail(remote_id, status=trouble)
    machine = found(provider, label)[0]
    assert machine.status is status
    assert machine.endpoint_url is None


def test_it_boots_through_pending_and_pulling(emulator: Vast, provider: VastProvider) -> None:
    emulator.boot_seconds = 100.0
    label, _ = rent(provider)
    assert found(provider, label)[0].status is MachineStatus.PENDING
    emulator.advance(50)
    assert found(provider, label)[0].status is MachineStatus.PULLING
    assert found(provider, label)[0].endpoint_url is None
    emulator.advance(60)
    assert found(provider, label)[0].status is MachineStatus.RUNNING


def test_where_it_really_stands_is_read_back(emulator: Vast, provider: VastProvider) -> None:
    label, remote_id = rent(provider)
    emulator.move(remote_id, "California, United States")
    assert found(provider, label)[0].country == "US"
    emulator.move(remote_id, None)
    assert found(provider, label)[0].country is None


def test_its_address_is_the_doors_own(provider: VastProvider) -> None:
    label, _ = rent(provider)
    machine = found(provider, label)[0]
    assert machine.own_door
    assert str(machine.endpoint_url).startswith("https://127.0.0.1:")


def test_machines_of_another_account_are_not_listed_and_not_touched(provider: VastProvider) -> None:
    with Vast(keys=(KEY, "another-key")) as vast:
        mine, other = adapter(vast.url), adapter(vast.url, key="another-key")
        label, remote_id = rent(mine)
        assert other.list_machines().machines == ()
        with pytest.raises(Gone):
            other.terminate(remote_id)
        assert found(mine, label)


# -- the rest -----------------------------------------------------------------------------------


@pytest.fixture
def crowded() -> Iterator[Vast]:
    """Sixty machines of others, made two hours ago."""
    with Vast(offers=200) as vast:
        for n in range(60):
            vast.place(f"foreign-{n}", ago=7200.0)
        yield vast
        assert vast.violations == []


def test_every_page_of_the_list_is_read(crowded: Vast) -> None:
    listing = adapter(crowded.url).list_machines()
    assert listing.complete
    assert {m.label for m in listing.machines} == {f"foreign-{n}" for n in range(60)}
    assert len(crowded.seen("list")) == 3


@pytest.mark.parametrize(
    "fault", ["truncated", "nulls", "wrong_type", "html", "empty_body", "rate_limited", "lost"]
)
@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_list_with_a_bad_page_is_never_a_complete_list(crowded: Vast, fault: str, number: int) -> None:
    crowded.faults.add("list", *["ok"] * number, fault)
    provider = adapter(crowded.url)
    try:
        assert not provider.list_machines().complete
    except ProviderError as e:
        assert isinstance(e, (Unavailable, RateLimited))  # noqa: PT017
    crowded.faults.clear()
    assert provider.list_machines().complete


def test_a_page_that_says_unknown_things_loses_no_machine(crowded: Vast) -> None:
    provider = adapter(crowded.url)
    crowded.faults.always("list", "unknown_state")
    listing = provider.list_machines()
    assert listing.complete
    assert {m.status for m in listing.machines} == {MachineStatus.UNKNOWN}
    crowded.faults.always("list", "unknown_fields")
    assert {m.status for m in provider.list_machines().machines} == {MachineStatus.RUNNING}
    crowded.faults.clear()
    crowded.faults.add("list", "nulls")
    listing = provider.list_machines()
    assert {m.status for m in listing.machines} == {MachineStatus.UNKNOWN}
    assert len(listing.machines) == 25
    assert all(m.label.startswith("foreign-") and m.remote_id for m in listing.machines)
    assert all(m.usd_per_hour is None and m.country is None for m in listing.machines)


def test_the_balance_is_the_credit(emulator: Vast, provider: VastProvider) -> None:
    emulator.set_balance("12.5")
    assert provider.balance().usd == Decimal("12.5")


def test_rights_tell_what_the_key_may_do_and_what_it_lacks(emulator: Vast, provider: VastProvider) -> None:
    assert [(r.name, r.ok) for r in provider.rights()] == [
        ("catalogue", True), ("balance", True), ("instances", True),
    ]  # fmt: skip
    emulator.faults.always("balance", "forbidden")
    right = provider.rights()[1]
    assert not right.ok
    assert "user_read" in right.detail
    emulator.faults.clear()
    emulator.revoke()
    assert not any(r.ok for r in provider.rights())


def test_charges_are_the_providers_books_cut_to_the_span(emulator: Vast, provider: VastProvider) -> None:
    label, remote_id = rent(provider)
    emulator.advance(3 * 86_400)
    emulator.traffic(remote_id, down_gb=10)
    end = emulator.clock.now
    whole = [
        c for c in provider.charges(end - timedelta(days=30), end + timedelta(hours=1)) if c.label == label
    ]
    assert {c.component for c in whole} == {"compute", "disk", "traffic-in"}
    assert abs(sum(c.usd for c in whole) - emulator.bill(remote_id)) < Decimal("0.001")
    hour = [
        c for c in provider.charges(end - timedelta(hours=25), end - timedelta(hours=24)) if c.label == label
    ]
    rate = quote_rate(provider, label)
    assert abs(sum(c.usd for c in hour) - rate) < Decimal("0.001")


def quote_rate(provider: VastProvider, label: str) -> Decimal:
    rate = found(provider, label)[0].usd_per_hour
    assert rate is not None
    return rate


def test_charges_of_many_machines_come_over_many_pages(crowded: Vast) -> None:
    for n in range(60, 120):
        crowded.place(f"foreign-{n}", ago=7200.0)
    end = crowded.clock.now
    charges = adapter(crowded.url).charges(end - timedelta(days=1), end)
    assert len({c.remote_id for c in charges}) == 120
    assert len(crowded.seen("charges")) == 2


def test_charges_are_whole_or_none(crowded: Vast) -> None:
    end = crowded.clock.now
    for fault in ("truncated", "nulls", "wrong_type", "html", "error_before"):
        crowded.faults.add("charges", fault)
        with pytest.raises(Unavailable):
            adapter(crowded.url).charges(end - timedelta(days=1), end)


def test_logs_hide_the_key_and_every_secret_of_the_environment(
    emulator: Vast, provider: VastProvider
) -> None:
    _, remote_id = rent(provider, environment={"HF_TOKEN": "planted"})
    emulator.say(remote_id, "the token is planted, the key is " + API_KEY)
    emulator.set(logs_ready_after=1)
    lines = provider.logs(remote_id)
    assert any("the token is ***, the key is ***" in line.text for line in lines)
    assert not any("planted" in line.text or API_KEY in line.text for line in lines)
    assert len(provider.logs(remote_id, tail=2)) == 2


def test_what_the_host_did_is_a_log_of_its_own_and_shows_no_secret_either(
    emulator: Vast, provider: VastProvider
) -> None:
    _, remote_id = rent(provider, environment={"HF_TOKEN": "planted"})
    lines = provider.system_logs(remote_id)
    assert {line.source for line in lines} == {"system"}
    assert any("Pull complete" in line.text for line in lines)
    assert any("HF_TOKEN=***" in line.text for line in lines)
    assert not any("planted" in line.text or API_KEY in line.text for line in lines)
    assert not any("Pull complete" in line.text for line in provider.logs(remote_id))
    assert provider.system_logs(remote_id, tail=0) == ()


def test_it_is_no_serverless_provider(provider: VastProvider) -> None:
    with pytest.raises(Rejected):
        provider.inspect("1")
    with pytest.raises(Rejected):
        provider.mend("1")


def test_a_key_that_no_header_can_carry_is_refused_and_not_shown(emulator: Vast) -> None:
    for key in ("with space", "ключ", "line\nbreak"):
        provider = VastProvider(Secret(key), address=emulator.url, disk_gb=40, port=8000, traffic_gb=50)
        with pytest.raises(Unauthorized) as refused:
            provider.list_machines()
        assert key not in str(refused.value)
    assert emulator.log() == []
