"""Folders for local engines, and the proof that none of them outlives the tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from deployments.providers.local import LocalProvider
from deployments.providers.local_process import MARK
from tests.providers.local import RATE, end_all

_used: list[Path] = []


@pytest.fixture
def engines(tmp_path: Path) -> Iterator[Path]:
    """An empty folder for engines; what still runs in it afterwards is ended."""
    folder = tmp_path / "engines"
    folder.mkdir()
    _used.append(folder)
    yield folder
    end_all(folder)


@pytest.fixture
def provider(engines: Path) -> LocalProvider:
    return LocalProvider(engines, usd_per_hour=RATE)


@pytest.fixture(scope="session", autouse=True)
def _no_engine_is_left() -> Iterator[None]:
    yield
    left = []
    for process in psutil.process_iter():
        try:
            mark = process.environ().get(MARK, "")
        except psutil.Error:
            continue
        if process.status() != psutil.STATUS_ZOMBIE and any(mark.startswith(f"{f}/") for f in _used):
            left.append(process)
    assert left == []
