"""How the tests of Vast.ai's emulator ask it: by Vast's own SDK, and by hand."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
import requests

from tests.emulators.common import Clock
from tests.emulators.vast import Vast

KEY, OTHER = "vast-key-one", "vast-key-two"
NOON = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
EU = ["AT", "BE", "BG", "CZ", "DE", "EE", "ES", "FI", "FR", "GR", "IE", "IT", "NL", "PL", "PT", "RO", "SE"]
ENV = {"-p 8000:8000": "1", "REGIA_API_KEY": "sk-of-the-machine", "REGIA_SERVED_NAME": "qwen3-4b"}


@pytest.fixture
def vast() -> Iterator[Vast]:
    """Held at noon, a minute from create to running; afterwards nothing has broken the OpenAPI file."""
    with Vast(keys=(KEY, OTHER), clock=Clock(NOON), boot_seconds=60) as emulator:
        yield emulator
    assert emulator.violations == []


@pytest.fixture
def sdk(vast: Vast) -> Any:
    return sdk_of(vast)


def sdk_of(vast: Vast, key: str = KEY) -> Any:
    from vastai import VastAI

    return VastAI(key, server_url=vast.url, retry=1)


def search(sdk: Any, kind: str = "on-demand", **filters: Any) -> list[dict[str, Any]]:
    query = {
        "geolocation": {"in": EU},
        "gpu_name": {"eq": "RTX 4090"},
        "reliability": {"gte": 0.95},
        **filters,
    }
    return sdk.search_offers(query, type=kind, order="dph_total", limit=100, storage=40)


def rent(sdk: Any, offer: int, label: str = "regia-1", **fields: Any) -> int:
    order = {"image": "image/of:ours", "disk": 40, "env": ENV, "label": label, "cancel_unavail": True}
    answer = sdk.create_instance(offer, **{**order, "args": ["--port", "8000"], **fields})
    assert answer["success"] is True
    return int(answer["new_contract"])


def row_of(sdk: Any, label: str = "regia-1") -> dict[str, Any]:
    found = sdk.show_instances_v1({"select_filters": {"label": {"eq": label}}, "limit": 25})["instances"]
    assert len(found) == 1
    return found[0]


def refusal(call: Any, *args: Any, **fields: Any) -> requests.Response:
    with pytest.raises(requests.HTTPError) as caught:
        call(*args, **fields)
    return caught.value.response


def raw(vast: Vast, key: str | None = KEY) -> httpx.Client:
    headers = {"Authorization": f"Bearer {key}"} if key is not None else {}
    return httpx.Client(base_url=vast.url, headers=headers)
