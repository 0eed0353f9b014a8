"""What each answer of Vast.ai's API means, call by call, with the real SDK; and that no secret gets out."""

from __future__ import annotations

import itertools
import socket
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from deployments.providers import vast_calls
from deployments.providers.base import (
    Gone,
    NoCapacity,
    ProviderError,
    Quote,
    RateLimited,
    Rejected,
    Unauthorized,
    Unavailable,
    Unknown,
)
from deployments.providers.vast import VastProvider
from deployments.providers.vast_offers import ON_DEMAND, quote
from tests.emulators.vast import Vast
from tests.providers.contract import API_KEY, new_label, soon
from tests.providers.vast import KEY, Said, Scripted, adapter, capture, order_for, scripted

NOW = datetime(2025, 7, 26, tzinfo=UTC)
WORDS = "planted-word-in-an-answer-0123456789abcdef"


def an_offer() -> Quote:
    row = {**capture("vast_offer"), "verification": "verified"}
    found = quote(row, ON_DEMAND, disk_gb=40, traffic_gb=50, now=NOW)
    assert found
    return found


CHANGES: dict[str, Callable[[VastProvider], object]] = {
    "create": lambda p: p.create(order_for(an_offer(), new_label()), deadline=soon()),
    "terminate": lambda p: p.terminate("312"),
    "stop": lambda p: p.stop("312"),
    "start": lambda p: p.start("312"),
    "change_bid": lambda p: p.change_bid("312", Decimal("0.3")),
}
READS: dict[str, Callable[[VastProvider], object]] = {
    "quotes": lambda p: p.quotes(),
    "list_machines": lambda p: p.list_machines(),
    "stands": lambda p: p.stands("312"),
    "logs": lambda p: p.logs("312"),
    "charges": lambda p: p.charges(NOW, NOW + timedelta(days=1)),
    "balance": lambda p: p.balance(),
}
ALL = {**CHANGES, **READS}


@pytest.fixture
def server() -> Iterator[Scripted]:
    with scripted() as it:
        yield it


@pytest.fixture
def provider(server: Scripted) -> VastProvider:
    return adapter(server.url)


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vast_calls, "TIMEOUT", 0.3)
    monkeypatch.setattr(vast_calls, "SEARCH_TIMEOUT", 0.3)


def raised(call: Callable[[VastProvider], object], provider: VastProvider) -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        call(provider)
    return caught.value


def outcome(call: Callable[[VastProvider], object], provider: VastProvider) -> ProviderError | None:
    try:
        call(provider)
    except ProviderError as e:
        return e
    return None


def no(error: str | None, msg: str = "error 400/1: some words", status: int = 400, **more: Any) -> Said:
    return Said({"success": False, **({"error": error} if error else {}), "msg": msg, **more}, status)


# -- every call ---------------------------------------------------------------------------------

UNCLEAR = {
    "500": Said({"success": False, "error": "server_error"}, 500),
    "502 text": Said(status=502, raw=b"Bad Gateway"),
    "504 html": Said(status=504, raw=b"<html>Gateway Time-out</html>"),
    "html": Said(raw=b"<!DOCTYPE html><html>Checking your browser</html>"),
    "empty": Said(raw=b""),
    "null": Said(None),
    "a list": Said(["maintenance"]),
    "a word": Said("maintenance"),
    "403 html": Said(status=403, raw=b"<html>Forbidden</html>"),
    "404 html": Said(status=404, raw=b"<html>Not found</html>"),
    "404 text": Said(status=404, raw=b"404 page not found"),
    "408": Said({"error": "timeout"}, 408),
    "no word": Said({"success": False}),
    "own fault": Said({"success": False, "error": "internal_error"}),
    "cut": Said(raw=b'{"success": tr'),
    "lost": Said(closes=True),
    "too deep": Said(raw=b"[" * 100_000),
    "too deep, 500": Said(status=500, raw=b"[" * 100_000),
    "a number without end": Said(raw=b'{"success": ' + b"1" * 5000 + b"}"),
    "no text": Said(raw=b"\xff\xfe\x00"),
}


@pytest.mark.parametrize("answer", UNCLEAR.values(), ids=UNCLEAR)
def test_an_unclear_answer_to_a_change_is_unknown_and_is_not_sent_again(
    server: Scripted, provider: VastProvider, answer: Said
) -> None:
    for call in CHANGES.values():
        server.say(answer)
        assert type(raised(call, provider)) is Unknown
        assert len(server.asked) == 1


@pytest.mark.parametrize("answer", UNCLEAR.values(), ids=UNCLEAR)
def test_an_unclear_answer_to_a_question_is_unavailable(
    server: Scripted, provider: VastProvider, answer: Said
) -> None:
    for name, call in READS.items():
        server.say(answer)
        assert type(raised(call, provider)) is Unavailable, name


def test_success_of_another_type_is_no_clean_yes(server: Scripted, provider: VastProvider) -> None:
    for name, body in itertools.product(
        CHANGES, ({}, {"success": None}, {"success": "true"}, {"success": 1})
    ):
        server.say(Said(body))
        assert type(raised(CHANGES[name], provider)) is Unknown


def test_a_yes_to_a_create_without_a_contract_is_unknown(server: Scripted, provider: VastProvider) -> None:
    for contract in (None, 0, -5, "", "x", [7], 1.5, True):
        server.say(Said({"success": True, "new_contract": contract}))
        assert type(raised(CHANGES["create"], provider)) is Unknown


def test_silence_is_unknown_for_a_change_and_unavailable_for_a_question(
    server: Scripted, provider: VastProvider, hurried: None
) -> None:
    for name, call in ALL.items():
        server.say(Said({"success": True}, silent_for=5))
        assert type(raised(call, provider)) is (Unknown if name in CHANGES else Unavailable)
        assert len(server.asked) == 1


def test_what_cannot_be_reached_was_not_done(server: Scripted) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        refused = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        for address in (refused, "no-address", "ftp://127.0.0.1"):
            for call in ALL.values():
                assert type(raised(call, adapter(address))) is Unavailable


DEFINITE = {
    "wrong key": (no("auth_error", "Invalid user key", 404), Unauthorized),
    "wrong key, 401": (no("auth_error", "Invalid user key", 401), Unauthorized),
    "401 text": (Said(status=401, raw=b"Unauthorized"), Unauthorized),
    "no key": (no("auth_error", "This action requires login.", 403), Unauthorized),
    "lacks a right": (no("not_authorized", "This key is not authorized for that.", 403), Unauthorized),
    "wrong key, 200": (no("auth_error", "Invalid user key", 200), Unauthorized),
    "429 text": (Said(status=429, raw=b"API requests too frequent endpoint threshold=4.5"), RateLimited),
    "429 json": (Said({"detail": "API requests too frequent endpoint threshold=1.0"}, 429), RateLimited),
    "429 html": (Said(status=429, raw=b"<html>Slow down</html>"), RateLimited),
    "spend rate": (no("spend_rate_limit", "You rent too fast"), RateLimited),
    "invalid": (no("invalid_args", "error 400/3467: Invalid args"), Rejected),
    "invalid, 200": (no("invalid_args", status=200), Rejected),
    "not my offer": (no("invalid_args", "error 403/3586: Offer 1 is not your own.", 403), Rejected),
    "no money": (no("insufficient_credit", "Insufficient credit", 411), Rejected),
    "teapot": (Said({"msg": "I am a teapot"}, 418), Rejected),
}


@pytest.mark.parametrize(("answer", "error"), DEFINITE.values(), ids=DEFINITE)
def test_a_definite_no_is_told_as_what_it_is(
    server: Scripted, provider: VastProvider, answer: Said, error: type[ProviderError]
) -> None:
    for name, call in ALL.items():
        server.say(answer)
        # The SDK looks for the offers in every 200, and hides what else it says.
        hidden = name == "quotes" and answer.status == 200
        assert type(raised(call, provider)) is (Unavailable if hidden else error)
        assert len(server.asked) == 1


GONE = {
    "no such instance": no("no_such_instance", "Instance with that ID does not exist.", 404),
    "not found": no("not_found", "Instance not found", 404),
    "200": no("no_such_instance", status=200),
}


@pytest.mark.parametrize("answer", GONE.values(), ids=GONE)
def test_a_machine_that_is_gone_is_gone(server: Scripted, provider: VastProvider, answer: Said) -> None:
    for name in ("terminate", "stop", "start", "change_bid"):
        server.say(answer)
        assert type(raised(CHANGES[name], provider)) is Gone
    server.say(Said({"instances": [], "next_token": None, "total_instances": 0}), answer)
    assert type(raised(READS["logs"], provider)) is Gone


@pytest.mark.parametrize("answer", [*GONE.values(), Said({"instances": None})], ids=[*GONE, "null"])
def test_only_a_definite_no_says_that_no_machine_stands(
    server: Scripted, provider: VastProvider, answer: Said
) -> None:
    row = {"id": 312, "start_date": None, "extra_env": None}
    server.say(Said({"instances": row}), answer, Said({"instances": []}), Said({"success": True}))
    assert provider.stands("312") is True
    assert provider.stands("312") is False
    for _ in range(2):
        assert type(raised(READS["stands"], provider)) is Unavailable


def test_a_404_of_another_word_does_not_prove_that_a_machine_is_gone(
    server: Scripted, provider: VastProvider
) -> None:
    server.say(no("no_such_route", "No such route", 404))
    assert type(raised(CHANGES["terminate"], provider)) is Rejected


def test_an_id_that_is_no_number_is_gone_and_an_empty_one_is_refused(
    server: Scripted, provider: VastProvider
) -> None:
    for call in (provider.terminate, provider.stop, provider.start, provider.logs):
        for remote_id in ("../asks/1", "12x", "-1", "1" * 40, "٣"):
            with pytest.raises(Gone):
                call(remote_id)
        with pytest.raises(Rejected) as refused:
            call("")
        assert type(refused.value) is Rejected
    assert server.asked == []


NO_OFFER = {
    "404": no("invalid_args", "error 404/3603: no_such_ask Instance type by id 7 is not available.", 404),
    "410": no("no_such_ask", "error 410/3907: no_such_ask Instance type 7 is no longer available.", 410),
    "400": no("no_such_ask", "error 400/3603: gone", 400),
    "400 in words": no("invalid_args", "error 400/3603: no_such_ask 7", 400),
    "200": no("no_such_ask", status=200),
    "200 in words": no(None, "no_such_ask 7", status=200),
    "404 not found": no("not_found", "Offer not found", 404),
}


@pytest.mark.parametrize("answer", NO_OFFER.values(), ids=NO_OFFER)
def test_an_offer_that_cannot_be_had_is_no_capacity(
    server: Scripted, provider: VastProvider, answer: Said
) -> None:
    server.say(answer)
    assert type(raised(CHANGES["create"], provider)) is NoCapacity


def test_a_start_whose_gpu_is_taken_is_no_capacity(server: Scripted, provider: VastProvider) -> None:
    server.say(no("resources_unavailable", "Required resources are currently unavailable.", 200))
    assert type(raised(CHANGES["start"], provider)) is NoCapacity


@pytest.mark.parametrize("status", [200, 400, 403, 404, 429, 500, 504])
def test_a_no_that_names_a_contract_means_that_a_machine_stands(
    server: Scripted, provider: VastProvider, status: int
) -> None:
    server.say(no("invalid_price", "The bid is below the minimum", status, new_contract=4711))
    assert CHANGES["create"](provider) == "4711"


# -- rates --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "least", "most"),
    [(None, None, None), ("7", 7, 7), ("0.5", 0.5, 0.5), ("-3", 0, 0), ("soon", None, None), ("nan", None, None), ("inf", None, None),
     ("Mon, 01 Jan 2001 00:00:00 GMT", 0, 0), ("Fri, 01 Jan 2100 00:00:00 GMT", 1e8, 1e10)],
)  # fmt: skip
def test_retry_after_is_taken_over_when_it_is_given(
    server: Scripted, provider: VastProvider, header: str | None, least: float | None, most: float | None
) -> None:
    server.say(Said(status=429, raw=b"too frequent", headers={"Retry-After": header} if header else {}))
    error = raised(CHANGES["create"], provider)
    assert isinstance(error, RateLimited)
    assert (error.retry_after is None) == (least is None)
    assert least is None or (error.retry_after is not None and least <= error.retry_after <= most)  # type: ignore[operator]


def test_the_days_quota_of_searches_comes_back_at_midnight(server: Scripted, provider: VastProvider) -> None:
    server.say(Said({"success": False, "error": "search_quota_exceeded", "msg": "Daily quota"}, 429))
    error = raised(READS["quotes"], provider)
    assert isinstance(error, RateLimited)
    assert error.retry_after is not None
    assert 0 < error.retry_after <= 86_400


# -- lists --------------------------------------------------------------------------------------


def listed(rows: Any, total: Any, following: Any = None) -> Said:
    return Said({"success": True, "instances": rows, "total_instances": total, "next_token": following})


def machine(number: Any) -> dict[str, Any]:
    return {"id": number, "label": f"regia-{number}", "actual_status": "running"}


def test_a_list_is_complete_only_when_it_holds_as_many_as_there_are(
    server: Scripted, provider: VastProvider
) -> None:
    for total in (None, "2", 3, True, [], float(3)):
        server.say(listed([machine(1), machine(2)], total))
        assert not provider.list_machines().complete
        assert len(provider.list_machines().machines) == 2
    server.say(listed([machine(1), machine(2)], 2))
    assert provider.list_machines().complete


def test_a_row_that_names_no_machine_makes_the_list_incomplete(
    server: Scripted, provider: VastProvider
) -> None:
    for row in (None, [], "row", {}, {"id": None}, {"id": "x"}, {"id": True}, {"id": [1]}):
        server.say(listed([machine(1), row], 2))
        listing = provider.list_machines()
        assert not listing.complete
        assert [m.remote_id for m in listing.machines] == ["1"]


def test_the_same_machine_on_two_pages_is_one(server: Scripted, provider: VastProvider) -> None:
    server.say(listed([machine(1), machine(2)], 3, "a"), listed([machine(2)], 3))
    listing = provider.list_machines()
    assert len(listing.machines) == 2
    assert not listing.complete


def test_an_empty_page_with_a_token_is_not_the_end(server: Scripted, provider: VastProvider) -> None:
    server.say(listed([], 1, "a"), listed([machine(1)], 1))
    assert [m.remote_id for m in provider.list_machines().machines] == ["1"]
    assert "after_token=a" in server.asked[1][1]


@pytest.mark.parametrize(
    "answer",
    [
        listed(None, 0), listed({}, 0), listed([], 0, 7), listed([], 0, ""), listed([], 0, "same"),
        Said({"success": True, "instances": [], "total_instances": 0}),
        no("deprecated_endpoint", "This endpoint is deprecated", 410),
    ],
)  # fmt: skip
def test_a_list_that_is_none_is_an_error_and_never_no_machines(
    server: Scripted, provider: VastProvider, answer: Said
) -> None:
    server.say(answer)
    assert isinstance(raised(READS["list_machines"], provider), (Unavailable, Rejected))


def test_offers_that_cannot_be_read_are_left_out_and_the_others_stay(
    server: Scripted, provider: VastProvider
) -> None:
    good = {**capture("vast_offer"), "verification": "verified", "end_date": None, "id": 5}
    bad = [
        {},
        {"id": None},
        {**good, "id": 6, "gpu_ram": None},
        {**good, "id": 7, "dph_base": "cheap", "min_bid": []},
    ]
    server.say(Said({"offers": [*bad, good]}))
    assert {q.key for q in provider.quotes()} == {"on-demand:5", "bid:5"}


# -- one request, in time -----------------------------------------------------------------------


def test_a_create_that_slept_past_its_deadline_while_waiting_is_not_sent(
    server: Scripted, provider: VastProvider
) -> None:
    with pytest.raises(Unavailable):
        provider.create(order_for(an_offer(), new_label()), deadline=time.monotonic())
    assert server.asked == []


# -- secrets ------------------------------------------------------------------------------------


def test_no_secret_is_in_an_error_its_chain_or_the_output(
    server: Scripted, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    key = "account-key-0123456789abcdef"
    provider = adapter(server.url, key=key)
    planted = (key, API_KEY, WORDS, "short-env")
    order = order_for(an_offer(), new_label(), environment={"TOKEN": "short-env"})
    echo = " ".join(planted)
    answers = [
        no("invalid_args", echo), no(WORDS, echo, 200), no("auth_error", echo, 404), Said({"detail": echo}, 429),
        Said(status=429, raw=echo.encode()), Said(status=500, raw=echo.encode()), Said({"error": echo, "msg": echo}, 500),
        Said({"success": True, "instance_api_key": WORDS}), Said(closes=True),
    ]  # fmt: skip
    calls = {**ALL, "create": lambda p: p.create(order, deadline=soon())}
    said: list[str] = []
    with caplog.at_level("DEBUG"):
        for answer, call in itertools.product(answers, calls.values()):
            server.say(answer)
            error = outcome(call, provider)
            assert error is None or (error.__context__, error.__cause__) == (None, None)
            said.append(repr(error))
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")
    everything = f"{said} {caplog.text} {provider!r} {order!r}"
    # A short value is masked where its order is known.
    assert not [secret for secret in planted[:3] if secret in everything]


def test_no_secret_of_a_row_gets_into_a_machine() -> None:
    with Vast(keys=(KEY,)) as vast:
        provider = adapter(vast.url)
        quote = next(q for q in provider.quotes() if not q.interruptible)
        order = order_for(quote, new_label(), environment={"HF_TOKEN": "hf_planted_7f3a"})
        remote_id = provider.create(order, deadline=soon())
        vast.fail(remote_id, message=f"docker: error in env HF_TOKEN=hf_planted_7f3a {API_KEY}")
        listing = repr(provider.list_machines())
        assert "docker: error in env HF_TOKEN=***" in listing
        assert not [
            secret for secret in vast.secrets if len(secret) > 8 and "/" not in secret and secret in listing
        ]
