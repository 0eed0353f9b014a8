"""Incidents beside the real reconciler and a cloud that can be bent."""

from __future__ import annotations

import pytest

from deployments import decide
from deployments.lifecycle import State
from deployments.models import Incident
from deployments.monitoring import incidents
from tests.deployments.world import MINUTE, CloudWorld, fresh, settled
from tests.providers.faulty import Fault

pytestmark = pytest.mark.django_db
Kind = Incident.Kind


def go(world: CloudWorld, minutes: float) -> None:
    """Let time pass with a look each half minute."""
    for _ in range(int(minutes * 2)):
        world.run(MINUTE / 2)
        incidents.watch(now=world.now)


def test_a_provider_that_fails_and_takes_its_machines_along_is_one_incident(
    world: CloudWorld, endpoint, monkeypatch
):
    world.calm(monkeypatch)
    monkeypatch.setattr(decide, "DEGRADED_LIMIT", 60 * MINUTE)
    deployments = [world.launch() for _ in range(3)]
    world.run(2 * MINUTE)
    incidents.watch(now=world.now)
    assert not Incident.objects.exists()
    world.fail("list_machines", *[Fault.ERROR_BEFORE] * 200)
    endpoint.alive = False
    go(world, 4)
    (found,) = Incident.objects.open()
    assert found.kind == Kind.PROVIDER
    touched = found.entries.filter(kind="touches").values_list("deployment", flat=True)
    assert set(touched) == {d.pk for d in deployments}
    endpoint.alive = True
    world.fail("list_machines")
    go(world, 4.5)
    assert all(settled(d) == State.READY for d in deployments)
    assert not Incident.objects.open()


def test_a_lost_machine_is_an_incident_until_it_is_replaced(world: CloudWorld, monkeypatch):
    world.calm(monkeypatch)
    deployment = world.launch()
    world.run(2 * MINUTE)
    world.cloud.remove(deployment.instances.get().label)
    go(world, 9)
    assert settled(deployment) == State.READY
    found = Incident.objects.get()
    assert (found.kind, found.deployment_id) == (Kind.DOWN, deployment.pk)
    assert found.closed_at is not None
    assert fresh(deployment).instances.count() == 2
