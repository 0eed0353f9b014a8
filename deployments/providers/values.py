"""Values out of JSON of which nothing is sure: any may be missing, null or of another type. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from decimal import ROUND_CEILING, ROUND_HALF_EVEN, Decimal
from typing import Any

Row = Mapping[str, Any]

NANO = Decimal("1e-9")
"""Prices are kept to the nano-dollar, so that an offer and the machine rented on it compare equal."""
MAX_USD = Decimal(10_000)
"""An hour that costs more is no price."""

_TOKEN = re.compile(r"[A-Za-z0-9_+=-]{20,}")
_PIECE = re.compile(r"[A-Za-z0-9]{12,}")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]+")
_SECRET_LENGTH = 4


def text(value: object, *, most: int = 80) -> str:
    """A text of at most `most` characters without control characters; empty for anything else."""
    return _CONTROL.sub(" ", value).strip()[:most] if isinstance(value, str) else ""


def number(value: object) -> float | None:
    """A finite number; None for anything else, text and booleans too."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        out = float(value)
    except OverflowError:
        return None
    return out if math.isfinite(out) else None


def share(percents: Iterable[object]) -> float | None:
    """The mean of percentages (0 to 100) as a share (0 to 1); what is none is left out, None when nothing is left."""
    known = [n for p in percents if (n := number(p)) is not None and 0 <= n <= 100]
    return sum(known) / len(known) / 100 if known else None


def whole(value: object, *, most: int = 2**31 - 1) -> int | None:
    """A number from 0 to `most`, cut to its whole part."""
    n = number(value)
    return int(n) if n is not None and 0 <= n <= most else None


def usd(value: object, *, up: bool = False) -> Decimal | None:
    """USD from 0 on, to the nano-dollar (`up`: rounded up)."""
    n = number(value)
    if n is None or not 0 <= n <= MAX_USD:
        return None
    return nano(Decimal(str(value)), up=up)


def nano(amount: Decimal, *, up: bool = False) -> Decimal:
    return amount.quantize(NANO, rounding=ROUND_CEILING if up else ROUND_HALF_EVEN)


def moment(value: object) -> datetime | None:
    """Unix seconds as UTC."""
    n = number(value)
    if n is None or n <= 0:
        return None
    try:
        return datetime.fromtimestamp(n, UTC)
    except (OverflowError, OSError, ValueError):
        return None


def mask(said: str, secrets: Iterable[str] = ()) -> str:
    """`said` without the secrets, and without anything that looks like a key."""
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) >= _SECRET_LENGTH:
            said = said.replace(secret, "***")
    return _TOKEN.sub(lambda m: "***" if _is_random(m[0]) else m[0], said)


def _is_random(token: str) -> bool:
    """A long piece of letters and digits mixed: a key has one, the name of a model or a host has none."""
    return any(
        any(c.isdigit() for c in piece) and any(c.isalpha() for c in piece) for piece in _PIECE.findall(token)
    )
