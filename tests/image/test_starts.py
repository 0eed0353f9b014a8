"""A machine that is started again and again does not live for ever by it."""

from __future__ import annotations

import json

import pytest
from regia_machine import starts

from tests.image.running import engine_command, running, variables


def test_the_first_start_counts_until_the_panel_speaks(tmp_path):
    assert starts.first(tmp_path, 100.0) == 100.0
    assert starts.first(tmp_path, 200.0) == 100.0

    starts.forget(tmp_path)

    assert starts.first(tmp_path, 300.0) == 300.0


def test_a_start_of_another_boot_is_not_comparable(tmp_path):
    (tmp_path / "started").write_text(json.dumps({"boot": "another", "at": 1.0}))

    assert starts.first(tmp_path, 300.0) == 300.0


@pytest.mark.parametrize("text", ["", "{", "[]", '{"boot": 1}', "null"])
def test_a_note_that_cannot_be_read_is_written_anew(tmp_path, text):
    (tmp_path / "started").write_text(text)

    assert starts.first(tmp_path, 300.0) == 300.0
    assert starts.first(tmp_path, 400.0) == 300.0


def test_a_start_in_the_future_is_not_believed(tmp_path):
    starts.first(tmp_path, 500.0)

    assert starts.first(tmp_path, 300.0) == 300.0


def test_forgetting_nothing_is_fine(tmp_path):
    starts.forget(tmp_path)


def test_a_container_that_is_started_again_and_again_ends_with_its_first_lease(tmp_path):
    """Its engine never comes up, so nobody could renew; the lease of the first start is long over."""
    (tmp_path / "state").mkdir()
    starts.first(tmp_path / "state", -1000.0)
    command = engine_command("--load-seconds", 60)
    environ = variables(
        tmp_path, REGIA_LEASE_SECONDS="300", REGIA_DRAIN_SECONDS="0", REGIA_ENGINE_COMMAND=command
    )

    with running(tmp_path, environ) as machine:
        assert machine.end(seconds=10).values["code"] == "74"
