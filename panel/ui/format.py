"""Money, ages and durations as the panel writes them. Unknown is "n/a", never 0. Pure."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal

UNKNOWN = "n/a"


def usd(value: Decimal | None) -> str:
    """USD: two places from a cent up, four below ("$0.0034"), "n/a" for None."""
    if value is None:
        return UNKNOWN
    size = abs(value)
    if 0 < size < Decimal("0.0001"):
        return "<$0.0001" if value > 0 else "−<$0.0001"
    places = Decimal("0.0001") if 0 < size < Decimal("0.01") else Decimal("0.01")
    rounded = size.quantize(places, rounding=ROUND_HALF_UP)
    return f"{'−' if value < 0 else ''}${rounded:,}"


def price(value: Decimal | None) -> str:
    """A price: two to four places, as many as it has ("$0.43", "$0.055"), "n/a" for None."""
    if value is None:
        return UNKNOWN
    if 0 < value < Decimal("0.0001"):
        return "<$0.0001"
    text = f"{value.quantize(Decimal('0.0001'), rounding=ROUND_HALF_UP):,}"
    whole, _, cents = text.partition(".")
    return f"${whole}.{cents.rstrip('0').ljust(2, '0')}"


def age(span: timedelta) -> str:
    """One unit, rounded down: "14 s", "3 min", "5 h", "2 d". The page's script says it likewise."""
    seconds = max(0, int(span.total_seconds()))
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min"
    if seconds < 172_800:
        return f"{seconds // 3600} h"
    return f"{seconds // 86_400} d"


def duration(span: timedelta | None) -> str:
    """Two units: "4.2 s", "3 min 12 s", "2 h 5 min", "3 d 4 h"; "n/a" for None."""
    if span is None:
        return UNKNOWN
    exact = max(0.0, span.total_seconds())
    if 0 < exact < 10:
        return f"{exact:.1f} s"
    seconds = round(exact)
    for size, unit, lower, lower_unit in (
        (86_400, "d", 3600, "h"),
        (3600, "h", 60, "min"),
        (60, "min", 1, "s"),
    ):
        if seconds >= size:
            rest = seconds % size // lower
            return f"{seconds // size} {unit}" + (f" {rest} {lower_unit}" if rest else "")
    return f"{seconds} s"


def moment(when: datetime | None) -> str:
    """ "24 Nov 2026, 12:05:03 UTC"."""
    if when is None:
        return UNKNOWN
    utc = when.astimezone(UTC)
    return f"{utc.day} {utc:%b %Y, %H:%M:%S} UTC"


def short_moment(when: datetime | None) -> str:
    """ "24 Nov, 12:05 UTC"."""
    if when is None:
        return UNKNOWN
    utc = when.astimezone(UTC)
    return f"{utc.day} {utc:%b, %H:%M} UTC"


def memory(megabytes: int | None) -> str:
    """ "24 GB", "512 MB"; "none" for 0."""
    if megabytes is None:
        return UNKNOWN
    if megabytes < 1024:
        return f"{megabytes} MB" if megabytes else "none"
    return f"{megabytes / 1024:.0f} GB"
