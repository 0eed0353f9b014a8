from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.command.engines import engines


@pytest.fixture
def data(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "data"
    for engine in engines(tmp_path / "data"):
        engine.kill()
