"""The geometry of the server's SVG line charts: x in thousandths of the width, y in pixels from the top. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

WIDTH = 1000
"""The picture is stretched to the width of its place."""
TOP = 16
"""Pixels above the plot: the upper grid line's label stands there."""
FOOT = 20
"""Pixels below it, for the labels of the time axis."""

STEPS = tuple(
    timedelta(seconds=s)
    for s in (15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10_800, 14_400, 21_600, 43_200, 86_400, 172_800, 604_800, 2_592_000, 31_536_000)
)  # fmt: skip
"""Widths of time that a person counts in."""


@dataclass(frozen=True, slots=True)
class Tick:
    x: str
    label: str
    anchor: str
    """Where the label hangs: the outer ones stay inside the picture."""


@dataclass(frozen=True, slots=True)
class Line:
    """One series: `path` for an SVG path, and the values that have no neighbour to be joined to."""

    path: str
    dots: tuple[tuple[str, str], ...]


def nice_step(span: timedelta, most: int) -> timedelta:
    """The least of `STEPS` of which at most `most` fit into the span; the longest when none does."""
    return next((s for s in STEPS if span / s <= most), STEPS[-1])


def ticks(since: datetime, until: datetime, most: int = 6) -> tuple[Tick, ...]:
    """Round moments of the time axis, in UTC; at least a tenth of the width apart."""
    span = until - since
    step = nice_step(span, most)
    size = step.total_seconds()
    first = -(-since.timestamp() // size) * size
    found = []
    at = datetime.fromtimestamp(first, UTC)
    while at <= until:
        share = (at - since) / span
        anchor = "start" if share < 0.04 else "end" if share > 0.96 else "middle"
        found.append(Tick(f"{share * 100:.2f}%", tick_label(at, step), anchor))
        at += step
    return tuple(found)


def tick_label(at: datetime, step: timedelta) -> str:
    """ "14:05:15" below a minute, "28 Nov" at midnight and from a day on, else "14:05"."""
    if step >= timedelta(days=1) or (at.hour == at.minute == at.second == 0):
        return f"{at.day} {at:%b}"
    return f"{at:%H:%M:%S}" if step < timedelta(minutes=1) else f"{at:%H:%M}"


_ROUND = (1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0)


def top_of(values: Iterable[float | None]) -> float:
    """The value of the upper grid line: a round number that none exceeds, 1 when there is nothing above 0."""
    highest = max((v for v in values if v is not None), default=0.0)
    # What is less than a picture of 1 could show is none.
    if highest < 1e-12:
        return 1.0
    unit = 10.0 ** math.floor(math.log10(highest))
    # A value that a float's last digits put above its round number still stands on it.
    return next((r * unit for r in _ROUND if r * unit >= highest * (1 - 1e-9)), 10 * unit)


def line(
    at: Sequence[float], values: Sequence[float | None], *, since: float, until: float, top: float, height: int,
    gap: float, head: int = TOP,
) -> Line:  # fmt: skip
    """A line through the values, `head` pixels from the top of its picture; times and `gap` in seconds.

    Values further apart than `gap` are not joined.
    """
    span = (until - since) or 1.0
    runs: list[list[tuple[float, float]]] = []
    last = None
    for moment, value in zip(at, values, strict=True):
        if value is None:
            continue
        x = min(max((moment - since) / span, 0.0), 1.0) * WIDTH
        y = head + (1 - min(max(value / top, 0.0), 1.0)) * height
        if last is None or moment - last > gap:
            runs.append([])
        runs[-1].append((x, y))
        last = moment
    path = "".join("M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in run) for run in runs if len(run) > 1)
    dots = tuple((f"{run[0][0] / WIDTH * 100:.2f}%", f"{run[0][1]:.1f}") for run in runs if len(run) == 1)
    return Line(path, dots)
