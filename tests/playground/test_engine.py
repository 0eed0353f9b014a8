"""Against the real local engine: llama.cpp's server, under the real web server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.client import HTTPConnection
from urllib.parse import urlsplit

import pytest

from tests.playground import llama, served, sse
from tests.playground.test_door import connect, post, until

pytestmark = pytest.mark.engine
KEY = "engine-key-of-this-test"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with llama.engine(key=KEY) as running:
        yield running


@pytest.fixture(scope="module")
def panel(url: str, tmp_path_factory) -> Iterator[served.Panel]:
    small = {"url": url, "model_key": "smollm2-135m"}
    with served.panel(
        [{**small, "key": KEY}, {**small, "key": "wrong"}], tmp_path_factory.mktemp("panel")
    ) as it:
        yield it


def ask(text: str, **fields: object) -> bytes:
    return json.dumps({"messages": [{"role": "user", "content": text}], **fields}).encode()


def test_it_answers_with_all_its_figures(panel) -> None:
    for _ in range(5):  # no kept connection that the engine closed meanwhile
        status, _headers, body = post(panel, ask("Count to five.", max_tokens=16, temperature=0))
        answer = sse.read(body)
        assert (status, answer.error) == (200, "")
        assert answer.text
        figures = answer.figures
        assert figures["prompt_tokens"] > 0
        assert 0 < figures["completion_tokens"] <= 16
        assert figures["ttft"] > 0
        assert figures["tokens_per_second"] > 0
        assert float(figures["usd"]) > 0
        assert figures["finish_reason"] in ("stop", "length")


def test_a_prompt_that_is_too_long_is_told(panel) -> None:
    status, _headers, body = post(panel, ask("word " * 3000))
    assert status == 400
    assert "too long for this deployment's context" in json.loads(body)["error"]


def test_a_wrong_key_is_told_and_not_shown(panel) -> None:
    status, _headers, body = post(panel, ask("Hello"), path=panel.stream(1))
    assert status == 502
    assert "did not accept the panel's key" in json.loads(body)["error"]
    assert b"wrong" not in body


def test_the_engine_stops_working_when_the_browser_leaves(panel, url: str) -> None:
    browser = connect(
        panel, read_to=b'"content"', body=ask("Write a very long story about the sea.", max_tokens=900)
    )
    assert until(lambda: processing(url) == 1)
    browser.close()
    assert until(lambda: processing(url) == 0, patience=5)


def processing(url: str) -> int:
    connection = HTTPConnection(urlsplit(url).netloc, timeout=10)
    try:
        connection.request("GET", "/metrics", headers={"Authorization": f"Bearer {KEY}"})
        text = connection.getresponse().read().decode()
    finally:
        connection.close()
    line = next(line for line in text.splitlines() if line.startswith("llamacpp:requests_processing"))
    return round(float(line.split()[-1]))
