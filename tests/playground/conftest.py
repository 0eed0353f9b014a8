from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.playground import fake_engine


@pytest.fixture
def engine() -> Iterator[fake_engine.FakeEngine]:
    with fake_engine.running() as running:
        yield running
