"""Advice: the pattern of use, the arithmetic, and what the market may and may not offer. Pure."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments import catalog, rank, shelf
from deployments.advising import advise, pattern, sums
from deployments.advising.case import Billed, Boot, Case, Kind, Use
from deployments.advising.market import Market
from deployments.history import Histories
from deployments.models import Offer, ProviderAccount
from deployments.models.offer import quote_values
from deployments.rank import History
from tests.browser.scene import quote

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
FIRST = int(datetime(2026, 10, 19, tzinfo=UTC).timestamp()) // 3600
"""A Monday; within the four weeks after it the clocks of Europe go back."""
HOURS = 28 * 24
ALL = (1 << HOURS) - 1
QUICK = settings(max_examples=25, deadline=None)
LONG_AGO = timedelta(days=40)


def bits(hours) -> int:
    found = 0
    for n in hours:
        found |= 1 << n
    return found


def at(n: int) -> datetime:
    """The middle of the window's hour `n`."""
    return datetime.fromtimestamp((FIRST + n) * 3600 + 1800, UTC)


# -- how sure --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("exceptions", "days", "sure"),
    [(0, 0, False), (0, 3, False), (0, 13, False), (0, 14, True), (1, 14, False), (1, 22, True), (5, 28, False)],
)  # fmt: skip
def test_a_pattern_is_sure_after_fourteen_days_without_an_exception_or_more_with_some(exceptions, days, sure):
    assert pattern.is_sure(exceptions, days) is sure


# -- the schedule ----------------------------------------------------------------------------------------

weeks = st.sets(st.tuples(st.integers(0, 6), st.integers(0, 23)), min_size=1, max_size=24)


@QUICK
@given(weeks, st.sampled_from(["UTC", "Europe/Rome", "America/New_York", "Asia/Kolkata"]), st.integers(1, 3), st.sets(st.integers(0, HOURS - 1), max_size=2))  # fmt: skip
def test_a_schedule_runs_whenever_it_was_used_and_rests_no_longer_than_it_was_idle(slots, zone, lead, odd):
    weekly = [n for n in range(HOURS) if (n // 24 % 7, n % 24) in slots]
    busy = bits([*weekly, *odd])
    found = pattern.find(pattern.wall(FIRST, HOURS, ALL, busy, zone), lead=lead)
    if found is None:
        return
    used = [at(n) for n in range(HOURS) if busy >> n & 1]
    missed = {t.astimezone(ZoneInfo(zone)).date() for t in used if not found.schedule.last_edge(t).runs}
    assert len(missed) <= found.exceptions
    assert found.hours + found.rest == 168
    assert 0 < found.hours < 168
    idle = HOURS - busy.bit_count()
    # The clocks that go back give one hour more than a week has.
    assert found.rest * 4 <= idle + len(odd) + 1
    assert pattern.is_sure(found.exceptions, found.days)


@QUICK
@given(weeks)
def test_every_use_that_repeats_is_within_the_schedule(slots):
    busy = bits(n for n in range(HOURS) if (n // 24 % 7, n % 24) in slots)
    found = pattern.find(pattern.wall(FIRST, HOURS, ALL, busy, "UTC"), lead=1)
    if found is not None:
        assert found.exceptions == 0


OFFICE = bits(n for n in range(HOURS) if n // 24 % 7 < 5 and 8 <= n % 24 < 18)


def test_office_hours_become_a_schedule_that_starts_an_hour_before_them():
    found = pattern.find(pattern.wall(FIRST, HOURS, ALL, OFFICE, "UTC"), lead=1)
    made = found.schedule
    assert (made.days, f"{made.start:%H:%M}", f"{made.end:%H:%M}") == ("12345", "07:00", "19:00")
    assert (found.hours, found.rest, found.days, found.exceptions) == (60, 108, 28, 0)


def test_a_night_shift_runs_past_midnight_and_belongs_to_the_day_on_which_it_begins():
    night = bits(n for n in range(HOURS) if n // 24 % 7 < 5 and n % 24 >= 21) | bits(
        n for n in range(HOURS) if 1 <= n // 24 % 7 < 6 and n % 24 < 4
    )
    found = pattern.find(pattern.wall(FIRST, HOURS, ALL, night, "UTC"), lead=1)
    made = found.schedule
    assert (made.days, f"{made.start:%H:%M}", f"{made.end:%H:%M}") == ("12345", "20:00", "05:00")


def test_one_odd_night_in_four_weeks_does_not_spoil_it_and_is_said():
    odd = OFFICE | 1 << (24 * 9 + 23)
    found = pattern.find(pattern.wall(FIRST, HOURS, ALL, odd, "UTC"), lead=1)
    assert (found.hours, found.exceptions) == (60, 1)


@pytest.mark.parametrize("days", [3, 13])
def test_too_few_days_make_no_schedule(days):
    seen = ((1 << 24 * days) - 1) << (HOURS - 24 * days)
    assert pattern.find(pattern.wall(FIRST, HOURS, seen, OFFICE & seen, "UTC"), lead=1) is None


def test_what_was_not_measured_at_night_is_not_taken_for_idle():
    assert pattern.find(pattern.wall(FIRST, HOURS, OFFICE, OFFICE, "UTC"), lead=1) is None


def test_unused_is_what_nobody_asked_on_enough_whole_days():
    assert pattern.is_unused(pattern.wall(FIRST, HOURS, ALL, 0, "UTC"))
    assert not pattern.is_unused(pattern.wall(FIRST, HOURS, ALL, 1 << 5, "UTC"))
    assert not pattern.is_unused(pattern.wall(FIRST, HOURS, (1 << 24 * 13) - 1, 0, "UTC"))


# -- the sums --------------------------------------------------------------------------------------------

prices = st.decimals(min_value=0, max_value=20, places=4)
above = st.decimals(min_value="0.001", max_value=20, places=4)


@QUICK
@given(prices, prices, st.integers(0, 168), st.floats(0, 90_000))
def test_a_saving_is_never_negative_and_never_more_than_what_is_paid(hour, held, rest, seconds):
    saved = sums.rested(hour, held, rest=rest)
    assert 0 <= saved <= sums.month(hour)
    moved = sums.moved(sums.month(hour), sums.month(held), boot_usd=sums.boot(held, seconds))
    assert 0 <= moved <= max(Decimal(0), sums.month(hour) - sums.month(held))


@QUICK
@given(above, above, st.decimals(min_value=0, max_value=24, places=3))
def test_at_the_break_even_both_sides_cost_the_same_and_beyond_it_the_order_turns(always_on, worker, busy):
    even = sums.break_even(always_on, worker)
    assert 0 < even <= 24
    if even < 24:
        assert abs(sums.month(worker, hours_a_day=even) - sums.month(always_on)) < Decimal("1e-9")
    if abs(busy - even) > Decimal("0.001") and even < 24:
        assert (sums.month(worker, hours_a_day=busy) > sums.month(always_on)) is (busy > even)


@QUICK
@given(above, above, st.floats(1, 90_000))
def test_a_kept_disk_breaks_even_where_it_has_cost_one_start(held, hour, seconds):
    start = sums.boot(hour, seconds)
    assert abs(sums.kept(held, start) * held - start) < Decimal("1e-9")


# -- what is advised -------------------------------------------------------------------------------------

RUNPOD, VAST = UUID(int=1), UUID(int=2)
QWEN = catalog.get_model("qwen3-4b-awq")
BOOT = Boot(240, 12, "the median of 12 launches at RunPod secure in 90 days")


@pytest.fixture(autouse=True)
def image(settings):
    settings.INFERENCE_IMAGE, settings.INFERENCE_IMAGE_TLS, settings.EXPECTED_TRAFFIC_GB = "an/image", True, 0


def secure(key="l4", price="0.43", country="CZ", **more):
    return quote(key, "NVIDIA L4", country, price, sla=True, **more)


def market(*quotes, confirmed=NOW, histories=None):
    accounts = {
        pk: ProviderAccount(pk=pk, name=name, backend=backend, credentials="k", enabled=True, offers_at=confirmed)
        for pk, backend, name in ((RUNPOD, "runpod", "RunPod"), (VAST, "vast", "Vast.ai"))
    }  # fmt: skip
    known = [
        shelf.known_of(
            Offer(
                pk=n, account=accounts[VAST if q.tier in {"datacenter", "interruptible"} else RUNPOD], key=q.key,
                fetched_at=confirmed, available=True, **quote_values(q),
            )
        )
        for n, q in enumerate(quotes, 1)
    ]  # fmt: skip
    return Market([known], accounts, histories or Histories(), lambda *_: BOOT, now=NOW)


def case(standing=None, **more) -> Case:
    standing = standing or secure()
    values = {
        "pk": uuid4(), "name": "assistant", "model": QWEN, "context": 8192, "policy": "reliability", "purpose": "production",
        "allowed": ("CZ", "FR", "NL"), "zone": "UTC", "allow_plaintext": False, "price_ceiling": None, "ends": False,
        "week_hours": Decimal(168), "provider": "runpod", "account": RUNPOD, "quote": standing, "hour": standing.usd_per_hour,
        "traffic": Decimal(0), "boot": BOOT,
    } | more  # fmt: skip
    return Case(**values)


def use(busy=ALL, *, seen=ALL, **more) -> Use:
    return Use(**({"first": FIRST, "hours": HOURS, "seen": seen, "busy": busy, "crowded": 0.0, "waited": 0, "kv_p95": 0.5} | more))  # fmt: skip


def advised(subject, *quotes, **more):
    return {a.kind: a for a in advise.advise(subject, market(*quotes, **more), now=NOW)}


def test_idle_nights_and_weekends_save_what_their_hours_cost_without_the_kept_disk():
    found = advised(case(use=use(OFFICE)))[Kind.SCHEDULE]
    # 108 of 168 hours rest: 469.29 of 730 h, each $0.43 - $0.006.
    assert round(found.saves, 2) == Decimal("198.98")
    assert found.schedule.days == "12345"
    assert [s.amount for s in found.sums] == ["$313.90", "", "$0.424/h", "$198.98"]
    assert any("28 days" in line and "200 of them busy" in line for line in found.basis)
    assert any("A start takes 4 min" in line and "12 launches" in line for line in found.assumes)


@pytest.mark.parametrize(
    "more",
    [{"week_hours": Decimal(60)}, {"ends": True}, {"stopped_for": LONG_AGO}, {"quote": replace(secure(), own_machine=True)}],
)  # fmt: skip
def test_no_schedule_for_what_has_one_ends_or_is_not_rented(more):
    assert Kind.SCHEDULE not in advised(case(use=use(OFFICE), **more))


def test_with_three_days_nothing_is_said_of_its_load_but_that_fourteen_are_needed():
    seen = ALL >> (HOURS - 72)
    subject = case(use=use(0, seen=seen, crowded=1.0, kv_p95=0.01))
    assert advised(subject, secure("cheap", "0.80", vram_mb=96 * 1024)) == {}
    assert (advise.lack(subject).has, advise.lack(subject).needs) == (3, 14)


def test_what_nobody_used_is_to_be_stopped():
    found = advised(case(use=use(0)))
    assert set(found) == {Kind.UNUSED}
    assert found[Kind.UNUSED].saves == Decimal("0.424") * 730


FLEX = secure(
    "flex", "1.20", tier="serverless-flex", serverless=True, disk_usd_per_hour=Decimal(0), gpu_pool="ADA_24"
)


def test_a_worker_that_is_always_busy_is_dearer_than_a_pod_and_the_break_even_is_told():
    subject = case(FLEX, billed=Billed(Decimal("1.20") * 20 * 14, 14))
    found = advised(subject, secure("pod", "0.44"))[Kind.ALWAYS_ON]
    before, after, start = (
        Decimal("1.20") * 20 * 730 / 24,
        Decimal("0.44") * 730,
        Decimal("0.44") * 240 / 3600,
    )
    assert abs(found.saves - (before - after - start)) < Decimal("1e-9")
    assert {s.what: s.amount for s in found.sums}["Break-even"] == "8.8 h a day"
    assert found.choice.quote.key == "pod"


@pytest.mark.parametrize("billed", [Billed(Decimal("1.20") * 8 * 14, 14), Billed(Decimal("1.20") * 20 * 10, 10), Billed(Decimal("1.20") * 30 * 14, 14), None])  # fmt: skip
def test_below_the_break_even_on_too_few_days_or_with_several_workers_it_stays_a_worker(billed):
    assert advised(case(FLEX, billed=billed), secure("pod", "0.44")) == {}


def test_what_is_seldom_busy_costs_less_as_a_worker_that_sleeps():
    seldom = bits(n for n in range(HOURS) if n % 24 in {3, 11})
    found = advised(case(use=use(seldom)), FLEX)[Kind.FLEX]
    assert found.choice.quote.key == "flex"
    # Two hours a day x $1.20 against $0.43 around the clock.
    assert round(found.saves, 2) == round(Decimal("313.90") - Decimal("73.00") - Decimal("0.08"), 2)


def test_a_cheaper_offer_of_equal_rank_saves_the_difference_less_one_start():
    found = advised(case(), secure("cheap", "0.33", "NL"))[Kind.MOVE]
    assert round(found.saves, 2) == Decimal("72.98")  # 0.10 x 730 less 4 minutes at $0.33
    assert found.choice.offer == 1
    assert "CZ" not in found.title


@pytest.mark.parametrize(
    "worse",
    [
        secure("abroad", "0.20", "US"),
        secure("elsewhere", "0.20", "DE"),
        secure("nowhere", "0.20", None),
        quote("vast", "NVIDIA L4", "CZ", "0.20", tier="datacenter", certification="ISO 27001"),
        quote("community", "NVIDIA L4", "CZ", "0.20", tier="community"),
        quote("bid", "NVIDIA L4", "CZ", "0.05", tier="interruptible", interruptible=True),
        secure("less-reliable", "0.20", reliability=0.95),
        secure("short", "0.20", max_hours=48.0),
        secure("small", "0.20", vram_mb=12 * 1024),
        secure("snapshot:dated", "0.20"),
        secure("dearer", "0.50"),
    ],
    ids=lambda q: q.key,
)
def test_what_is_worse_forbidden_dated_or_dearer_is_never_advised(worse):
    assert Kind.MOVE not in advised(case(), worse)


def test_development_may_be_offered_another_community_machine_and_production_not():
    standing, cheap = (
        quote(k, "NVIDIA L4", "CZ", p, tier="community") for k, p in (("here", "0.30"), ("there", "0.20"))
    )
    assert Kind.MOVE in advised(case(standing, purpose="development"), cheap)
    assert Kind.MOVE not in advised(case(standing), cheap)


def test_a_host_that_failed_us_is_not_as_good():
    cheap = secure("cheap", "0.33", host="bad-host")
    bad = Histories(hosts={"bad-host": History(worked=1, failed=4)})
    assert Kind.MOVE not in advised(case(), cheap, histories=bad)


def test_the_price_ceiling_and_old_offers_are_respected():
    assert Kind.MOVE not in advised(case(price_ceiling=Decimal("0.30")), secure("cheap", "0.33"))
    old = market(secure("cheap", "0.33"), confirmed=NOW - timedelta(minutes=11))
    assert advise.advise(case(), old, now=NOW) == []
    assert old.stale == ["RunPod"]


def test_memory_that_was_never_in_use_is_not_paid_for():
    small = secure("small", "0.20", vram_mb=8 * 1024)
    found = advised(case(use=use(kv_p95=0.04)), small)[Kind.SMALLER]
    # 4 % of (24 GB x 0.9 - weights - overhead) twice over: two requests of 8192 tokens.
    assert found.concurrency == 2
    assert any("4 % of" in s.how for s in found.sums)
    assert Kind.SMALLER not in advised(case(use=use(kv_p95=0.4)), small)
    assert Kind.SMALLER not in advised(case(use=use(kv_p95=0.04, waited=3)), small)


def test_a_full_cache_in_which_requests_wait_asks_for_more_memory_and_says_what_it_costs():
    large = secure("large", "0.80", vram_mb=48 * 1024)
    found = advised(case(use=use(crowded=0.2, waited=200, kv_p95=0.98)), large)[Kind.LARGER]
    assert (found.saves, found.costs) == (0, Decimal("0.37") * 730)
    assert Kind.LARGER not in advised(case(use=use(crowded=0.01, kv_p95=0.6)), large)


def test_a_disk_that_has_cost_more_than_a_fresh_start_is_to_be_given_back():
    kept = case(stopped_for=timedelta(days=20))
    found = advised(kept)[Kind.DISK]
    start = Decimal("0.43") * 240 / 3600
    assert abs(found.saves - (Decimal("0.006") * 730 - start)) < Decimal("1e-9")
    assert Kind.DISK not in advised(replace(kept, stopped_for=timedelta(hours=4)))  # breaks even after 4.8 h


def test_a_schedule_counts_only_the_hours_in_which_it_runs():
    found = advised(case(week_hours=Decimal(84)), secure("cheap", "0.33"))[Kind.MOVE]
    assert round(found.saves, 2) == round(Decimal("0.10") * 365 - Decimal("0.33") * 240 / 3600, 2)


offers = st.lists(
    st.builds(
        lambda n, price, country, tier, reliability, vram, hours: quote(
            f"o{n}", "NVIDIA L4", country, str(price), tier=tier, reliability=reliability, vram_mb=vram * 1024, max_hours=hours,
            sla=tier == "secure", certification="ISO 27001" if tier == "datacenter" else "", interruptible=tier == "interruptible",
            serverless=tier.startswith("serverless"), disk_usd_per_hour=Decimal(0),
        ),
        st.integers(0, 99), st.decimals("0.05", "2", places=2), st.sampled_from(["CZ", "FR", "US", None]),
        st.sampled_from(["secure", "community", "datacenter", "interruptible", "serverless-flex"]),
        st.sampled_from([None, 0.95, 0.99, 1.0]), st.sampled_from([8, 16, 24, 80]), st.sampled_from([None, 30.0, 800.0]),
    ),
    max_size=12,
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(offers, offers, st.sampled_from(["reliability", "balanced", "cheapest"]), st.booleans(), st.floats(0, 1), st.floats(0, 1))  # fmt: skip
def test_whatever_is_offered_advice_saves_and_is_no_worse(stands, offered, policy, production, kv, crowded):
    busy = bits(n for n in range(HOURS) if n % 5 == 0)
    for standing in stands[:3]:
        subject = case(
            standing, policy=policy, purpose="production" if production else "development", hour=standing.usd_per_hour,
            use=use(busy, kv_p95=kv, crowded=crowded, waited=int(crowded * 9)), billed=Billed(standing.usd_per_hour * 14 * 15, 14),
        )  # fmt: skip
        for found in advise.advise(subject, market(*offered), now=NOW):
            assert found.saves >= 0
            assert found.costs >= 0
            assert not (found.saves and found.costs)
            assert found.saves >= 1 or found.kind is Kind.LARGER
            assert found.sums
            assert found.basis
            assert found.assumes
            if found.choice is None:
                continue
            there = found.choice.quote
            assert there.country in subject.allowed
            assert rank.standing(there) >= rank.standing(standing)
            assert not (production and (there.interruptible or there.tier == "community"))
            if found.kind is Kind.MOVE:
                assert there.vram_mb >= standing.vram_mb
                assert found.choice.hour < subject.all_in
                ours = rank.key(standing, policy, usd_per_hour=subject.all_in)
                assert rank.key(there, policy, usd_per_hour=found.choice.hour) <= ours
