"""What this computer is: cores, memory, its NVIDIA GPUs, and the offers made of them."""

from __future__ import annotations

import csv
import os
import platform
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import psutil

from deployments.providers.base import Quote

CPU_KEY = "this-computer"
_NVIDIA_QUERY = ["--query-gpu=index,name,memory.total,memory.free", "--format=csv,noheader,nounits"]
_MIB = 1024**2


@dataclass(frozen=True, slots=True)
class Gpu:
    """One NVIDIA GPU as nvidia-smi tells it. Memory in MiB."""

    index: int
    name: str
    total_mb: int
    free_mb: int

    @property
    def offer_key(self) -> str:
        return f"{CPU_KEY}-gpu-{self.index}"


def gpus() -> list[Gpu]:
    """The GPUs that nvidia-smi shows now; none without it, or when it fails."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    try:
        answer = subprocess.run(
            [tool, *_NVIDIA_QUERY], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return parse_gpus(answer.stdout)


def parse_gpus(text: str) -> list[Gpu]:
    """nvidia-smi's CSV (index, name, MiB in all, MiB free). Rows it cannot measure (`[N/A]`) are left out."""
    rows = csv.reader(text.splitlines(), skipinitialspace=True)
    return [
        Gpu(int(row[0]), row[1].strip(), int(row[2]), int(row[3]))
        for row in rows
        if len(row) == 4 and all(row[i].strip().isdigit() for i in (0, 2, 3))
    ]


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return psutil.cpu_count() or 1


def memory() -> tuple[int, int]:
    """Bytes of memory: (in all, free now). In a container its own limit counts."""
    host = psutil.virtual_memory()
    total, free = int(host.total), int(host.available)
    group = Path("/sys/fs/cgroup")
    try:
        limit = int((group / "memory.max").read_text())
        used = int((group / "memory.current").read_text())
    except (OSError, ValueError):
        return total, free
    return min(total, limit), max(0, min(free, limit - used))


def cpu_name() -> str:
    """The processor's own name."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def quotes(usd_per_hour: Decimal) -> Sequence[Quote]:
    """This computer as it is, named by its processor, and once more for each of its GPUs."""
    total, free = memory()
    name, count = cpu_name(), cores()
    plain = Quote(
        key=CPU_KEY, tier="local", gpu_name=name[:120], gpu_count=0, vram_mb=0, cpu_count=count,
        memory_mb=total // _MIB, country=None, data_center="This computer", usd_per_hour=usd_per_hour,
        compute_usd_per_hour=usd_per_hour, stock=_stock(free // _MIB, needed_mb=700), own_machine=True,
        usual_seconds_to_ready=2, note=f"{free / 1024**3:.1f} GiB of memory free",
    )  # fmt: skip
    vllm = "" if shutil.which("vllm") else "vLLM is not installed here. "
    return (
        plain,
        *(
            Quote(
                key=gpu.offer_key, tier="local", gpu_name=gpu.name, gpu_count=1, vram_mb=gpu.total_mb,
                cpu_count=count, memory_mb=total // _MIB, country=None, data_center="This computer",
                usd_per_hour=usd_per_hour, compute_usd_per_hour=usd_per_hour, own_machine=True,
                stock="none" if vllm else _stock(gpu.free_mb, needed_mb=5000),
                usual_seconds_to_ready=180, note=f"{vllm}{name}, {gpu.free_mb / 1024:.1f} GiB of GPU memory free",
            )
            for gpu in gpus()
        ),
    )  # fmt: skip


def _stock(free_mb: int, *, needed_mb: int) -> str:
    if free_mb < needed_mb:
        return "none"
    return "high" if free_mb >= 3 * needed_mb else "low"
