"""Scraping: the figures of real servers reach the samples, and whatever goes wrong is a gap and a sentence."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from deployments.lifecycle import State
from deployments.models import Instance, Monitor, Sample
from deployments.monitoring import samples, scrape
from tests.conftest import NOW
from tests.deployments.engine import LLAMA, TEXT, VLLM, Engine, half, status, whole
from tests.playground.rows import attempt, chatting_deployment, own_machine

pytestmark = pytest.mark.django_db
EVERY = timedelta(seconds=15)
BUSIER = VLLM.replace('generation_tokens_total{engine="0",model_name="Qwen/Qwen3-4B"} 48.0',
                      'generation_tokens_total{engine="0",model_name="Qwen/Qwen3-4B"} 198.0')  # fmt: skip


@pytest.fixture
def engine() -> Iterator[Engine]:
    server = Engine()
    yield server
    server.close()


def machine(engine: Engine, **options) -> Instance:
    return chatting_deployment(engine.url, now=NOW, **options).instances.get()


def go(at: datetime = NOW) -> int:
    return scrape.scrape_due(clock=lambda: at)


def detail() -> str:
    return Monitor.objects.get().scrape_detail


def test_an_engines_figures_reach_the_samples(engine: Engine) -> None:
    i = machine(engine, key="its-key")
    for n, text in enumerate((VLLM, BUSIER)):
        engine.on["/metrics"] = whole(text)
        assert go(NOW + n * EVERY) == 1
    points = samples.read([i.pk], ["running", "tokens_out_rate"], NOW, NOW + 2 * EVERY, now=NOW)
    assert [p.values for p in points] == [
        {"running": 0.0, "tokens_out_rate": None}, {"running": 0.0, "tokens_out_rate": 10.0},
    ]  # fmt: skip
    assert {(path, key) for path, key, _ in engine.asked} == {("/metrics", "Bearer its-key")}


def test_llamas_figures_do_too(engine: Engine) -> None:
    i = machine(engine)
    engine.on["/metrics"] = whole(LLAMA.replace("requests_processing 0", "requests_processing 3"))
    go()
    assert Sample.objects.get().running == 3.0
    assert i.monitor.scrape_failures == 0


def test_each_is_scraped_once_in_fifteen_seconds(engine: Engine) -> None:
    machine(engine)
    engine.on["/metrics"] = whole(VLLM)
    assert [go(NOW + timedelta(seconds=s)) for s in (0, 5, 14, 15, 16)] == [1, 0, 0, 1, 0]
    assert go(NOW - timedelta(hours=2)) == 1  # the clock was put back


@pytest.mark.parametrize(
    "state", [s for s in State if s not in (State.READY, State.DEGRADED, State.DRAINING)]
)
def test_only_what_serves_is_scraped(engine: Engine, state: State) -> None:
    machine(engine, state=state)
    assert go() == 0
    assert engine.asked == []


def test_no_serverless_worker_is_woken(engine: Engine) -> None:
    machine(engine, quote=replace(own_machine(), serverless=True))
    assert go() == 0
    assert engine.asked == []


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (status(500), "/metrics answered 500"),
        (status(401), "/metrics answered 401"),
        (status(302), "/metrics answered 302"),
        (whole(VLLM, "text/html"), "/metrics answered with text/html"),
        (whole(VLLM, "application/json"), "/metrics answered with application/json"),
        (whole(""), "/metrics is empty"),
        (whole(b"\xff\xfe\n"), "/metrics cannot be read"),
        (half(VLLM, told=True), "no readable answer (ClientPayloadError)"),
        (half(VLLM, told=False), "/metrics is cut off"),
        (whole("<html></html>\n"), "/metrics tells nothing that is known of an engine"),
        (whole("x" * (scrape.MOST_BYTES + 1)), "/metrics has more than 4 MB"),
    ],
)
def test_what_goes_wrong_is_a_gap_and_a_sentence(engine: Engine, answer, why: str) -> None:
    machine(engine)
    engine.on["/metrics"] = answer
    go()
    assert not Sample.objects.exists()
    assert (detail(), Monitor.objects.get().scrape_failures) == (why, 1)


def test_nobody_there_is_told_too(engine: Engine) -> None:
    machine(engine)
    engine.close()
    go()
    assert detail() == "the connection was refused"


def test_after_a_failure_the_rates_go_on(engine: Engine) -> None:
    i = machine(engine)
    for n, answer in enumerate((whole(VLLM), status(500), whole(BUSIER))):
        engine.on["/metrics"] = answer
        go(NOW + n * EVERY)
    # 150 tokens in 30 seconds: half of them in the gap, and nothing says when.
    (last,) = samples.read([i.pk], ["tokens_out_rate"], NOW + 2 * EVERY, NOW + 3 * EVERY, now=NOW)
    assert last.values == {"tokens_out_rate": 5.0}
    assert (detail(), Monitor.objects.get().scrape_failures) == ("", 0)


def test_ten_thousand_series_survive(engine: Engine) -> None:
    machine(engine)
    more = "".join(
        f'strange_total{{request="{n:032d}",engine="0",model_name="Qwen/Qwen3-4B"}} {n}\n'
        for n in range(10_000)
    )
    engine.on["/metrics"] = whole(VLLM + more)
    go()
    assert Sample.objects.count() == 1
    assert len(str(Monitor.objects.get().counters)) < 2000


def test_who_hangs_keeps_nobody_elses_figures_waiting(engine: Engine, monkeypatch) -> None:
    """The good one's sample stands before the hanging one has let go."""
    slow = Engine()
    slow.on["/metrics"], engine.on["/metrics"] = slow.hangs, whole(VLLM)
    i = machine(engine)
    attempt(i.deployment, slow.url, now=NOW)
    stood: list[int] = []
    note = scrape._note

    def look(found, *, now):
        note(found, now=now)
        stood.append(Sample.objects.count())
        slow.released.set()

    monkeypatch.setattr(scrape, "_note", look)
    assert go() == 2
    assert stood == [1, 1]
    slow.close()


def test_the_content_type_may_name_more(engine: Engine) -> None:
    machine(engine)
    engine.on["/metrics"] = whole(VLLM, TEXT)
    go()
    assert Sample.objects.count() == 1
