"""The arithmetic of advice. Pure; USD, a month of 730 hours, and `Decimal` to the last digit."""

from __future__ import annotations

from decimal import Decimal

from deployments.pricing import HOURS_PER_MONTH

MONTH = Decimal(HOURS_PER_MONTH)
DAY = Decimal(24)
_SECONDS = Decimal(3600)


def month(hour: Decimal, *, hours_a_day: Decimal = DAY) -> Decimal:
    """What a month costs at `hour` for so many hours of each day."""
    return hour * MONTH * hours_a_day / DAY


def rested(hour: Decimal, held: Decimal, *, rest: int, week: int = 168) -> Decimal:
    """What a month saves in which it rests for `rest` hours of each week; never below 0."""
    return max(Decimal(0), (hour - held) * MONTH * rest / week)


def boot(hour: Decimal, seconds: float) -> Decimal:
    """What one start costs: the machine bills before it serves."""
    return hour * Decimal(str(max(0.0, seconds))) / _SECONDS


def moved(before: Decimal, after: Decimal, *, boot_usd: Decimal) -> Decimal:
    """What the first month saves after a move from `before` to `after` a month, its one start paid; never below 0."""
    return max(Decimal(0), before - after - boot_usd)


def break_even(always_on_hour: Decimal, worker_hour: Decimal) -> Decimal:
    """How many hours a day of work make a worker that scales to zero as dear as what is always on; 24 at most."""
    return min(DAY, always_on_hour * DAY / worker_hour) if worker_hour else DAY


def kept(held: Decimal, boot_usd: Decimal) -> Decimal:
    """After how many stopped hours a kept disk has cost more than a fresh start would."""
    return boot_usd / held
