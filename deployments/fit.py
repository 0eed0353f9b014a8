"""Whether a model fits what an offer has: memory, CUDA and compute capability. Pure.

    needed = weights + KV cache (bytes per token x context x concurrency) + overhead

vLLM takes 90 % of one GPU's memory (`--gpu-memory-utilization`, its default) and nothing of a second GPU unless
it is told to. What the provider does not say is no refusal: it is said.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from deployments.catalog import OVERHEAD_BYTES, Model
from deployments.providers.base import Quote

MIB = 1024**2
CONCURRENCY = 4
"""Requests of full context that are served side by side."""
USABLE = 0.90
"""The share of a GPU's memory that the engine takes."""


@dataclass(frozen=True, slots=True)
class Fit:
    """The sum, in MB, and what stands against it. `reasons` say why not; `unknown` what nobody says. Sentences."""

    weights_mb: int
    cache_mb: int
    overhead_mb: int
    has_mb: int
    """The memory that the engine may use."""
    total_mb: int
    """The memory that there is: of one GPU, of the computer without one."""
    reasons: tuple[str, ...]
    unknown: tuple[str, ...]

    @property
    def ok(self) -> bool:
        return not self.reasons

    @property
    def needed_mb(self) -> int:
        return self.weights_mb + self.cache_mb + self.overhead_mb

    @property
    def sum(self) -> str:
        """ "7.5 weights + 4.5 cache + 1.0 overhead = 13.0 GB of 21.6 GB"."""
        return f"{in_words(self.weights_mb, self.cache_mb, self.overhead_mb)} of {_gb(self.has_mb)} GB"


def in_words(weights_mb: int, cache_mb: int, overhead_mb: int) -> str:
    """ "7.5 weights + 4.5 cache + 1.0 overhead = 13.0 GB"."""
    parts = f"{_gb(weights_mb)} weights + {_gb(cache_mb)} cache + {_gb(overhead_mb)} overhead"
    return f"{parts} = {_gb(weights_mb + cache_mb + overhead_mb)} GB"


def fit(model: Model, quote: Quote, *, context: int, concurrency: int = CONCURRENCY) -> Fit:
    """How `model` fits `quote` with `concurrency` requests of `context` tokens at once."""
    on_gpu = model.needs_gpu
    total = quote.vram_mb if on_gpu else quote.memory_mb
    has = int(total * USABLE) if on_gpu else total
    sizes = memory(model, context=context, concurrency=concurrency)
    reasons = tuple(_reasons(model, quote, sum(sizes), has, total))
    return Fit(*sizes, has, total, reasons, () if reasons else tuple(_unknown(model, quote)))


def memory(model: Model, *, context: int, concurrency: int = CONCURRENCY) -> tuple[int, int, int]:
    """What weights, cache and overhead take, MB."""
    cache = model.kv_bytes_per_token * context * concurrency
    return model.weights_bytes // MIB, cache // MIB, OVERHEAD_BYTES // MIB


def _reasons(model: Model, quote: Quote, needed: int, has: int, total: int) -> Iterator[str]:
    if not model.needs_gpu:
        if not quote.own_machine:
            yield "This model comes with the panel and runs on this computer only."
        elif has < needed:
            yield f"It needs {_gb(needed)} GB of memory; this one has {_gb(has)} GB."
        return
    if not quote.gpu_count:
        yield "This model needs a GPU."
        return
    if has < needed:
        yield f"It needs {_gb(needed)} GB of GPU memory; of {_gb(total)} GB the engine can use {_gb(has)} GB."
    if quote.cuda_max is not None and quote.cuda_max < model.min_cuda:
        yield f"The engine needs CUDA {model.min_cuda}; its driver runs {quote.cuda_max} at most."
    capability = quote.compute_capability
    if capability is not None and capability < model.min_compute_capability:
        yield (
            f"{model.precision} needs compute capability {model.min_compute_capability}; "
            f"this GPU has {capability}."
        )


def _unknown(model: Model, quote: Quote) -> Iterator[str]:
    if not model.needs_gpu:
        return
    if quote.compute_capability is None:
        yield f"The provider does not say its compute capability; {model.precision} needs {model.min_compute_capability}."
    if quote.cuda_max is None:
        yield f"The provider does not say which CUDA its driver runs; the engine needs {model.min_cuda}."


def _gb(megabytes: int) -> str:
    return f"{megabytes / 1024:.1f}"
