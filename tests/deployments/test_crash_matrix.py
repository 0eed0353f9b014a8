"""Every crash point crossed with every outcome of the create: the invariants hold in each cell."""

from __future__ import annotations

import os
from datetime import timedelta

import pytest

from deployments import crash, services
from deployments.lifecycle import State
from deployments.models import Deployment
from tests.deployments.local_world import LocalWorld
from tests.deployments.world import FOREIGN, CloudWorld, World, live, settled
from tests.providers.faulty import Fault, Point

POINTS = [
    None,
    *crash.POINTS,
    (Point.BEFORE_REQUEST, "create"),
    (Point.BEFORE_ANSWER, "create"),
    (Point.BEFORE_ANSWER, "terminate"),
]
OUTCOMES = [
    Fault.OK,
    Fault.NO_CAPACITY,
    Fault.REJECTED,
    Fault.RATE_LIMITED,
    Fault.UNAVAILABLE,
    Fault.ERROR_BEFORE,
    Fault.TIMEOUT_BEFORE,
    Fault.ERROR_AFTER,
    Fault.TIMEOUT_AFTER,
    Fault.LOST_RESPONSE,
    Fault.LATE,
    Fault.OK_LATE,
]


LATE_POINTS = [5, 6, 8, (Point.BEFORE_ANSWER, "terminate")]
"""Those on the way back: armed when terminate is asked for."""


@pytest.mark.parametrize("outcome", OUTCOMES, ids=lambda o: o.name)
@pytest.mark.parametrize("where", POINTS, ids=str)
def test_no_machine_is_rented_twice_or_lost(world: CloudWorld, where, outcome) -> None:
    world.late_until = world.now + timedelta(seconds=90) if outcome in {Fault.LATE, Fault.OK_LATE} else None
    # Whatever shows up late does so within two minutes.
    walk(world, where, outcome, patience=timedelta(minutes=20), late=timedelta(minutes=2))
    assert world.standing() == [FOREIGN]


CELLS = [
    (where, outcome)
    for where in POINTS
    for outcome in OUTCOMES
    if where is None or outcome is Fault.OK or os.environ.get("REGIA_LONG")
]


@pytest.mark.engine
@pytest.mark.parametrize(("where", "outcome"), CELLS, ids=lambda v: getattr(v, "name", str(v)))
def test_no_engine_of_this_computer_is_started_twice_or_lost(local_world: LocalWorld, where, outcome) -> None:
    """The same with real engines. Each crash point and each outcome; every pair with REGIA_LONG=1."""
    world = local_world
    world.late_until = world.now + timedelta(seconds=1) if outcome in {Fault.LATE, Fault.OK_LATE} else None
    walk(world, where, outcome, patience=timedelta(seconds=60), late=timedelta(seconds=1))
    assert world.standing() == []


def walk(world: World, where, outcome: Fault, *, patience: timedelta, late: timedelta) -> None:
    """Launch into the outcome, die at the point, come up all the same; terminate, and leave nothing."""
    world.fail("create", outcome)
    world.die_at(None if where in LATE_POINTS else where)
    deployment = world.launch()
    world.run(patience, check=world.check, until=lambda: settled(deployment) == State.READY)
    if where == 1:
        world.die_at(None)  # nothing failed, so no next attempt was made
    world.run(late, check=world.check)
    assert settled(deployment) == State.READY
    assert len(live(deployment)) == 1
    world.check_books(deployment)

    if where in LATE_POINTS:
        world.die_at(where)
    services.terminate(Deployment.objects.get(pk=deployment.pk), actor=world.owner, now=world.now)
    world.run(patience, check=world.check, until=lambda: settled(deployment) == State.TERMINATED)
    assert settled(deployment) == State.TERMINATED
    world.check_books(deployment)
    if where not in {None, 1}:
        assert world.deaths == 1, "the crash point was never reached"
