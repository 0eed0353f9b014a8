"""The real adapters over HTTP: every crash point, every outcome of the create, and pairs of them, at both providers.

In CI: each point with a clean answer, each outcome without a crash, and a few pairs. All pairs with REGIA_LONG=1.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from deployments import accounts, crash, services
from deployments.lifecycle import State
from deployments.models import ProviderAccount
from tests.deployments.emulated_world import EmulatedWorld, lately
from tests.deployments.world import MINUTE, fresh, live
from tests.emulators.common import Fault
from tests.providers.faulty import Point

BEFORE_CREATE = (Point.BEFORE_REQUEST, "create")
AFTER_CREATE = (Point.BEFORE_ANSWER, "create")
AFTER_TERMINATE = (Point.BEFORE_ANSWER, "terminate")
POINTS: list[Any] = [None, *crash.POINTS, BEFORE_CREATE, AFTER_CREATE, AFTER_TERMINATE]
LATE_POINTS = [5, 6, 8, AFTER_TERMINATE]
"""Those on the way back: armed when terminate is asked for."""
OUTCOMES = [
    Fault.OK, Fault.NO_CAPACITY, Fault.REJECTED, Fault.UNAUTHORIZED, Fault.RATE_LIMITED, Fault.RATE_LIMITED_AFTER,
    Fault.ERROR_BEFORE, Fault.HANG_BEFORE, Fault.ERROR_AFTER, Fault.GATEWAY_AFTER, Fault.LOST, Fault.HANG_AFTER,
    Fault.LATE, Fault.LOST_LATE, Fault.HTML, Fault.EMPTY_BODY, Fault.WRONG_TYPE, Fault.NULLS,
]  # fmt: skip
PAIRS = [(3, Fault.LOST), (7, Fault.LATE), (AFTER_CREATE, Fault.GATEWAY_AFTER)]


def _cells() -> Iterator[tuple[str, Any, Fault]]:
    for kind in ("pod", "vast", "serverless", "bid"):
        for where in POINTS:
            for outcome in OUTCOMES:
                if _is_tried(kind, where, outcome):
                    yield kind, where, outcome


def _is_tried(kind: str, where: Any, outcome: Fault) -> bool:
    if os.environ.get("REGIA_LONG"):
        return True
    if kind in {"pod", "vast"}:
        return where is None or outcome is Fault.OK or (where, outcome) in PAIRS
    return outcome is Fault.LOST_LATE if where is None else (where, outcome) == (AFTER_CREATE, Fault.OK)


CELLS = list(_cells())


@pytest.mark.parametrize(
    ("emulated_world", "where", "outcome"), CELLS, indirect=["emulated_world"], ids=lambda v: getattr(v, "name", str(v))
)  # fmt: skip
def test_no_machine_is_rented_twice_or_lost(emulated_world: EmulatedWorld, where, outcome: Fault) -> None:
    """Launch into the outcome, die at the point, come up all the same; terminate, and leave nothing."""
    world = emulated_world
    world.fail("create", outcome)
    world.die_at(None if where in LATE_POINTS else where)
    deployment = world.launch()
    _come_up(world, deployment)
    if where == 1:
        world.die_at(None)  # nothing failed, so no next attempt was made
    # Whatever shows up late does so within two minutes.
    world.run(2 * MINUTE, check=world.check)
    assert (lately(deployment).state, len(live(deployment))) == (State.READY, 1)
    world.check_books(deployment)

    if where in LATE_POINTS:
        world.die_at(where)
    services.terminate(fresh(deployment), actor=world.owner, now=world.now)
    world.run(20 * MINUTE, check=world.check, until=lambda: lately(deployment).state == State.TERMINATED)
    world.check_books(deployment)
    world.check_empty()
    assert all(world.emulator.ever(i.label) <= 1 for i in deployment.instances.all()), "rented twice"
    if where not in {None, 1}:
        assert world.deaths == 1, "the crash point was never reached"


def _come_up(world: EmulatedWorld, deployment) -> None:
    """Until it serves. An account whose key was refused is tested by its operator meanwhile."""
    end = world.now + 25 * MINUTE
    while lately(deployment).state != State.READY and world.now < end:
        if ProviderAccount.objects.get(pk=world.account.pk).create_refused:
            accounts.check(world.account.pk, now=world.now)
        world.run(
            timedelta(minutes=2), check=world.check, until=lambda: lately(deployment).state == State.READY
        )
