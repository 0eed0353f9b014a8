"""The stream under the real uvicorn: as it comes, and ended on both sides when one leaves."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import random
import socket
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from tests.playground import fake_engine, served, sse
from tests.playground.fake_engine import LLAMA, FakeEngine, token

HELLO = json.dumps({"messages": [{"role": "user", "content": "Hello"}]}).encode()
LONG = bool(os.environ.get("REGIA_LONG"))


@pytest.fixture(scope="module")
def fake() -> Iterator[FakeEngine]:
    with fake_engine.running() as engine:
        yield engine


@pytest.fixture(scope="module")
def panel(fake: FakeEngine, tmp_path_factory) -> Iterator[served.Panel]:
    data = tmp_path_factory.mktemp("panel")
    with served.panel([{"url": fake.url}], data, app="tests.playground.watched:application") as running:
        yield running


@pytest.fixture
def engine(fake: FakeEngine) -> FakeEngine:
    fake.answer, fake.asked, fake.left_at = fake.replay(LLAMA), [], []
    return fake


def send(
    panel: served.Panel, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None
):
    host = urlsplit(panel.url)
    connection = http.client.HTTPConnection(str(host.hostname), host.port, timeout=30)
    try:
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        return response.status, {k.lower(): v for k, v in response.getheaders()}, response.read()
    finally:
        connection.close()


def post(panel: served.Panel, body: bytes = HELLO, *, path: str = "", **headers: str | None):
    kept = {k: v for k, v in (panel.headers | headers).items() if v is not None}
    return send(panel, "POST", path or panel.stream(), body, kept)


def connect(panel: served.Panel, *, read_to: bytes = b"", body: bytes = HELLO) -> socket.socket:
    """A browser that has asked and read the answer up to `read_to`."""
    host = urlsplit(panel.url)
    s = socket.create_connection((host.hostname, host.port), timeout=30)
    head = "".join(f"{k}: {v}\r\n" for k, v in panel.headers.items())
    lines = (
        f"POST {panel.stream()} HTTP/1.1\r\nHost: {host.netloc}\r\nContent-Length: {len(body)}\r\n{head}\r\n"
    )
    s.sendall(lines.encode() + body)
    seen = b""
    while read_to not in seen:
        seen += s.recv(65536)
    return s


def until(holds, *, patience: float = 10) -> bool:
    end = time.monotonic() + patience
    while not holds() and time.monotonic() < end:
        time.sleep(0.01)
    return holds()


def tasks(panel: served.Panel) -> list[str]:
    return json.loads(send(panel, "GET", "/__tasks")[2])


def test_the_answer_comes_through_with_its_figures(panel, engine) -> None:
    status, headers, body = post(panel)
    assert (status, sse.read(body).text) == (200, "Hello")
    assert sse.read(body).figures["completion_tokens"] == 3
    assert headers["x-accel-buffering"] == "no"
    assert headers["x-regia-usd-per-hour"] == "0.360000000"


def test_it_has_the_headers_of_every_page(panel, engine) -> None:
    page = send(panel, "GET", "/healthz")[1]
    for name in (
        "content-security-policy", "x-content-type-options", "referrer-policy", "x-frame-options", "x-request-id",
    ):  # fmt: skip
        assert name in page
        for _status, headers, _body in (post(panel), post(panel, Cookie=None), post(panel, b"{")):
            assert name in headers


def test_each_token_goes_out_when_it_comes(panel, engine) -> None:
    """The engine holds its second token back until the browser has read the first."""
    go_on = asyncio.Event()

    async def answer(request):
        response = await fake_engine.begin(request)
        await response.write(token("first"))
        await go_on.wait()
        await response.write(token("second") + b"data: [DONE]\n\n")
        return response

    engine.answer = answer
    host = urlsplit(panel.url)
    connection = http.client.HTTPConnection(host.hostname, host.port, timeout=30)
    connection.request("POST", panel.stream(), HELLO, panel.headers)
    response = connection.getresponse()
    assert b"first" in response.read1(65536)
    engine.loop.call_soon_threadsafe(go_on.set)
    assert b"second" in response.read()
    connection.close()


@pytest.mark.parametrize(
    ("headers", "status", "says"),
    [
        ({"Cookie": None}, 403, "Reload it and send again"),
        ({"X-CSRFToken": None}, 403, "Reload it and send again"),
        ({"X-CSRFToken": "b" * 32}, 403, "Reload it and send again"),
        ({"Origin": "https://evil.example"}, 403, "Reload it and send again"),
        ({"Content-Type": "text/plain"}, 415, "sent as JSON"),
        ({"Host": "evil.example"}, 400, "host name is not served"),
    ],
)
def test_it_refuses_what_the_chain_would_refuse(panel, engine, headers, status: int, says: str) -> None:
    answered, _headers, body = post(panel, **headers)
    assert answered == status
    assert says in json.loads(body)["error"]
    assert engine.asked == []


def test_it_does_not_let_in_who_has_not_signed_in(panel, engine) -> None:
    status, _headers, body = post(panel, Cookie=f"{panel.csrf[0]}={panel.csrf[1]}; {panel.session[0]}=forged")
    assert status == 401
    assert "session has ended" in json.loads(body)["error"]
    assert engine.asked == []


def test_a_stranger_gets_404(panel, engine) -> None:
    status, _headers, body = post(panel, path="/playground/00000000-0000-4000-8000-000000000001/stream")
    assert (status, json.loads(body)) == (404, {"error": "There is no such deployment."})


def test_too_long_a_conversation_is_refused_and_the_panel_goes_on(panel, engine) -> None:
    status, _headers, body = post(panel, b'{"messages": "' + b"x" * (3 * 1024 * 1024) + b'"}')
    assert status == 413
    assert "longer than 2048 KiB" in json.loads(body)["error"]
    assert post(panel)[0] == 200


def test_the_engines_side_closes_within_a_second_when_the_browser_leaves(panel, engine) -> None:
    engine.answer = engine.talk_for_ever()
    browser = connect(panel, read_to=b"word")
    assert until(lambda: engine.open == 1)
    left = time.monotonic()
    browser.close()
    assert until(lambda: engine.left_at != [])
    assert engine.left_at[0] - left < 1


def test_it_closes_too_when_the_browser_leaves_before_the_first_token(panel, engine) -> None:
    engine.answer = engine.hang()
    browser = connect(panel)
    assert until(lambda: engine.open == 1)
    left = time.monotonic()
    browser.close()
    assert until(lambda: engine.left_at != [])
    assert engine.left_at[0] - left < 1


def test_it_closes_too_when_the_engine_is_silent_in_mid_stream(panel, engine) -> None:
    engine.answer = engine.hang(token("so far"))
    browser = connect(panel, read_to=b"so far")
    left = time.monotonic()
    browser.close()
    assert until(lambda: engine.left_at != [])
    assert engine.left_at[0] - left < 1


def test_no_task_is_left_after_many_aborted_streams(panel, engine) -> None:
    post(panel)
    before = tasks(panel)
    rng = random.Random(7)
    engine.answer = engine.talk_for_ever()
    for _ in range(1000 if LONG else 50):
        browser = connect(panel, read_to=rng.choice([b"", b"HTTP/1.1", b"word"]))
        time.sleep(rng.random() * 0.01)
        if rng.random() < 0.3:
            browser.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
        browser.close()
    assert until(lambda: engine.open == 0)
    assert until(lambda: len(tasks(panel)) <= len(before)), tasks(panel)
    engine.answer = engine.replay(LLAMA)
    assert sse.read(post(panel)[2]).text == "Hello"
