from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from deployments import crash
from deployments.models.account import ADAPTERS
from panel.celery import app
from tests import factories
from tests.deployments import door as doors
from tests.deployments.endpoint import Endpoint
from tests.deployments.local_world import LocalWorld
from tests.deployments.world import Bells, CloudWorld, brisk

if TYPE_CHECKING:
    from tests.deployments.emulated_world import EmulatedWorld


@pytest.fixture(scope="session")
def endpoint() -> Iterator[Endpoint]:
    server = Endpoint()
    yield server
    server.close()


@pytest.fixture
def on_this_computer(settings) -> None:
    """Machines may stand at this computer's own addresses."""
    settings.ALLOW_INSECURE_ENDPOINTS = True


@pytest.fixture
def door() -> Iterator[doors.Door]:
    """Of a machine, in the clear."""
    with doors.opened() as running:
        yield running


@pytest.fixture
def world(
    transactional_db, tmp_path: Path, endpoint: Endpoint, settings, monkeypatch, rung
) -> Iterator[CloudWorld]:
    settings.ALLOW_INSECURE_ENDPOINTS = True
    endpoint.alive = True
    bells = Bells(tmp_path / "bells")
    monkeypatch.setattr(app, "send_task", bells.ring)
    brisk(monkeypatch)
    before = dict(ADAPTERS)
    yield CloudWorld(tmp_path, endpoint, bells, owner=factories.operator())
    ADAPTERS.clear()
    ADAPTERS.update(before)
    crash.armed.clear()


@pytest.fixture
def local_world(transactional_db, tmp_path: Path, monkeypatch, rung) -> Iterator[LocalWorld]:
    bells = Bells(tmp_path / "bells")
    monkeypatch.setattr(app, "send_task", bells.ring)
    before = dict(ADAPTERS)
    world = LocalWorld(tmp_path, bells, monkeypatch, owner=factories.operator())
    yield world
    for label in world.standing():
        world.local.terminate(label)
    ADAPTERS.clear()
    ADAPTERS.update(before)
    crash.armed.clear()


@pytest.fixture
def emulated_world(
    request, transactional_db, tmp_path: Path, endpoint: Endpoint, settings, monkeypatch, rung
) -> Iterator[EmulatedWorld]:
    """`indirect`: one of KINDS. At the end nothing has broken the provider's OpenAPI file."""
    from tests.deployments.emulated_world import emulated  # the emulators take a while to import

    endpoint.alive = True
    with emulated(request.param, tmp_path, endpoint, settings, monkeypatch) as world:
        yield world
    assert world.emulator.violations == []
