"""What a line of the log says it is about, in text and as JSON, in pages and in tasks; and what it never says."""

from __future__ import annotations

import io
import json
import logging
import logging.config
import sys
from collections.abc import Callable, Iterator
from uuid import uuid4

import pytest
from celery import shared_task
from django.conf import settings as django_settings
from django.urls import reverse
from django.utils import timezone
from kombu import Connection

from panel import logs
from panel.celery import app
from panel.context import request_context
from tests.browser import scene

logger = logging.getLogger("tests.what_happened")


@pytest.fixture
def written() -> Iterator[Callable[[str], io.StringIO]]:
    """A stream to which everything is logged as the settings say, in the format asked for."""
    root, added = logging.getLogger(), []

    def to(kind: str) -> io.StringIO:
        config = django_settings.LOGGING
        formatter = dict(config["formatters"][kind])
        made = formatter.pop("()")
        style = {"fmt" if k == "format" else k: v for k, v in formatter.items()}
        stream = io.StringIO()
        handler = logging.StreamHandler(stream)
        handler.setFormatter(logging.config.BaseConfigurator({}).resolve(made)(**style))
        for name in config["handlers"]["console"]["filters"]:
            handler.addFilter(logging.config.BaseConfigurator({}).resolve(config["filters"][name]["()"])())
        root.addHandler(handler)
        added.append(handler)
        return stream

    before = root.level
    root.setLevel(logging.INFO)
    yield to
    root.setLevel(before)
    for handler in added:
        root.removeHandler(handler)
    logs.end()


def objects(stream: io.StringIO) -> list[dict]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


@shared_task(name="tests.tasks.look")
def look(deployment_id: str, claim: str = "") -> None:
    logger.warning("looked at it")


def test_a_json_line_is_one_line_with_its_level_and_its_moment(written):
    out = written("json")
    logger.warning("two\nlines, and %s", "arguments")
    [told] = objects(out)
    assert told["message"] == "two\nlines, and arguments"
    assert (told["level"], told["logger"]) == ("WARNING", "tests.what_happened")
    assert told["time"].endswith("+00:00")


@pytest.mark.parametrize("kind", ["json", "line"])
def test_neither_a_message_nor_a_traceback_shows_a_sign_in_link(written, kind):
    out = written(kind)
    try:
        raise ValueError("/sign-in/a-token-of-somebody is odd")
    except ValueError:
        logger.exception("GET /sign-in/a-token-of-somebody failed")
    assert "a-token-of-somebody" not in out.getvalue()
    assert out.getvalue().count("/sign-in/[redacted]") >= 2


@pytest.mark.django_db
def test_a_line_of_a_page_names_its_request_and_its_deployment(written, client, monkeypatch):
    made = scene.build(now=timezone.now())
    client.force_login(made.administrator)
    out = written("json")
    monkeypatch.setattr("deployments.views.reads.poll_seconds", lambda d: logger.warning("here"))
    client.get(reverse("deployment", args=[made.ready.pk]), headers={"X-Request-ID": "req-of-a-test"})
    [told] = [o for o in objects(out) if o["logger"] == "tests.what_happened"]
    assert (told["request"], told["deployment"]) == ("req-of-a-test", str(made.ready.pk))
    logger.warning("after it")
    assert "request" not in objects(out)[-1]
    assert "deployment" not in objects(out)[-1]


def test_a_line_of_a_task_names_the_task_and_the_ids_that_it_was_given(written):
    out, pk = written("json"), uuid4()
    look.apply([str(pk)], {"claim": "not an id"}, task_id="t-1")
    [told] = [o for o in objects(out) if o["logger"] == "tests.what_happened"]
    assert (told["task"], told["task_id"], told["deployment"]) == ("tests.tasks.look", "t-1", str(pk))
    assert "claim" not in told
    assert logs.ids_now() == {}, "the thread is used again"


def test_a_bell_carries_the_request_that_rang_it(tmp_path, written, monkeypatch):
    """Through a real broker's message, as the worker reads it."""
    from panel.context import RequestContext

    for room in ("queue", "control"):
        (tmp_path / room).mkdir()
    options = {
        "data_folder_in": str(tmp_path / "queue"), "data_folder_out": str(tmp_path / "queue"),
        "control_folder": str(tmp_path / "control"),
    }  # fmt: skip
    monkeypatch.undo()  # the bells of this test are rung for real
    token = request_context.set(RequestContext("req-of-a-test", "192.0.2.1", "Browser/1"))
    try:
        with Connection("filesystem://", transport_options=options) as c:
            app.send_task("tests.tasks.look", args=[str(uuid4())], connection=c)
            message = c.SimpleQueue(app.conf.task_default_queue).get(block=False)
    finally:
        request_context.reset(token)
    out = written("line")
    request = {**message.headers, "args": message.payload[0], "is_eager": True}
    look.push_request(**request)
    try:
        logs.begin_task(task=look, task_id=message.headers["id"], args=message.payload[0])
        logger.warning("looked")
    finally:
        logs.end_task()
        look.pop_request()
    assert "request=req-of-a-test" in out.getvalue()
    assert "192.0.2.1" not in json.dumps(message.headers) + out.getvalue()


def test_a_line_without_ids_ends_where_its_message_ends(written):
    out = written("line")
    logger.warning("nothing to add")
    assert out.getvalue().endswith("nothing to add\n")


def test_the_setting_is_checked(tmp_path):
    import os
    import subprocess

    environment = {**os.environ, "REGIA_LOG_FORMAT": "xml", "REGIA_DATA_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", "import panel.settings"], env=environment, capture_output=True, text=True
    )
    assert "REGIA_LOG_FORMAT must be line or json" in done.stderr
