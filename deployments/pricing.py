"""What an offer costs all-in: compute, disk and the traffic that is expected. Pure. USD."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from deployments.providers.base import Quote

HOURS_PER_MONTH = 730
"""Prices are compared over a month of 730 hours; money is counted by the calendar."""


@dataclass(frozen=True, slots=True)
class Price:
    """USD per hour, running and stopped."""

    compute: Decimal
    disk: Decimal
    traffic: Decimal
    """What is expected, spread over the month's hours; the bill follows the bytes."""
    held: Decimal
    """Stopped, without traffic."""

    @property
    def hour(self) -> Decimal:
        """All-in while it runs."""
        return self.compute + self.disk + self.traffic

    @property
    def month(self) -> Decimal:
        return self.hour * HOURS_PER_MONTH


def all_in(quote: Quote, *, traffic_gb: int, bid: Decimal | None = None) -> Price:
    """The offer's price with `traffic_gb` of traffic a month. `bid` is paid for an interruptible one's compute."""
    disk = max(quote.usd_per_hour - quote.compute_usd_per_hour, quote.disk_usd_per_hour)
    compute = quote.usd_per_hour - disk
    if quote.interruptible and bid is not None:
        compute = bid
    traffic = quote.traffic_usd_per_gb * traffic_gb / HOURS_PER_MONTH
    return Price(compute, disk, traffic, quote.held_usd_per_hour)
