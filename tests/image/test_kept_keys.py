"""A key that the panel changed outlives a restart of the container, and stays readable to the machine alone."""

from __future__ import annotations

import json

import pytest
from regia_machine import kept_keys

from tests.image.doors import ask
from tests.image.running import KEY, running, variables

SECOND, THIRD = "another-key-0123456789abcdef", "a-third-key-0123456789abcdef"


def test_without_any_it_is_the_first_key(tmp_path):
    assert kept_keys.read(tmp_path, KEY) == (KEY,)


def test_what_was_kept_last_counts(tmp_path):
    kept_keys.keep(tmp_path, KEY, (KEY, SECOND))
    assert kept_keys.read(tmp_path, KEY) == (KEY, SECOND)
    kept_keys.keep(tmp_path, KEY, [SECOND])
    assert kept_keys.read(tmp_path, KEY) == (SECOND,)


def test_nobody_else_may_read_them(tmp_path):
    kept_keys.keep(tmp_path, KEY, [SECOND])
    assert [p.stat().st_mode & 0o777 for p in tmp_path.iterdir()] == [0o600]


def test_ordered_with_another_key_it_is_another_machine(tmp_path):
    kept_keys.keep(tmp_path, KEY, [SECOND])
    assert kept_keys.read(tmp_path, THIRD) == (THIRD,)


@pytest.mark.parametrize(
    "change",
    [
        lambda told: b"", lambda told: b"{", lambda told: b"\xff\xfe", lambda told: b"[]", lambda told: b"null",
        lambda told: b"[" * 100_000,
        lambda told: json.dumps({**told, "keys": []}).encode(),
        lambda told: json.dumps({**told, "keys": "another-key-0123456789abcdef"}).encode(),
        lambda told: json.dumps({**told, "keys": ["short"]}).encode(),
        lambda told: json.dumps({**told, "keys": ['a-key-with-"-quotes;-in-it']}).encode(),
        lambda told: json.dumps({**told, "keys": [SECOND] * 3}).encode(),
        lambda told: json.dumps({**told, "keys": [1]}).encode(),
        lambda told: json.dumps({"keys": [SECOND]}).encode(),
    ],
    ids=range(13),
)  # fmt: skip
def test_what_cannot_be_read_is_the_first_key(tmp_path, change):
    kept_keys.keep(tmp_path, KEY, [SECOND])
    file = tmp_path / "keys"
    file.write_bytes(change(json.loads(file.read_text())))
    assert kept_keys.read(tmp_path, KEY) == (KEY,)


@pytest.mark.image
def test_a_container_that_is_started_again_is_opened_by_the_key_it_had_and_by_no_older_one(tmp_path):
    environ = variables(tmp_path)
    body = json.dumps({"seconds": 7200, "keys": [SECOND]}).encode()
    with running(tmp_path, environ) as started:
        started.wait_for("ready")
        assert ask(started.port, "PUT", "/lease", key=KEY, body=body).status == 200
    with running(tmp_path, environ) as again:
        again.wait_for("ready")
        assert ask(again.port, "GET", "/v1/models", key=SECOND).status == 200
        assert ask(again.port, "GET", "/v1/models", key=KEY).status == 401
    (tmp_path / "state" / "keys").write_text("damaged")
    with running(tmp_path, environ) as damaged:
        damaged.wait_for("ready")
        assert ask(damaged.port, "GET", "/v1/models", key=KEY).status == 200

    assert SECOND not in started.output + again.output


@pytest.mark.image
def test_a_disk_that_takes_nothing_keeps_no_key_from_changing(tmp_path):
    body = json.dumps({"seconds": 7200, "keys": [SECOND]}).encode()
    with running(tmp_path, variables(tmp_path)) as started:
        started.wait_for("ready")
        (tmp_path / "state" / "keys.new").mkdir()
        assert ask(started.port, "PUT", "/lease", key=KEY, body=body).status == 200
        assert ask(started.port, "GET", "/v1/models", key=SECOND).status == 200

    assert "The keys cannot be kept: " in started.output
