"""The stream's path from the request to the engine, by Django's own test client."""

from __future__ import annotations

import dataclasses
import json
import logging
import uuid
from decimal import Decimal

import pytest
from django.test import AsyncClient, Client
from django.urls import reverse

from deployments.lifecycle import State
from deployments.models import Deployment
from deployments.playground import upstream
from tests import factories
from tests.conftest import NOW
from tests.playground import rows, sse
from tests.playground.fake_engine import LLAMA, FakeEngine, capture, token

pytestmark = pytest.mark.django_db
HELLO = {"messages": [{"role": "user", "content": "Hello"}]}


@pytest.fixture
def operator(client: Client) -> Client:
    client.force_login(factories.operator())
    return client


def ask(client: Client, deployment: Deployment | uuid.UUID, body: object = HELLO, **extra):
    pk = deployment.pk if isinstance(deployment, Deployment) else deployment
    sent = body if isinstance(body, bytes) else json.dumps(body)
    return client.post(reverse("chat_stream", args=[pk]), sent, content_type="application/json", **extra)


def refused(response) -> str:
    assert response["Content-Type"] == "application/json"
    return response.json()["error"]


# -- what is streamed


@pytest.mark.parametrize("size", [0, 1, 7, 64])
@pytest.mark.parametrize(
    ("data", "text", "thought", "prompt", "out", "thinking", "reason"),
    [
        (capture("vllm-stream-usage"), "ฟาссฟาссฟาсс", "", 14, 6, None, "length"),
        (capture("vllm-stream-continuous-usage"), "ฟาссฟา", "", 14, 3, None, "length"),
        (capture("vllm-stream-reasoning"), "", " fragrance졔 bladesscores", 9, 4, 4, "length"),
        (LLAMA, "Hello", "", 31, 3, None, "stop"),
        (LLAMA.replace(b"\n", b"\r\n"), "Hello", "", 31, 3, None, "stop"),
    ],
)
def test_the_engines_bytes_come_through_with_the_figures_however_they_are_split(
    operator, engine: FakeEngine, data, text, thought, prompt, out, thinking, reason, size
) -> None:
    engine.answer = engine.replay(data, size=size)
    response = ask(operator, rows.chatting_deployment(engine.url, now=NOW))
    assert response.status_code == 200
    assert response["Content-Type"].startswith("text/event-stream")
    assert response.content.startswith(data.rstrip())
    answer = sse.read(response.content)
    assert (answer.text, answer.thought, answer.error) == (text, thought, "")
    figures = answer.figures
    assert (figures["prompt_tokens"], figures["completion_tokens"]) == (prompt, out)
    assert (figures["thinking_tokens"], figures["finish_reason"]) == (thinking, reason)
    assert 0 < figures["ttft"] <= figures["seconds"]
    assert Decimal(figures["usd"]) > 0


def test_the_cost_is_the_machines_price_for_the_time_of_the_stream(operator, engine: FakeEngine) -> None:
    figures = sse.read(ask(operator, rows.chatting_deployment(engine.url, now=NOW)).content).figures
    exact = Decimal("0.36") * Decimal(str(figures["seconds"])) / 3600
    assert abs(Decimal(figures["usd"]) - exact) < Decimal("0.0000002")


def test_what_the_engine_did_not_tell_is_null_and_never_0(operator, engine: FakeEngine) -> None:
    engine.answer = engine.replay(token("Hi") + b"data: [DONE]\n\n")
    figures = sse.read(ask(operator, rows.chatting_deployment(engine.url, now=NOW)).content).figures
    for name in (
        "prompt_tokens",
        "completion_tokens",
        "thinking_tokens",
        "finish_reason",
        "tokens_per_second",
    ):
        assert figures[name] is None
    assert figures["ttft"] > 0


@pytest.mark.parametrize("field", ["content", "reasoning", "reasoning_content"])
def test_the_first_token_of_either_channel_counts(operator, engine: FakeEngine, field: str) -> None:
    engine.answer = engine.replay(token("x", field=field) + b"data: [DONE]\n\n")
    figures = sse.read(ask(operator, rows.chatting_deployment(engine.url, now=NOW)).content).figures
    assert figures["ttft"] is not None


def test_the_engine_is_asked_with_its_key_and_nothing_of_the_browser(operator, engine: FakeEngine) -> None:
    ask(operator, rows.chatting_deployment(engine.url, now=NOW, key="k-123"), HTTP_USER_AGENT="Browser/1")
    [headers], [asked] = engine.headers, engine.asked
    assert headers["Authorization"] == "Bearer k-123"
    assert headers.keys() == {
        "Host", "Authorization", "Content-Type", "Accept", "Accept-Encoding", "Content-Length", "Connection",
    }  # fmt: skip
    assert headers["Connection"] == "close"
    assert (asked["model"], asked["messages"]) == ("qwen3-4b", HELLO["messages"])
    assert asked["stream_options"] == {"include_usage": True}


# -- what goes wrong while it streams


@pytest.mark.parametrize(
    ("tail", "says"),
    [
        (b'data: {"error":{"message":"EngineCore encountered an issue","code":500}}\n\ndata: [DONE]\n\n', "EngineCore encountered an issue"),
        (b'data: {"error":"Unauthorized"}\n\n', "Unauthorized"),
        (b'data: {"error":{}}\n\n' + b'data: {"error":{"code":5}}\n\n', "it did not say why"),
        (b"", "closed the stream before the answer was complete"),
        (b'data: {"choices":[{"delta":{"con', "closed the stream before the answer was complete"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("size", [0, 3])
def test_an_answer_that_breaks_keeps_what_came_and_says_why(
    operator, engine: FakeEngine, tail: bytes, says: str, size: int
) -> None:
    engine.answer = engine.replay(token("so far") + tail, size=size)
    response = ask(operator, rows.chatting_deployment(engine.url, now=NOW))
    answer = sse.read(response.content)
    assert response.status_code == 200
    assert answer.text == "so far"
    assert says in answer.error
    assert answer.figures["ttft"] > 0


def test_what_is_no_stream_of_tokens_is_told(operator, engine: FakeEngine) -> None:
    engine.answer = engine.replay(b"data: nonsense\n\n" + token("x"))
    answer = sse.read(ask(operator, rows.chatting_deployment(engine.url, now=NOW)).content)
    assert "no stream of tokens" in answer.error


def test_a_null_error_is_no_error(operator, engine: FakeEngine) -> None:
    engine.answer = engine.replay(
        token("Hi").replace(b'"index"', b'"error":null,"index"') + b"data: [DONE]\n\n"
    )
    assert sse.read(ask(operator, rows.chatting_deployment(engine.url, now=NOW)).content).error == ""


def test_the_word_error_in_an_answer_is_no_error(operator, engine: FakeEngine) -> None:
    engine.answer = engine.replay(token(r"{\"error\": \"data: [DONE]\"}") + LLAMA)
    answer = sse.read(ask(operator, rows.chatting_deployment(engine.url, now=NOW)).content)
    assert (answer.text, answer.error) == ('{"error": "data: [DONE]"}Hello', "")


def test_a_connection_that_breaks_is_told(operator, engine: FakeEngine) -> None:
    engine.answer = engine.replay(token("so far"), then_break=True, pause=0.05)
    answer = sse.read(ask(operator, rows.chatting_deployment(engine.url, now=NOW)).content)
    assert answer.text == "so far"
    assert "connection broke" in answer.error


def test_an_engine_that_hangs_ends_the_answer_with_a_sentence(operator, engine: FakeEngine, settings) -> None:
    settings.CHAT_IDLE_SECONDS = 0.2
    engine.answer = engine.hang(token("so far"))
    answer = sse.read(ask(operator, rows.chatting_deployment(engine.url, now=NOW)).content)
    assert answer.text == "so far"
    assert "sent nothing for 0.2 s" in answer.error


@pytest.mark.parametrize(
    "odd",
    [
        b'data: {"choices":"x"}\n\n', b'data: {"choices":[7]}\n\n', b'data: {"choices":[{"delta":7}]}\n\n',
        b'data: {"usage":7}\n\n', b'data: [1]\n\n', b'data: {"usage":{"completion_tokens":"many"}}\n\n',
        b'data: {"usage":{"completion_tokens":-1,"completion_tokens_details":3}}\n\n', b": comment\n\n", b"\n\n",
        b'data: {"choices":[{"finish_reason":"' + b"x" * 100 + b'"}]}\n\n',
    ],
)  # fmt: skip
def test_an_odd_chunk_breaks_nothing(operator, engine: FakeEngine, odd: bytes) -> None:
    engine.answer = engine.replay(odd + token("Hi") + odd + b"data: [DONE]\n\n")
    response = ask(operator, rows.chatting_deployment(engine.url, now=NOW))
    assert b"event: regia" in response.content
    assert b"event: error" not in response.content


# -- what goes wrong before


@pytest.mark.parametrize(
    ("status", "body", "content_type", "answered", "says"),
    [
        (400, '{"error":{"code":400,"message":"the request exceeds the available context size","type":"exceed_context_size_error"}}', "application/json", 400, "too long for this deployment's context"),
        (400, '{"error":{"message":"This model\'s maximum context length is 1024 tokens.","type":"BadRequestError","param":"input_tokens","code":400}}', "application/json", 400, "too long for this deployment's context"),
        (400, '{"error":{"message":"top_p must be in (0, 1]","type":"BadRequestError","param":"top_p"}}', "application/json", 400, "did not accept the request: top_p must be in (0, 1]"),
        (401, '{"error":"Unauthorized"}', "application/json", 502, "did not accept the panel's key"),
        (401, '{"error":{"message":"Invalid API Key","type":"authentication_error","code":401}}', "application/json", 502, "did not accept the panel's key"),
        (404, '{"error":{"message":"The model `x` does not exist."}}', "application/json", 502, "does not serve this deployment's model"),
        (429, "", "text/plain", 503, "too many requests waiting"),
        (500, "Internal Server Error", "text/plain", 502, "answered with an error (500)."),
        (500, '{"error":{"message":"CUDA out of memory"}}', "application/json", 502, "(500): CUDA out of memory"),
        (503, '{"error":{"message":"Loading model"}}', "application/json", 503, "loading its weights"),
        (524, "<html>A timeout occurred</html>", "text/html", 504, "(524)"),
        (200, "<html>Welcome to nginx!</html>", "text/html", 502, "not an engine's stream but text/html"),
        (200, '{"choices":[]}', "application/json", 502, "not an engine's stream but application/json"),
        (302, "", "text/plain", 502, "leads elsewhere (a redirect)"),
        (400, "x" * 200_000, "application/json", 502, "answered with an error (400)."),
    ],
)  # fmt: skip
def test_each_refusal_of_the_engine_has_its_sentence(
    operator, engine: FakeEngine, status: int, body: str, content_type: str, answered: int, says: str
) -> None:
    engine.answer = engine.refuse(status, body, content_type)
    response = ask(operator, rows.chatting_deployment(engine.url, now=NOW, key="k-123"))
    assert response.status_code == answered
    assert says in refused(response)
    assert "k-123" not in response.content.decode()


def test_an_engine_that_is_not_there_is_told(operator) -> None:
    response = ask(operator, rows.chatting_deployment("http://127.0.0.1:1", now=NOW))
    assert response.status_code == 502
    assert "refused the connection" in refused(response)


def test_an_engine_that_does_not_begin_is_given_up(operator, engine: FakeEngine, settings) -> None:
    settings.CHAT_IDLE_SECONDS = 0.2
    engine.answer = engine.hang()
    response = ask(operator, rows.chatting_deployment(engine.url, now=NOW))
    assert response.status_code == 504
    assert "did not begin to answer" in refused(response)


@pytest.mark.parametrize(
    ("state", "says"),
    [
        (State.LOADING, "is Loading weights. It answers once it is Ready."),
        (State.STOPPED, "is Stopped. Start it to chat with it."),
        (State.TERMINATED, "its engine is gone"),
        (State.FAILED, "its engine is gone"),
        (State.UNKNOWN, "is Unknown. It answers once it is Ready."),
    ],
)
def test_a_deployment_that_does_not_answer_says_how_it_stands(
    operator, engine, state: State, says: str
) -> None:
    response = ask(operator, rows.chatting_deployment(engine.url, now=NOW, state=state))
    assert response.status_code == 409
    assert says in refused(response)
    assert engine.asked == []


def test_a_deployment_without_a_machine_says_so(operator, engine) -> None:
    deployment = rows.chatting_deployment(engine.url, now=NOW)
    deployment.instances.all().delete()
    assert "no machine yet" in refused(ask(operator, deployment))


def test_the_newest_attempt_that_serves_is_asked(operator, engine: FakeEngine) -> None:
    deployment = rows.chatting_deployment("http://127.0.0.1:1", now=NOW, state=State.FAILED)
    rows.attempt(deployment, engine.url, now=NOW, state=State.DEGRADED)
    rows.attempt(deployment, "http://127.0.0.1:1", now=NOW, state=State.LOADING)
    assert ask(operator, deployment).status_code == 200


@pytest.mark.parametrize(
    "url", ["http://10.0.0.1:8000", "https://169.254.169.254", "https://127.0.0.1:8000", "http://8.8.8.8"]
)
def test_a_rented_machine_is_only_spoken_to_at_a_public_encrypted_address(operator, url: str) -> None:
    rented = dataclasses.replace(rows.own_machine(), own_machine=False)
    response = ask(operator, rows.chatting_deployment(url, now=NOW, quote=rented))
    assert response.status_code == 502
    assert "nothing is sent there" in refused(response)


def test_insecure_endpoints_can_be_allowed(operator, engine: FakeEngine, settings) -> None:
    settings.ALLOW_INSECURE_ENDPOINTS = True
    rented = dataclasses.replace(rows.own_machine(), own_machine=False)
    assert ask(operator, rows.chatting_deployment(engine.url, now=NOW, quote=rented)).status_code == 200
    response = ask(operator, rows.chatting_deployment("http://10.0.0.1", now=NOW, quote=rented))
    assert "private network" in refused(response)


# -- who may


def test_nobody_chats_without_signing_in(client, engine: FakeEngine) -> None:
    response = ask(client, rows.chatting_deployment(engine.url, now=NOW))
    assert response.status_code == 401
    assert "session has ended" in refused(response)
    assert engine.asked == []


def test_a_viewer_does_not_chat(client, engine: FakeEngine) -> None:
    client.force_login(factories.viewer())
    response = ask(client, rows.chatting_deployment(engine.url, now=NOW))
    assert response.status_code == 403
    assert "Your role may not chat" in refused(response)
    assert engine.asked == []


def test_a_user_with_no_role_does_not_chat(client, engine: FakeEngine) -> None:
    client.force_login(factories.user())
    assert ask(client, rows.chatting_deployment(engine.url, now=NOW)).status_code == 403


@pytest.mark.parametrize("who", ["operator", "administrator"])
def test_who_operates_chats(client, engine: FakeEngine, who: str) -> None:
    client.force_login(getattr(factories, who)())
    assert ask(client, rows.chatting_deployment(engine.url, now=NOW)).status_code == 200


def test_a_permission_of_ones_own_counts_too(client, engine: FakeEngine) -> None:
    from django.contrib.auth.models import Permission

    user = factories.viewer()
    user.user_permissions.add(Permission.objects.get(codename="chat_deployment"))
    client.force_login(user)
    assert ask(client, rows.chatting_deployment(engine.url, now=NOW)).status_code == 200


def test_a_superuser_chats(client, engine: FakeEngine) -> None:
    user = factories.user()
    type(user).objects.filter(pk=user.pk).update(is_superuser=True)
    client.force_login(user)
    assert ask(client, rows.chatting_deployment(engine.url, now=NOW)).status_code == 200


def test_a_right_that_was_taken_away_is_gone_with_the_next_request(client, engine: FakeEngine) -> None:
    user = factories.operator()
    client.force_login(user)
    deployment = rows.chatting_deployment(engine.url, now=NOW)
    assert ask(client, deployment).status_code == 200
    user.groups.clear()
    assert ask(client, deployment).status_code == 403


def test_a_disabled_user_is_out_at_once(client, engine: FakeEngine) -> None:
    user = factories.operator()
    client.force_login(user)
    user.is_active = False
    user.save()
    assert ask(client, rows.chatting_deployment(engine.url, now=NOW)).status_code == 401


def test_a_changed_password_ends_other_sessions_here_too(client, engine: FakeEngine) -> None:
    user = factories.operator()
    client.force_login(user)
    user.set_password("another long password")
    user.save()
    response = ask(client, rows.chatting_deployment(engine.url, now=NOW))
    assert response.status_code == 401
    assert response.cookies["regia_session"]["max-age"] == 0


def test_a_session_signed_with_the_secret_before_is_renewed(client, engine: FakeEngine, settings) -> None:
    client.force_login(factories.operator())
    before = client.cookies["regia_session"].value
    settings.SECRET_KEY_FALLBACKS, settings.SECRET_KEY = [settings.SECRET_KEY], "a new secret of this test"
    response = ask(client, rows.chatting_deployment(engine.url, now=NOW))
    assert response.status_code == 200
    assert response.cookies["regia_session"].value not in ("", before)


def test_an_expired_session_is_over(client, engine: FakeEngine) -> None:
    from django.contrib.sessions.models import Session

    client.force_login(factories.operator())
    Session.objects.update(expire_date=NOW.replace(year=2020))
    assert ask(client, rows.chatting_deployment(engine.url, now=NOW)).status_code == 401


def test_a_stranger_gets_404(operator, engine: FakeEngine) -> None:
    response = ask(operator, uuid.uuid4())
    assert response.status_code == 404
    assert refused(response) == "There is no such deployment."


def test_who_may_not_is_told_that_before_what_is_wrong_with_the_request(client, operator, engine) -> None:
    deployment = rows.chatting_deployment(engine.url, now=NOW)
    assert ask(Client(), deployment, b"{").status_code == 401
    assert ask(operator, deployment, b"{").status_code == 400


# -- forged and malformed requests


def test_a_request_without_the_token_is_forged(engine: FakeEngine) -> None:
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(factories.operator())
    deployment = rows.chatting_deployment(engine.url, now=NOW)
    strict.cookies["regia_csrf"] = "a" * 32
    for headers in ({}, {"HTTP_X_CSRFTOKEN": "b" * 32}, {"HTTP_X_CSRFTOKEN": "short"}):
        response = ask(strict, deployment, **headers)
        assert response.status_code == 403
        assert "Reload it and send again" in refused(response)
    assert ask(strict, deployment, HTTP_X_CSRFTOKEN="a" * 32).status_code == 200
    foreign = ask(strict, deployment, HTTP_X_CSRFTOKEN="a" * 32, HTTP_ORIGIN="https://evil.example")
    assert foreign.status_code == 403
    own = ask(strict, deployment, HTTP_X_CSRFTOKEN="a" * 32, HTTP_ORIGIN="http://testserver")
    assert own.status_code == 200
    assert len(engine.asked) == 2


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""]
)
def test_only_json_is_taken(operator, engine: FakeEngine, content_type: str) -> None:
    url = reverse("chat_stream", args=[rows.chatting_deployment(engine.url, now=NOW).pk])
    response = operator.post(url, b'{"messages": 1}', content_type=content_type)
    assert response.status_code == 415


@pytest.mark.parametrize("method", ["get", "put", "delete", "patch"])
def test_a_chat_is_only_sent_by_post(operator, engine: FakeEngine, method: str) -> None:
    url = reverse("chat_stream", args=[rows.chatting_deployment(engine.url, now=NOW).pk])
    assert getattr(operator, method)(url).status_code == 405


def test_too_long_a_conversation_is_refused(operator, engine: FakeEngine, settings) -> None:
    settings.DATA_UPLOAD_MAX_MEMORY_SIZE = 2048
    body = {"messages": [{"role": "user", "content": "x" * 3000}]}
    response = ask(operator, rows.chatting_deployment(engine.url, now=NOW), body)
    assert response.status_code == 413
    assert "longer than 2 KiB" in refused(response)


def test_a_foreign_host_name_is_not_served(operator, engine: FakeEngine) -> None:
    response = ask(operator, rows.chatting_deployment(engine.url, now=NOW), HTTP_HOST="evil.example")
    assert response.status_code == 400


def test_a_mistake_is_told_with_its_sentence(operator, engine: FakeEngine) -> None:
    response = ask(operator, rows.chatting_deployment(engine.url, now=NOW), {**HELLO, "temperature": 9})
    assert (response.status_code, refused(response)) == (400, "Temperature must be a number from 0 to 2.")
    assert engine.asked == []


# -- headers, queries, secrets


def test_the_answer_has_the_headers_of_every_page(operator, engine: FakeEngine) -> None:
    page = operator.get("/accounts/login/")
    for response in (
        ask(operator, rows.chatting_deployment(engine.url, now=NOW)),
        ask(Client(), uuid.uuid4()),
    ):
        for name in (
            "Content-Security-Policy", "X-Content-Type-Options", "Referrer-Policy", "X-Frame-Options",
            "Cross-Origin-Opener-Policy", "X-Request-ID",
        ):  # fmt: skip
            assert name in page
            assert name in response
        assert response["Cache-Control"] == "no-store"


def test_the_database_is_asked_four_times_and_never_while_it_streams(
    operator, engine: FakeEngine, django_assert_num_queries
) -> None:
    deployment = rows.chatting_deployment(engine.url, now=NOW)
    with django_assert_num_queries(4):
        assert ask(operator, deployment).status_code == 200


def test_a_database_that_fails_is_told(operator, engine: FakeEngine, monkeypatch, caplog) -> None:
    from django.db import OperationalError

    from deployments.playground import admission

    def fails(*_: object) -> None:
        raise OperationalError("disk I/O error at /secret/path")

    deployment = rows.chatting_deployment(engine.url, now=NOW)
    monkeypatch.setattr(admission, "_admit", fails)
    with caplog.at_level(logging.CRITICAL):
        response = ask(operator, deployment)
    assert response.status_code == 503
    assert "cannot read its database now" in refused(response)


@pytest.mark.asyncio
@pytest.mark.django_db(transaction=True)
async def test_the_async_handler_gives_the_same_answer(engine: FakeEngine) -> None:
    from asgiref.sync import sync_to_async

    client = AsyncClient()
    await client.aforce_login(await sync_to_async(factories.operator)())
    deployment = await sync_to_async(rows.chatting_deployment)(engine.url, now=NOW)
    url = reverse("chat_stream", args=[deployment.pk])
    response = await client.post(url, json.dumps(HELLO), content_type="application/json")
    body = b"".join([part async for part in response.streaming_content])
    await upstream.close_sessions()
    assert sse.read(body).text == "Hello"
    assert response["X-Accel-Buffering"] == "no"
