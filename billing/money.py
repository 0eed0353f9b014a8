"""Money as exact integers: one nano-dollar (1e-9 USD) is the quantum of record.

Amounts are `Decimal` in Python and whole nano-dollars in the database, so that sums are exact in every
database (SQLite keeps decimals as floats).
"""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN, Decimal

NANO = Decimal("1e-9")
CENT = Decimal("0.01")
HOURS_PER_MONTH = 730
"""A month when prices are compared (money.md); counted money uses the calendar's."""

MAX_USD = Decimal(999_999_999)
"""The largest amount that is accepted: it leaves the 64-bit sum room for nine such amounts."""

_US_PER_HOUR = 3_600_000_000
_MICROSECOND = timedelta(microseconds=1)


class BadAmount(ValueError):
    """Not an amount of money that can be recorded. The text is a sentence for operators."""


def quantize(usd: Decimal) -> Decimal:
    """`usd` rounded half-even to whole nano-dollars."""
    return usd.quantize(NANO, rounding=ROUND_HALF_EVEN)


def to_nano(usd: Decimal) -> int:
    """USD as whole nano-dollars. Raises BadAmount for what is not finite or beyond `MAX_USD` x 9."""
    if not usd.is_finite():
        raise BadAmount("An amount of money must be a number.")
    if abs(usd) > MAX_USD * 9:
        raise BadAmount(f"An amount of money must be below ${MAX_USD * 9:,.0f}.")
    return int(quantize(usd).scaleb(9))


def from_nano(nano: int) -> Decimal:
    """Nano-dollars as USD."""
    return Decimal(nano).scaleb(-9) if nano else Decimal(0)


def positive(usd: Decimal, *, what: str) -> Decimal:
    """`usd` in whole nano-dollars. Raises BadAmount, a sentence about `what`, unless 0 <= usd <= MAX_USD."""
    if not usd.is_finite():
        raise BadAmount(f"{what} must be a number.")
    if usd < 0:
        raise BadAmount(f"{what} cannot be negative.")
    if usd > MAX_USD:
        raise BadAmount(f"{what} cannot be more than ${MAX_USD:,}.")
    return quantize(usd)


def accrued(usd_per_hour: Decimal, span: timedelta) -> Decimal:
    """What `span` costs at `usd_per_hour`, USD, rounded half-up to a nano-dollar. Never negative."""
    return from_nano(accrued_nano(to_nano(usd_per_hour), span))


def accrued_between(usd_per_hour: Decimal, start: datetime, a: datetime, b: datetime) -> Decimal:
    """What a price that began at `start` costs between `a` and `b`, USD.

    It is the difference of two cumulative amounts, so that the parts of any split add up to the whole
    exactly, to the nano-dollar.
    """
    price = to_nano(usd_per_hour)
    return from_nano(accrued_nano(price, b - start) - accrued_nano(price, a - start))


def accrued_nano(price_nano: int, span: timedelta) -> int:
    """What `span` costs at `price_nano` an hour, nano-dollars, rounded half-up. Never negative."""
    us = max(0, span // _MICROSECOND)
    return (price_nano * us * 2 + _US_PER_HOUR) // (2 * _US_PER_HOUR)


def dollars(usd: Decimal, *, up: bool = False) -> str:
    """`usd` to the cent, as in "$1,234.50": never more than it is, or with `up` never less."""
    cents = usd.quantize(CENT, rounding=ROUND_CEILING if up else ROUND_FLOOR)
    return f"-${-cents:,}" if cents < 0 else f"${abs(cents):,}"
