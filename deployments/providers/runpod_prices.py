"""What RunPod bills, as USD per hour. Pure. Source: RunPod's docs on pods' and serverless pricing."""

from __future__ import annotations

from decimal import Decimal

from deployments.providers.values import nano, number, usd, whole

HOURS_PER_MONTH = 730
DISK_USD = Decimal("0.10")
"""Per GB and month: a container's disk and a volume, while the pod runs."""
STOPPED_VOLUME_USD = Decimal("0.20")
"""Per GB and month. The container's disk is wiped by a stop, and costs nothing then."""
VOLUME_USD, LARGE_VOLUME_USD = Decimal("0.07"), Decimal("0.05")
"""A network volume, per GB and month: its first terabyte, and what is beyond."""
FAST_FACTOR = 2
"""A high-performance volume: no price of it is in the contract, so it is taken for twice a standard one's."""
_LARGE_GB = 1000
_MICRO = Decimal("1e-6")
_PER_SECOND = Decimal("1e-5")


def price(value: object) -> Decimal | None:
    """A price out of RunPod's JSON. It sends single precision: what lies below a micro-dollar is noise."""
    amount = usd(value)
    return None if amount is None else amount.quantize(_MICRO)


def flex_price(value: object) -> Decimal | None:
    """The price of a worker's hour. It is billed by the second at five decimals, and shown rounded by the hour."""
    shown = price(value)
    if not shown:
        return None
    exact = (shown / 3600).quantize(_PER_SECOND) * 3600
    return exact if round(exact, 2) == shown else shown


def disk_price(gb: int, rate: Decimal = DISK_USD) -> Decimal:
    return nano(rate * gb / HOURS_PER_MONTH)


def network_volume_price(gb: int, *, fast: bool) -> Decimal:
    standard = disk_price(min(gb, _LARGE_GB), VOLUME_USD) + disk_price(
        max(0, gb - _LARGE_GB), LARGE_VOLUME_USD
    )
    return standard * FAST_FACTOR if fast else standard


def pod_price(cost: object, *, disk: object, volume: object, stopped: bool) -> Decimal | None:
    """What a pod bills now; None when RunPod does not say. Its `cost` is the GPUs alone, and 0 when stopped."""
    volume_gb = whole(volume) or 0
    if stopped:
        return disk_price(volume_gb, STOPPED_VOLUME_USD)
    compute = price(cost)
    # A pod that is not stopped and costs nothing has not been priced yet.
    if not compute or number(disk) is None:
        return None
    return compute + disk_price((whole(disk) or 0) + volume_gb)
