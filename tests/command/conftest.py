from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from panel.supervisor import manage
from tests.command.engines import engines
from tests.command.running import environment


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder as it stands after a first start that has ended: made once, whatever the number of workers."""
    base = tmp_path_factory.getbasetemp()
    # The workers' folders stand side by side in the run's own.
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "prepared"
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            half = folder.with_suffix(".half")
            shutil.rmtree(half, ignore_errors=True)
            done = manage("prepare", environment=environment(REGIA_DATA_DIR=str(half)))
            assert done.returncode == 0, done.stderr
            half.rename(folder)
    return folder


@pytest.fixture
def data(tmp_path: Path, prepared: Path) -> Iterator[Path]:
    """A prepared data folder; its engines are ended after the test."""
    shutil.copytree(prepared, tmp_path / "data")
    yield tmp_path / "data"
    for engine in engines(tmp_path / "data"):
        engine.kill()
