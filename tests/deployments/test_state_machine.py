"""The panel in the hands of chance against both emulators: 2,000 steps in CI, the same each time; more with REGIA_LONG=1.

The long run tells what it did on standard output; `REGIA_EXAMPLES` is how many runs of each kind, 100 if not set.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import hypothesis
import pytest
from django.core.management import call_command
from hypothesis import HealthCheck, Phase
from hypothesis.stateful import run_state_machine_as_test

from deployments import decide, observe
from tests.deployments.emulated_world import KINDS, EmulatedWorld, emulated, slower
from tests.deployments.machine import Chance

LONG = bool(os.environ.get("REGIA_LONG"))
LENGTHS = {"pod": (5, 100), "vast": (5, 100), "serverless": (5, 100), "bid": (5, 100)}
"""Examples and steps in each, in CI. A long run takes a hundred examples of every kind, or REGIA_EXAMPLES."""


def _profile(kind: str) -> hypothesis.settings:
    examples, steps = LENGTHS[kind]
    if LONG:
        examples = int(os.environ.get("REGIA_EXAMPLES", "100"))
    return hypothesis.settings(
        max_examples=examples, stateful_step_count=steps, derandomize=not LONG, deadline=None, database=None,
        suppress_health_check=list(HealthCheck), report_multiple_bugs=False,
        # A failing run is told as it was: to make it smaller would take hours.
        phases=[Phase.generate],
    )  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_lost_doubled_or_forgotten_whatever_happens(
    kind: str, transactional_db, tmp_path, endpoint, settings, monkeypatch, rung
) -> None:
    @contextmanager
    def make() -> Iterator[EmulatedWorld]:
        call_command("flush", verbosity=0, interactive=False)
        endpoint.alive = True
        with (
            pytest.MonkeyPatch.context() as patch,
            emulated(kind, tmp_path, endpoint, settings, patch) as world,
        ):
            for module, name, seconds in (
                (decide, "MOVING", 5),
                (decide, "WAITING", 15),
                (observe, "STEADY_INTERVAL", 60),
            ):
                patch.setattr(module, name, timedelta(seconds=seconds))
            slower(world, 15.0)
            yield world

    machine = type(f"Chance_{kind}", (Chance,), {"make": staticmethod(make), "steps": 0, "examples": 0})
    began = time.monotonic()
    run_state_machine_as_test(machine, settings=_profile(kind))
    minutes = (time.monotonic() - began) / 60
    did = f"{machine.examples} examples, {machine.steps} steps, {machine.launched} launches"
    sys.stdout.write(f"\n{kind}: {did}, {minutes:.1f} minutes\n")
    assert LONG or machine.steps >= 500
