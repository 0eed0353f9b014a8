"""What the scene's machines gave for their money."""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal

from billing import fx, rollup
from billing.models import DayTotal


def tell(*, now: datetime) -> None:
    """Every day that was charged made some tokens, but for small ones; and what the bank said of the dollar."""
    days_ago = [(now - timedelta(days=n)).date() for n in range(1, 90)]
    fx.record_ecb([(day, {fx.RECORD: Decimal("1.0850")}) for day in days_ago], now=now)
    days: dict[object, dict[object, rollup.Output]] = {}
    for total in DayTotal.objects.filter(seconds__gt=1800):
        tokens = total.seconds * 40
        given = rollup.Output(tokens * 3, tokens, total.seconds // 3, total.seconds * 9 // 10, 700_000)
        days.setdefault(total.day, {})[total.subject_id] = given
    for day, outputs in days.items():
        rollup.give(day, outputs)
