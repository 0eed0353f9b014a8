"""A machine that failed tells its panel why, or ends itself where nobody listens."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
from regia_machine import environment, failed_door, telling
from regia_machine.failed_door import FailedDoor

from tests.image import doors
from tests.image.doors import ask, knock, pinned, soon
from tests.image.provider import Provider
from tests.image.running import KEY, Running, engine_command, free_port, running, variables

pytestmark = pytest.mark.image
SECOND = "another-key-0123456789abcdef"
VAST_KEY = "vast-secret-0123456789"


@pytest.fixture
def provider() -> Iterator[Provider]:
    with Provider() as listening:
        yield listening


@contextmanager
def machine(
    folder: Path, provider: Provider, *options: object, tell: int = 60, **changes: str
) -> Iterator[Running]:
    """At Vast.ai, as it is rented; `options` are its engine's."""
    environ = variables(
        folder, **{
            "REGIA_TELL_SECONDS": str(tell), "REGIA_DRAIN_SECONDS": "1", "REGIA_VAST_URL": provider.url,
            "CONTAINER_ID": "4711", "CONTAINER_API_KEY": VAST_KEY,
            "REGIA_ENGINE_COMMAND": engine_command("--tell", folder / "told.json", *options), **changes,
        },
    )  # fmt: skip
    with running(folder, environ) as started:
        yield started


def renew(port: int, key: str | None = KEY, **options: object) -> doors.Answer:
    return ask(port, "PUT", "/lease", key=key, body=b'{"seconds":7200}', **options)  # type: ignore[arg-type]


def wait_until_it_failed(started: Running) -> None:
    started.wait_for("failed")
    doors.wait_for_port(started.port)


ENDED = [("DELETE", "/api/v0/instances/4711/", f"Bearer {VAST_KEY}")]
"""What a provider that was asked has kept."""


# -- somebody listens ---------------------------------------------------------------------------


def test_it_tells_whoever_has_the_key_and_then_ends_with_its_code(tmp_path, provider):
    with machine(tmp_path, provider, "--die-loading", 5) as started:
        wait_until_it_failed(started)
        port = started.port
        assert (ask(port, "GET", "/health").status, ask(port, "GET", "/health").json) == (
            503,
            {"state": "failed"},
        )
        assert [renew(port, key).status for key in (None, SECOND, "")] == [401] * 3
        assert started.process.poll() is None
        told = renew(port)
        last = started.end()

    assert told.status == 200
    assert told.json["state"] == "failed"
    assert told.json["code"] == 70
    assert "exit code 5" in told.json["cause"]
    assert "cannot load this model" in told.json["cause"]
    assert set(told.headers) == {"content-type", "content-length", "connection"}
    assert last.values["code"] == "70"
    failed = next(p for p in started.progress if p.phase == "failed")
    assert failed.values == last.values
    assert provider.asked == []
    assert not (tmp_path / "state" / "ended").exists()


def test_it_speaks_tls_with_the_certificate_that_it_was_given(tmp_path, provider):
    pin, told = pinned()
    with machine(tmp_path, provider, "--die-loading", 5, **told) as started:
        wait_until_it_failed(started)
        assert knock(started.port, b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n") == 0, "not in the clear"
        assert ask(started.port, "GET", "/health", pin=pin).status == 503
        assert renew(started.port, pin=pin).json["code"] == 70
        assert started.end().values["code"] == "70"

    assert told["REGIA_TLS_KEY"] not in started.output


def test_nothing_runs_beside_it_and_its_engine_died_serving_is_71(tmp_path, provider):
    with machine(tmp_path, provider) as started:
        started.wait_for("ready")
        assert renew(started.port).json["state"] == "serving"
        os.kill(started.engine()["pid"], signal.SIGKILL)
        wait_until_it_failed(started)
        [own] = psutil.Process(started.process.pid).children(recursive=True)
        assert "regia_machine" in " ".join(own.cmdline())
        assert renew(started.port).json["code"] == 71
        started.end()


def test_a_key_that_was_changed_opens_the_failed_door_too(tmp_path, provider):
    with machine(tmp_path, provider) as started:
        started.wait_for("ready")
        body = json.dumps({"seconds": 7200, "keys": [SECOND]}).encode()
        assert ask(started.port, "PUT", "/lease", key=KEY, body=body).status == 200
        os.kill(started.engine()["pid"], signal.SIGKILL)
        wait_until_it_failed(started)
        assert renew(started.port, KEY).status == 401
        assert renew(started.port, SECOND).json["code"] == 71
        started.end()

    assert SECOND not in started.output


def test_no_secret_stands_in_what_it_tells(tmp_path, provider):
    says = ["--say", f"Namespace(api_key='{KEY}', token={VAST_KEY})", "--die-loading", 1]
    with machine(tmp_path, provider, *says) as started:
        wait_until_it_failed(started)
        told = renew(started.port)
        started.end()

    assert "***" in told.json["cause"]
    assert not [secret for secret in (KEY, VAST_KEY) if secret in f"{told.body!r} {started.output}"]


def test_an_environment_that_is_wrong_is_told_where_its_door_can_be_read(tmp_path, provider):
    with machine(tmp_path, provider, REGIA_CONTEXT="many", REGIA_RUN_DIR="") as started:
        wait_until_it_failed(started)
        told = renew(started.port)
        last = started.end()

    assert (told.json["code"], last.values["code"]) == (64, "64")
    assert "REGIA_CONTEXT" in told.json["cause"]


@pytest.mark.parametrize("wrong", [{"REGIA_API_KEY": "short"}, {"REGIA_PORT": "0"}, {"REGIA_DOOR": "tls"}])
def test_without_a_key_a_port_or_a_door_it_ends_at_once(tmp_path, provider, wrong):
    with machine(tmp_path, provider, **wrong) as started:
        assert started.end().values["code"] == "64"

    assert "failed" not in started.phases()
    assert provider.asked == []


def test_a_telling_is_no_word_of_the_panels_that_begins_the_count_of_starts_anew(tmp_path, provider):
    with machine(tmp_path, provider, "--die-loading", 5) as started:
        wait_until_it_failed(started)
        noted = (tmp_path / "state" / "started").read_text()
        renew(started.port)
        started.end()

    assert (tmp_path / "state" / "started").read_text() == noted


# -- nobody listens -----------------------------------------------------------------------------


def test_where_nobody_listens_its_provider_ends_it_and_it_never_serves_again(tmp_path, provider):
    with machine(tmp_path, provider, "--die-loading", 5, tell=1) as started:
        assert started.end().values["code"] == "70"
    assert provider.asked == ENDED
    assert "70" in (tmp_path / "state" / "ended").read_text()

    with machine(tmp_path, provider) as again:
        assert again.end().values["code"] == "75"
    assert provider.asked == ENDED * 2
    assert VAST_KEY not in started.output


def test_what_was_to_be_ended_and_has_a_wrong_environment_now_waits_for_nobody(tmp_path, provider):
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "ended").touch()
    with machine(tmp_path, provider, REGIA_CONTEXT="many") as started:
        assert started.end().values["code"] == "64"

    assert provider.asked == ENDED


def test_wrong_keys_are_nobody(tmp_path, provider):
    said: list[int] = []
    with machine(tmp_path, provider, "--die-loading", 5, tell=3) as started:
        started.wait_for("failed")
        while started.process.poll() is None:
            with suppress(OSError, http.client.HTTPException):
                said.append(renew(started.port, SECOND).status)
            time.sleep(0.1)
        assert started.end().values["code"] == "70"

    assert set(said) == {401}
    assert provider.asked == ENDED


def test_a_port_that_stays_taken_leads_to_the_same_end(tmp_path, provider):
    with socket.create_server(("", 0)) as other:
        port = other.getsockname()[1]
        with machine(tmp_path, provider, tell=1, REGIA_PORT=str(port)) as started:
            assert started.end().values["code"] == "73"

    assert provider.asked == ENDED


def test_a_port_that_becomes_free_is_taken(tmp_path, provider):
    with socket.create_server(("", 0)) as other:
        port = other.getsockname()[1]
        with machine(tmp_path, provider, REGIA_PORT=str(port)) as started:
            started.wait_for("failed")
            other.close()
            doors.wait_for_port(port)
            assert renew(port).json["code"] == 73
            started.end()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_ends_the_telling_at_once(tmp_path, provider, number):
    with machine(tmp_path, provider, "--die-loading", 5) as started:
        wait_until_it_failed(started)
        started.process.send_signal(number)
        # Long before its minute is over; then the provider would have been asked.
        assert started.end().values["code"] == "70"

    assert provider.asked == []


@pytest.mark.parametrize("none", [{"REGIA_LEASE_SECONDS": "0"}, {"REGIA_TELL_SECONDS": "0"}])
def test_without_a_panel_or_by_wish_it_ends_at_once(tmp_path, provider, none):
    with machine(tmp_path, provider, "--die-loading", 5, **none) as started:
        assert started.end().values["code"] == "70"

    assert "failed" not in started.phases()
    assert provider.asked == []


def test_a_stop_that_was_asked_for_is_no_failure(tmp_path, provider):
    with machine(tmp_path, provider, "--load-seconds", 60) as started:
        started.wait_for("loading")
        started.process.terminate()
        assert started.end().values["code"] == "0"

    assert "failed" not in started.phases()


# -- its door alone -----------------------------------------------------------------------------


@pytest.fixture
def failed() -> Iterator[tuple[int, FailedDoor]]:
    port = free_port()
    door = FailedDoor(port, None, (KEY, SECOND), {"code": 70, "cause": "It died."})
    yield port, door
    door.close()


@pytest.mark.parametrize("key", [None, KEY])
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"), ("GET", "/lease"), ("POST", "/lease"), ("DELETE", "/lease"), ("PUT", "/health"), ("PUT", "/lease/"),
        ("PUT", "//lease"), ("PUT", "/%6cease"), ("HEAD", "/health"), ("OPTIONS", "*"), ("GET", "/metrics"),
        ("GET", "/v1/models"), ("POST", "/v1/chat/completions"), ("GET", "/health/x"),
    ],
)  # fmt: skip
def test_everything_else_is_404_with_and_without_the_key(failed, method, path, key):
    port, door = failed
    assert ask(port, method, path, key=key).status == 404
    assert not door.heard.is_set()


@pytest.mark.parametrize("headers", [{"X-Regia-Key": KEY}, {"Authorization": f"bearer {SECOND}"}])
def test_each_key_opens_it_as_it_opened_the_door(failed, headers):
    port, door = failed
    answer = ask(port, "PUT", "/lease?x=1", headers={"Authorization": "Bearer of-another-proxy", **headers})
    assert answer.json == {"state": "failed", "code": 70, "cause": "It died."}
    assert door.heard.wait(5)


@pytest.mark.parametrize(
    "given", [f"Basic {KEY}", f"BEARER {KEY}", f"Bearer  {KEY}", KEY, f"Bearer {KEY}x", "Bearer é"]
)
def test_what_is_nearly_a_key_is_none(failed, given):
    port, door = failed
    answer = ask(port, "PUT", "/lease", headers={"Authorization": given})
    assert (answer.status, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert not door.heard.is_set()


@pytest.mark.parametrize(
    "sent",
    [b"\r\n", b"nonsense\r\n\r\n", b"PUT /lease\r\n\r\n", b"GET " + b"x" * 70_000 + b" HTTP/1.1\r\n\r\n"],
)
def test_what_is_no_request_tells_nothing(failed, sent):
    port, door = failed
    knock(port, sent)
    assert ask(port, "GET", "/health").status == 503
    assert not door.heard.is_set()


def test_one_that_dawdles_is_cut_and_keeps_nobody_out(monkeypatch):
    monkeypatch.setattr(failed_door, "SECONDS", 2.0)
    port = free_port()
    door = FailedDoor(port, None, (KEY,), {"code": 70, "cause": "x"})
    stop = threading.Event()

    def dribble(connection: socket.socket) -> None:
        # Each byte comes in time.
        with suppress(OSError):
            while not stop.wait(0.2):
                connection.sendall(b"x")

    with socket.create_connection(("127.0.0.1", port)) as slow:
        thread = threading.Thread(target=dribble, args=(slow,))
        thread.start()
        assert soon(lambda: knock(port, b"GET /health HTTP/1.1\r\n\r\n") == 503)
        thread.join(timeout=15)
        assert not thread.is_alive()
        stop.set()
    door.close()


def test_more_than_it_takes_at_once_are_closed(monkeypatch):
    monkeypatch.setattr(failed_door, "MOST", 2)
    port = free_port()
    door = FailedDoor(port, None, (KEY,), {"code": 70, "cause": "x"})
    held = [socket.create_connection(("127.0.0.1", port)) for _ in range(2)]
    assert soon(lambda: knock(port, b"GET /health HTTP/1.1\r\n\r\n") == 0)
    for connection in held:
        connection.close()
    assert soon(lambda: knock(port, b"GET /health HTTP/1.1\r\n\r\n") == 503)
    door.close()


# -- its parts ----------------------------------------------------------------------------------


def test_a_cause_is_one_short_line_with_its_beginning_and_its_end():
    assert telling.brief("The door\nfailed.") == "The door failed."
    long = telling.brief("The engine ended. Its last words: " + "x" * 3000 + " out of memory")
    assert len(long) <= telling.CAUSE_LENGTH
    assert long.startswith("The engine ended.")
    assert long.endswith("out of memory")


def test_an_outline_takes_the_defaults_for_what_is_wrong_beside_the_door(tmp_path):
    wrong = {
        "REGIA_TELL_SECONDS": "soon",
        "REGIA_VAST_URL": "ftp://x",
        "REGIA_STATE_DIR": "here",
        "REGIA_LEASE_SECONDS": "long",
    }
    found = environment.outline({**variables(tmp_path), **wrong})

    assert found is not None
    assert (found.tell_seconds, found.vast_url, found.has_lease) == (600, "https://console.vast.ai", True)
    assert found.state_dir == Path("/var/lib/regia")
    assert KEY not in repr(found)


def test_nobody_of_the_machine_may_write_a_core_dump(tmp_path, provider):
    with machine(tmp_path, provider) as started:
        started.wait_for("ready")
        pids = [
            started.process.pid,
            *(p.pid for p in psutil.Process(started.process.pid).children(recursive=True)),
        ]
        limits = [Path(f"/proc/{pid}/limits").read_text() for pid in pids]

    assert len(limits) >= 4
    assert all(re.search(r"^Max core file size +0 +0 ", text, re.MULTILINE) for text in limits)
