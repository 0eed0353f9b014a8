"""How fast the local engine is here: start to /health 200, first prompt, decoding, memory, stop.

    .venv/bin/python -m tests.bench.bench_engine [--runs 5] [--context 4096]

Prints one line for each figure: median (least to most) of the runs.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections import defaultdict
from decimal import Decimal
from pathlib import Path
from typing import Any

import psutil

from deployments.providers.base import Order, Secret
from deployments.providers.local import LocalProvider
from deployments.providers.local_computer import CPU_KEY, cores, cpu_name
from deployments.providers.local_files import MachineFolder
from tests.providers.local import SMOLLM, ask, chat

KEY = "bench-key"
Figures = dict[str, list[float]]


def one_run(folder: Path, number: int, context: int, figures: Figures) -> None:
    provider = LocalProvider(folder, usd_per_hour=Decimal("0.05"))
    label = f"bench-{number}"
    quote = next(q for q in provider.quotes() if q.key == CPU_KEY)
    order = Order(label=label, quote=quote, api_key=Secret(KEY), **{**SMOLLM, "context": context})
    begin = time.perf_counter()
    provider.create(order, deadline=time.monotonic() + 30)
    figures["create returns, ms"].append(_ms(begin))
    url = _until(provider, label, begin, figures)
    measure(url, figures)
    state = MachineFolder(folder, label).read("state.json")
    for who in ("engine", "supervisor"):
        memory = psutil.Process(state[who]["pid"]).memory_info().rss
        figures[f"RSS of the {who}, MB"].append(memory / 1e6)
    for name, act in (("stop", provider.stop), ("terminate", provider.terminate)):
        begin = time.perf_counter()
        act(label)
        figures[f"{name}, ms"].append(_ms(begin))


def _until(provider: LocalProvider, label: str, begin: float, figures: Figures) -> str:
    """The machine's address, once it is warm; notes when it first answered."""
    url, healthy = None, False
    while True:
        look = time.perf_counter()
        machine = provider.list_machines().machines[0]
        figures["one list, ms"].append(_ms(look))
        if not machine.label == label or machine.status == "exited":
            raise SystemExit(f"{label}: {machine.detail}")
        url = machine.endpoint_url
        if url and not healthy and ask(url, "/health", key=None)[0] == 200:
            healthy = True
            figures["start to /health 200, ms"].append(_ms(begin))
        if url and machine.detail == "ready":
            figures["start to warm, ms"].append(_ms(begin))
            return url
        time.sleep(0.005)


def measure(url: str, figures: Figures) -> None:
    for which in ("first", "second"):
        answer = _chat(url, f"Write the {which} verse of a long song about the sea, please.", 128)
        figures[f"{which} prompt, ms"].append(answer["timings"]["prompt_ms"])
        figures["decode, tokens/s"].append(answer["timings"]["predicted_per_second"])
    answer = _chat(url, "word " * 1000, 1)
    figures["reading a prompt of 1000 tokens, tokens/s"].append(answer["timings"]["prompt_per_second"])


def _chat(url: str, words: str, max_tokens: int) -> dict[str, Any]:
    status, answer = chat(url, words, max_tokens=max_tokens, key=KEY)
    if status != 200:
        raise SystemExit(f"The engine answered {status}: {answer}")
    return dict(answer)


def _ms(begin: float) -> float:
    return (time.perf_counter() - begin) * 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--context", type=int, default=4096)
    options = parser.parse_args()
    figures: Figures = defaultdict(list)
    with tempfile.TemporaryDirectory(prefix="regia-bench-") as folder:
        for number in range(options.runs):
            one_run(Path(folder), number, options.context, figures)
    load = os.getloadavg()[0]
    print(f"{cpu_name()}, {cores()} cores, load {load:.1f}, {options.runs} runs, context {options.context}")
    for name, values in figures.items():
        print(f"{name:45} {statistics.median(values):9.1f}  ({min(values):.1f} to {max(values):.1f})")


if __name__ == "__main__":
    main()
