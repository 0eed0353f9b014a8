"""Vast.ai's market as the emulator keeps it: the offers and the search over them.

Prices follow the list of January 2026 (RTX 3090 $0.11, RTX 4090 $0.16, data centres dearer) and the real
offer of 2025-07-26 that the contract keeps.
"""

from __future__ import annotations

import operator
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from functools import lru_cache
from typing import Any

FIRST_OFFER = 21_348_645


@dataclass(frozen=True, slots=True)
class Gpu:
    name: str
    ram_mb: int
    compute_cap: int
    flops: float
    usd: str
    """Of a verified community host, USD per hour."""


@dataclass(frozen=True, slots=True)
class Offer:
    """One ask of a host. USD per hour for the whole offer."""

    id: int
    machine_id: int
    host_id: int
    gpu: Gpu
    num_gpus: int
    place: str | None
    """As Vast says it: "City, CC"; None when it does not."""
    usd_per_hour: Decimal
    min_bid: Decimal
    storage_cost: Decimal
    """USD for a GB and month of 720 hours."""
    inet_cost: Decimal = Decimal("0.001953125")
    """USD per GB, each way."""
    datacenter: bool = False
    verification: str = "verified"
    reliability: float = 0.9964528
    cuda_max_good: float = 13.0
    direct_port_count: int = 499
    disk_space: float = 973.7
    inet_down: float = 2118.0
    days: float = 90.0
    """How long from the emulator's start it can be rented."""
    external: bool = False
    listed: bool = True

    @property
    def country(self) -> str | None:
        """What a search by `geolocation` compares."""
        code = (self.place or "").rpartition(", ")[2]
        return code if len(code) == 2 else None


GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu("RTX 3090", 24_576, 860, 35.3, "0.11"),
        Gpu("RTX 4090", 24_564, 890, 81.5, "0.16"),
        Gpu("RTX 5090", 32_607, 1200, 107.6, "0.31"),
        Gpu("RTX 3060", 12_288, 860, 12.6, "0.05"),
        Gpu("RTX A4000", 16_376, 860, 19.1, "0.08"),
        Gpu("A10", 23_028, 860, 31.1, "0.17"),
        Gpu("A40", 46_068, 860, 37.2, "0.67"),
        Gpu("L40S", 46_068, 890, 91.3, "0.61"),
        Gpu("A100 SXM4", 81_920, 800, 19.4, "0.79"),
        Gpu("H100 SXM", 81_559, 900, 66.7, "1.87"),
        Gpu("GTX 1080 Ti", 11_264, 610, 11.3, "0.06"),
        Gpu("Tesla V100", 16_384, 700, 15.7, "0.13"),
    )
}

_RARE: dict[str, Any] = {"days": 0.5}
_SEEDS: tuple[tuple[str, str | None, str, dict[str, Any]], ...] = (
    ("RTX 3090", "Sofia, BG", "0.11", {}),
    ("RTX 3090", "Prague, CZ", "0.12", {}),
    ("RTX 3090", "Lyon, FR", "0.15", {"datacenter": True}),
    ("RTX 3090", "Stockholm, SE", "0.22", {"datacenter": True, "reliability": 0.9991}),
    ("RTX 4090", "Warsaw, PL", "0.16", {}),
    ("RTX 4090", "Madrid, ES", "0.19", {"reliability": 0.981}),
    ("RTX 4090", "Frankfurt, DE", "0.31", {"datacenter": True, "reliability": 0.9987}),
    ("RTX 4090", "Helsinki, FI", "0.34", {"datacenter": True}),
    ("A10", "Amsterdam, NL", "0.17", {"datacenter": True}),
    ("A40", "Dublin, IE", "0.67", {"datacenter": True}),
    ("RTX A4000", "Bucharest, RO", "0.08", {}),
    ("RTX 3090", "Oslo, NO", "0.14", {"datacenter": True}),
    # Offers that some rule turns down.
    ("RTX 3060", "Athens, GR", "0.05", {}),
    ("GTX 1080 Ti", "Lisbon, PT", "0.06", {"cuda_max_good": 12.2}),
    ("RTX 4090", "Rome, IT", "0.17", {"direct_port_count": 0}),
    ("RTX 4090", "Vienna, AT", "0.15", {"reliability": 0.82}),
    ("RTX 4090", "Brussels, BE", "0.14", {"verification": "unverified"}),
    ("RTX 4090", "Zagreb, HR", "0.18", _RARE),
    ("RTX 4090", "Riga, LV", "0.18", {"disk_space": 20.0}),
    ("RTX 4090", "Tallinn, EE", "0.16", {"cuda_max_good": 12.4}),
    ("RTX 4090", None, "0.10", {}),
    ("RTX 4090", "Texas, US", "0.16", {}),
    ("RTX 3090", "Virginia, US", "0.13", {"datacenter": True}),
    ("RTX 4090", "London, GB", "0.17", {}),
    ("RTX 4090", "Zurich, CH", "0.20", {"datacenter": True}),
    ("RTX 3090", "Kyiv, UA", "0.09", {}),
    ("RTX 5090", "Ontario, CA", "0.21", {"verification": "unverified", "cuda_max_good": 12.8}),
    ("H100 SXM", "Oslo, NO", "1.87", {"datacenter": True}),
)
_PLACES = (
    "Sofia, BG", "Prague, CZ", "Lyon, FR", "Frankfurt, DE", "Warsaw, PL", "Madrid, ES", "Milan, IT", "Malmo, SE",
    "Amsterdam, NL", "Oslo, NO", "Texas, US", "California, US", "Quebec, CA", "London, GB", "Seoul, KR",
    "Taipei, TW", "Kyiv, UA", "Hanoi, VN",
)  # fmt: skip


def catalogue(count: int | None = None) -> dict[int, Offer]:
    """The market by id: the same every time. `count` makes it that long, for tests under load."""
    offers = [_seed(number, *seed) for number, seed in enumerate(_SEEDS)]
    if count is not None:
        dice = random.Random(20261124)
        offers = [*offers, *(_random(n, dice) for n in range(len(offers), count))][:count]
    return {offer.id: offer for offer in offers}


def _seed(number: int, gpu: str, place: str | None, usd: str, fields: Mapping[str, Any]) -> Offer:
    price = Decimal(usd)
    return Offer(
        id=FIRST_OFFER + number * 10, machine_id=37_228 + number, host_id=98_979 + number // 2,
        gpu=GPUS[gpu], num_gpus=1, place=place, usd_per_hour=price, min_bid=price * Decimal("0.6"),
        storage_cost=Decimal("0.15"), **fields,
    )  # fmt: skip


def _random(number: int, dice: random.Random) -> Offer:
    gpu = dice.choice(list(GPUS.values()))
    count = dice.choice((1, 1, 1, 1, 2, 4, 8))
    price = (Decimal(gpu.usd) * count * dice.randint(90, 210) / 100).quantize(Decimal("0.0001"))
    return Offer(
        id=FIRST_OFFER + number * 10, machine_id=37_228 + number, host_id=98_979 + number // 3, gpu=gpu,
        num_gpus=count, place=dice.choice(_PLACES), usd_per_hour=price, min_bid=price * Decimal("0.6"),
        storage_cost=Decimal(dice.randint(10, 30)) / 100, datacenter=dice.random() < 0.3,
        reliability=round(dice.uniform(0.93, 0.9999), 6), disk_space=float(dice.randint(30, 4000)),
        direct_port_count=dice.choice((2, 20, 100, 499)), inet_down=float(dice.randint(200, 9000)),
        days=float(dice.randint(3, 360)),
    )  # fmt: skip


# -- search ---------------------------------------------------------------------------------------

TYPES = {"on-demand", "ondemand", "bid", "reserved"}
_NO_FILTERS = {"type", "order", "limit", "allocated_storage", "disable_bundling"}
_COMPARE: Mapping[str, Callable[[Any, Any], bool]] = {
    "eq": operator.eq, "neq": operator.ne, "gt": operator.gt, "gte": operator.ge, "lt": operator.lt,
    "lte": operator.le, "in": lambda have, wanted: have in wanted,
    "notin": lambda have, wanted: have not in wanted,
}  # fmt: skip


class BadQuery(ValueError):
    """The API answers 400."""


def select(rows: Sequence[Mapping[str, Any]], query: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The rows that a search's filters let through, in its order, cut to its limit."""
    filters = {name: tests for name, tests in query.items() if name not in _NO_FILTERS}
    for name, tests in filters.items():
        if not isinstance(tests, dict) or set(tests) - set(_COMPARE):
            raise BadQuery(f"Error in query parameters: {name} is not a valid search key")
    found = [row for row in rows if all(holds(row.get(n), tests) for n, tests in filters.items())]
    for name, way in reversed(_order(query)):
        found.sort(key=lambda row: _sortable(row.get(name)), reverse=way == "desc")
    limit = query.get("limit")
    return found[: int(limit)] if limit else found


def holds(have: Any, tests: Mapping[str, Any]) -> bool:
    """Whether a value meets every operator. Nothing but inequality is true of null."""
    for name, wanted in tests.items():
        if have is None:
            if name not in {"neq", "notin"} and not (name == "eq" and wanted is None):
                return False
        elif not _compare(name, have, wanted):
            return False
    return True


def _compare(name: str, have: Any, wanted: Any) -> bool:
    try:
        return _COMPARE[name](have, _like(have, wanted))
    except TypeError:
        return False


def _like(have: Any, wanted: Any) -> Any:
    """Queries that were parsed from a string carry their numbers as text."""
    if isinstance(wanted, list):
        return [_like(have, one) for one in wanted]
    if isinstance(wanted, str) and isinstance(have, int | float):
        try:
            return float(wanted)
        except ValueError:
            return wanted
    return wanted


def _order(query: Mapping[str, Any]) -> list[tuple[str, str]]:
    order = query.get("order") or []
    if not all(isinstance(pair, list) and len(pair) == 2 for pair in order):
        raise BadQuery("Error in query parameters: order takes pairs")
    return [(str(name), str(way)) for name, way in order]


def _sortable(value: Any) -> tuple[bool, Any]:
    return (value is not None, value if value is not None else 0)


def disk_usd_per_hour(storage_cost: Decimal, disk_gb: Decimal) -> Decimal:
    """Vast's month has 720 hours (seen on the real offer)."""
    return storage_cost * disk_gb / 720


def offer_row(
    offer: Offer, kind: str, *, storage: Decimal, min_bid: Decimal, rentable: bool, rented: bool, started: datetime,
    now: datetime,
) -> dict[str, Any]:  # fmt: skip
    """As `POST /bundles/` shows it. `min_bid` is the lowest bid that would win now."""
    ends = started.timestamp() + offer.days * 86_400
    lasting = _lasting_row(offer, kind, storage, min_bid)
    return lasting | {
        "rentable": rentable, "rented": rented, "end_date": ends, "duration": max(0.0, ends - now.timestamp()),
    }  # fmt: skip


@lru_cache(maxsize=20_000)
def _lasting_row(offer: Offer, kind: str, storage: Decimal, min_bid: Decimal) -> dict[str, Any]:
    """What of a row stays as it is from one search to the next."""
    base = float(min_bid if kind == "bid" else offer.usd_per_hour)
    disk = float(disk_usd_per_hour(offer.storage_cost, storage))
    gpu = offer.gpu
    return _offer_constants() | {
        "id": offer.id, "ask_contract_id": offer.id, "bundle_id": 1_886_000_000 + offer.machine_id,
        "machine_id": offer.machine_id, "host_id": offer.host_id, "hosting_type": int(offer.datacenter),
        "gpu_name": gpu.name, "num_gpus": offer.num_gpus, "gpu_ram": gpu.ram_mb,
        "gpu_total_ram": gpu.ram_mb * offer.num_gpus, "compute_cap": gpu.compute_cap,
        "total_flops": gpu.flops * offer.num_gpus, "flops_per_dphtotal": gpu.flops * offer.num_gpus / (base + disk),
        "gpu_ids": [offer.machine_id * 8 + n for n in range(offer.num_gpus)],
        "dph_base": base, "dph_total": base + disk, "dph_total_adj": base + disk + 0.0039,
        "discounted_dph_total": base + disk, "min_bid": float(min_bid), "is_bid": kind == "bid",
        "search": _costs(base, disk), "instance": _costs(0.0, disk),
        "storage_cost": float(offer.storage_cost), "storage_total_cost": disk,
        "inet_up_cost": float(offer.inet_cost), "inet_down_cost": float(offer.inet_cost),
        "internet_up_cost_per_tb": float(offer.inet_cost * 1024),
        "internet_down_cost_per_tb": float(offer.inet_cost * 1024),
        "geolocation": offer.place, "verification": offer.verification,
        "verified": offer.verification == "verified", "external": offer.external or None,
        "reliability": offer.reliability, "reliability2": offer.reliability, "cuda_max_good": offer.cuda_max_good,
        "direct_port_count": offer.direct_port_count, "disk_space": offer.disk_space,
        "inet_down": offer.inet_down, "inet_up": offer.inet_down, "public_ipaddr": "127.0.0.1",
        "score": offer.reliability * 1000 / (base + disk),
    }  # fmt: skip


def searchable(row: Mapping[str, Any], offer: Offer) -> dict[str, Any]:
    """The row with what can be searched for and is not shown, or is shown otherwise."""
    return {
        **row, "geolocation": offer.country, "datacenter": offer.datacenter, "external": offer.external,
        "ubuntu_version": row["os_version"], "id": offer.id,
    }  # fmt: skip


def _costs(gpu: float, disk: float) -> dict[str, float]:
    total = gpu + disk
    return {
        "gpuCostPerHour": gpu, "diskHour": disk, "totalHour": total, "discountTotalHour": 0,
        "discountedTotalPerHour": total,
    }  # fmt: skip


def _offer_constants() -> dict[str, Any]:
    return {
        "avail_vol_ask_id": None, "avail_vol_dph": None, "avail_vol_size": None, "bundled_results": None,
        "bw_nvlink": 0, "cluster_id": None, "cpu_arch": "amd64", "cpu_cores": 24, "cpu_cores_effective": 24.0,
        "cpu_ghz": 7.2, "cpu_name": "Core™ Ultra 9 285K", "cpu_ram": 63_745, "credit_discount_max": 0.4,
        "discount_rate": None, "discounted_hourly": 0, "disk_bw": 6116.4, "disk_name": "PC SN820 NVMe WD 4096GB",
        "dlperf": 141.77, "dlperf_per_dphtotal": 1225.29, "driver_vers": 570_124_004,
        "driver_version": "570.124.04", "expected_reliability": 0, "geolocode": 513_588_759, "gpu_arch": "nvidia",
        "gpu_display_active": False, "gpu_frac": 1, "gpu_lanes": 16, "gpu_max_power": 575, "gpu_max_temp": 79,
        "gpu_mem_bw": 1448.2, "has_avx": 1, "hostname": None, "is_vm_deverified": False, "mobo_name": "02JGX1",
        "os_version": "22.04", "pci_gen": 5, "pcie_bw": 51.5, "reliability_mult": 0.9657215, "resource_type": "gpu",
        "start_date": None, "static_ip": True, "time_remaining": "", "time_remaining_isbid": "", "vericode": 0,
        "vms_enabled": False, "vram_costperhour": 0.0033, "webpage": None,
    }  # fmt: skip
