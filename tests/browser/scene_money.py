"""What the scene's machines gave for their money."""

from __future__ import annotations

from billing import rollup
from billing.models import DayTotal


def tell() -> None:
    """Every day that was charged made some tokens, but for small ones."""
    days: dict[object, dict[object, rollup.Output]] = {}
    for total in DayTotal.objects.filter(seconds__gt=1800):
        tokens = total.seconds * 40
        given = rollup.Output(tokens * 3, tokens, total.seconds // 3, total.seconds * 9 // 10, 700_000)
        days.setdefault(total.day, {})[total.subject_id] = given
    for day, outputs in days.items():
        rollup.give(day, outputs)
