"""Whether and how an order can run on this computer."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deployments.catalog import get_model
from deployments.providers import local_commands, local_computer
from deployments.providers.base import NoCapacity, Order, Rejected

_GIB = 1024**3
_CUSHION = 128 * 1024**2
"""Bytes that the rest of this computer keeps."""


def plan(order: Order) -> dict[str, Any]:
    """What the supervisor must know to run the order.

    Raises Rejected when it cannot run here at all, NoCapacity when memory is short now.
    """
    planned: dict[str, Any] = {
        "model_key": order.model_key, "repository": order.repository, "revision": order.revision,
        "served_name": order.served_name, "context": order.context, "quote_key": order.quote.key,
    }  # fmt: skip
    if order.model_key in local_commands.LLAMA_MODELS:
        planned["engine"] = "llama"
    elif order.quote.gpu_count == 0:
        raise Rejected(f"{order.model_key} needs an NVIDIA GPU, and this offer has none.")
    else:
        planned["engine"] = "vllm"
    return renew(planned)


def renew(planned: dict[str, Any]) -> dict[str, Any]:
    """The plan with what holds now: where the engine is and how much memory it may take. Raises as `plan`."""
    if planned["engine"] == "llama":
        gguf = _require_llama(planned["model_key"])
        _check_memory(planned)
        return {**planned, "gguf": str(gguf)}
    return {**planned, "executable": _require_vllm(), **_gpu_share(planned)}


def _require_llama(model_key: str) -> Path:
    if not local_commands.has_llama():
        raise Rejected("The local engine (xllamacpp) is not installed: see requirements/engine.lock.")
    gguf = local_commands.gguf_of(model_key)
    if gguf is None:
        raise Rejected(f"The model file of {model_key} is not installed: see requirements/engine.lock.")
    return gguf


def _require_vllm() -> str:
    executable = shutil.which("vllm")
    if executable is None:
        raise Rejected("vLLM is not installed on this computer, and this model needs it.")
    return executable


def _check_memory(planned: Mapping[str, Any]) -> None:
    model = get_model(planned["model_key"])
    if model is None:
        return
    cache = model.kv_bytes_per_token * int(planned["context"]) * local_commands.LLAMA_SLOTS
    needed = model.weights_bytes + cache + _CUSHION
    free = local_computer.memory()[1]
    if free < needed:
        raise NoCapacity(
            f"{model.name} with {planned['context']} tokens needs {needed / _GIB:.1f} GiB of memory; "
            f"this computer has {free / _GIB:.1f} GiB free."
        )


def _gpu_share(planned: Mapping[str, Any]) -> dict[str, Any]:
    gpu = next((g for g in local_computer.gpus() if g.offer_key == planned["quote_key"]), None)
    if gpu is None:
        raise NoCapacity("nvidia-smi does not show that GPU any more.")
    model = get_model(planned["model_key"])
    needed = model.memory_needed(int(planned["context"]), sequences=1) if model else 0
    if gpu.free_mb * 1024**2 < needed:
        raise NoCapacity(
            f"{planned['model_key']} with {planned['context']} tokens needs {needed / _GIB:.1f} GiB of GPU "
            f"memory; {gpu.name} has {gpu.free_mb / 1024:.1f} GiB free."
        )
    # vLLM wants its share free at the start and refuses to run when something else holds part of it.
    share = min(0.9, gpu.free_mb / gpu.total_mb - 0.02)
    return {"gpu_index": gpu.index, "gpu_memory_utilization": round(share, 2)}
