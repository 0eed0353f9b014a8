"""What an engine's /metrics says: its gauges, counters and histograms, and the rates and quantiles between two readings.

vLLM's and llama.cpp's names become ours. Pure. Only the panel's clock counts: times in the text are not read, so an
engine whose clock is wrong is read like any other.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf, isfinite
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

# First in a tuple what stands today; the others are names of older versions.
_GAUGES = {
    "running": ("vllm:num_requests_running", "llamacpp:requests_processing"),
    "waiting": ("vllm:num_requests_waiting", "llamacpp:requests_deferred"),
    "kv_use": ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc", "llamacpp:kv_cache_usage_ratio"),
}
_COUNTERS = {
    # vLLM counts a whole prompt, llama.cpp leaves out what it had in its cache and counts that beside it.
    "tokens_in": (
        "vllm:prompt_tokens_total",
        "llamacpp:prompt_tokens_total",
        "llamacpp:prompt_tokens_cached_total",
    ),
    "tokens_out": ("vllm:generation_tokens_total", "llamacpp:tokens_predicted_total"),
    "finished": ("vllm:request_success_total",),
}
_HISTOGRAMS = {
    "ttft": ("vllm:time_to_first_token_seconds",),
    "itl": ("vllm:inter_token_latency_seconds", "vllm:time_per_output_token_seconds"),
}
_STARTED = "process_start_time_seconds"
_REASONS = {
    "stop": "finished_stop", "length": "finished_length", "abort": "finished_abort", "error": "finished_error",
    # The engine broke it off by itself.
    "repetition": "finished_abort",
}  # fmt: skip
QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
LONGEST = 120.0
"""Seconds between two readings. Over more than that a rate would tell a burst as a trickle."""
MOST_LINES = 20_000
"""Lines of the names that are read here; an engine has some eighty."""

type Buckets = dict[float, float]
"""Upper bound, seconds -> how many were observed up to it."""


class Unreadable(ValueError):
    """This is no /metrics of an engine that is known here. The text says why, and holds nothing of the answer."""


@dataclass(frozen=True, slots=True)
class Reading:
    """One answer of /metrics, summed over the engine's label sets (its replicas, its adapters)."""

    gauges: dict[str, float] = field(default_factory=dict)
    counters: dict[str, float] = field(default_factory=dict)
    histograms: dict[str, Buckets] = field(default_factory=dict)
    started: float = 0.0
    """When the engine's process began, by its own clock; 0: it does not say. Only whether it changes is of use."""

    def freeze(self) -> dict[str, Any]:
        """What the next rates need, as JSON."""
        # The bounds as text: JSON knows no infinity.
        told = {k: [[str(bound) for bound in b], list(b.values())] for k, b in self.histograms.items()}
        return {"counters": self.counters, "histograms": told, "started": self.started}


def thaw(frozen: Mapping[str, Any]) -> Reading | None:
    """The reading that was frozen; None when there is none."""
    try:
        return Reading(
            counters={str(k): float(v) for k, v in frozen["counters"].items()},
            histograms={
                str(k): dict(zip(map(float, bounds), map(float, counts), strict=True))
                for k, (bounds, counts) in frozen["histograms"].items()
            },
            started=float(frozen["started"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


# -- reading ------------------------------------------------------------------------------------------

_OURS: dict[str, tuple[str, str]] = {
    **{name: (key, "gauge") for key, names in _GAUGES.items() for name in names},
    **{name: (key, "counter") for key, names in _COUNTERS.items() for name in names},
    **{f"{name}_bucket": (key, "bucket") for key, names in _HISTOGRAMS.items() for name in names},
}
_WANTED = re.compile(rf"^(?:{'|'.join(map(re.escape, (*_OURS, _STARTED)))})[ \t{{].*\n", re.MULTILINE)


def parse(text: str) -> Reading:
    """Read Prometheus text. Raises Unreadable for what is cut off, is not that, or tells nothing known here."""
    if not text.strip():
        raise Unreadable("/metrics is empty")
    if not text.endswith("\n"):
        raise Unreadable("/metrics is cut off")
    # An engine tells ten times as much as is read here, and the parser takes its time for each line.
    lines = _WANTED.findall(text)
    if len(lines) > MOST_LINES:
        raise Unreadable(f"/metrics has more than {MOST_LINES} lines of what is read")
    reading = _Sums()
    try:
        for family in text_string_to_metric_families("".join(lines)):
            for sample in family.samples:
                reading.add(sample.name, sample.labels, float(sample.value))
    except (ValueError, OverflowError, IndexError):
        raise Unreadable("/metrics cannot be read") from None
    if not (reading.gauges or reading.counters or reading.histograms):
        raise Unreadable("/metrics tells nothing that is known of an engine")
    return reading.whole()


class _Sums:
    def __init__(self) -> None:
        self.gauges: dict[str, float] = {}
        self.counters: dict[str, float] = {}
        self.histograms: dict[str, dict[str, Buckets]] = {}
        self.started = 0.0

    def add(self, name: str, labels: Mapping[str, str], value: float) -> None:
        if not isfinite(value) or value < 0:
            return
        if name == _STARTED:
            self.started = value
            return
        key, kind = _OURS[name]
        if kind == "bucket":
            bound = float(labels["le"]) if "le" in labels else inf
            some = self.histograms.setdefault(key, {}).setdefault(name, {})
            some[bound] = some.get(bound, 0.0) + value
        elif kind == "counter":
            key = _REASONS.get(labels.get("finished_reason", ""), "") if key == "finished" else key
            if key:
                self.counters[key] = self.counters.get(key, 0.0) + value
        elif key == "kv_use":
            # The fullest of several: that is the one that makes requests wait.
            self.gauges[key] = min(1.0, max(self.gauges.get(key, 0.0), value))
        else:
            self.gauges[key] = self.gauges.get(key, 0.0) + value

    def whole(self) -> Reading:
        # A version that tells a thing under its old and its new name tells it once.
        chosen = {key: some[min(some, key=_rank)] for key, some in self.histograms.items()}
        return Reading(
            self.gauges, self.counters, {k: dict(sorted(b.items())) for k, b in chosen.items()}, self.started
        )


def _rank(name: str) -> int:
    return list(_OURS).index(name)


# -- between two readings -----------------------------------------------------------------------------


def values(before: Reading | None, after: Reading, elapsed: float) -> dict[str, float]:
    """The samples' values: `after`'s gauges, and what happened in the `elapsed` seconds since `before`.

    Without a reading before, after too long a pause, or when the panel's clock was put back there are gauges only.
    """
    told = dict(after.gauges)
    if before is None or not 0 < elapsed <= LONGEST:
        return told
    restarted = _has_restarted(before, after)
    for key, value in after.counters.items():
        if (grown := _growth(before.counters.get(key), value, restarted=restarted)) is not None:
            if key.startswith("tokens"):
                told[f"{key}_rate"] = grown / elapsed
            else:
                told[key] = grown / elapsed * 60
    for key, buckets in after.histograms.items():
        told |= _quantiles(key, _grown_buckets(before.histograms.get(key), buckets, restarted=restarted))
    return told


def _has_restarted(before: Reading, after: Reading) -> bool:
    if before.started and after.started and before.started != after.started:
        return True
    # All counters of one process begin anew together: what did not move may not be told from what did.
    return any(value < before.counters.get(key, 0.0) for key, value in after.counters.items())


def _growth(before: float | None, after: float, *, restarted: bool) -> float | None:
    """A counter that began anew has counted all that it shows since. One that is new says nothing yet."""
    if restarted:
        return after
    return None if before is None else after - before


def _grown_buckets(before: Buckets | None, after: Buckets, *, restarted: bool) -> Buckets:
    if before is None or before.keys() != after.keys():
        return after if restarted else {}
    if restarted or any(count < before[bound] for bound, count in after.items()):
        return after
    return {bound: count - before[bound] for bound, count in after.items()}


def _quantiles(key: str, buckets: Buckets) -> dict[str, float]:
    bounds, counts = list(buckets), _rising(buckets.values())
    if not counts or not counts[-1]:
        return {}
    told = {f"{key}_{name}": quantile(q, bounds, counts) for name, q in QUANTILES.items()}
    return {**{k: v for k, v in told.items() if isfinite(v)}, f"{key}_count": counts[-1]}


def _rising(counts: Iterable[float]) -> list[float]:
    """The buckets are read one after another while they grow: a later one may lag behind."""
    rising, most = [], 0.0
    for count in counts:
        most = max(most, count)
        rising.append(most)
    return rising


def quantile(q: float, bounds: Sequence[float], counts: Sequence[float]) -> float:
    """The `q` quantile (0 to 1) of a histogram, as Prometheus's histogram_quantile tells it.

    `bounds`: the buckets' upper bounds, rising; `counts`: how many lie up to each, at least one in the last. Between
    two bounds it is as if they were spread evenly; beyond the last finite bound the answer is that bound.
    """
    rank = q * counts[-1]
    at = next(n for n, count in enumerate(counts) if count >= rank and count > 0)
    if bounds[at] == inf:
        return bounds[at - 1] if at else inf
    low, below = (bounds[at - 1], counts[at - 1]) if at else (0.0, 0.0)
    inside = counts[at] - below
    return low + (bounds[at] - low) * ((rank - below) / inside if inside else 1.0)
