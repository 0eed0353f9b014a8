"""The canary: a real chat is judged, measured and noted, and only several bad ones in a few are news."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from deployments.lifecycle import State
from deployments.models import Instance, Sample
from deployments.monitoring import canary, samples, scrape
from tests import factories
from tests.conftest import NOW
from tests.deployments.engine import SSE, Engine, chat, status, stream, whole
from tests.playground import llama
from tests.playground.rows import chatting_deployment, own_machine

pytestmark = pytest.mark.django_db
CHAT = "/v1/chat/completions"
LONG = "Paris is the capital of France. It lies on the river Seine and has many bridges."


@pytest.fixture
def engine() -> Iterator[Engine]:
    server = Engine()
    server.on[CHAT] = chat(LONG)
    yield server
    server.close()


def machine(engine: Engine, *, due: datetime | None = NOW, **options) -> Instance:
    i = chatting_deployment(engine.url, now=NOW, **options).instances.get()
    Instance.objects.filter(pk=i.pk).update(next_canary_at=due)
    return i


def go(at: datetime = NOW) -> int:
    return canary.canary_due(clock=lambda: at)


def asked_again(i: Instance, times: int = 1) -> Instance:
    """The canary goes out whenever it is due."""
    i.refresh_from_db()
    for _ in range(times):
        assert go(i.next_canary_at) == 1
        i.refresh_from_db()
    return i


def test_a_good_answer_is_measured(engine: Engine) -> None:
    i = asked_again(machine(engine, key="its-key"))
    assert (i.canary_ok, i.canary_detail, i.canary_at) == (True, "", NOW)
    assert i.canary_ttft > 0
    assert i.canary_rate > 0
    row = Sample.objects.get()
    assert (row.canary_ttft, row.canary_rate) == (i.canary_ttft, i.canary_rate)
    ((path, key, body),) = engine.asked
    assert (path, key, body["model"], body["stream"]) == (CHAT, "Bearer its-key", "qwen3-4b", True)


def test_every_other_one_thinks(engine: Engine) -> None:
    engine.on[CHAT] = chat(LONG, thought="The user asks for a capital.")
    assert asked_again(machine(engine), times=4).canary_ok
    asked = [body["chat_template_kwargs"]["enable_thinking"] for _, _, body in engine.asked]
    assert asked == [False, True, False, True]
    assert [body["temperature"] for _, _, body in engine.asked] == [0.0, 0.6, 0.0, 0.6]


def test_a_model_that_cannot_think_is_not_asked_to(engine: Engine) -> None:
    asked_again(machine(engine, model_key="smollm2-135m"), times=2)
    assert not any("chat_template_kwargs" in body for _, _, body in engine.asked)


def test_the_first_one_waits_for_whoever_waited_for_the_machine(engine: Engine) -> None:
    machine(engine, due=None)
    assert go() == 0
    assert go(NOW + timedelta(seconds=29)) == 0
    assert go(NOW + timedelta(seconds=30)) == 1


def test_it_keeps_its_pace(engine: Engine, settings) -> None:
    settings.CANARY_INTERVAL = 300
    machine(engine)
    assert [go(NOW + timedelta(seconds=s)) for s in (0, 10, 299, 300)] == [1, 0, 0, 1]


def test_none_is_sent_when_it_is_switched_off(engine: Engine, settings) -> None:
    settings.CANARY_INTERVAL = 0
    i = machine(engine)
    assert go() == 0
    i.canary_recent = 0b111
    assert canary.verdict(i) == ""


@pytest.mark.parametrize("state", [s for s in State if s not in (State.READY, State.DEGRADED)])
def test_only_what_serves_is_asked(engine: Engine, state: State) -> None:
    machine(engine, state=state)
    assert go() == 0
    assert engine.asked == []


def test_no_serverless_worker_is_woken(engine: Engine) -> None:
    machine(engine, quote=replace(own_machine(), serverless=True))
    assert [go(NOW + timedelta(minutes=n)) for n in (0, 1, 10)] == [0, 0, 0]
    assert engine.asked == []


def test_what_does_not_answer_its_probes_is_not_asked(engine: Engine) -> None:
    i = machine(engine)
    Instance.objects.filter(pk=i.pk).update(probe_failures=1)
    assert go() == 0


START = {"choices": [{"delta": {"content": "Paris"}}]}
END = {"choices": [{"delta": {}, "finish_reason": "stop"}]}


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (status(500), "/v1/chat/completions answered 500"),
        (status(401), "/v1/chat/completions answered 401"),
        (whole("{}", "application/json"), "it answered a chat with application/json, not with a stream"),
        (chat("I am a teapot."), "it answered something else than was asked: 'I am a teapot.'"),
        (chat("<think>Paris</think> Rome."), "it answered something else than was asked: 'Rome.'"),
        (chat("", thought="Paris."), "it answered something else than was asked: ''"),
        (chat(""), "the answer was empty"),
        (stream(START, done=False), "the answer broke off"),
        (stream(START, {"error": {"message": "EngineCore died"}}), "the engine ended the answer with an error"),
        (stream(START, "{half"), "no readable answer (JSONDecodeError)"),
        (stream("[" * 100_000), "no readable answer (ValueError)"),
        (stream("7"), "no readable answer (ValueError)"),
        (whole("data: " + "x" * 1_100_000, SSE), "no readable answer (ValueError)"),
        (whole(f'data: {{"a": "{"x" * 1000}"}}\n\n' * 1100, SSE), "no readable answer (ValueError)"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_an_answer_is_told(engine: Engine, answer, why: str) -> None:
    engine.on[CHAT] = answer
    i = asked_again(machine(engine))
    assert (i.canary_ok, i.canary_detail) == (False, why)


@pytest.mark.parametrize(
    "event",
    [{}, {"choices": None}, {"choices": []}, {"choices": [7]}, {"choices": [{"delta": None}]},
     {"choices": [{"delta": {"content": 7, "reasoning": None}, "finish_reason": 7}]}, {"usage": []},
     {"usage": {"completion_tokens": "x"}}],
)  # fmt: skip
def test_odd_events_hurt_nobody(engine: Engine, event) -> None:
    engine.on[CHAT] = stream(event, START, event, END)
    assert asked_again(machine(engine)).canary_ok


def test_a_thought_that_fills_the_whole_answer_is_good(engine: Engine) -> None:
    engine.on[CHAT] = chat("", thought="The user wants", finish="length")
    i = machine(engine)
    Instance.objects.filter(pk=i.pk).update(canary_count=1)
    assert asked_again(i).canary_ok
    engine.on[CHAT] = chat("<think> The user wants", finish="length")
    Instance.objects.filter(pk=i.pk).update(canary_count=1)
    assert asked_again(i).canary_ok


def test_one_failure_is_no_news_two_of_three_are(
    engine: Engine, rung, django_capture_on_commit_callbacks
) -> None:
    i = machine(engine)
    asked_again(i)
    engine.on[CHAT] = status(500)
    with django_capture_on_commit_callbacks(execute=True):
        asked_again(i)
    assert (canary.verdict(i), rung) == ("", [])
    assert i.next_canary_at - i.canary_at == canary.RETRY
    with django_capture_on_commit_callbacks(execute=True):
        asked_again(i)
    assert canary.verdict(i) == "2 of the last 3 canary chats failed: /v1/chat/completions answered 500"
    assert [name for name, _ in rung] == ["deployments.tasks.look"]
    engine.on[CHAT] = chat(LONG)
    asked_again(i)
    assert canary.verdict(i) != ""
    asked_again(i)
    assert canary.verdict(i) == ""


def test_who_gives_no_token_in_time_has_failed(engine: Engine, monkeypatch) -> None:
    monkeypatch.setattr(canary, "PATIENCE", 0.3)
    engine.on[CHAT] = engine.hangs
    i = asked_again(machine(engine))
    assert (i.canary_ok, i.canary_ttft, i.canary_detail) == (False, None, "no token came within 0 s")


def test_who_works_on_others_requests_has_not(engine: Engine, monkeypatch) -> None:
    monkeypatch.setattr(canary, "PATIENCE", 0.3)
    engine.on[CHAT] = engine.hangs
    i = machine(engine)
    samples.record(i.pk, NOW - timedelta(seconds=20), {"waiting": 8, "tokens_out_rate": 900})
    assert asked_again(i).canary_ok is None
    engine.on[CHAT] = status(429)
    assert asked_again(i).canary_ok is None


def test_whoever_stalled_meanwhile_writes_nothing(engine: Engine, monkeypatch) -> None:
    i = machine(engine)
    note = canary._note

    def late(instance, answer, *, now):
        Instance.objects.filter(pk=instance.pk).update(state=State.STOPPING)
        note(instance, answer, now=now)

    monkeypatch.setattr(canary, "_note", late)
    assert asked_again(i).canary_ok is None
    assert not Sample.objects.exists()


def test_its_page_tells_the_last_one(engine: Engine, client) -> None:
    i = machine(engine)
    client.force_login(factories.viewer())
    asked_again(i)
    Instance.objects.filter(pk=i.pk).update(canary_ttft=0.1234, canary_rate=95.4)
    page = client.get(i.deployment.get_absolute_url()).content.decode()
    assert "first token after 0.12 s, 95 tokens/s" in page
    engine.on[CHAT] = chat("<b>Rome</b>")
    asked_again(i)
    page = client.get(i.deployment.get_absolute_url()).content.decode()
    assert "It failed: it answered something else than was asked: &#x27;&lt;b&gt;Rome" in page


def test_a_worker_waits_with_one_thread_alone(engine: Engine, monkeypatch) -> None:
    machine(engine)
    tried: list[int] = []
    note = canary._note

    def meanwhile(instance, answer, *, now):
        tried.append(canary.canary_due(clock=lambda: NOW + timedelta(days=2)))
        note(instance, answer, now=now)

    monkeypatch.setattr(canary, "_note", meanwhile)
    assert (go(), tried) == (1, [0])
    assert go(NOW + timedelta(days=2)) == 1


@pytest.mark.engine
def test_the_real_engine_gives_a_good_answer_and_its_figures_tell_of_it() -> None:
    with llama.engine(key="k") as url:
        i = chatting_deployment(url, now=NOW, key="k", model_key="smollm2-135m").instances.get()
        Instance.objects.filter(pk=i.pk).update(next_canary_at=NOW)
        assert scrape.scrape_due(clock=lambda: NOW) == 1
        asked_again(i)
        later = NOW + timedelta(seconds=20)
        assert scrape.scrape_due(clock=lambda: later) == 1
    i.refresh_from_db()
    assert (i.canary_ok, i.canary_detail) == (True, "")
    assert i.canary_ttft > 0
    assert i.canary_rate > 0
    assert i.monitor.scrape_detail == ""
    (last,) = samples.read(
        [i.pk], ["tokens_in_rate", "tokens_out_rate"], later, later + timedelta(seconds=1), now=NOW
    )
    # A question of some twenty tokens and an answer of a few dozen, in twenty seconds.
    assert last.values["tokens_in_rate"] > 0.5
    assert last.values["tokens_out_rate"] > 0.5
