"""The geometry of the server's SVG charts, in percent of the width and pixels of the height. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from decimal import ROUND_CEILING, Decimal


@dataclass(frozen=True, slots=True)
class Bar:
    x: str
    width: str
    y: str
    height: str
    middle: str
    label: str
    text: str
    partial: bool
    anchor: str
    """Where its label hangs: the outer ones stay inside the picture."""
    shown: bool
    """Whether its label is drawn: neighbours' labels would overlap."""


@dataclass(frozen=True, slots=True)
class BarChart:
    bars: tuple[Bar, ...]
    top: Decimal
    """The value of the upper grid line, USD."""
    height: int
    plot: int


def nice_ceiling(value: Decimal) -> Decimal:
    """The least of 1, 2, 2.5, 5 x 10^n that is not below `value`; 1 for 0."""
    if value <= 0:
        return Decimal(1)
    unit = Decimal(10) ** value.adjusted()
    for step in (Decimal(1), Decimal(2), Decimal("2.5"), Decimal(5), Decimal(10)):
        if step * unit >= value:
            return (step * unit).normalize()
    return (unit * 10).quantize(unit, rounding=ROUND_CEILING)


def bars(
    rows: Sequence[tuple[str, Decimal, str]], *, height: int = 132, last_partial: bool = True, labels: int = 5
) -> BarChart:
    """A bar for each (label, value in USD, value as text). About `labels` of the labels are drawn."""
    plot = height - 34
    top = nice_ceiling(max((value for _, value, _ in rows), default=Decimal(0)))
    count = max(1, len(rows))
    every = max(1, round((count - 1) / max(1, labels - 1)))
    step = 100 / count
    width = step * (0.64 if count <= 31 else 0.8)
    drawn = []
    for i, (label, value, text) in enumerate(rows):
        size = float(max(value, Decimal(0)) / top) * plot
        if value > 0:
            size = max(size, 2.0)
        drawn.append(
            Bar(
                x=f"{i * step + (step - width) / 2:.2f}%", width=f"{width:.2f}%",
                y=f"{16 + plot - size:.1f}", height=f"{size:.1f}", middle="100%" if i == count - 1 else f"{(i + 0.5) * step:.2f}%",
                anchor="end" if i == count - 1 else "middle" if i else "start",
                label=label, text=text, partial=last_partial and i == count - 1,
                shown=(count - 1 - i) % every == 0,
            )
        )  # fmt: skip
    return BarChart(bars=tuple(drawn), top=top, height=height, plot=plot)


def points(values: Sequence[float], *, width: int = 96, height: int = 24) -> str:
    """An SVG polyline's points for a sparkline; empty for fewer than two values."""
    if len(values) < 2:
        return ""
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    step = width / (len(values) - 1)
    return " ".join(
        f"{i * step:.1f},{height - 2 - (v - low) / span * (height - 4):.1f}" for i, v in enumerate(values)
    )


def share(part: Decimal, whole: Decimal) -> float:
    """`part` of `whole` in percent, within 0 and 100; 0 of nothing is 0, something of nothing is 100."""
    if whole <= 0:
        return 100.0 if part > 0 else 0.0
    return max(0.0, min(100.0, float(part / whole * 100)))


def share_of_time(part: timedelta, whole: timedelta) -> float:
    """`part` of `whole` in percent, within 0 and 100."""
    return max(0.0, min(100.0, part / whole * 100)) if whole else 0.0
