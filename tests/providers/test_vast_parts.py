"""Vast.ai's offers, machines and orders: pure functions on what its API has said, and on anything else."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.providers import vast_machines, vast_offers, vast_order
from deployments.providers.base import MachineStatus, Quote, Rejected
from deployments.residency import EEA
from tests.providers.contract import API_KEY
from tests.providers.vast import capture, order_for

NOW = datetime(2025, 7, 26, tzinfo=UTC)
ODD: tuple[Any, ...] = (
    None, "", "x", "7", -1, 0, 3.5, 1e308, math.inf, math.nan, True, False, [], {}, [None], {"a": 1}, 10**400,
)  # fmt: skip
"""What no field should hold."""


def offer(**changes: Any) -> dict[str, Any]:
    return {**capture("vast_offer"), "verification": "verified", **changes}


def quote(kind: str = vast_offers.ON_DEMAND, **changes: Any) -> Quote | None:
    return vast_offers.quote(offer(**changes), kind, disk_gb=8, traffic_gb=50, now=NOW)


def sure(kind: str = vast_offers.ON_DEMAND, **changes: Any) -> Quote:
    found = quote(kind, **changes)
    assert found
    return found


def row(**changes: Any) -> dict[str, Any]:
    return {**capture("vast_instances")["instances"][0], **changes}


def status(**changes: Any) -> MachineStatus:
    return vast_machines.status_of(row(**changes))


# -- offers -------------------------------------------------------------------------------------


def test_the_real_offer_becomes_a_quote_in_our_words() -> None:
    found = sure()
    assert found.key == "on-demand:21348645"
    assert (found.tier, found.gpu_name, found.gpu_count, found.vram_mb) == (
        "community",
        "RTX 5090",
        1,
        32_607,
    )
    assert (found.cpu_count, found.memory_mb) == (24, 63_745)
    assert (found.country, found.data_center) == ("CA", "Ontario, CA")
    assert (found.host, found.site) == ("vast-host-98979", "37228")
    assert (found.cuda_max, found.compute_capability, found.reliability) == (12.8, 12.0, 0.9964528)
    assert found.max_hours == pytest.approx(3_149_474.36 / 3600)
    assert not found.interruptible
    assert found.certification == ""


def test_its_price_is_what_vast_says_it_is() -> None:
    found = sure()
    assert found.usd_per_hour == Decimal("0.115703704")
    assert found.disk_usd_per_hour == found.stopped_usd_per_hour == Decimal("0.010370370")
    assert found.usd_per_hour == found.compute_usd_per_hour + found.disk_usd_per_hour
    assert found.traffic_usd_per_gb == Decimal("0.001953125")
    assert "$0.10 for 50 GB" in found.note


def test_a_bid_costs_at_least_the_lowest_that_wins() -> None:
    found = sure(vast_offers.BID, min_bid=0.1053333004)
    assert (found.key, found.tier, found.interruptible) == ("bid:21348645", "interruptible", True)
    assert found.compute_usd_per_hour == Decimal("0.105333301")
    assert found.usd_per_hour == found.compute_usd_per_hour + found.disk_usd_per_hour


def test_a_data_centre_is_told_by_its_hosting_and_names_its_evidence() -> None:
    for found in (sure(hosting_type=1), sure(hosting_type=None, datacenter=True)):
        assert found.tier == "datacenter"
        assert "ISO 27001" in found.certification
        assert not found.sla
    assert sure(vast_offers.BID, hosting_type=1).tier == "interruptible"


@pytest.mark.parametrize(
    ("place", "country"),
    [
        ("Sofia, BG", "BG"), ("Sofia,BG", "BG"), ("New York, NY, US", "US"), ("Sofia, BG ", "BG"), (", DE", "DE"),
        ("DE", None), ("Germany", None), ("Berlin, Germany", None), ("Berlin, de", None), ("Berlin, DEU", None),
        ("", None), (None, None), (7, None), (["DE"], None),
    ],
)  # fmt: skip
def test_a_country_is_known_for_sure_or_not_at_all(place: Any, country: str | None) -> None:
    assert sure(geolocation=place).country == country


@pytest.mark.parametrize(
    "changes",
    [
        {"id": None}, {"id": "x"}, {"dph_base": None}, {"dph_base": 0}, {"dph_base": -1}, {"dph_base": "0.1"},
        {"storage_cost": None}, {"gpu_ram": 0}, {"num_gpus": 0}, {"duration": 0}, {"duration": -5},
        {"duration": None, "end_date": 1_600_000_000}, {"rentable": False}, {"verification": "unverified"},
        {"verification": "deverified"}, {"dph_base": 1e12},
    ],
)  # fmt: skip
def test_what_cannot_be_rented_for_a_known_price_is_no_quote(changes: dict[str, Any]) -> None:
    assert quote(**changes) is None


def test_memory_is_the_offers_share_of_the_machine() -> None:
    assert sure(cpu_cores=48, cpu_cores_effective=12).memory_mb == 63_745 // 4
    assert sure(cpu_cores=None, cpu_cores_effective=12, gpu_frac=0.5).memory_mb == 63_745 // 2
    assert sure(cpu_cores=None).cpu_count == 24
    assert sure(cpu_cores=None, cpu_cores_effective=None, gpu_frac=None).memory_mb == 63_745


def test_no_odd_field_makes_an_offer_crash_or_unsound() -> None:
    for name, value in itertools.product(capture("vast_offer"), ODD):
        for kind in (vast_offers.ON_DEMAND, vast_offers.BID):
            found = quote(kind, **{name: value})
            if found:
                assert found.usd_per_hour > 0
                assert found.vram_mb > 0
                assert found.reliability is None or 0 <= found.reliability <= 1
                assert found.max_hours is None or found.max_hours > 0
                assert len(found.data_center) <= 80
                assert found.country is None or len(found.country) == 2


def test_the_searches_are_dicts_for_the_disk_that_will_be_rented() -> None:
    found = vast_offers.searches(disk_gb=40)
    assert [s.kind for s in found] == ["on-demand", "bid", "on-demand"]
    for search in found:
        assert search.query["disk_space"] == {"gte": 40}
        assert search.query["verified"] == {"eq": True}
        assert search.query["direct_port_count"] == {"gte": 1}
        assert all(isinstance(test, dict) for test in search.query.values())
    assert set(found[0].query["geolocation"]["in"]) == EEA
    assert not set(found[2].query["geolocation"]["in"]) & EEA


# -- machines -----------------------------------------------------------------------------------


def test_the_sample_row_is_a_running_machine() -> None:
    sample = row(
        ports={"8000/tcp": [{"HostIp": "192.0.2.1", "HostPort": "41234"}]}, public_ipaddr=" 192.0.2.45\n"
    )
    found = vast_machines.machine(sample, port=8000)
    assert found
    assert (found.remote_id, found.label) == ("312", "ML Training Job 2025")
    assert found.status is MachineStatus.RUNNING
    assert found.endpoint_url == "https://192.0.2.45:41234"
    assert found.usd_per_hour == Decimal("0.8021")
    assert found.country == "US"
    assert found.created_at == datetime.fromtimestamp(1668804745.1223178, UTC)
    assert found.ends_at == datetime(2025, 1, 1, tzinfo=UTC)
    assert found.min_bid is None
    assert "df77e27085bd4b3bd5d9024bdefb9e6d" not in repr(found)


@pytest.mark.parametrize(
    ("said", "use"),
    [(0.0, 0.0), (37, 0.37), (100.0, 1.0), (-1, None), (900, None), (None, None), ("9", None)],
)
def test_how_busy_its_gpu_is_comes_from_the_row(said: Any, use: float | None) -> None:
    found = vast_machines.machine(row(gpu_util=said), port=8000)
    assert found
    assert found.gpu_use == use


WORDS: tuple[tuple[tuple[str | None, str | None, str | None, str | None], MachineStatus], ...] = (
    # actual, intended, current, next
    ((None, "running", "unloaded", "running"), MachineStatus.PENDING),
    (("created", "running", "running", "running"), MachineStatus.PENDING),
    (("rebooting", "running", "running", "running"), MachineStatus.PENDING),
    (("loading", "running", "running", "running"), MachineStatus.PULLING),
    (("running", "running", "running", "running"), MachineStatus.RUNNING),
    (("running", None, None, None), MachineStatus.RUNNING),
    (("running", "stopped", "running", "stopped"), MachineStatus.STOPPING),
    (("running", "stopped", "stopped", "stopped"), MachineStatus.STOPPING),
    (("loading", "stopped", "running", "stopped"), MachineStatus.STOPPING),
    (("exited", "stopped", "stopped", "stopped"), MachineStatus.STOPPED),
    (("stopped", "stopped", "stopped", "stopped"), MachineStatus.STOPPED),
    ((None, "stopped", "stopped", "stopped"), MachineStatus.STOPPED),
    (("offline", "stopped", "stopped", "stopped"), MachineStatus.STOPPED),
    (("stopped", "running", "running", "running"), MachineStatus.STOPPED),
    (("stopped", "running", "stopped", "running"), MachineStatus.PENDING),
    (("exited", "running", "stopped", "running"), MachineStatus.PENDING),
    (("exited", "running", "running", "running"), MachineStatus.EXITED),
    (("exited", None, None, None), MachineStatus.UNKNOWN),
    (("frozen", "frozen", "running", "frozen"), MachineStatus.UNKNOWN),
    (("frozen", "stopped", "stopped", "stopped"), MachineStatus.UNKNOWN),
    (("unknown", "running", "running", "running"), MachineStatus.UNKNOWN),
    (("offline", "running", "running", "running"), MachineStatus.UNKNOWN),
    (("hibernating", "running", "running", "running"), MachineStatus.UNKNOWN),
    (("", "running", "running", "running"), MachineStatus.UNKNOWN),
    ((None, None, None, None), MachineStatus.UNKNOWN),
)


@pytest.mark.parametrize(("words", "expected"), WORDS)
def test_four_words_of_vast_are_one_of_ours(words: tuple[Any, ...], expected: MachineStatus) -> None:
    names = ("actual_status", "intended_status", "cur_state", "next_state")
    assert status(**dict(zip(names, words, strict=True))) is expected


def test_a_bid_that_stands_still_three_times_over_is_outbid_unless_we_stopped_it() -> None:
    words = dict.fromkeys(("intended_status", "cur_state", "next_state"), "stopped")
    for actual in ("stopped", "exited", "running", None):
        outbid = row(is_bid=True, actual_status=actual, **words)
        assert vast_machines.status_of(outbid) is MachineStatus.OUTBID
        assert vast_machines.status_of(outbid, asked_to_stop=True) is not MachineStatus.OUTBID
    assert (
        status(is_bid=True, actual_status="stopped", **{**words, "next_state": "running"})
        is not MachineStatus.OUTBID
    )
    assert status(is_bid=False, actual_status="stopped", **words) is MachineStatus.STOPPED


@pytest.mark.parametrize(
    "said",
    ["OCI runtime create failed: no GPU", "docker: Error response from daemon", "Error: docker is full"],
)
def test_a_container_that_cannot_be_made_has_ended(said: str) -> None:
    assert status(actual_status="created", status_msg=said) is MachineStatus.EXITED
    assert status(actual_status="loading", status_msg=said) is MachineStatus.PULLING


def test_what_is_held_bills_its_disk_alone() -> None:
    held = row(actual_status="stopped", intended_status="stopped", cur_state="stopped", next_state="stopped")
    found = vast_machines.machine(held, port=8000)
    assert found
    assert found.usd_per_hour == Decimal("0.0021")
    bid = vast_machines.machine({**held, "is_bid": True, "storage_cost": None}, port=8000)
    assert bid
    assert bid.status is MachineStatus.OUTBID
    assert bid.usd_per_hour == Decimal("0.0021")  # storage_total_cost
    assert bid.min_bid == Decimal("0.296")


def test_a_price_that_is_not_said_is_not_zero() -> None:
    bare = row(dph_total=None, dph_base=None)
    found = vast_machines.machine(bare, port=8000)
    assert found
    assert found.usd_per_hour is None


PORTS: tuple[Any, ...] = (
    {}, {"8000/tcp": None}, {"8000/tcp": []}, {"8000/tcp": [None]}, {"8000/tcp": [{}]}, {"8000/tcp": [{"HostPort": None}]},
    {"8000/tcp": [{"HostPort": "x"}]}, {"8000/tcp": [{"HostPort": "0"}]}, {"8000/tcp": [{"HostPort": "70001"}]},
    {"8000/udp": [{"HostPort": "1"}]}, [8000], "8000", None, 7,
)  # fmt: skip


@pytest.mark.parametrize("ports", PORTS)
def test_a_port_that_is_not_mapped_gives_no_address(ports: Any) -> None:
    found = vast_machines.machine(row(ports=ports), port=8000)
    assert found
    assert found.endpoint_url is None


@pytest.mark.parametrize(
    ("ip", "url"),
    [("192.0.2.4", "https://192.0.2.4:9"), (" 192.0.2.4 \n", "https://192.0.2.4:9"), ("2001:db8::1", "https://[2001:db8::1]:9"),
     ("evil.example/x?", None), ("192.0.2.4@evil.example", None), ("", None), (None, None), (7, None)],
)  # fmt: skip
def test_an_address_is_made_of_an_ip_and_of_nothing_else(ip: Any, url: str | None) -> None:
    ports = {"8000/tcp": [{"HostPort": "9"}]}
    found = vast_machines.machine(row(public_ipaddr=ip, ports=ports), port=8000)
    assert found
    assert found.endpoint_url == url


@pytest.mark.parametrize("state", ["stopped", "exited", "loading", "offline", "frozen"])
def test_a_stale_mapping_of_a_machine_that_does_not_run_is_no_address(state: str) -> None:
    ports = {"8000/tcp": [{"HostPort": "9"}]}
    found = vast_machines.machine(row(actual_status=state, ports=ports), port=8000)
    assert found
    assert found.endpoint_url is None


@pytest.mark.parametrize(
    ("place", "code", "country"),
    [
        ("Berlin, DE", None, "DE"), ("Bavaria, Germany", None, "DE"), ("Texas, United States", None, "US"),
        ("Texas, US", "DE", "US"), (None, "DE", "DE"), (None, "de", "DE"), ("somewhere", "FR", "FR"),
        ("Tbilisi, Georgia", None, None), ("Somewhere, Elsewhere", None, None), (None, None, None), (7, 7, None),
        (None, "D1", None), (None, "DEU", None),
    ],
)  # fmt: skip
def test_where_a_machine_stands_is_known_for_sure_or_not_at_all(
    place: Any, code: Any, country: str | None
) -> None:
    found = vast_machines.machine(row(geolocation=place, country_code=code), port=8000)
    assert found
    assert found.country == country


def test_no_odd_field_loses_a_machine_or_crashes() -> None:
    for name, value in itertools.product(row(), ODD):
        if name == "id":
            continue
        found = vast_machines.machine(row(**{name: value}), port=8000)
        assert found
        assert found.remote_id == "312"
        assert found.label == "ML Training Job 2025" or name == "label"
    for value in ODD:
        odd = dict.fromkeys(row(), value) | {"id": 312, "label": "regia-1"}
        found = vast_machines.machine(odd, port=8000)
        assert found
        assert (found.remote_id, found.label, found.status) == ("312", "regia-1", MachineStatus.UNKNOWN)


@given(st.dictionaries(st.sampled_from(sorted({*row(), *offer()})), st.sampled_from(ODD)))
def test_a_row_of_anything_is_a_machine_or_has_no_id(changes: dict[str, Any]) -> None:
    found = vast_machines.machine(row(**changes), port=8000)
    assert found or "id" in changes
    for kind in (vast_offers.ON_DEMAND, vast_offers.BID):
        vast_offers.quote(offer(**changes), kind, disk_gb=40, traffic_gb=50, now=NOW)


def test_a_rows_secrets_are_known_for_masking_and_never_kept() -> None:
    secret = row(
        extra_env=[
            ["REGIA_API_KEY", API_KEY],
            ["REGIA_MODEL", "Qwen/Qwen3-4B"],
            ["-p 8000:8000", "1"],
            None,
            ["odd"],
            7,
        ],
        status_msg=f"docker run -e REGIA_API_KEY={API_KEY}",
    )
    assert vast_machines.secrets_of(secret) == {API_KEY, secret["jupyter_token"]}
    found = vast_machines.machine(secret, port=8000)
    assert found
    assert found.detail == "docker run -e REGIA_API_KEY=***"
    assert vast_machines.secrets_of({"extra_env": {"TOKEN": "planted"}}) == {"planted"}


# -- orders -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"image": ""}, "INFERENCE_IMAGE"), ({"label": ""}, "label"), ({"label": "x" * 257}, "label"),
        ({"disk_gb": 7}, "disk"), ({"environment": {"CERT": "x" * 257}}, "CERT has 257"),
        ({"environment": {f"V{n}": "x" * 250 for n in range(140)}}, "together"),
        ({"environment": {"--privileged": "1"}}, "name of a variable"),
        ({"environment": {"-p 22:22": "1"}}, "name of a variable"), ({"environment": {"": "1"}}, "name of a variable"),
        ({"served_name": "x" * 257}, "REGIA_SERVED_NAME"),
    ],
)  # fmt: skip
def test_an_order_that_vast_would_not_take_as_it_is_meant_is_refused(
    changes: dict[str, Any], reason: str
) -> None:
    with pytest.raises(Rejected, match=reason) as refused:
        vast_order.arguments(replace(order_for(sure(), "regia-1"), **changes))
    assert "x" * 100 not in str(refused.value)


@pytest.mark.parametrize(
    "key", ["", "on-demand:", "on-demand:x", "runpod:1", "21348645", "bid:1/../2", "bid:-1"]
)
def test_only_an_offer_of_vast_can_be_ordered(key: str) -> None:
    with pytest.raises(Rejected):
        vast_order.arguments(order_for(replace(sure(), key=key), "regia-1"))


def test_an_order_cannot_overwrite_what_the_machine_is_told() -> None:
    order = order_for(
        sure(), "regia-1", environment={"REGIA_API_KEY": "other", "MORE": "1"}, revision=None, port=9000
    )
    told = vast_order.environment(order)
    assert told["REGIA_API_KEY"] == API_KEY
    assert told["MORE"] == "1"
    assert told["-p 9000:9000"] == "1"
    assert "REGIA_REVISION" not in told


@pytest.mark.parametrize("bid", ["0", "-1", "0.0009", "128.1", "NaN", "Infinity"])
def test_a_bid_outside_of_what_vast_takes_is_refused(bid: str) -> None:
    with pytest.raises(Rejected):
        vast_order.bid(Decimal(bid))
    with pytest.raises(Rejected):
        vast_order.arguments(order_for(sure(vast_offers.BID), "regia-1", bid_usd_per_hour=Decimal(bid)))


def test_an_on_demand_order_sends_no_price() -> None:
    order = order_for(sure(), "regia-1", bid_usd_per_hour=Decimal(1))
    assert vast_order.arguments(order)[1]["price"] is None


def test_of_an_order_only_what_is_secret_is_kept_out_of_an_errors_text() -> None:
    order = order_for(
        sure(),
        "x",
        environment={"REGIA_TLS_KEY": "a-private-key", "REGIA_DOOR": "plain", "REGIA_LEASE_SECONDS": "7200"},
    )
    assert set(order.secrets()) == {order.api_key.reveal(), "a-private-key"}
