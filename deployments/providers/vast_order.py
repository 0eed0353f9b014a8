"""What a create at Vast.ai sends. Pure.

Source: the contract's section 1 (limits of a create) and gotchas 3 and 5: without `cancel_unavail` a machine
that cannot start is kept, stopped, and its disk bills; without a price a bid's offer is rented on demand.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

from deployments.providers.base import Order, Rejected
from deployments.providers.vast_offers import ask_of

LONGEST_VALUE, LONGEST_ENVIRONMENT = 256, 32_768
LONGEST_LABEL = 256
SMALLEST_DISK = 8
LOWEST_BID, HIGHEST_BID = Decimal("0.001"), Decimal(128)

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def arguments(order: Order) -> tuple[int, dict[str, Any]]:
    """The offer's id, and the SDK's keyword arguments. Raises Rejected for an order that must not be sent."""
    ask = ask_of(order.quote.key)
    if ask is None:
        raise Rejected(f"{order.quote.key[:60]!r} is no offer of Vast.ai.")
    if not order.image:
        raise Rejected("No image is set, so there is nothing to run: see the setting INFERENCE_IMAGE.")
    if not 0 < len(order.label) <= LONGEST_LABEL:
        raise Rejected(f"A label at Vast.ai has 1 to {LONGEST_LABEL} characters.")
    if order.disk_gb < SMALLEST_DISK:
        raise Rejected(f"A disk at Vast.ai has {SMALLEST_DISK} GB at the least.")
    return ask, {
        "image": order.image,
        "disk": order.disk_gb,
        "label": order.label,
        "env": environment(order),
        # Left out, Vast takes ssh, which replaces the image's entrypoint: nothing would serve.
        "runtype": "args",
        "price": _price(order),
        "cancel_unavail": True,
    }


def environment(order: Order) -> dict[str, str]:
    """What the container is told, and its door's port, mapped. The image has its own entrypoint."""
    values = order.container_environment()
    _check(values)
    return {**values, f"-p {order.port}:{order.port}": "1"}


def _check(values: dict[str, str]) -> None:
    for name, value in values.items():
        # A name that begins with a dash would be an option of docker's.
        if not _NAME.fullmatch(name):
            raise Rejected(f"{name[:40]!r} cannot be the name of a variable.")
        if len(value) > LONGEST_VALUE:
            raise Rejected(
                f"The variable {name} has {len(value)} characters. Vast.ai takes {LONGEST_VALUE} at most."
            )
    if sum(len(k) + len(v) for k, v in values.items()) > LONGEST_ENVIRONMENT:
        raise Rejected(f"The variables together have more than {LONGEST_ENVIRONMENT} characters.")


def bid(usd_per_hour: Decimal) -> float:
    """A bid as it is sent. Raises Rejected outside of what Vast.ai takes."""
    if not usd_per_hour.is_finite() or not LOWEST_BID <= usd_per_hour <= HIGHEST_BID:
        raise Rejected(f"A bid at Vast.ai lies between ${LOWEST_BID} and ${HIGHEST_BID} an hour.")
    return float(usd_per_hour)


def _price(order: Order) -> float | None:
    if not order.quote.interruptible:
        return None
    if order.bid_usd_per_hour is None:
        # Sent without one, it would be rented on demand, at another price.
        raise Rejected("An interruptible offer is rented by a bid, and this order has none.")
    return bid(order.bid_usd_per_hour)
