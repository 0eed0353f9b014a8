"""What the tests of the image share: a folder in memory, an engine, a door before it."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.image.doors import OpenDoor, StandIn, open_door, stand_in

LONG = bool(os.environ.get("REGIA_LONG"))


@pytest.fixture
def folder() -> Iterator[Path]:
    """As on a machine: in memory where there is a memory file system."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108
    path = Path(tempfile.mkdtemp(prefix="regia-image-", dir=memory))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="module")
def running_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandIn]:
    with stand_in(tmp_path_factory.mktemp("engine")) as engine:
        yield engine


@pytest.fixture
def engine(running_engine: StandIn) -> StandIn:
    """Nothing has been asked of it yet."""
    running_engine.forget()
    return running_engine


@pytest.fixture
def door(folder: Path, engine: StandIn) -> Iterator[OpenDoor]:
    """Plain, with one key."""
    with open_door(folder, engine) as opened:
        yield opened
