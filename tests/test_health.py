"""/healthz and /readyz: what lives, what works, and nothing for strangers to learn."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.db import OperationalError, connection
from django.utils import timezone

from deployments.models import Heartbeat
from panel import health


@pytest.fixture(autouse=True)
def _nobody_asked_before(monkeypatch) -> None:
    """The broker's answer stands for seconds, which would be the next test's."""
    monkeypatch.setattr(health, "_told", (0.0, ""))


def beat(*, age=timedelta(seconds=3)) -> None:
    for name in ("beat", "reconcile"):
        Heartbeat.beat(name, timezone.now() - age)


def test_healthz_needs_no_database_and_no_session(client):
    answer = client.get("/healthz")
    assert (answer.status_code, answer.content) == (200, b"ok\n")
    assert not answer.cookies


@pytest.mark.django_db
def test_it_is_ready_when_everything_beats(client, django_assert_num_queries):
    beat()
    with django_assert_num_queries(1):
        answer = client.get("/readyz")
    body = answer.json()
    assert answer.status_code == 200
    assert (body["ready"], body["not_ready"]) == (True, [])
    assert body["database"] == body["broker"] == {"state": "ok"}
    assert body["beat"]["state"] == "ok"
    assert body["reconcile"]["age_seconds"] >= 3


@pytest.mark.django_db
def test_it_is_not_ready_before_the_first_beat(client):
    answer = client.get("/readyz")
    assert answer.status_code == 503
    assert answer.json()["not_ready"] == ["beat", "reconcile"]
    assert answer.json()["beat"] == {"state": "never", "age_seconds": None}


@pytest.mark.parametrize("name", ["beat", "reconcile"])
@pytest.mark.django_db
def test_it_names_the_loop_that_has_stopped(client, name):
    beat()
    Heartbeat.beat(name, timezone.now() - timedelta(seconds=120))
    answer = client.get("/readyz")
    assert (answer.status_code, answer.json()["not_ready"]) == (503, [name])
    assert answer.json()[name]["state"] == "stale"


@pytest.mark.django_db
def test_a_heartbeat_from_the_future_is_no_heartbeat(client):
    beat()
    Heartbeat.beat("beat", timezone.now() + timedelta(hours=2))
    assert client.get("/readyz").json()["beat"]["state"] == "stale"


@pytest.mark.django_db
def test_a_broker_folder_that_is_gone_is_told(client, settings, tmp_path):
    beat()
    settings.CELERY_BROKER_URL = "filesystem://"
    settings.BROKER_DIR = tmp_path / "gone"
    answer = client.get("/readyz")
    assert (answer.status_code, answer.json()["not_ready"]) == (503, ["broker"])
    assert str(tmp_path) not in answer.text


@pytest.mark.django_db
def test_a_broker_that_does_not_answer_is_told(client, settings):
    from panel.celery import app

    beat()
    settings.CELERY_BROKER_URL = "redis://127.0.0.1:1/0"
    before = app.conf.broker_url
    app.conf.broker_url = app.conf.broker_write_url = settings.CELERY_BROKER_URL
    try:
        answer = client.get("/readyz")
    finally:
        app.conf.broker_url = before
        app.conf.broker_write_url = None
    assert (answer.status_code, answer.json()["not_ready"]) == (503, ["broker"])
    assert "127.0.0.1" not in answer.text


@pytest.mark.django_db
def test_a_database_that_does_not_answer_is_told_without_its_words(client):
    def refuse(*_, **__):
        raise OperationalError("connection to 10.0.0.5 as regia with hunter2 failed")

    with connection.execute_wrapper(refuse):
        answer = client.get("/readyz")
    assert (answer.status_code, answer.json()["not_ready"]) == (503, ["database", "beat", "reconcile"])
    assert "10.0.0.5" not in answer.text
    assert "hunter2" not in answer.text


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
@pytest.mark.django_db
def test_answers_are_not_cached_and_only_read(client, path):
    assert "no-store" in client.get(path)["Cache-Control"]
    assert client.post(path).status_code == 405
