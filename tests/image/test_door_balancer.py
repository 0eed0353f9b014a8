"""Behind RunPod's load balancer the bearer is RunPod's own key, so the machine's key has a header of its own."""

from __future__ import annotations

import pytest

from tests.image.doors import GUARDED, LISTED, OpenDoor, StandIn, bearer
from tests.image.running import KEY

pytestmark = pytest.mark.image
RUNPOD = bearer("rpa_ACCOUNTS_OWN_KEY_0123456789")


def test_the_machines_key_opens_the_door_whether_or_not_the_bearer_arrives(door: OpenDoor) -> None:
    for headers in ({"X-Regia-Key": KEY}, {**RUNPOD, "X-Regia-Key": KEY}):
        assert door.ask("GET", "/v1/models", headers=headers).status == 200
    assert door.ask("GET", "/v1/models", headers={**bearer(KEY), "X-Regia-Key": ""}).status == 200


def test_no_other_key_opens_it(door: OpenDoor, engine: StandIn) -> None:
    wrong = (
        RUNPOD, {"X-Regia-Key": KEY[:-1]}, {"X-Regia-Key": f"Bearer {KEY}"}, {"X-Regia-Key": f"{KEY}, {KEY}"},
        {"X-Regia-Key": ".*"}, {**bearer(KEY), "X-Regia-Key": "wrong-key-0123456789"},
    )  # fmt: skip
    for path in GUARDED:
        for headers in wrong:
            assert door.ask(LISTED[path], path, headers=headers).status == 401, (path, headers)
    assert engine.noted("asked") == []


def test_the_engine_learns_neither_key(door: OpenDoor, engine: StandIn) -> None:
    assert door.ask("GET", "/v1/models", headers={**RUNPOD, "X-Regia-Key": KEY}).status == 200
    [asked] = engine.noted("asked")
    assert not [value for value in map(str, asked.values()) if KEY in value or "rpa_" in value]
