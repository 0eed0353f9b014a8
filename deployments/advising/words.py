"""Figures as advice says them. Pure."""

from __future__ import annotations

from datetime import timedelta
from decimal import ROUND_HALF_UP, Decimal

from deployments.schedule import Schedule
from panel.ui.format import age, price, usd

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


def money(hour: Decimal) -> str:
    """A price of an hour: "$0.43/h"."""
    return f"{price(hour)}/h"


def amount(value: Decimal) -> str:
    """USD: "$313.90"."""
    return usd(value)


def hours(value: Decimal) -> str:
    """ "512.7 h"."""
    return f"{value.quantize(Decimal('0.1'), rounding=ROUND_HALF_UP):,f} h"


def span(seconds: float) -> str:
    """One unit, rounded down: "4 min"."""
    return age(timedelta(seconds=seconds))


def share(part: float) -> str:
    """ "38 %"."""
    return f"{part * 100:.0f} %"


def weekly(schedule: Schedule) -> str:
    """ "Mon–Fri, 07:00–20:00 Europe/Rome"."""
    around = schedule.start == schedule.end
    times = (
        f"{schedule.start:%H:%M}–{schedule.end:%H:%M}{', next day' if schedule.end < schedule.start else ''}"
    )
    return (
        f"{days(schedule.days)}, {'all day' if around and not schedule.start.hour else times} {schedule.zone}"
    )


def days(which: str) -> str:
    """ "Mon–Fri", "Mon, Wed", "every day"; of ISO weekdays."""
    names = [_DAYS[int(day) - 1] for day in which]
    if len(which) == 7:
        return "every day"
    if len(which) > 2 and which in "1234567":
        return f"{names[0]}–{names[-1]}"
    return ", ".join(names)
