"""A drill against the providers' emulators: asked for, killed, detected, relaunched, Ready, by the real adapters."""

from __future__ import annotations

from datetime import timedelta

import pytest

from deployments import drills
from deployments.lifecycle import State
from deployments.models import Deployment, Drill
from deployments.models.drill import DETECTION_GOAL
from deployments.monitoring import probe
from deployments.services import ActionRefused
from panel.notices.notify import open_notices
from tests import factories
from tests.deployments.emulated_world import EmulatedWorld, calm, lately, run_to
from tests.deployments.world import MINUTE, fresh

PROBED_EACH = probe.STEADY_INTERVAL
"""As in the product; worlds look more seldom."""


@pytest.mark.parametrize("emulated_world", ["pod", "vast"], indirect=True)
def test_what_is_killed_is_detected_in_time_and_replaced(emulated_world: EmulatedWorld, monkeypatch) -> None:
    world = emulated_world
    calm(world, monkeypatch)
    deployment, boss = world.launch(), factories.administrator()
    run_to(world, deployment, State.READY, within=10 * MINUTE)
    monkeypatch.setattr(probe, "STEADY_INTERVAL", PROBED_EACH)
    Deployment.objects.update(protected=True)
    with pytest.raises(ActionRefused, match="protected"):
        drills.begin(fresh(deployment), actor=boss, now=world.now)
    Deployment.objects.update(protected=False)
    killed, asked = lately(deployment), world.now
    drill = drills.begin(fresh(deployment), actor=boss, now=world.now)

    def each() -> None:
        drills.due(clock=world.clock)
        if probe.STEADY_INTERVAL == PROBED_EACH and Drill.objects.get().detected_at:
            # What comes then is no question of the probes' pace.
            monkeypatch.setattr(probe, "STEADY_INTERVAL", MINUTE)
        # Every machine answers at the one endpoint: it is gone with the machine, and there again with the next.
        world.endpoint.alive = bool(world.ours())
        world.check()

    world.run(20 * MINUTE, check=each, until=lambda: Drill.objects.get().is_over)
    drill.refresh_from_db()
    assert (drill.outcome, drill.instance) == ("ready", killed), drill.detail
    assert drill.replacement == lately(deployment)
    assert drill.replacement.attempt == 2
    assert killed.label not in world.standing()
    assert asked <= drill.killed_at < drill.detected_at <= drill.relaunched_at < drill.ready_at
    assert timedelta() < drill.detection <= DETECTION_GOAL
    assert (drill.was_quick, drill.relaunch + drill.startup) == (True, drill.outage)
    assert not open_notices().filter(key=f"drill:{deployment.pk}").exists()
    assert (len(world.creates()), len(world.ours())) == (2, 1)
    world.check_books(deployment)
