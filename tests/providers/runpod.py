"""Helpers of RunPod's tests: the adapter in front of the emulator."""

from __future__ import annotations

import time
from dataclasses import replace
from decimal import Decimal
from typing import Any

from deployments.providers.base import Order, Quote, Secret
from deployments.providers.runpod import Addresses, RunPodProvider
from tests.emulators.runpod import RunPodEmulator
from tests.providers.contract import API_KEY

IMAGE = "registry.example/regia-inference:1"
WORKER_IMAGE = "runpod/worker-v1-vllm:v2.25.2"
QWEN: dict[str, Any] = {
    "model_key": "qwen3-4b-awq", "repository": "Qwen/Qwen3-4B-AWQ",
    "revision": "136f16ffdca9c9e49527391169e042634b9ad0d6", "served_name": "qwen3-4b", "context": 4096,
}  # fmt: skip


def adapter(cloud: RunPodEmulator, key: str | None = "", **changes: Any) -> RunPodProvider:
    """For the emulator's first key; `key` None: without one."""
    secret = None if key is None else Secret(key or cloud.keys[0])
    options: dict[str, Any] = {
        "addresses": addresses(cloud.url), "worker_image": WORKER_IMAGE, "active_discount": Decimal(0),
        "disk_gb": 40, "port": 8000,
    }  # fmt: skip
    return RunPodProvider(secret, **{**options, **changes})


def addresses(url: str) -> Addresses:
    return Addresses(
        api=url, runtime=f"{url}/runtime", proxy=f"{url}/proxy/{{pod_id}}-{{port}}",
        balancer=f"{url}/balancer/{{endpoint_id}}",
    )  # fmt: skip


def quote_of(provider: RunPodProvider, tier: str, site: str = "EU-RO-1", gpu: str = "") -> Quote:
    return next(
        q for q in provider.quotes() if q.tier == tier and q.data_center == site and gpu in ("", q.gpu_name)
    )


def order_of(quote: Quote, label: str, **changes: Any) -> Order:
    order = Order(label=label, quote=quote, api_key=Secret(API_KEY), image=IMAGE, **QWEN)
    return replace(order, **changes)


_usual: dict[tuple[str, str, str], Quote] = {}


def usual_quote(provider: RunPodProvider, tier: str, site: str = "EU-RO-1") -> Quote:
    """The first offer of the tier there, as this emulator's catalogue stood when it was first asked."""
    key = (provider._addresses.api, tier, site)
    if key not in _usual:
        _usual[key] = quote_of(provider, tier, site)
    return _usual[key]


def create(provider: RunPodProvider, label: str, tier: str = "secure", **changes: Any) -> str:
    """The remote id of a machine in Romania."""
    order = order_of(usual_quote(provider, tier), label, **changes)
    return provider.create(order, deadline=time.monotonic() + 60)
