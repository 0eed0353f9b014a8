"""Breakers: a provider that fails is asked more seldom, each kind of call by itself, and ends always go through."""

from __future__ import annotations

from datetime import timedelta

import pytest

from deployments import calls
from deployments.calls import Call
from deployments.models import Breaker, ProviderAccount
from deployments.providers.base import NoCapacity, ProviderError, RateLimited, Unavailable, Unknown
from tests.conftest import NOW

S = timedelta(seconds=1)


@pytest.fixture
def account(db) -> ProviderAccount:
    return ProviderAccount.objects.create(name="Cloud", backend="runpod", credentials="k")


@pytest.fixture(autouse=True)
def _longest(monkeypatch) -> None:
    monkeypatch.setattr(calls.random, "uniform", lambda low, high: high)


def _fail(account: ProviderAccount, kind: Call, error: Exception, *, at=NOW) -> None:
    def send() -> None:
        raise error

    with pytest.raises(type(error)):
        calls.ask(account, kind, send, now=at)


def _is_held(account: ProviderAccount, kind: Call, *, at=NOW) -> bool:
    sent = []
    try:
        calls.ask(account, kind, lambda: sent.append(1), now=at)
    except calls.Held:
        return True
    return not sent


@pytest.mark.parametrize("error", [Unavailable("gone"), Unknown("500"), ValueError("HTML")])
def test_four_failures_in_a_row_hold_the_fifth_call_back(account, error) -> None:
    for n in range(3):
        _fail(account, Call.CREATE, error, at=NOW + n * S)
    assert not _is_held(account, Call.CREATE, at=NOW + 3 * S), "and a success counts from the beginning"
    for n in range(4):
        _fail(account, Call.CREATE, error, at=NOW + (4 + n) * S)
    assert _is_held(account, Call.CREATE, at=NOW + 9 * S)
    assert calls.held_for(account, Call.CREATE, now=NOW + 9 * S) == 8 * S
    assert not _is_held(account, Call.LIST, at=NOW + 9 * S), "the other kinds are not concerned"


def test_it_backs_off_further_each_time_and_closes_with_a_success(account) -> None:
    at, waits = NOW, []
    for n in range(12):
        _fail(account, Call.OFFERS, Unavailable("gone"), at=at)
        if n >= 3:
            wait = calls.held_for(account, Call.OFFERS, now=at)
            waits.append(wait.total_seconds())
            at += wait
    assert waits[:6] == [10, 20, 40, 80, 160, 300]
    assert max(waits) == 300
    assert not _is_held(account, Call.OFFERS, at=at)
    row = Breaker.objects.get(call=Call.OFFERS)
    assert (row.failures, row.open_until, row.error) == (0, None, "")


def test_lists_are_never_held_for_more_than_a_minute(account) -> None:
    at = NOW
    for _ in range(20):
        _fail(account, Call.LIST, Unavailable("gone"), at=at)
        at += calls.held_for(account, Call.LIST, now=at) or S
    assert calls.held_for(account, Call.LIST, now=at - 60 * S) == 60 * S


def test_one_call_tries_a_half_open_breaker_and_the_others_wait(account) -> None:
    for _ in range(4):
        _fail(account, Call.LIST, Unavailable("gone"))
    later = NOW + 11 * S

    def send() -> str:
        assert _is_held(account, Call.LIST, at=later), "a second one meanwhile"
        return "ok"

    assert calls.ask(account, Call.LIST, send, now=later) == "ok"
    assert not _is_held(account, Call.LIST, at=later)


def test_an_end_is_never_held_back(account) -> None:
    for _ in range(30):
        _fail(account, Call.END, Unknown("500"))
    _fail(account, Call.END, RateLimited("too many", retry_after=600))
    assert _is_held(account, Call.LIST), "the others wait"
    assert not _is_held(account, Call.END)


def test_a_rate_limit_holds_every_kind_but_ends_and_is_obeyed(account) -> None:
    _fail(account, Call.READ, RateLimited("too many", retry_after=42))
    for kind in set(Call) - {Call.END}:
        assert calls.held_for(account, kind, now=NOW) == 42 * S
        assert not _is_held(account, kind, at=NOW + 43 * S)


def test_where_each_kind_of_call_has_its_own_limit_a_searchs_quota_keeps_nobody_from_the_list(db) -> None:
    vast = ProviderAccount.objects.create(name="Vast", backend="vast", credentials="k")
    _fail(vast, Call.OFFERS, RateLimited("search_quota_exceeded", retry_after=40_000))
    assert calls.held_for(vast, Call.OFFERS, now=NOW) == 600 * S
    assert calls.held_for(vast, Call.LIST, now=NOW) is None
    assert not _is_held(vast, Call.CREATE)


def test_a_retry_after_beyond_ten_minutes_is_cut_and_told(account) -> None:
    _fail(account, Call.LIST, RateLimited("too many", retry_after=86_400))
    assert calls.held_for(account, Call.LIST, now=NOW) == 600 * S
    assert "86400 s; we wait 600 s" in Breaker.objects.get(call=Call.LIST).error


@pytest.mark.parametrize("odd", [float("nan"), float("inf"), -5.0, 0.0])
def test_a_retry_after_that_makes_no_sense_breaks_nothing(account, odd) -> None:
    _fail(account, Call.LIST, RateLimited("too many", retry_after=odd))
    left = calls.held_for(account, Call.LIST, now=NOW)
    assert left is None or left <= 600 * S


def test_a_definite_no_is_an_answer(account) -> None:
    for _ in range(9):
        _fail(account, Call.CREATE, NoCapacity("none left"))
    assert not Breaker.objects.exists()


def test_what_holds_a_call_back_is_no_unknown(account) -> None:
    assert issubclass(calls.Held, Unavailable), "nothing was sent"
    for _ in range(4):
        _fail(account, Call.CREATE, ValueError("a secret in an odd error"))
    assert "secret" not in Breaker.objects.get(call=Call.CREATE).error
    assert issubclass(calls.Held, ProviderError)


def test_a_breaker_of_a_clock_that_was_put_back_holds_nobody(account) -> None:
    for _ in range(4):
        _fail(account, Call.CREATE, Unavailable("gone"), at=NOW + timedelta(hours=3))
    assert not _is_held(account, Call.CREATE)
