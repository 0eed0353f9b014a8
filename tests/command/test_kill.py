"""kill -9 of the worker, of the whole stack and of the engine: nothing is lost, nothing is there twice."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import psutil
import pytest

from tests.command.engines import engines, launch, rows, states
from tests.command.running import PATIENCE, Panel, command, gone, until

pytestmark = pytest.mark.engine


def engine_of(data: Path) -> list[psutil.Process]:
    """The engine processes proper; their supervisors stand beside them."""
    return [p for p in engines(data) if "local_llama" in " ".join(p.cmdline())]


def books(data: Path) -> None:
    """Every machine that was rented has one open or closed price without a gap, and none is there twice."""
    for subject, open_, all_ in rows(
        data,
        "select subject_id, sum(ended_at is null), count(*) from billing_pricesegment group by subject_id",
    ):
        assert (open_ <= 1, all_) == (True, 1), subject


def end(data: Path) -> None:
    down = command("down", "--data-dir", str(data))
    assert down.returncode == 0, down.stdout + down.stderr
    assert engines(data) == []
    assert rows(data, "select count(*) from billing_pricesegment where ended_at is null") == [(0,)]
    assert rows(data, "select count(*) from billing_reservation where released_at is null") == [(0,)]


def test_the_worker_is_killed_during_a_launch(data: Path) -> None:
    panel = Panel(data)
    try:
        panel.wait_for("leaves machines running")
        worker = panel.child("worker")
        launch(data)
        until(
            lambda: rows(data, "select 1 from deployments_instance where create_sent_at is not null"),
            message="no create",
        )
        worker.kill()
        # The dead worker's lease has to run out first.
        until(
            lambda: "ready" in states(data),
            message="the launch was lost with its worker",
            patience=3 * PATIENCE,
        )
        # Killed between the mark and the request, the first attempt is proved to be none, and gives way.
        *before, last = states(data)
        assert (set(before) <= {"failed"}, last) == (True, "ready")
        assert rows(data, "select count(*) from billing_pricesegment where ended_at is null") == [(1,)]
        assert len(engine_of(data)) == 1
        books(data)
        end(data)
    finally:
        panel.close()


def test_the_whole_stack_is_killed_with_an_engine_running(data: Path) -> None:
    panel = Panel(data)
    try:
        panel.wait_for("leaves machines running")
        launch(data)
        until(lambda: states(data) == ["ready"], message="the engine did not become ready")
        (engine,) = engine_of(data)
        children = panel.children()
        for process in [psutil.Process(panel.process.pid), *children]:
            os.kill(process.pid, signal.SIGKILL)
        panel.process.wait(60)
        until(lambda: gone(children), message="a child outlived its kill")
        assert engine.is_running()
    finally:
        panel.close()

    again = Panel(data)
    try:
        again.wait_for("leaves machines running")
        seen = rows(data, "select max(looked_at) from deployments_deployment")
        until(
            lambda: rows(data, "select max(looked_at) from deployments_deployment") != seen,
            # Killed in the middle of a look: its lease runs for a minute.
            message="nobody looked", patience=2 * PATIENCE,
        )  # fmt: skip
        assert states(data) == ["ready"]
        assert [p.pid for p in engine_of(data)] == [engine.pid]
        books(data)
        end(data)
    finally:
        again.close()


def test_a_killed_engine_is_degraded_then_failed_and_replaced(data: Path) -> None:
    panel = Panel(data)
    try:
        panel.wait_for("leaves machines running")
        launch(data)
        until(lambda: states(data) == ["ready"], message="the engine did not become ready")
        (engine,) = engine_of(data)
        engine.kill()
        until(lambda: states(data) == ["failed", "ready"], message="it was not replaced")
        path = rows(
            data,
            "select to_state from deployments_event e join deployments_instance i on i.id = e.instance_id "
            "where i.attempt = 1 and e.kind = 'state' order by e.id",
        )
        assert [state for (state,) in path][-4:] == ["ready", "degraded", "terminating", "failed"]
        assert len(engine_of(data)) == 1
        books(data)
        end(data)
    finally:
        panel.close()
