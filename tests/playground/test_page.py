"""The playground's page and its Markdown, by Django's test client."""

from __future__ import annotations

import json
import re

import pytest
from django.test import Client
from django.urls import reverse

from deployments.lifecycle import Desired, State
from tests import factories
from tests.conftest import NOW
from tests.playground import rows

pytestmark = pytest.mark.django_db
HERE = "http://127.0.0.1:1"


@pytest.fixture
def operator(client: Client) -> Client:
    client.force_login(factories.operator())
    return client


def page(client: Client, deployment=None) -> str:
    url = reverse("playground_for", args=[deployment.pk]) if deployment else reverse("playground")
    response = client.get(url)
    assert response.status_code == 200
    return response.content.decode()


def test_with_nothing_to_chat_with_it_leads_to_launch(operator) -> None:
    html = page(operator)
    assert "Nothing runs to chat with" in html
    assert f'href="{reverse("launch")}"' in html


def test_with_nothing_ready_it_leads_to_what_is_coming(operator) -> None:
    coming = rows.chatting_deployment(HERE, now=NOW, state=State.LOADING, name="soon")
    html = page(operator)
    assert "soon is" in html
    assert "Loading weights" in html
    assert f'href="{coming.get_absolute_url()}"' in html


def test_it_opens_with_a_deployment_that_answers(operator) -> None:
    ready = rows.chatting_deployment(HERE, now=NOW, name="ready-one")
    rows.chatting_deployment(HERE, now=NOW, state=State.LOADING, name="loading-one")
    html = page(operator)
    assert f'data-stream="{reverse("chat_stream", args=[ready.pk])}"' in html
    assert 'data-ready="1"' in html
    assert "loading-one" in html


def test_one_that_does_not_answer_says_why_and_where_to_look(operator) -> None:
    stopped = rows.chatting_deployment(HERE, now=NOW, state=State.STOPPED, name="asleep")
    html = page(operator, stopped)
    assert "asleep is Stopped. Start it to chat with it." in html
    assert 'data-ready=""' in html


def test_the_thinking_switch_is_only_there_for_models_that_think(operator) -> None:
    assert 'id="thinking"' in page(operator, rows.chatting_deployment(HERE, now=NOW))
    small = rows.chatting_deployment(HERE, now=NOW, model_key="smollm2-135m")
    assert 'id="thinking"' not in page(operator, small)


def test_the_parameters_begin_with_the_models_advice(operator) -> None:
    html = page(operator, rows.chatting_deployment(HERE, now=NOW))
    assert re.search(r'id="temperature"[^>]* value="0.6"', html)
    assert re.search(r'id="top_p"[^>]* value="0.95"', html)
    assert re.search(r'id="max_tokens"[^>]* max="8192"', html)


def test_a_model_that_the_catalogue_lost_is_told(operator) -> None:
    lost = rows.chatting_deployment(HERE, now=NOW, model_key="gone-7b")
    html = page(operator, lost)
    assert "no longer has “gone-7b”" in html
    assert "playground.js" not in html


def test_terminated_ones_are_not_in_the_picker(operator) -> None:
    gone = rows.chatting_deployment(HERE, now=NOW, state=State.TERMINATED, name="gone-one")
    type(gone).objects.filter(pk=gone.pk).update(desired=Desired.TERMINATED)
    assert "gone-one" not in page(operator, rows.chatting_deployment(HERE, now=NOW))


def test_the_engines_key_is_never_on_the_page(operator) -> None:
    assert "engine-key-9" not in page(operator, rows.chatting_deployment(HERE, now=NOW, key="engine-key-9"))


def test_it_says_without_javascript_that_the_stream_needs_it(operator) -> None:
    html = page(operator, rows.chatting_deployment(HERE, now=NOW))
    assert "<noscript>" in html
    assert "The stream needs JavaScript." in html


def test_nothing_on_it_breaks_the_content_security_policy(operator) -> None:
    html = page(operator, rows.chatting_deployment(HERE, now=NOW))
    assert not re.search(r'\sstyle="|<style|\son[a-z]+="|javascript:|hx-on', html)
    assert not re.search(r"<script(?![^>]*\ssrc=)", html)


def test_a_viewer_and_nobody_do_not_open_it(client) -> None:
    deployment = rows.chatting_deployment(HERE, now=NOW)
    assert client.get(reverse("playground")).status_code == 302
    client.force_login(factories.viewer())
    assert client.get(reverse("playground_for", args=[deployment.pk])).status_code == 403
    assert client.post(reverse("chat_render"), "{}", content_type="application/json").status_code == 403


def test_a_stranger_gets_404(operator) -> None:
    assert operator.get("/playground/00000000-0000-4000-8000-000000000001/").status_code == 404


def test_it_costs_the_same_queries_with_many_deployments(operator, django_assert_max_num_queries) -> None:
    for _ in range(30):
        rows.attempt(rows.chatting_deployment(HERE, now=NOW), HERE, now=NOW)
    with django_assert_max_num_queries(9):
        page(operator)


def test_the_state_is_polled_by_itself_and_answers_304_without_news(operator) -> None:
    deployment = rows.chatting_deployment(HERE, now=NOW)
    asked = {"HTTP_HX_REQUEST": "true", "HTTP_HX_TARGET": "engine"}
    url = reverse("playground_for", args=[deployment.pk])
    first = operator.get(url, **asked)
    assert first.content.decode().strip().startswith('<div id="engine"')
    assert operator.get(url, HTTP_IF_NONE_MATCH=first["ETag"], **asked).status_code == 304
    deployment.instances.update(state=State.DEGRADED)
    assert "Degraded" in operator.get(url, HTTP_IF_NONE_MATCH=first["ETag"], **asked).content.decode()


# -- Markdown


def render(client: Client, body: object):
    sent = body if isinstance(body, bytes) else json.dumps(body)
    return client.post(reverse("chat_render"), sent, content_type="application/json")


def test_answers_are_drawn_in_one_request(operator) -> None:
    response = render(operator, {"texts": ["**a**", "<script>alert(1)</script>"]})
    assert response.json()["html"] == [
        "<p><strong>a</strong></p>\n",
        "<p>&lt;script&gt;alert(1)&lt;/script&gt;</p>\n",
    ]


@pytest.mark.parametrize(
    "body", [b"{", b"[]", b"7", {}, {"texts": "a"}, {"texts": [1]}, {"texts": ["a"] * 401}]
)
def test_a_malformed_request_is_refused_with_a_sentence(operator, body) -> None:
    response = render(operator, body)
    assert response.status_code == 400
    assert response.json()["error"].endswith(".")


def test_too_much_text_is_refused(operator, settings) -> None:
    settings.DATA_UPLOAD_MAX_MEMORY_SIZE = 1000
    assert render(operator, {"texts": ["x" * 2000]}).status_code == 413


def test_markdown_needs_the_token() -> None:
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(factories.operator())
    assert render(strict, {"texts": ["a"]}).status_code == 403
