"""Emulators for tests: started in this process, checked against the OpenAPI file, ended."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import httpx
import pytest

from tests.emulators.common import Clock
from tests.emulators.runpod import RunPodEmulator

NOON = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)


@pytest.fixture
def runpod_cloud() -> Iterator[RunPodEmulator]:
    """RunPod with a clock that stands still at noon; at the end nothing has broken the OpenAPI file."""
    with RunPodEmulator(clock=Clock(NOON), boot_seconds=60) as emulator:
        yield emulator
    assert emulator.violations == []


@pytest.fixture
def api(runpod_cloud: RunPodEmulator) -> Iterator[httpx.Client]:
    """A client with the first account's key."""
    headers = {"Authorization": f"Bearer {runpod_cloud.keys[0]}"}
    with httpx.Client(base_url=runpod_cloud.url, headers=headers, timeout=10) as client:
        yield client


def wait_until(true: Callable[[], object], *, seconds: float = 60.0) -> None:
    give_up = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < give_up
        time.sleep(0.05)
