"""Vast.ai's offers as quotes, and the searches for them. Pure.

Source: the contract's sections 1 (search with dicts), 3 (price: `dph_base` or the bid, and the disk at
`storage_cost` for a GB and month of 720 hours; traffic apart) and 4 (where a machine stands).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from deployments.providers.base import Quote
from deployments.providers.values import Row, moment, nano, number, text, usd, whole
from deployments.providers.vast_values import MONTH, disk_usd_per_hour, identity
from deployments.residency import EEA

COMMUNITY, DATACENTER, INTERRUPTIBLE = "community", "datacenter", "interruptible"
ON_DEMAND, BID = "on-demand", "bid"
"""The two kinds of offer; they begin an offer's key."""
CERTIFICATION = "ISO 27001 (the host, by Vast.ai's terms for data centres)"
"""Vast.ai tells no certificate of an offer: it asks one of every host it calls a data centre (contract, 4)."""

_OUTSIDE = ("GB", "CH", "US", "CA")
"""Some of what stands outside the EEA, so that the page can say why it is refused."""
_MOST, _MOST_OUTSIDE = 1000, 100
_COUNTRY = re.compile(r",\s*([A-Z]{2})\s*$")
_SMALLEST_GPU_MB = 8000
_MOST_CORES = 32_000


@dataclass(frozen=True, slots=True)
class Search:
    kind: str
    limit: int
    query: dict[str, Any]


def searches(*, disk_gb: int) -> list[Search]:
    """What is asked of the market: the EEA on demand and by bid, and a few on demand from elsewhere."""
    return [
        Search(ON_DEMAND, _MOST, _query(sorted(EEA), disk_gb)),
        Search(BID, _MOST, _query(sorted(EEA), disk_gb)),
        Search(ON_DEMAND, _MOST_OUTSIDE, _query(_OUTSIDE, disk_gb)),
    ]


def _query(countries: Iterable[str], disk_gb: int) -> dict[str, Any]:
    """A dict, never a string: a string loses filters on its way (contract, gotcha 2)."""
    return {
        "verified": {"eq": True},
        "external": {"eq": False},
        "rentable": {"eq": True},
        "rented": {"eq": False},
        "num_gpus": {"eq": 1},
        "gpu_ram": {"gte": _SMALLEST_GPU_MB},
        "reliability": {"gte": 0.9},
        "direct_port_count": {"gte": 1},
        "cuda_max_good": {"gte": 12.0},
        "compute_cap": {"gte": 700},
        "cpu_arch": {"eq": "amd64"},
        "inet_down": {"gte": 100},
        "disk_space": {"gte": disk_gb},
        "geolocation": {"in": list(countries)},
    }


def quotes(
    rows: Iterable[object], kind: str, *, disk_gb: int, traffic_gb: int, now: datetime
) -> Iterator[Quote]:
    """The rows that can be rented for a known price; what a row leaves open is left open in its quote."""
    for row in rows:
        if isinstance(row, dict) and (
            found := quote(row, kind, disk_gb=disk_gb, traffic_gb=traffic_gb, now=now)
        ):
            yield found


def quote(row: Row, kind: str, *, disk_gb: int, traffic_gb: int, now: datetime) -> Quote | None:
    """One offer; None when it has no id, no price, no GPU, or was not verified."""
    ask, vram_mb, gpus = (
        identity(row.get("id")),
        whole(row.get("gpu_ram")),
        whole(row.get("num_gpus"), most=64),
    )
    compute, disk = _prices(row, kind, disk_gb)
    hours = _hours(row, now)
    if not ask or not vram_mb or not gpus or compute is None or disk is None:
        return None
    if not _is_rentable(row) or (hours is not None and hours <= 0):
        return None
    traffic = _traffic(row)
    datacenter = row.get("hosting_type") == 1 or row.get("datacenter") is True
    return Quote(
        key=f"{kind}:{ask}",
        tier=INTERRUPTIBLE if kind == BID else DATACENTER if datacenter else COMMUNITY,
        gpu_name=text(row.get("gpu_name")) or "unknown GPU",
        gpu_count=gpus,
        vram_mb=vram_mb,
        cpu_count=_cores(row),
        memory_mb=_memory_mb(row),
        country=country_of(row.get("geolocation")),
        data_center=text(row.get("geolocation")),
        usd_per_hour=compute + disk,
        compute_usd_per_hour=compute,
        disk_usd_per_hour=disk,
        stopped_usd_per_hour=disk,
        traffic_usd_per_gb=traffic,
        traffic_in_usd_per_gb=usd(row.get("inet_down_cost")),
        traffic_out_usd_per_gb=usd(row.get("inet_up_cost")),
        reliability=_reliability(row),
        max_hours=hours,
        interruptible=kind == BID,
        host=_named("vast-host-", row.get("host_id")),
        site=_named("", row.get("machine_id")),
        cuda_max=number(row.get("cuda_max_good")),
        compute_capability=_compute_capability(row),
        certification=CERTIFICATION if datacenter else "",
        note=_note(traffic, traffic_gb),
    )


def country_of(geolocation: object) -> str | None:
    """The country of "City, CC"; None for everything else, which the guard then refuses."""
    found = _COUNTRY.search(geolocation) if isinstance(geolocation, str) else None
    return found[1] if found else None


def ask_of(key: str) -> int | None:
    """The offer's id at Vast.ai in a quote's key; None when it is none of ours."""
    kind, _, ask = key.partition(":")
    return int(ask) if kind in {ON_DEMAND, BID} and identity(ask) else None


def _prices(row: Row, kind: str, disk_gb: int) -> tuple[Decimal | None, Decimal | None]:
    """Compute and disk, USD per hour; for a bid the lowest that wins. A zero is no price."""
    disk = disk_usd_per_hour(row.get("storage_cost"), disk_gb)
    compute = usd(row.get("min_bid"), up=True) if kind == BID else usd(row.get("dph_base"))
    if not compute or disk is None or kind == BID:
        return compute or None, disk
    # Rounded as one sum, as the machine's `dph_total` will be: else each launch would look like a new price.
    exact = Decimal(str(row["storage_cost"])) * disk_gb / MONTH
    return nano(Decimal(str(row["dph_base"])) + exact) - disk, disk


def _is_rentable(row: Row) -> bool:
    """The search asked for this already: a filter that was lost on the way must not cost money."""
    return row.get("rentable") is not False and row.get("verification") in ("verified", None)


def _hours(row: Row, now: datetime) -> float | None:
    """How long it can be rented at most: the sooner of what the row says."""
    seconds, end = number(row.get("duration")), moment(row.get("end_date"))
    said = [seconds] if seconds is not None else []
    said += [(end - now).total_seconds()] if end and not said else []
    return said[0] / 3600 if said else None


def _cores(row: Row) -> int:
    return (
        whole(row.get("cpu_cores_effective"), most=_MOST_CORES)
        or whole(row.get("cpu_cores"), most=_MOST_CORES)
        or 0
    )


def _memory_mb(row: Row) -> int:
    """The machine's memory, scaled to the offer's share of its cores."""
    memory = whole(row.get("cpu_ram"))
    all_cores, ours = number(row.get("cpu_cores")), number(row.get("cpu_cores_effective"))
    if not memory:
        return 0
    share = ours / all_cores if all_cores and ours and all_cores > 0 else number(row.get("gpu_frac"))
    return int(memory * share) if share is not None and 0 < share <= 1 else memory


def _traffic(row: Row) -> Decimal:
    """USD per GB, the dearer way."""
    return max(usd(row.get("inet_up_cost")) or Decimal(0), usd(row.get("inet_down_cost")) or Decimal(0))


def _reliability(row: Row) -> float | None:
    for name in ("reliability2", "reliability"):
        value = number(row.get(name))
        if value is not None and 0 <= value <= 1:
            return value
    return None


def _compute_capability(row: Row) -> float | None:
    value = number(row.get("compute_cap"))
    return value / 100 if value else None


def _named(prefix: str, value: object) -> str:
    name = identity(value)
    return f"{prefix}{name}" if name else ""


def _note(traffic: Decimal, traffic_gb: int) -> str:
    if not traffic:
        return ""
    month = nano(traffic * traffic_gb).quantize(Decimal("0.01"))
    return f"Every byte is charged, in any state: about ${month} for {traffic_gb} GB."
