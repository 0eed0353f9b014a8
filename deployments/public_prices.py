"""Prices of a day, kept with the panel for when no provider can be reached: what it may cost, never what it costs.

`snapshots/<day>.json` says where each figure comes from. Nothing can be rented from them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

from deployments.pricing import HOURS_PER_MONTH
from deployments.providers.base import Quote

SNAPSHOT = "2026-08-27"
PREFIX = "snapshot:"
"""Begins the key of every offer that is a price of the snapshot."""
DISK_GB = 40
VAST_MONTH_HOURS = 720
"""Vast.ai counts storage over 720 hours."""


def is_dated(key: str) -> bool:
    """Whether an offer's key is that of a dated price, which nothing can be rented from."""
    return key.startswith(PREFIX)


def dated() -> datetime:
    """The day of the snapshot, its midnight UTC."""
    return datetime.fromisoformat(_file()["dated"]).replace(tzinfo=UTC)


def words() -> str:
    """ "27 Aug 2026"."""
    return str(_file()["words"])


def quotes(backend: str) -> Sequence[Quote]:
    """What the snapshot has of a provider; nothing for one that it does not know."""
    makers = {"runpod": _runpod, "vast": _vast}
    return tuple(makers[backend](_file()[backend])) if backend in makers else ()


@cache
def _file() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(
        (Path(__file__).with_name("snapshots") / f"{SNAPSHOT}.json").read_text()
    )
    return loaded


def _runpod(part: dict[str, Any]) -> Iterator[Quote]:
    disk = Decimal(part["disk_usd_per_gb_month"]) * DISK_GB / HOURS_PER_MONTH
    note = f"A list price of {words()}. Whether it was in stock there is not known."
    for gpu in part["gpus"]:
        for site, country in part["data_centers"].items():
            yield _pod(gpu, "secure", country, site, disk, note)
        for country in part["community_countries"] if gpu["community"] else ():
            yield _pod(gpu, "community", country, "", disk, note)
    for pool in part["pools"]:
        for site, country in part["data_centers"].items():
            yield _worker(pool, country, site, note)


def _pod(gpu: dict[str, Any], tier: str, country: str, site: str, disk: Decimal, note: str) -> Quote:
    compute = Decimal(gpu[tier])
    return Quote(
        key=f"{PREFIX}{tier}:{gpu['id']}:{site or country}", tier=tier, gpu_name=gpu["name"], gpu_count=1,
        vram_mb=gpu["vram_gb"] * 1024, cpu_count=0, memory_mb=0, country=country, data_center=site,
        usd_per_hour=compute + disk, compute_usd_per_hour=compute, disk_usd_per_hour=disk, host=site,
        compute_capability=gpu["capability"], sla=tier == "secure", note=note,
    )  # fmt: skip


def _worker(pool: dict[str, Any], country: str, site: str, note: str) -> Quote:
    compute = Decimal(pool["usd_per_second"]) * 3600
    return Quote(
        key=f"{PREFIX}flex:{pool['id']}:{site}", tier="serverless-flex", gpu_name=pool["id"], gpu_count=1,
        vram_mb=pool["vram_gb"] * 1024, cpu_count=0, memory_mb=0, country=country, data_center=site,
        usd_per_hour=compute, compute_usd_per_hour=compute, stopped_usd_per_hour=Decimal(0), serverless=True,
        gpu_pool=pool["id"], compute_capability=pool["capability"], host=site, note=note,
    )  # fmt: skip


def _vast(part: dict[str, Any]) -> Iterator[Quote]:
    compute = Decimal(part["compute"])
    disk = Decimal(part["storage_usd_per_gb_month"]) * DISK_GB / VAST_MONTH_HOURS
    yield Quote(
        key=f"{PREFIX}vast", tier=part["tier"], gpu_name=part["gpu_name"], gpu_count=1, vram_mb=part["vram_mb"],
        cpu_count=part["cpu_count"], memory_mb=part["memory_mb"], country=part["country"], data_center=part["place"],
        usd_per_hour=compute + disk, compute_usd_per_hour=compute, disk_usd_per_hour=disk,
        traffic_usd_per_gb=Decimal(part["traffic_usd_per_gb"]), reliability=part["reliability"], host=part["host"],
        site=part["site"], cuda_max=part["cuda_max"], compute_capability=part["capability"], note=part["note"],
    )  # fmt: skip
