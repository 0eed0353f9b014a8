"""What an interruptible machine bids on its compute. Pure; USD per hour."""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal

STEP = Decimal("0.001")
"""How far a bid goes beyond the lowest one that wins: the smallest that Vast.ai tells apart."""
APART = timedelta(minutes=1)
"""Two changes of one bid are this far apart at the least (Vast.ai takes one each 5.5 s)."""
AGAIN = timedelta(minutes=10)
"""A bid that wins by its figures, on a machine that is outbid all the same, may never have arrived: it is sent again."""
MOVED = "outbid: it moves to another offer"
"""Why an attempt was given back that was outbid; our own history knows it by this."""


def first(lowest: Decimal, wished: Decimal | None, ceiling: Decimal | None) -> Decimal:
    """The bid of a new attempt: what was wished for, at least what wins now, and never above the ceiling."""
    bid = max(lowest, wished) if wished is not None else lowest
    return bid if ceiling is None else min(bid, ceiling)


def higher(
    bid: Decimal | None, lowest: Decimal | None, ceiling: Decimal | None, changed_at: datetime | None, *, now: datetime
) -> Decimal | None:  # fmt: skip
    """The bid that would bring an outbid machine back; None when it cannot, may not or must wait.

    A change whose answer was lost is made again after `AGAIN`: the bid is then the one that it has already.
    Without a ceiling nothing is raised: nobody said how far.
    """
    if lowest is None or ceiling is None or lowest > ceiling:
        return None
    # A clock that was set back must not put the next change off.
    if changed_at and timedelta() <= now - changed_at < APART:
        return None
    wanted = min(lowest + STEP, ceiling)
    if bid is None or wanted > bid:
        return wanted
    is_lost = changed_at is not None and not timedelta() <= now - changed_at < AGAIN
    return bid if is_lost and bid <= ceiling else None


def ceiling(bid_ceiling: Decimal | None, price_ceiling: Decimal | None, disk: Decimal) -> Decimal | None:
    """How far a bid may go: its own ceiling, and what the all-in price's leaves after the disk."""
    if bid_ceiling is None or price_ceiling is None:
        return bid_ceiling
    return min(bid_ceiling, max(Decimal(0), price_ceiling - disk))
