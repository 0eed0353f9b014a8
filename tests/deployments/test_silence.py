"""Why no figures come: what the Metrics tab says of it, since when, and what the endpoint said."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta

import pytest
from django.urls import reverse
from django.utils import timezone

from deployments.lifecycle import State
from deployments.models import Instance, Monitor
from deployments.views import silence
from tests import factories
from tests.conftest import NOW
from tests.playground.rows import chatting_deployment, own_machine

pytestmark = pytest.mark.django_db
MINUTE = timedelta(minutes=1)


def machine(now=NOW, **options) -> Instance:
    return chatting_deployment("http://127.0.0.1:9", now=now, **options).instances.get()


def read(i: Instance, at, failures: int = 0, detail: str = "") -> Instance:
    Monitor.objects.create(instance=i, scraped_at=at, scrape_failures=failures, scrape_detail=detail)
    return Instance.objects.select_related("monitor").get(pk=i.pk)


def test_nothing_is_said_while_figures_come_nor_of_a_reading_or_two_that_fail() -> None:
    assert silence.of(read(machine(), NOW - MINUTE, 3, "/metrics answered 500"), now=NOW) is None


@pytest.mark.parametrize(
    ("detail", "advice"),
    [
        ("/metrics answered 401", "rotate the key"), ("/metrics answered 404", "the present image"),
        ("/metrics answered 503", "The engine itself fails"), ("the connection was refused", "Nothing listens"),
        ("no answer within 10 s", "too busy or hangs"), ("/metrics is cut off", "See its log."),
    ],
)  # fmt: skip
def test_what_the_endpoint_said_is_told_with_what_to_do(detail: str, advice: str) -> None:
    found = silence.of(read(machine(), NOW - 4 * MINUTE, 16, detail), now=NOW)
    assert found
    assert (found.since, found.said, found.failures, found.tone) == (NOW - 4 * MINUTE, detail, 16, "warn")
    assert advice in found.meaning


def test_a_machine_that_was_never_read_says_since_when_it_could_have_been() -> None:
    i = machine()
    Instance.objects.filter(pk=i.pk).update(ready_at=NOW - 5 * MINUTE)
    found = silence.of(read(i, None, 20, "/metrics answered 404"), now=NOW)
    assert found
    assert found.since == NOW - 5 * MINUTE


def test_where_nobody_has_asked_the_panel_itself_is_named() -> None:
    found = silence.of(read(machine(), NOW - 10 * MINUTE), now=NOW)
    assert found
    assert "Nobody has asked" in found.meaning
    assert not found.said


def test_what_is_as_it_should_be_is_no_warning() -> None:
    i = machine()
    Instance.objects.filter(pk=i.pk).update(state=State.STOPPED, state_since=NOW - MINUTE)
    stopped = silence.of(read(i, NOW - 9 * MINUTE, 2, "the connection was refused"), now=NOW)
    asleep = silence.of(machine(name="b", quote=replace(own_machine(), serverless=True)), now=NOW)
    assert stopped
    assert asleep
    assert (stopped.words, stopped.tone, stopped.said) == ("No new figures: the machine is stopped", "", "")
    assert (asleep.tone, "would wake a worker" in asleep.meaning) == ("", True)
    assert silence.of(None, now=NOW)


def test_the_metrics_tab_says_it_and_its_numbers_take_it_back(client) -> None:
    now = timezone.now()
    i = read(machine(now), now - 4 * MINUTE, 16, "/metrics answered <b>503</b>")
    client.force_login(factories.viewer())
    page = client.get(reverse("deployment_metrics", args=[i.deployment_id])).text
    assert "No figures of the engine for" in page
    assert "The endpoint said: /metrics answered &lt;b&gt;503&lt;/b&gt;, 16 times in a row." in page
    Monitor.objects.update(scraped_at=now, scrape_failures=0, scrape_detail="")
    told = json.loads(client.get(reverse("deployment_series", args=[i.deployment_id])).content)
    assert told["html"]["board-silence"].strip() == ""
