"""What is rented at RunPod answers at the address that the adapter gives, with the key that it should."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from deployments.providers.base import Machine
from deployments.providers.runpod import RunPodProvider
from tests.emulators.common import RealEngines
from tests.emulators.runpod import RunPodEmulator
from tests.providers.contract import API_KEY, PATIENCE, found, new_label
from tests.providers.local import ask, chat
from tests.providers.runpod import adapter, create


@pytest.mark.engine
@pytest.mark.parametrize("tier", ["secure", "serverless-active"])
def test_from_create_to_chat_to_the_end(tmp_path: Path, tier: str) -> None:
    with RunPodEmulator(engines=RealEngines(tmp_path)) as cloud:
        provider, label = adapter(cloud), new_label()
        remote_id = create(provider, label, tier)
        # A pod has a key of its own; an endpoint is guarded by the account's.
        right, wrong = (API_KEY, cloud.keys[0]) if tier == "secure" else (cloud.keys[0], API_KEY)
        machine = answering(provider, label, right)
        assert machine.endpoint_url
        status, answer = chat(machine.endpoint_url, "Hello", key=right)
        assert status == 200
        assert answer["choices"][0]["message"]["content"]
        assert ask(machine.endpoint_url, "/v1/models", key=wrong)[0] == 401
        provider.terminate(remote_id)
        assert found(provider, label) == []
        assert cloud.machines() == []
    assert cloud.violations == []


def answering(provider: RunPodProvider, label: str, key: str) -> Machine:
    """The machine, once its address names the ordered model."""
    give_up = time.monotonic() + PATIENCE
    while time.monotonic() < give_up:
        [machine] = found(provider, label)
        if machine.endpoint_url:
            status, models = ask(machine.endpoint_url, "/v1/models", key=key)
            if status == 200 and models["data"][0]["id"] == "qwen3-4b":
                return machine
        time.sleep(0.2)
    raise AssertionError(f"{label} never answered.")
