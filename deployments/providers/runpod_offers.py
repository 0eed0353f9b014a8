"""RunPod's catalogue as quotes: one for each GPU type, data centre and tier that has stock. Pure.

Prices are global for each tier; what differs between data centres is the stock and the country. A quote's key
says what a create needs, so that an order needs no look at the catalogue:

    secure:EU-RO-1:NVIDIA L4
    serverless-flex:EU-RO-1:NVIDIA L4:NVIDIA RTX A5000,NVIDIA GeForce RTX 3090      the rest of its pool, excluded
    serverless-lb:EU-RO-1:NVIDIA L4      a pool of one
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from deployments.providers.base import Quote
from deployments.providers.runpod_prices import disk_price, flex_price, price
from deployments.providers.runpod_sites import country_of
from deployments.providers.values import nano, text, whole

SECURE, COMMUNITY = "secure", "community"
FLEX, ACTIVE, BALANCED = "serverless-flex", "serverless-active", "serverless-lb"
LONGEST_KEY = 160
"""An offer whose key is longer is left out: cut, it would order something else."""
_STOCK = {"HIGH": "High", "MEDIUM": "Medium", "LOW": "Low"}
# NVIDIA's table of compute capabilities, by RunPod's GPU id.
_CAPABILITY: Mapping[str, float] = {
    "NVIDIA RTX A2000": 8.6, "NVIDIA RTX A4000": 8.6, "NVIDIA RTX A4500": 8.6, "NVIDIA RTX A5000": 8.6,
    "NVIDIA RTX A6000": 8.6, "NVIDIA A40": 8.6, "NVIDIA A30": 8.0, "NVIDIA A100 80GB PCIe": 8.0,
    "NVIDIA A100-SXM4-80GB": 8.0, "NVIDIA GeForce RTX 3070": 8.6, "NVIDIA GeForce RTX 3080": 8.6,
    "NVIDIA GeForce RTX 3080 Ti": 8.6, "NVIDIA GeForce RTX 3090": 8.6, "NVIDIA GeForce RTX 3090 Ti": 8.6,
    "NVIDIA GeForce RTX 4070 Ti": 8.9, "NVIDIA GeForce RTX 4080": 8.9, "NVIDIA GeForce RTX 4080 SUPER": 8.9,
    "NVIDIA GeForce RTX 4090": 8.9, "NVIDIA RTX 2000 Ada Generation": 8.9, "NVIDIA RTX 4000 Ada Generation": 8.9,
    "NVIDIA RTX 4000 SFF Ada Generation": 8.9, "NVIDIA RTX 5000 Ada Generation": 8.9,
    "NVIDIA RTX 6000 Ada Generation": 8.9, "NVIDIA L4": 8.9, "NVIDIA L40": 8.9, "NVIDIA L40S": 8.9,
    "NVIDIA H100 PCIe": 9.0, "NVIDIA H100 80GB HBM3": 9.0, "NVIDIA H100 NVL": 9.0, "NVIDIA H200": 9.0,
    "NVIDIA H200 NVL": 9.0, "NVIDIA B200": 10.0, "NVIDIA GeForce RTX 5080": 12.0,
    "NVIDIA GeForce RTX 5090": 12.0, "NVIDIA RTX PRO 6000 Blackwell Server Edition": 12.0,
    "NVIDIA RTX PRO 6000 Blackwell Workstation Edition": 12.0, "Tesla V100-SXM2-16GB": 7.0,
}  # fmt: skip
_CERTIFICATES = {
    "GDPR": "GDPR", "ISO_IEC_27001": "ISO 27001", "SOC_2_TYPE_2": "SOC 2 Type 2", "SOC_1_TYPE_2": "SOC 1 Type 2",
    "SOC_3_TYPE_2": "SOC 3 Type 2", "PCI_DSS": "PCI DSS", "HITRUST": "HITRUST", "HIPAA": "HIPAA",
}  # fmt: skip
_POD_NOTE = "A stop wipes the container's disk and saves nothing over terminate."
_WORKER_NOTE = "FlashBoot is on. At most one worker at a time."
_BALANCED_NOTE = f"A load balancer before our own image, not proved on a real account. {_WORKER_NOTE}"


@dataclass(frozen=True, slots=True)
class Terms:
    """What the installation orders and assumes. `active_discount`: off the flex price, 0 to 1."""

    disk_gb: int
    active_discount: Decimal
    certificates: Mapping[str, str] = field(default_factory=dict)
    """By data centre."""
    countries: Mapping[str, str] = field(default_factory=dict)
    """Of data centres that only RunPod's filter by country places."""
    load_balancer: bool = False
    """Offer load-balancing endpoints too, whose workers run our own image."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """One readable row of the catalogue."""

    id: str
    name: str
    pool: str
    memory_gb: int
    prices: Mapping[str, Decimal]
    """By tier; only what is offered."""
    stock: Mapping[str, str]
    """data centre -> our word, only where there is some."""
    cuda_max: float | None


def pod_quotes(rows: Iterable[Any], tier: str, terms: Terms) -> Iterator[Quote]:
    for gpu in _gpus(rows):
        if tier in gpu.prices:
            for site, stock in gpu.stock.items():
                yield _pod(gpu, tier, site, stock, terms)


def worker_quotes(rows: Sequence[Any], terms: Terms) -> Iterator[Quote]:
    """Flex and active: the same workers, at most one at a time, or always one. Balanced: flex with our own image."""
    pools, tiers = _pools(rows), (FLEX, ACTIVE, BALANCED) if terms.load_balancer else (FLEX, ACTIVE)
    for gpu in _gpus(rows):
        others = [other for other in pools.get(gpu.pool, ()) if other != gpu.id]
        if not gpu.pool or FLEX not in gpu.prices:
            continue
        for site, stock in gpu.stock.items():
            for tier in tiers:
                key = f"{tier}:{site}:{gpu.id}" + (f":{','.join(others)}" if others else "")
                yield _worker(gpu, key, tier, site, stock, terms)


def public_quotes(gpus: Sequence[Any], sites: Sequence[Any], terms: Terms) -> Iterator[Quote]:
    """Pods of the keyless catalogue. It says which data centre has stock, but not of which tier: taken as secure.

    Community hosts are not placed there, so they have one quote each and no country.
    """
    prices = {text(gpu.get("id")): gpu for gpu in _mappings(gpus)}
    stock: dict[str, dict[str, str]] = {}
    for site in _mappings(sites):
        for level in _mappings(site.get("gpuAvailability")):
            word = _STOCK.get(text(level.get("stockStatus")).upper())
            if word and text(site.get("id")):
                stock.setdefault(text(level.get("gpuTypeId")), {})[text(site["id"])] = word
    for gpu_id, row in prices.items():
        gpu = _public_gpu(gpu_id, row, stock.get(gpu_id, {}))
        if gpu and SECURE in gpu.prices:
            yield from (_pod(gpu, SECURE, site, word, terms) for site, word in gpu.stock.items())
        if gpu and COMMUNITY in gpu.prices:
            yield _pod(gpu, COMMUNITY, "", "", terms)


def sites_of(rows: Iterable[Any]) -> set[str]:
    """The data centres that a catalogue names."""
    return {site for gpu in _gpus(rows) for site in gpu.stock}


def certificates(rows: Iterable[Any]) -> dict[str, str]:
    """data centre -> its certificates in words, as the catalogue of data centres states them."""
    found = {}
    for row in _mappings(rows):
        held = row.get("compliance")
        words = (
            [_CERTIFICATES.get(c, "") for c in held if isinstance(c, str)] if isinstance(held, list) else []
        )
        if any(words):
            listed = ", ".join(w for w in words if w)
            found[text(row.get("id"))] = f"{listed} (the data centre, by RunPod's catalogue)"[:200]
    return found


def _pod(gpu: Gpu, tier: str, site: str, stock: str, terms: Terms) -> Quote:
    compute, disk = gpu.prices[tier], disk_price(terms.disk_gb)
    return Quote(
        key=f"{tier}:{site}:{gpu.id}", tier=tier, gpu_name=gpu.name, gpu_count=1, vram_mb=gpu.memory_gb * 1024,
        cpu_count=0, memory_mb=0, country=_country(site, terms), data_center=site, usd_per_hour=compute + disk,
        compute_usd_per_hour=compute, disk_usd_per_hour=disk, stopped_usd_per_hour=Decimal(0), stock=stock,
        host=site, cuda_max=gpu.cuda_max, compute_capability=_CAPABILITY.get(gpu.id), note=_POD_NOTE,
        # Secure Cloud: data centres under contract, with an SLA. Community: anybody's machine.
        sla=tier == SECURE, certification=terms.certificates.get(site, "") if tier == SECURE else "",
    )  # fmt: skip


def _worker(gpu: Gpu, key: str, tier: str, site: str, stock: str, terms: Terms) -> Quote:
    active = tier == ACTIVE
    compute, disk = gpu.prices[FLEX], disk_price(terms.disk_gb)
    note = _BALANCED_NOTE if tier == BALANCED else _WORKER_NOTE
    if active:
        compute = nano(compute * (1 - terms.active_discount))
        off = f"{(terms.active_discount * 100).normalize():f} %"
        note = f"RunPod publishes no price of always-on workers: the flex price less {off}. {_WORKER_NOTE}"
    return Quote(
        key=key, tier=tier, gpu_name=gpu.name, gpu_count=1, vram_mb=gpu.memory_gb * 1024, cpu_count=0, memory_mb=0,
        country=_country(site, terms), data_center=site, usd_per_hour=compute + disk, compute_usd_per_hour=compute,
        disk_usd_per_hour=disk, stopped_usd_per_hour=Decimal(0), stock=stock, serverless=True, estimate=active,
        workers_min=1 if active else 0, gpu_pool=gpu.pool, host=site, cuda_max=gpu.cuda_max,
        compute_capability=_CAPABILITY.get(gpu.id), certification=terms.certificates.get(site, ""), note=note,
    )  # fmt: skip


def _country(site: str, terms: Terms) -> str | None:
    return country_of(site) or terms.countries.get(site)


def _gpus(rows: Iterable[Any]) -> Iterator[Gpu]:
    """The rows that can be read. An offer that cannot be is no offer."""
    for row in _mappings(rows):
        gpu_id, memory = text(row.get("id")), whole(row.get("memory"), most=100_000)
        # The engine's images are CUDA's.
        if gpu_id and memory and row.get("manufacturer") in (None, "NVIDIA"):
            yield Gpu(
                gpu_id, text(row.get("name")) or gpu_id, text(row.get("pool"), most=40), memory, _prices(row),
                _stock_of(row.get("dataCenters")), _cuda_max(row.get("cudaVersions")),
            )  # fmt: skip


def _public_gpu(gpu_id: str, row: Mapping[str, Any], stock: Mapping[str, str]) -> Gpu | None:
    memory = whole(row.get("memoryInGb"), most=100_000)
    # GraphQL does not say who made it.
    if not memory or not gpu_id or gpu_id.startswith("AMD"):
        return None
    named = {SECURE: row.get("securePrice"), COMMUNITY: row.get("communityPrice")}
    prices = {tier: amount for tier, value in named.items() if (amount := price(value))}
    return Gpu(gpu_id, text(row.get("displayName")) or gpu_id, "", memory, prices, stock, None)


def _prices(row: Mapping[str, Any]) -> dict[str, Decimal]:
    """0 and null mean: not offered."""
    given = row.get("price")
    given = given if isinstance(given, Mapping) else {}
    found = {
        SECURE: price(given.get("secure")),
        COMMUNITY: price(given.get("community")),
        FLEX: flex_price(given.get("serverless")),
    }
    return {tier: amount for tier, amount in found.items() if amount}


def _stock_of(rows: object) -> dict[str, str]:
    found = {}
    for row in _mappings(rows):
        site, level = text(row.get("id")), row.get("availability")
        word = _STOCK.get(level, "") if isinstance(level, str) else ""
        if site and word:
            found[site] = word
    return found


def _cuda_max(rows: object) -> float | None:
    """The newest version with a free machine; "12.11" is newer than "12.2", so they are compared as numbers."""
    versions = []
    for row in _mappings(rows):
        major, _, minor = text(row.get("version")).partition(".")
        if row.get("available") is True and major.isdecimal() and minor.isdecimal():
            versions.append((int(major), int(minor)))
    return float("{}.{}".format(*max(versions))) if versions else None


def _pools(rows: Iterable[Any]) -> dict[str, list[str]]:
    """pool -> its GPU types, the unreadable ones too: an exclusion must name all the others."""
    found: dict[str, list[str]] = {}
    for row in _mappings(rows):
        if text(row.get("pool")) and text(row.get("id")):
            found.setdefault(text(row["pool"]), []).append(text(row["id"]))
    return found


def _mappings(rows: object) -> Iterator[Mapping[str, Any]]:
    return (row for row in rows if isinstance(row, Mapping)) if isinstance(rows, list | tuple) else iter(())
