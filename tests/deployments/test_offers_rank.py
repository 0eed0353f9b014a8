"""Fit, price and rank: pure, and held by what must be so rather than by figures that somebody chose."""

from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments import catalog, pricing, rank
from deployments.fit import fit
from deployments.rank import History
from tests.providers.fakecloud import fake_quote

POLICIES = [rank.RELIABILITY, rank.BALANCED, rank.CHEAPEST]
AWQ, FP8, BF16 = (catalog.get_model(f"qwen3-4b-{p}") for p in ("awq", "fp8", "bf16"))
LOCAL = catalog.get_model("smollm2-135m")

quotes = st.builds(
    fake_quote,
    reliability=st.none() | st.floats(0, 1),
    certification=st.sampled_from(["", "ISO 27001"]),
    sla=st.booleans(),
    interruptible=st.booleans(),
    serverless=st.booleans(),
    max_hours=st.none() | st.floats(1, 5000),
)
histories = st.none() | st.builds(
    History, worked=st.integers(0, 9), failed=st.integers(0, 9), interruptions=st.integers(0, 9)
)
prices = st.floats(0.01, 10)


@pytest.mark.parametrize("policy", POLICIES)
@given(quote=quotes, history=histories, price=prices, more=st.floats(0.001, 5))
def test_a_dearer_twin_never_ranks_above(policy, quote, history, price, more):
    cheap = rank.key(quote, policy, usd_per_hour=price, history=history)
    assert cheap < rank.key(quote, policy, usd_per_hour=price + more, history=history)


@given(quote=quotes, history=histories, price=prices, more=st.floats(0, 5))
def test_a_better_sla_never_ranks_lower_where_reliability_comes_first(quote, history, price, more):
    without, with_it = (replace(quote, sla=sla) for sla in (False, True))
    key = rank.key(with_it, rank.RELIABILITY, usd_per_hour=price, history=history)
    assert key <= rank.key(without, rank.RELIABILITY, usd_per_hour=price, history=history)


@pytest.mark.parametrize("policy", POLICIES)
@given(quote=quotes, price=prices, better=st.floats(0, 1), worse=st.floats(0, 1))
def test_a_more_reliable_twin_never_ranks_lower(policy, quote, price, better, worse):
    better, worse = max(better, worse), min(better, worse)
    keys = [rank.key(replace(quote, reliability=r), policy, usd_per_hour=price) for r in (better, worse)]
    assert keys[0] <= keys[1]


@pytest.mark.parametrize("policy", POLICIES)
@given(quote=quotes, price=prices, history=histories)
def test_one_more_boot_that_worked_never_hurts_and_one_more_failure_never_helps(
    policy, quote, price, history
):
    seen = history or History()
    now, worked, failed = (
        rank.key(quote, policy, usd_per_hour=price, history=h)
        for h in (seen, replace(seen, worked=seen.worked + 1), replace(seen, failed=seen.failed + 1))
    )
    assert worked <= now <= failed


@given(quote=quotes, history=histories)
def test_trust_lies_between_nothing_and_all(quote, history):
    assert 0 <= rank.trust(quote, history) <= 1


@given(
    secure=prices,
    datacenter=prices,
    community=prices,
    reliability=st.floats(0.9, 1),
    hours=st.floats(24, 5000),
)
def test_reliability_puts_data_centres_above_single_hosts_whatever_they_cost(
    secure, datacenter, community, reliability, hours
):
    pod = rank.key(fake_quote(sla=True), rank.RELIABILITY, usd_per_hour=secure)
    certified = fake_quote(
        tier="datacenter", certification="ISO 27001", reliability=reliability, max_hours=hours
    )
    host = fake_quote(tier="community", reliability=1.0)
    certified_key = rank.key(certified, rank.RELIABILITY, usd_per_hour=datacenter)
    assert pod < certified_key < rank.key(host, rank.RELIABILITY, usd_per_hour=community)


def test_a_host_that_fails_more_often_than_not_loses_its_standing():
    quote = fake_quote(sla=True)
    assert rank.standing(quote, History(worked=1, failed=1)) == 3
    assert rank.standing(quote, History(worked=0, failed=2)) == 2


def test_the_reasons_say_what_is_known_of_the_offer():
    quote = fake_quote(
        certification="ISO 27001 (the host)", reliability=0.996, max_hours=1440.0, interruptible=True
    )
    said = [r.text for r in rank.reasons(quote, history=History(3, 1, 2, seconds_to_ready=240.0))]
    assert said == [
        "A higher bid takes it away at any moment", "No SLA", "ISO 27001 (the host)", "99.6 % reliable, as the provider measures it",
        "It can be rented for 60 days at most", "Of our 4 boots there 3 worked, ready after 4 min", "It was interrupted 2 times with us",
    ]  # fmt: skip


@given(
    compute=st.decimals("0.01", "5", places=4), disk=st.decimals("0", "0.1", places=4),
    traffic=st.decimals("0", "0.1", places=6), gb=st.integers(0, 1000),
)  # fmt: skip
def test_the_all_in_price_is_compute_and_disk_and_the_expected_traffic(compute, disk, traffic, gb):
    quote = fake_quote(usd_per_hour=compute + disk, compute_usd_per_hour=compute, disk_usd_per_hour=disk, traffic_usd_per_gb=traffic)  # fmt: skip
    price = pricing.all_in(quote, traffic_gb=gb)
    assert abs(price.hour - (compute + disk + traffic * gb / 730)) < Decimal("1e-18")
    assert price.month == price.hour * 730
    assert price.held == disk


def test_a_bid_takes_the_place_of_the_lowest_one_and_of_no_fixed_price():
    fixed = fake_quote(usd_per_hour=Decimal("0.42"), compute_usd_per_hour=Decimal("0.40"))
    assert pricing.all_in(fixed, traffic_gb=0, bid=Decimal(1)).hour == Decimal("0.42")
    by_bid = replace(fixed, interruptible=True)
    assert pricing.all_in(by_bid, traffic_gb=0, bid=Decimal(1)).hour == Decimal("1.02")


@given(context=st.integers(256, 40_960), at_once=st.integers(1, 32), more=st.integers(0, 8))
def test_what_is_needed_grows_with_context_and_with_requests_at_once(context, at_once, more):
    small = fit(AWQ, fake_quote(), context=context, concurrency=at_once)
    large = fit(AWQ, fake_quote(), context=context, concurrency=at_once + more)
    assert small.needed_mb <= large.needed_mb
    assert small.ok or not large.ok


def test_the_sum_is_shown():
    text = fit(BF16, fake_quote(vram_mb=24 * 1024), context=8192).sum
    assert text == "7.5 weights + 4.5 cache + 1.0 overhead = 13.0 GB of 21.6 GB"


@pytest.mark.parametrize(
    ("model", "facts", "sentence"),
    [
        (BF16, {"vram_mb": 12 * 1024}, "It needs 13.0 GB of GPU memory; of 12.0 GB the engine can use 10.8 GB."),
        (AWQ, {"gpu_count": 0, "vram_mb": 0}, "This model needs a GPU."),
        (AWQ, {"cuda_max": 12.4}, "The engine needs CUDA 12.8; its driver runs 12.4 at most."),
        (FP8, {"compute_capability": 8.6}, "FP8 needs compute capability 8.9; this GPU has 8.6."),
        (BF16, {"compute_capability": 7.5}, "BF16 needs compute capability 8.0; this GPU has 7.5."),
        (AWQ, {"compute_capability": 7.0}, "AWQ 4-bit needs compute capability 7.5; this GPU has 7.0."),
        (LOCAL, {}, "This model comes with the panel and runs on this computer only."),
        (LOCAL, {"own_machine": True, "memory_mb": 700}, "It needs 1.4 GB of memory; this one has 0.7 GB."),
    ],
)  # fmt: skip
def test_what_does_not_fit_says_why(model, facts, sentence):
    assert fit(model, fake_quote(**facts), context=4096 if model is LOCAL else 8192).reasons == (sentence,)


def test_what_nobody_says_is_said_and_is_no_refusal():
    found = fit(FP8, fake_quote(), context=8192)
    assert found.ok
    assert len(found.unknown) == 2
    assert fit(FP8, fake_quote(compute_capability=8.9, cuda_max=12.8), context=8192).unknown == ()
