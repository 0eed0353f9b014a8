"""The last hour at a glance: small lines without axes, drawn by the server."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from statistics import fmean
from uuid import UUID

from deployments.lifecycle import SERVING
from deployments.models import Deployment
from deployments.monitoring import samples
from deployments.views.boards import REQUESTS, TOKENS, TTFT, USE, Grid, Series, grid_of, value
from panel.ui import lines

SPAN = timedelta(hours=1)
POINTS = 60
FRESH = timedelta(minutes=3)
"""How old the newest value may be to be called the present one."""
ROW_HEIGHT, CARD_HEIGHT = 13, 36
HEAD = 2


@dataclass(frozen=True, slots=True)
class Spark:
    """A small line from 0 to its own highest value."""

    title: str
    latest: str
    """The present value, "n/a" when there is none."""
    line: lines.Line
    height: int
    label: str
    """The picture in words."""

    @property
    def full_height(self) -> int:
        return HEAD + self.height + 1


_OUT = TOKENS.series[0]
_CARDS = (
    ("First token, p95", TTFT.series[1], TTFT.unit),
    ("Tokens out", _OUT, TOKENS.unit),
    ("Requests running", REQUESTS.series[0], REQUESTS.unit),
    ("KV cache", USE.series[0], USE.unit),
)


def cards(instance_ids: Collection[UUID], *, now: datetime) -> list[Spark]:
    """What a deployment's first page shows of its machines; nothing when they told nothing in the last hour."""
    folds = {s.key: s.across for _, s, _ in _CARDS}
    told = samples.read_together(instance_ids, folds, now - SPAN, now, points=POINTS, now=now)
    if not told.at:
        return []
    grid = grid_of(told)
    return [_spark(title, s, unit, grid, CARD_HEIGHT, now=now) for title, s, unit in _CARDS]


def rows(deployments: Iterable[Deployment], *, now: datetime) -> dict[UUID, Spark]:
    """The tokens a second of each deployment's machine, by the deployment's id; only of those that serve."""
    serving = {d.current.pk: d.pk for d in deployments if d.current and d.current.status in SERVING}
    step = samples.step(now - SPAN, now, instances=len(serving), points=POINTS, now=now)
    found = {pk: samples.Together(step, [], {_OUT.key: []}) for pk in serving}
    for point in samples.read(list(serving), [_OUT.key], now - SPAN, now, points=POINTS, now=now):
        mine = found[point.instance_id]
        mine.at.append(int(point.at.timestamp()))
        mine.columns[_OUT.key].append(point.values[_OUT.key])
    return {
        serving[pk]: _spark("Tokens out", _OUT, TOKENS.unit, grid_of(told), ROW_HEIGHT, now=now)
        for pk, told in found.items()
    }


def _spark(title: str, series: Series, unit: str, grid: Grid, height: int, *, now: datetime) -> Spark:
    column = grid.columns[series.key]
    known = [(at, v) for at, v in zip(grid.at, column, strict=True) if v is not None]
    top = lines.top_of([v for _, v in known])
    since, until = (now - SPAN).timestamp(), now.timestamp()
    line = lines.line(
        grid.at, column, since=since, until=until, top=top, height=height, gap=grid.gap, head=HEAD
    )
    fresh = known and known[-1][0] + grid.step >= until - FRESH.total_seconds()
    latest = value(known[-1][1], unit) if fresh else value(None, unit)
    if not known:
        label = f"{title}, the last hour: no samples"
    else:
        mean, most = fmean(v for _, v in known), max(v for _, v in known)
        label = f"{title}, the last hour: {value(mean, unit)} on average, at most {value(most, unit)}"
    return Spark(title, latest, line, height, label)
