"""How what was spent went over time: the bars of the Spend page's chart, one query for all of them.

Everything by the bar is quick to sum up, and so is the part of a few groups; what is left over is the others'.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any

from django.db.models import (
    BigIntegerField,
    Case,
    CharField,
    DateField,
    DateTimeField,
    F,
    Q,
    Sum,
    Value,
    When,
)
from django.db.models.functions import Cast

from billing.breakdown import (
    Breakdown,
    Days,
    Filter,
    fields,
    months,
    tag,
    window,
)
from billing.cost import Group
from billing.models import Adjustment, DayTotal, LedgerEntry, MonthTotal, PriceSegment
from billing.money import from_nano
from billing.periods import DAY, HOUR, days_between, hours_between, midnight
from billing.rollup import PART_OF, PARTS, first_of, month_after
from billing.totals import NEVER, RATE, Row, constant

TOP = 6
"""Groups that a chart tells apart; what is beyond them is drawn together."""


class Step(StrEnum):
    """How long a bar of the chart is."""

    HOUR = "hour"
    DAY = "day"
    MONTH = "month"


LONGEST = {Step.HOUR: 2, Step.DAY: 100, Step.MONTH: 3_660}
"""The longest range, in days, that is told by each."""


def chart(
    found: Breakdown, step: Step, shown: Sequence[Group], *, now: datetime
) -> tuple[list[datetime], list[list[Decimal]]]:
    """The bars' begins, and what each of the groups `shown` (some of `found`'s) cost in each bar, USD, in one query.

    What belongs to none of them is one more series, the last.
    """
    starts = list(_starts(found.days, step))
    at = {start: i for i, start in enumerate(starts)}
    if found.group == "component":
        cells = _component_cells(found.days, step, at, [g.key[0] for g in shown], found.asked, now=now)
    else:
        cells = _cells(found.days, step, at, found.group, shown, found.asked, now=now)
    return starts, [[from_nano(nano) for nano in row] for row in cells]


def _starts(days: Days, step: Step) -> Iterator[datetime]:
    if step is Step.HOUR:
        yield from hours_between(midnight(days.start), midnight(days.end))
    elif step is Step.DAY:
        yield from map(midnight, days_between(days.start, days.end))
    else:
        month = first_of(days.start)
        while month < days.end:
            yield midnight(month)
            month = month_after(month)


def _which(group: str, shown: Sequence[Group]) -> tuple[Any, Q]:
    """The number of the group that a row belongs to, among those that are shown; and what finds their rows."""
    names, _ = fields(group)
    whens, anyone = [], Q()
    for i, g in enumerate(shown):
        mine = Q(**dict(zip(names, g.key, strict=False)))
        whens.append(When(mine, then=Value(i)))
        anyone |= mine
    # Where it is one column, a list of values: that is what an index can be asked for.
    values = [g.key[0] for g in shown]
    if len(shown[0].key) == 1 and None not in values:
        anyone = Q(**{f"{names[0]}__in": values})
    return Case(*whens, default=Value(len(shown)), output_field=BigIntegerField()), anyone


def _cells(
    days: Days, step: Step, at: dict[datetime, int], group: str, shown: Sequence[Group], asked: Filter, *, now: datetime
) -> list[list[int]]:  # fmt: skip
    """Nano-dollars of each series in each bar: those that are shown, and the rest."""
    rest = len(shown)
    cells = [[0] * len(at) for _ in range(rest + 1)]
    span, where = window(days, now), asked.where()
    # Everything by the bar is quick, and so is a few groups' part of it: the rest is what is left over.
    kinds: list[tuple[Any, Q]] = [(constant(rest, BigIntegerField()), where)]
    number: dict[Any, int] = {rest: rest, **{i: i for i in range(rest)}}
    if group.startswith("tag:"):
        # Read once for each row; a comparison with each value would read it as often.
        kinds, number = [(tag(group[4:]), where)], {g.key[0]: i for i, g in enumerate(shown)}
    elif shown:
        which, anyone = _which(group, shown)
        kinds.append((which, where & anyone))
    columns = ("bucket", "which", "nano", "start", "held")
    unknown = constant(None, DateTimeField() if step is Step.HOUR else DateField())
    queries = []
    for which, mine in kinds:
        for model, within, bucket in _buckets(days, step, now=now):
            rows = model._default_manager.filter(mine & within).order_by()
            rows = rows.annotate(bucket=bucket, which=which, all=Value(1)).values("bucket", "which", "all")
            money = rows.annotate(nano=Cast(Sum("usd"), BigIntegerField()), **NEVER)
            queries.append(money.values_list(*columns))
        prices = PriceSegment.objects.filter(mine, ended_at=None).order_by()
        opened = prices.annotate(
            bucket=unknown, which=which, nano=RATE, start=F("started_at"), held=F("metered_to")
        )
        queries.append(opened.values_list(*columns))
    for bucket, told, nano, start, held in queries[0].union(*queries[1:], all=True):
        if nano is None:
            continue  # nothing to sum up
        series = number.get(told, rest)
        if start is None:
            cells[series][at[_moment(bucket, step)]] += nano
            continue
        for moment, part in span.unbooked(Row((), nano, start, held), HOUR if step is Step.HOUR else DAY):
            cells[series][at[_start_of(moment, step)]] += part
    for i, everything in enumerate(cells[rest] if len(kinds) > 1 else ()):
        cells[rest][i] = everything - sum(cells[n][i] for n in range(rest))
    return cells


def _component_cells(
    days: Days, step: Step, at: dict[datetime, int], columns: list[str], asked: Filter, *, now: datetime
) -> list[list[int]]:
    """As `_cells`, by component: each is a column already, but in entries."""
    kept = {column: [0] * len(at) for column in (*PARTS, "usd")}
    span, where = window(days, now), asked.where()
    parts = ("n_usd", *(f"n_{part}" for part in PARTS))
    sums = []
    for model, within, bucket in _buckets(days, step, now=now):
        rows = model._default_manager.filter(where & within).order_by().annotate(bucket=bucket)
        added = {f"n_{c}": Cast(Sum(_column(model, c)), BigIntegerField()) for c in ("usd", *PARTS)}
        rows = rows.values("bucket").annotate(**added, **NEVER, part=constant("", CharField()))
        sums.append(rows.values_list("bucket", *parts, "start", "held", "part"))
    unknown = constant(None, DateTimeField() if step is Step.HOUR else DateField())
    zeros = {f"n_{part}": Cast(Value(0), BigIntegerField()) for part in PARTS}
    prices = PriceSegment.objects.filter(where, ended_at=None).order_by()
    opened = prices.annotate(bucket=unknown, nano=RATE, **zeros)
    first, *others = sums
    listed = opened.values_list("bucket", "nano", *zeros, "started_at", "metered_to", "component")
    for bucket, usd, *split, start, held, component in first.union(*others, listed, all=True):
        if usd is None:
            continue  # nothing to sum up
        if start is None:
            i = at[_moment(bucket, step)]
            for column, nano in zip(PARTS, split, strict=True):
                kept[column][i] += nano
            kept["usd"][i] += usd - sum(split)
            continue
        row = kept[PART_OF.get(component, "usd")]
        for moment, part in span.unbooked(Row((), usd, start, held), HOUR if step is Step.HOUR else DAY):
            row[at[_start_of(moment, step)]] += part
    others_nano = [sum(kept[c][i] for c in kept if c not in columns) for i in range(len(at))]
    return [*(kept[c] for c in columns), others_nano]


def _column(model: Any, column: str) -> Any:
    """A part's column; of entries and adjustments, what belongs to it."""
    if model in (MonthTotal, DayTotal) or column == "usd":
        return column
    if model is Adjustment:
        return "usd" if column == "adjusted_usd" else Value(0)
    mine = [component for component, part in PART_OF.items() if part == column]
    if not mine:
        return Value(0)
    return Case(When(component__in=mine, then=F("usd")), default=Value(0), output_field=BigIntegerField())


def _buckets(days: Days, step: Step, *, now: datetime) -> Iterator[tuple[Any, Q, Any]]:
    """What is summed for the chart, from where, and the bar that each row belongs to."""
    if step is Step.HOUR:
        within = Q(hour__gte=midnight(days.start), hour__lt=midnight(days.end))
        yield LedgerEntry, within, F("hour")
        yield Adjustment, within, F("hour")
        return
    if step is Step.DAY:
        yield DayTotal, Q(day__gte=days.start, day__lt=days.end), F("day")
        return
    whole, edges = months(days, now=now)
    if whole:
        yield MonthTotal, Q(month__gte=whole.start, month__lt=whole.end), F("month")
    for edge in edges:
        # The days at an edge may lie in two months when they are all there is.
        month = first_of(edge.start)
        while month < edge.end:
            within = Q(day__gte=max(month, edge.start), day__lt=min(month_after(month), edge.end))
            yield DayTotal, within, constant(month, DateField())
            month = month_after(month)


def _moment(bucket: Any, step: Step) -> datetime:
    moment = bucket if isinstance(bucket, datetime) else midnight(bucket)
    return _start_of(moment, step)


def _start_of(moment: datetime, step: Step) -> datetime:
    return midnight(first_of(moment.date())) if step is Step.MONTH else moment


def step_for(days: Days, asked: str = "") -> Step:
    """The step that is asked for if the range can be told by it; else the finest that makes no thicket of it."""
    fitting = [s for s in Step if days.count <= LONGEST[s]]
    if asked in fitting:
        return Step(asked)
    usual = Step.HOUR if days.count == 1 else Step.DAY if days.count <= LONGEST[Step.DAY] else Step.MONTH
    return usual if usual in fitting else Step.MONTH
