"""A real engine under a real panel: it outlives the panel, and `./regia down` ends it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.command.engines import engines, launch, states
from tests.command.running import Panel, command, gone, until

pytestmark = pytest.mark.engine


def test_an_engine_outlives_the_panel_is_found_again_and_down_ends_both(data: Path) -> None:
    first = Panel(data)
    try:
        first.wait_for("leaves machines running")
        launch(data)
        until(lambda: states(data) == ["ready"], message="the engine did not become ready")
        engine = engines(data)
        assert engine
        assert first.end() == 0
    finally:
        first.close()
    assert "1 machine still runs, and $0.05 an hour is billed" in first.output
    assert not gone(engine)

    second = Panel(data)
    try:
        second.wait_for("leaves machines running")
        down = command("down", "--data-dir", str(data))
        assert down.returncode == 0, down.stdout + down.stderr
        assert "Terminating 1 machines" not in down.stdout
        assert "Proved: This computer lists no machine of this installation." in down.stdout
        assert "The panel has ended." in down.stdout
        assert second.process.wait(60) == 0
    finally:
        second.close()
    assert states(data) == ["terminated"]
    assert gone(engine)
    assert engines(data) == []


def test_down_where_nothing_was_ever_started_says_so(tmp_path: Path) -> None:
    down = command("down", "--data-dir", str(tmp_path / "none"))
    assert (down.returncode, down.stderr) == (0, "")
    assert down.stdout.startswith("Nothing was ever started in")
    assert not (tmp_path / "none").exists()
