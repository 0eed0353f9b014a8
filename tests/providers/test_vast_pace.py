"""The pace of calls to Vast.ai, what this process remembers of its stops, and what is masked."""

from __future__ import annotations

import itertools
import json
import threading

import pytest

from deployments.providers.base import MachineStatus, RateLimited, Rejected, Unavailable, Unknown
from deployments.providers.values import mask, text
from deployments.providers.vast_pace import LIMITS, Limit, Pace
from deployments.providers.vast_stops import Stops
from tests.emulators.vast import Vast
from tests.providers.contract import API_KEY, found, new_label, soon
from tests.providers.vast import adapter, order_for


class Time:
    """A clock that only sleep moves."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def pace(time: Time, **limits: Limit) -> Pace:
    return Pace(limits or LIMITS, clock=lambda: time.now, sleep=time.sleep)


def test_a_call_that_is_a_little_early_waits_and_one_much_too_early_is_told_when() -> None:
    time = Time()
    turns = pace(time)
    turns.enter("me", "list")
    turns.enter("me", "list")
    assert time.slept == [pytest.approx(1.0)]
    turns.enter("me", "create")
    with pytest.raises(RateLimited) as early:
        turns.enter("me", "create")
    assert early.value.retry_after == pytest.approx(4.5)
    time.now += 4.5
    turns.enter("me", "create")
    assert len(time.slept) == 1


def test_seconds_are_counted_from_the_answer_of_the_call_before() -> None:
    time = Time()
    turns = pace(time)
    turns.enter("me", "list")
    time.now += 0.4
    turns.leave("me", "list")
    turns.enter("me", "list")
    assert time.slept == [pytest.approx(1.0)]


def test_a_refused_call_takes_no_turn() -> None:
    time = Time()
    turns = pace(time)
    turns.enter("me", "create")
    for _ in range(5):
        with pytest.raises(RateLimited) as early:
            turns.enter("me", "create")
        assert early.value.retry_after == pytest.approx(4.5)


def test_accounts_and_kinds_of_call_do_not_wait_for_each_other() -> None:
    time = Time()
    turns = pace(time)
    for who, kind in itertools.product(("me", "you"), LIMITS):
        turns.enter(who, kind)
    assert time.slept == []


def test_searches_keep_to_ten_in_any_minute() -> None:
    time = Time()
    turns = pace(time)
    sent: list[float] = []
    while time.now < 1600:
        try:
            turns.enter("me", "search", patience=0)
            sent.append(time.now)
        except RateLimited:
            time.now += 0.5
    assert max(sum(at <= later < at + 60 for later in sent) for at in sent) <= 10


def test_a_terminate_waits_longer_than_anything_else_before_it_is_refused() -> None:
    time = Time()
    turns = pace(time)
    for _ in range(5):
        turns.enter("me", "terminate", patience=15)
    assert time.slept == [pytest.approx(3.0)] * 4


def test_after_a_429_nobody_asks_again_too_soon() -> None:
    time = Time()
    turns = pace(time)
    for kind, said, wait in (("create", None, 12.0), ("terminate", 30.0, 30.0), ("search", 40.0, 40.0)):
        turns.enter("me", kind)
        turns.back_off("me", kind, said)
        with pytest.raises(RateLimited) as early:
            turns.enter("me", kind)
        assert early.value.retry_after == pytest.approx(wait)


def test_threads_share_the_turns() -> None:
    time, refused = Time(), []
    turns = pace(time)

    def create() -> None:
        try:
            turns.enter("me", "create", patience=0)
        except RateLimited:
            refused.append(1)

    threads = [threading.Thread(target=create) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == 7


def test_an_api_that_counts_the_seconds_is_never_asked_too_soon() -> None:
    with Vast(strict=True, offers=200) as vast:
        for n in range(30):
            vast.place(f"foreign-{n}")
        provider = adapter(vast.url, pace=Pace())
        assert provider.quotes()
        assert provider.list_machines().complete
        provider.balance()
        order = order_for(provider.quotes()[0], new_label())
        provider.create(order, deadline=soon())
        with pytest.raises(RateLimited) as early:
            provider.create(order, deadline=soon())
        assert early.value.retry_after is not None
        assert 3 < early.value.retry_after <= 4.5
        assert len(vast.seen("create")) == 1


# -- stops --------------------------------------------------------------------------------------


def test_a_stop_is_remembered_unless_it_certainly_was_not_done() -> None:
    stops = Stops()
    with stops.stopping("you", "1"):
        assert stops.known("you") == {"1"}
    stops.forget("you", "1")
    for error in (RateLimited("no"), Unavailable("no"), Rejected("no")):
        with pytest.raises(type(error)), stops.stopping("me", "1"):
            raise error
        assert stops.known("me") == frozenset()
    with pytest.raises(Unknown), stops.stopping("me", "1"):
        raise Unknown("perhaps")
    assert stops.known("me") == {"1"}
    with pytest.raises(Rejected), stops.stopping("me", "1"):
        raise Rejected("it stands already")
    assert (stops.known("me"), stops.known("you")) == ({"1"}, frozenset())


def test_a_machine_that_runs_again_is_not_stopped_any_more() -> None:
    stops = Stops()
    stops.seen_running("me", ["1"], since=1e12)
    with stops.stopping("me", "1"):
        stops.seen_running("me", ["1"], since=1e12)  # the list may be older than the stop
    stops.seen_running("me", ["1"], since=0.0)
    assert stops.known("me") == {"1"}
    stops.seen_running("me", ["1"], since=1e12)
    assert stops.known("me") == frozenset()


def test_a_stop_is_soon_forgotten_because_another_process_may_have_started_the_machine() -> None:
    now = [0.0]
    stops = Stops(clock=lambda: now[0])
    with stops.stopping("me", "1"):
        now[0] = 1000.0
        assert stops.known("me") == {"1"}, "not while it is under way"
    now[0] += 59
    assert stops.known("me") == {"1"}
    now[0] += 2
    assert stops.known("me") == frozenset()


def test_a_bid_that_we_stopped_is_stopped_and_outbid_once_somebody_started_it() -> None:
    with Vast() as vast:
        provider = adapter(vast.url)
        label = new_label()
        quote = next(q for q in provider.quotes() if q.interruptible)
        remote_id = provider.create(order_for(quote, label), deadline=soon())
        provider.stop(remote_id)
        assert found(provider, label)[0].status is MachineStatus.STOPPED
        provider.start(remote_id)
        assert found(provider, label)[0].status is MachineStatus.RUNNING
        vast.outbid(remote_id)
        assert found(provider, label)[0].status is MachineStatus.OUTBID
        provider.stop(remote_id)
        assert found(provider, label)[0].status is MachineStatus.STOPPED


# -- values -------------------------------------------------------------------------------------


def test_what_looks_like_a_key_is_masked_and_what_does_not_stays() -> None:
    for secret in (API_KEY, "hf_abcdefghijklmnop1234567890", "df77e27085bd4b3bd5d9024bdefb9e6df614b27a"):
        assert secret not in mask(f"token={secret} end")
    for harmless in (
        "vllm/vllm-openai:v0.11.0",
        "Qwen/Qwen3-4B-Instruct-2507",
        "nvidia/cuda_11.0.3-devel-ubuntu18.04",
    ):
        assert mask(harmless) == harmless
    assert mask("a planted b", ["planted", "pla", ""]) == "a *** b"


def test_text_is_bounded_and_holds_no_control_characters() -> None:
    assert text("a\x00b\x1b[31mc\r\nd") == "a b [31mc \nd"
    assert len(text("x" * 1000)) == 80
    assert text(json) == ""
