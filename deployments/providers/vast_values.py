"""What only Vast.ai's JSON has: its month, its disks' prices and its contracts' ids. Pure."""

from __future__ import annotations

from decimal import Decimal

from deployments.providers.values import MAX_USD, nano, number

MAX_GB = 1_000_000
MONTH = 720
"""Vast's month in hours (seen on the real offer)."""


def disk_usd_per_hour(usd_per_gb_month: object, gb: object) -> Decimal | None:
    """What a disk costs, USD per hour, from its price for a GB and month."""
    price, size = number(usd_per_gb_month), number(gb)
    if price is None or size is None or not 0 <= price <= MAX_USD or not 0 <= size <= MAX_GB:
        return None
    return nano(Decimal(str(usd_per_gb_month)) * Decimal(str(gb)) / MONTH)


def identity(value: object) -> str:
    """A contract's id as text; empty for what cannot be one."""
    if isinstance(value, str):
        return value if value.isascii() and value.isdigit() and len(value) <= 20 else ""
    n = number(value)
    return str(int(n)) if n is not None and n == int(n) and n > 0 else ""
