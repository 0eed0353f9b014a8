"""What the tests of the RunPod emulator order."""

from __future__ import annotations

from typing import Any

import httpx

POD = {
    "name": "regia-1", "cloud": "SECURE", "image": "regia/inference:1", "disk": 40, "ports": ["8000/http"],
    "gpu": {"id": "NVIDIA RTX A5000", "count": 1, "minCudaVersion": "13.0"}, "dataCenterIds": ["EU-RO-1"],
    "env": {"REGIA_API_KEY": "planted-machine-key", "REGIA_SERVED_NAME": "qwen3-4b", "REGIA_CONTEXT": "2048"},
}  # fmt: skip
ENDPOINT = {
    "name": "regia-2", "type": "QUEUE", "image": "runpod/worker-v1-vllm:v2.25.2", "disk": 40,
    "gpu": {"pools": ["AMPERE_24", "ADA_24"], "count": 1, "minCudaVersion": "13.0"},
    "workers": {"min": 0, "max": 2}, "scaling": {"type": "REQUEST_COUNT", "requestCount": 8},
    "dataCenterIds": ["EU-RO-1", "EU-CZ-1"], "flashboot": "FLASHBOOT", "timeout": 300000,
    "env": {"MODEL_NAME": "Qwen/Qwen3-4B-AWQ", "OPENAI_SERVED_MODEL_NAME_OVERRIDE": "qwen3-4b"},
}  # fmt: skip

BALANCE = "query{myself{id clientBalance currentSpendPerHr spendLimit underBalance minBalance}}"


def rent(api: httpx.Client, **changes: Any) -> str:
    answer = api.post("/v2/pods", json={**POD, **changes})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def deploy(api: httpx.Client, **changes: Any) -> str:
    answer = api.post("/v2/serverless", json={**ENDPOINT, **changes})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def act(api: httpx.Client, pod: str, action: str) -> httpx.Response:
    return api.post(f"/v2/pods/{pod}/action", json={"action": action})
