"""An order as the body of RunPod's create request, and the marks that an endpoint carries of us. Pure.

An endpoint says in its environment how many workers were ordered, so that what changed can be told and put back.
Our own stop is marked by a job limit that is one millisecond longer: it goes in the same request as the workers,
needs nothing read before and makes no new release, as a change of the environment would.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from deployments.providers.base import Order, Rejected
from deployments.providers.runpod_offers import BALANCED, COMMUNITY
from deployments.providers.values import whole

WORKERS_MIN, WORKERS_MAX = "REGIA_WORKERS_MIN", "REGIA_WORKERS_MAX"
QUEUE, LOAD_BALANCER = "QUEUE", "LOAD_BALANCER"
MOST_VARIABLES = 50
"""Of one's own, in a container at RunPod."""
JOB_MS, STOPPED_JOB_MS = 300_000, 300_001
WORKER_CUDA = "13.0"
"""What the pinned worker's image needs of the driver (worker-vllm v2.25.2)."""
_WORKER_CUDA = 13.0
_REQUESTS_PER_WORKER = 8


@dataclass(frozen=True, slots=True)
class Workers:
    min: int
    max: int


def pod_body(order: Order) -> dict[str, Any]:
    """Raises Rejected without an image: a pod has no default."""
    if not order.image:
        raise Rejected("No image is set for pods (INFERENCE_IMAGE), so nothing can be rented there.")
    tier, site, gpu_id, _ = _parts(order)
    return {
        "name": order.label,
        "cloud": "COMMUNITY" if tier == COMMUNITY else "SECURE",
        "image": order.image,
        # The count is always sent: without it RunPod speaks of missing instances.
        "gpu": {"id": gpu_id, "count": order.quote.gpu_count, **_pod_cuda(order)},
        "dataCenterIds": [site],
        "disk": order.disk_gb,
        "ports": [f"{order.port}/http"],
        "env": order.container_environment(),
    }


def endpoint_body(order: Order, worker_image: str) -> dict[str, Any]:
    """An endpoint of the quote's tier: a load balancer before our image, else a queue of RunPod's own worker.

    The machine's key has no use in the queue: RunPod's own key guards it. Raises Rejected.
    """
    if order.quote.tier == BALANCED:
        return _balancer_body(order)
    return _endpoint_body(order, QUEUE, worker_image, {**_worker_environment(order), **order.environment})


def _balancer_body(order: Order) -> dict[str, Any]:
    if not order.image:
        raise Rejected(
            "No image is set for a load balancer's workers (INFERENCE_IMAGE), so nothing can be rented."
        )
    environment = {**order.container_environment(), **_balancer_environment(order)}
    # The port is exposed as a pod's is: without that no worker ever becomes healthy.
    body = _endpoint_body(order, LOAD_BALANCER, order.image, environment)
    return {**body, "ports": [f"{order.port}/http"]}


def _endpoint_body(order: Order, kind: str, image: str, environment: Mapping[str, str]) -> dict[str, Any]:
    _, site, _, others = _parts(order)
    workers = Workers(order.quote.workers_min, max(order.quote.workers_min, 1))
    marked = {**environment, WORKERS_MIN: str(workers.min), WORKERS_MAX: str(workers.max)}
    if len(marked) > MOST_VARIABLES:
        raise Rejected(f"RunPod takes {MOST_VARIABLES} variables at most; this order has {len(marked)}.")
    return {
        "name": order.label,
        "type": kind,
        "image": image,
        "disk": order.disk_gb,
        "gpu": {
            "pools": [order.quote.gpu_pool],
            "count": order.quote.gpu_count,
            "minCudaVersion": WORKER_CUDA,
            **({"excludedTypes": others} if others else {}),
        },
        # One worker at most: the bill never goes beyond the quote's price.
        "workers": _workers(workers),
        "scaling": {"type": "REQUEST_COUNT", "requestCount": _REQUESTS_PER_WORKER},
        "dataCenterIds": [site],
        # Both are said: without them FlashBoot is off and the limit 0.
        "flashboot": "FLASHBOOT",
        "timeout": JOB_MS,
        "env": marked,
    }


def stop_body() -> dict[str, Any]:
    """No workers, and the mark that it was us."""
    return {"workers": _workers(Workers(0, 0)), "timeout": STOPPED_JOB_MS}


def start_body(ordered: Workers) -> dict[str, Any]:
    return {"workers": _workers(ordered), "timeout": JOB_MS}


def ordered_workers(environment: object) -> Workers | None:
    """What the endpoint's environment says was ordered; None when it does not say."""
    if not isinstance(environment, Mapping):
        return None
    least, most = (_count(environment.get(name)) for name in (WORKERS_MIN, WORKERS_MAX))
    return None if least is None or most is None or most < 1 else Workers(least, most)


def secrets_of(order: Order) -> list[str]:
    """What must not show in an error's text."""
    return [order.api_key.reveal(), *(value for value in order.environment.values() if len(value) >= 8)]


def _parts(order: Order) -> tuple[str, str, str, list[str]]:
    """(tier, data centre, GPU id, the rest of its pool) of the quote's key. Without a centre nothing is ordered."""
    parts = order.quote.key.split(":")
    if len(parts) not in (3, 4) or not all(parts):
        raise Rejected("This offer does not say in which data centre it stands, so it cannot be ordered.")
    others = parts[3].split(",") if len(parts) == 4 else []
    return parts[0], parts[1], parts[2], others


def _pod_cuda(order: Order) -> dict[str, str]:
    """Hosts differ: where the newest driver is offered, it is asked for. An older one fits or not by the quote."""
    newest = order.quote.cuda_max
    return {"minCudaVersion": WORKER_CUDA} if newest is not None and newest >= _WORKER_CUDA else {}


def _worker_environment(order: Order) -> dict[str, str]:
    """Source: worker-vllm's documented environment. The quantisation is left to it: it finds the faster kernel."""
    thinks = "qwen3" in order.repository.lower()
    return {
        "MODEL_NAME": order.repository,
        **({"MODEL_REVISION": order.revision} if order.revision else {}),
        "MAX_MODEL_LEN": str(order.context),
        "GPU_MEMORY_UTILIZATION": "0.90",
        "MAX_CONCURRENCY": "30",
        "OPENAI_SERVED_MODEL_NAME_OVERRIDE": order.served_name,
        "ENABLE_PREFIX_CACHING": "true",
        "ENABLE_AUTO_TOOL_CHOICE": "true",
        "TOOL_CALL_PARSER": "hermes",
        **({"REASONING_PARSER": "qwen3"} if thinks else {}),
        "VLLM_STARTUP_TIMEOUT": "1200",
    }


def _balancer_environment(order: Order) -> dict[str, str]:
    """Sources: RunPod REST v2 (`EndpointType`) and its page on load balancing.

    A lease would be renewed by requests, and those keep a worker awake: RunPod's scaler ends idle ones instead.
    """
    port = str(order.port)
    return {
        "PORT": port, "PORT_HEALTH": port, "HEALTH_CHECK_PATH": "/health", "REGIA_DOOR": "plain",
        "REGIA_LEASE_SECONDS": "0",
    }  # fmt: skip


def _workers(workers: Workers) -> dict[str, int]:
    return {"min": workers.min, "max": workers.max}


def _count(value: object) -> int | None:
    return (
        whole(int(value), most=1000)
        if isinstance(value, str) and value.isdecimal() and len(value) < 5
        else None
    )
