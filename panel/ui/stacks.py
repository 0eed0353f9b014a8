"""The server's SVG of bars that are stacked of several series, and the table behind it. Pure.

Its pieces are made here rather than in a template: a quarter by day has some six hundred.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from django.utils.html import escape
from django.utils.safestring import SafeString

from panel.ui import format
from panel.ui.charts import nice_ceiling

ZERO = Decimal(0)
HEAD, FOOT = 16, 18
"""Pixels above the plot, for the upper grid line's label, and below it, for the bars' labels."""


@dataclass(frozen=True, slots=True)
class Stack:
    """A chart as its template shows it; `bars`, `labels` and `rows` are SVG and HTML."""

    bars: SafeString
    labels: SafeString
    rows: SafeString
    heads: tuple[str, ...]
    top: Decimal
    height: int
    zero: int


def stack(
    labels: Sequence[str],
    series: Sequence[tuple[str, str, Sequence[Decimal]]],
    *,
    partial: int | None = None,
    height: int = 200,
    shown: int = 6,
) -> Stack:
    """Bars of `series`: (CSS class, name, USD for each label), the first at the bottom.

    What is below zero, a credit, is told by the table alone. `partial` is the bar that still grows. About `shown` of
    the labels are drawn.
    """
    plot = height - HEAD - FOOT
    sums = [sum((max(values[i], ZERO) for _, _, values in series), ZERO) for i in range(len(labels))]
    top = nice_ceiling(max(sums, default=ZERO))
    count = max(1, len(labels))
    step = 100 / count
    width = step * (0.66 if count <= 31 else 0.82)
    names = [(css, escape(name), values) for css, name, values in series]
    drawn = []
    for i, label in enumerate(labels):
        x, y = f"{i * step + (step - width) / 2:.2f}%", float(HEAD + plot)
        said = escape(label)
        for css, name, values in names:
            if values[i] <= 0:
                continue
            size = max(float(values[i] / top) * plot, 1.0)
            y -= size
            grows = " partial" if i == partial else ""
            drawn.append(
                f'<rect class="{css}{grows}" x="{x}" y="{y:.1f}" width="{width:.2f}%" height="{size:.1f}">'
                f"<title>{said}, {name}: {format.usd(values[i])}</title></rect>"
            )
    return Stack(
        bars=SafeString("".join(drawn)),
        labels=SafeString(_labels(labels, step, height, shown)),
        rows=SafeString(_rows(labels, [values for _, _, values in series])),
        heads=tuple(name for _, name, _ in series),
        top=top,
        height=height,
        zero=HEAD + plot,
    )


def _labels(labels: Sequence[str], step: float, height: int, shown: int) -> str:
    last = len(labels) - 1
    every = max(1, round(last / max(1, shown - 1)))
    drawn = []
    for i, label in enumerate(labels):
        # Counted from the last one, which is the present; none so near to the edge that it hangs out of it.
        if (last - i) % every:
            continue
        middle = (i + 0.5) * step
        anchor, x = ("end", 100.0) if i == last else ("start", 0.0) if middle < 4 else ("middle", middle)
        drawn.append(f'<text x="{x:.2f}%" y="{height - 3}" text-anchor="{anchor}">{escape(label)}</text>')
    return "".join(drawn)


def _rows(labels: Sequence[str], columns: Sequence[Sequence[Decimal]]) -> str:
    rows = []
    for i, label in enumerate(labels):
        values = [column[i] for column in columns]
        cells = "".join(f'<td class="num">{format.usd(v)}</td>' for v in (*values, sum(values, ZERO)))
        rows.append(f'<tr><th scope="row">{escape(label)}</th>{cells}</tr>')
    return "".join(rows)
