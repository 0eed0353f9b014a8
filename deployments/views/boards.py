"""The charts of a page: what they show, and the samples of many instances as one series for each line."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from statistics import fmean

from django.utils.safestring import SafeString

from deployments.monitoring import samples
from deployments.views.timerange import TimeRange
from panel.ui import lines
from panel.ui.format import UNKNOWN

HEIGHT = 120
"""Pixels of a chart's plot."""
PICTURE = 200
"""The most values of a line in the server's picture: more are not seen, and the page is quicker with less."""
TABLE_ROWS = 48
POINTS = 1050
"""The most values of a line in a browser's chart, which has no more pixels: a week is 1,008 steps of ten minutes."""
SPARSE_GAP = 1200.0
"""Seconds between two canaries that are still joined by a line."""

Fold = Callable[[Sequence[float]], float]


@dataclass(frozen=True, slots=True)
class Series:
    """One line. Several machines at once are put together by `across`, several buckets of a table's row by `over`."""

    key: str
    word: str
    across: str = "max"
    over: Fold = max
    sparse: bool = False
    """Told more seldom than samples are taken: its values are joined over the empty ones between."""


@dataclass(frozen=True, slots=True)
class Chart:
    key: str
    title: str
    unit: str
    """s, tokens/s, requests, requests/min or share: how its values are written."""
    series: tuple[Series, ...]
    source: str
    """Where its numbers come from, in a sentence."""


def _quantiles(name: str) -> tuple[Series, ...]:
    return (Series(f"{name}_p50", "median"), Series(f"{name}_p95", "p95"), Series(f"{name}_p99", "p99"))


_WORST = "Of several machines at once the slowest, in a row of the table the slowest of its time."
TOKENS = Chart(
    "tokens", "Tokens", "tokens/s",
    (Series("tokens_out_rate", "out", "sum", fmean), Series("tokens_in_rate", "in", "sum", fmean)),
    "The engine's token counters, as a rate between two readings; of several machines at once the sum.",
)  # fmt: skip
REQUESTS = Chart(
    "requests", "Requests", "requests",
    (Series("running", "running", "sum", fmean), Series("waiting", "waiting", "sum", fmean)),
    "The engine's own count at the moment of the reading; of several machines at once the sum.",
)  # fmt: skip
TTFT = Chart(
    "ttft", "Time to first token", "s", _quantiles("ttft"),
    f"Quantiles of the engine's histogram between two readings. {_WORST}",
)  # fmt: skip
ITL = Chart(
    "itl", "Inter-token latency", "s", _quantiles("itl"),
    f"Quantiles of the engine's histogram between two readings. {_WORST}",
)  # fmt: skip
USE = Chart(
    "use", "KV cache and GPU", "share", (Series("kv_use", "KV cache"), Series("gpu_use", "GPU")),
    "KV cache: the engine's own figure. GPU: the provider's, where it tells one. Of several machines the fullest.",
)  # fmt: skip
FINISHED = Chart(
    "finished", "Finished requests", "requests/min",
    (
        Series("finished_stop", "complete", "sum", fmean),
        Series("finished_length", "at its limit", "sum", fmean),
        Series("finished_abort", "aborted", "sum", fmean),
        Series("finished_error", "failed", "sum", fmean),
    ),
    "The engine's counters by finish reason, as a rate between two readings.",
)  # fmt: skip
CANARY_TTFT = Chart(
    "canary_ttft", "Canary: time to first token", "s", (Series("canary_ttft", "first token", sparse=True),),
    "A short chat through the endpoint every few minutes, timed from here: the network is in it.",
)  # fmt: skip
CANARY_RATE = Chart(
    "canary_rate", "Canary: speed", "tokens/s", (Series("canary_rate", "out", "min", min, sparse=True),),
    "The tokens a second of the same chats.",
)  # fmt: skip
UP = Chart(
    "up", "Probes answered", "share", (Series("up", "answered", "max", fmean),),
    "The share of probes that the endpoint answered; of several machines at once the better one's.",
)  # fmt: skip

DEPLOYMENT = (TTFT, TOKENS, REQUESTS, ITL, USE, FINISHED, CANARY_TTFT, CANARY_RATE, UP)
FLEET = (
    TOKENS,
    REQUESTS,
    TTFT,
    Chart(
        "up", "Probes answered", "share", (Series("up", "answered", "avg", fmean),),
        "The share of probes that all endpoints together answered.",
    ),
)  # fmt: skip


def value(number: float | None, unit: str) -> str:
    """A value with its unit: "412 ms", "82 tok/s", "4.2 %"; "n/a" for None. The charts' script says it likewise."""
    if number is None:
        return UNKNOWN
    if unit == "share":
        return f"{_digits(number * 100)} %"
    if unit == "s":
        return f"{_digits(number * 1000)} ms" if number < 1 else f"{_digits(number)} s"
    return f"{_digits(number)}{_SHORT[unit]}"


_SHORT = {"tokens/s": " tok/s", "requests": "", "requests/min": "/min"}


def _digits(number: float) -> str:
    """Three digits at most below a thousand, and no zeros behind the point."""
    if number >= 99.95:
        return f"{number:,.0f}"
    text = f"{number:.1f}" if number >= 9.995 else f"{number:.2f}"
    return text.rstrip("0").rstrip(".")


type Bucket = tuple[int, int, int]
"""When it begins, its first place in a grid and the first behind it."""


@dataclass(frozen=True, slots=True)
class Grid:
    """The columns of all lines over one row of times. A time at which nothing is known separates what is apart."""

    at: list[int]
    """Seconds since 1970; where a bucket begins."""
    columns: dict[str, list[float | None]]
    step: int
    """Seconds in a bucket."""
    _seen: dict[int, list[Bucket]] = field(default_factory=dict, compare=False, repr=False)

    def buckets(self, width: int) -> list[Bucket]:
        """Its times in buckets of `width` seconds, once for all lines."""
        if width not in self._seen:
            self._seen[width] = _buckets(self.at, width)
        return self._seen[width]

    @property
    def gap(self) -> float:
        """Seconds between two values that are still neighbours: one reading may be missed."""
        return self.step * 2.5

    @property
    def newest(self) -> datetime | None:
        """When the last bucket began."""
        return datetime.fromtimestamp(self.at[-1], UTC) if self.at else None


def load(
    machines: samples.Machines,
    charts: Sequence[Chart],
    shown: TimeRange,
    *,
    points: int,
    count: int | None = None,
) -> Grid:
    """The samples of these machines for the charts' lines, put together; at most `points` of each line.

    Of a query for them `count` says about how many they are.
    """
    folds = {s.key: s.across for chart in charts for s in chart.series}
    return grid_of(
        samples.read_together(
            machines, folds, shown.since, shown.until, count=count, points=points, now=shown.now
        )
    )


def grid_of(told: samples.Together) -> Grid:
    """The columns as they are; where buckets are missing, one without values stands in their place."""
    grid = Grid([], {key: [] for key in told.columns}, told.step)
    begin = 0
    for n in range(1, len(told.at)):
        if told.at[n] - told.at[n - 1] > grid.gap:
            _take(grid, told, begin, n)
            grid.at.append(told.at[n - 1] + told.step)
            for column in grid.columns.values():
                column.append(None)
            begin = n
    _take(grid, told, begin, len(told.at))
    return grid


def _take(grid: Grid, told: samples.Together, begin: int, end: int) -> None:
    grid.at.extend(told.at[begin:end])
    for key, column in grid.columns.items():
        column.extend(told.columns[key][begin:end])


def _buckets(at: Sequence[int], width: int) -> list[Bucket]:
    found: list[Bucket] = []
    for place, moment in enumerate(at):
        start = moment - moment % width
        if found and found[-1][0] == start:
            found[-1] = (start, found[-1][1], place + 1)
        else:
            found.append((start, place, place + 1))
    return found


def _coarser(grid: Grid, series: Series, width: int) -> tuple[list[int], list[float | None]]:
    """The line in buckets of `width` seconds; those in which nothing is known are left out."""
    column, at = grid.columns[series.key], list[int]()
    values: list[float | None] = []
    for start, first, end in grid.buckets(width):
        known = [v for v in column[first:end] if v is not None]
        if known:
            at.append(start)
            values.append(known[0] if len(known) == 1 else series.over(known))
    return at, values


# -- what a page draws ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DrawnLine:
    series: Series
    number: int
    """From 1: which look it has."""
    line: lines.Line
    latest: str


@dataclass(frozen=True, slots=True)
class Drawn:
    """A chart as the server draws it."""

    chart: Chart
    lines: tuple[DrawnLine, ...]
    top: str
    known: bool
    """Whether any of its lines has a value in the range."""
    rows: tuple[tuple[datetime, tuple[str, ...]], ...]
    """The table, newest first: when a row's time begins, and a text for each line."""
    row_words: str
    """How long a row of the table lasts."""

    @property
    def body(self) -> SafeString:
        """The table's rows. By hand: a template takes ten times as long for so many cells.

        Nothing in them is anybody's text: `value` writes digits and units.
        """
        rows = []
        for at, texts in self.rows:
            cells = "".join([f'<td class="num">{text}</td>' for text in texts])
            rows.append(
                f'<tr><th scope="row" class="tab-num nowrap">{at.day} {at:%b, %H:%M:%S}</th>{cells}</tr>'
            )
        return SafeString("".join(rows))

    @property
    def height(self) -> int:
        return lines.TOP + HEIGHT + lines.FOOT

    @property
    def zero(self) -> int:
        return lines.TOP + HEIGHT

    @property
    def middle(self) -> float:
        return lines.TOP + HEIGHT / 2 + 0.5


def draw(chart: Chart, grid: Grid, shown: TimeRange, *, picture: bool = True) -> Drawn:
    """The chart for its page; without `picture` its lines are empty, for who draws them elsewhere."""
    columns = [grid.columns[s.key] for s in chart.series]
    top = 1.0 if chart.unit == "share" else lines.top_of([v for column in columns for v in column])
    width = max(grid.step, int(shown.span.total_seconds() // PICTURE) or 1)
    drawn = []
    for number, series in enumerate(chart.series, 1):
        at, values = _coarser(grid, series, width) if picture else ([], [])
        line = lines.line(
            at, values, since=shown.since.timestamp(), until=shown.until.timestamp(), top=top, height=HEIGHT,
            gap=max(SPARSE_GAP, 2.5 * width) if series.sparse else max(grid.gap, 2.5 * width),
        )  # fmt: skip
        drawn.append(DrawnLine(series, number, line, value(_latest(grid, series), chart.unit)))
    each = lines.nice_step(shown.span, TABLE_ROWS)
    return Drawn(
        chart, tuple(drawn), value(top, chart.unit),
        any(v is not None for column in columns for v in column),
        _rows(chart, grid, max(int(each.total_seconds()), grid.step)), _length(each),
    )  # fmt: skip


def _latest(grid: Grid, series: Series) -> float | None:
    """The last value that is known: of the last buckets alone, or of the last canaries."""
    reach = SPARSE_GAP if series.sparse else grid.gap * 2
    for at, v in zip(reversed(grid.at), reversed(grid.columns[series.key]), strict=True):
        if grid.at[-1] - at > reach:
            return None
        if v is not None:
            return v
    return None


def _rows(chart: Chart, grid: Grid, width: int) -> tuple[tuple[datetime, tuple[str, ...]], ...]:
    columns = [dict(zip(*_coarser(grid, s, width), strict=True)) for s in chart.series]
    times = sorted({at for column in columns for at in column}, reverse=True)
    return tuple(
        (datetime.fromtimestamp(at, UTC), tuple(value(column.get(at), chart.unit) for column in columns))
        for at in times
    )


def _length(step: timedelta) -> str:
    seconds = int(step.total_seconds())
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"
