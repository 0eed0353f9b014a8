"""What was spent in a range of days, by whatever it may be grouped by, and how that went over time.

The table and the chart are one query each, so one snapshot each: month totals for whole months, day totals for the
days at the edges (of a chart by hour: entries), in a union with the open prices, whose accrual beyond what is booked
is added here, exactly. So three years are as quick as a day, and pages never sum entries of whole days.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Any, Self
from uuid import UUID

from django.db.models import (
    BigIntegerField,
    Case,
    CharField,
    DateField,
    DateTimeField,
    F,
    IntegerField,
    Max,
    Q,
    QuerySet,
    Sum,
    Value,
    When,
)
from django.db.models.expressions import Combinable
from django.db.models.fields.json import KeyTextTransform
from django.db.models.functions import Cast
from django.db.models.lookups import Exact, IsNull

from billing.models import Adjustment, Component, DayTotal, LedgerEntry, MonthTotal, PriceSegment, Subject
from billing.money import from_nano
from billing.periods import DAY, HOUR, days_between, hours_between, midnight, utc
from billing.rollup import COST, OUTPUT, PART_OF, PARTS, first_of, month_after
from billing.totals import RATE, Row, Window

MILLION = 1_000_000
TOP = 6
"""Groups that a chart tells apart; what is beyond them is drawn together."""


class Step(StrEnum):
    """How long a bar of the chart is."""

    HOUR = "hour"
    DAY = "day"
    MONTH = "month"


LONGEST = {Step.HOUR: 2, Step.DAY: 100, Step.MONTH: 3_660}
"""The longest range, in days, that is told by each."""


@dataclass(frozen=True, slots=True)
class Days:
    """From the day `start` to before `end`, UTC."""

    start: date
    end: date

    @property
    def count(self) -> int:
        return (self.end - self.start).days


# -- what is grouped by, and what is asked for --------------------------------------------------------

GROUPS = ("deployment", "machine", "provider", "account", "tier", "gpu", "owner", "component")
"""And "tag:<key>" for each tag."""
_FIELDS: dict[str, tuple[str, ...]] = {
    "deployment": ("subject__scope", "subject__scope_label", "subject__provider"),
    "machine": ("subject_id", "subject__label", "subject__provider"),
    "provider": ("subject__provider",),
    "account": ("subject__account", "subject__account_label", "subject__provider"),
    "tier": ("subject__provider", "subject__tier"),
    "gpu": ("subject__gpu",),
    "owner": ("subject__owner",),
    "component": (),
}
"""What is read for each group: what tells it from others, then what it is called."""
_KEYS = {"tier": 2, "component": 0}
"""How many of those tell it from others, where it is not one."""


@dataclass(frozen=True, slots=True)
class Filter:
    """What is asked for: all of these. An owner of 0, an account or a text that is empty: those without one."""

    deployment: UUID | None = None
    machine: UUID | None = None
    provider: str | None = None
    account: UUID | None = None
    tier: str | None = None
    gpu: str | None = None
    owner: int | None = None
    tags: tuple[tuple[str, str], ...] = ()

    def where(self) -> Q:
        found = Q(subject_id=self.machine) if self.machine else Q()
        for name, path in (
            ("deployment", "scope"),
            ("provider",) * 2,
            ("account",) * 2,
            ("tier",) * 2,
            ("gpu",) * 2,
        ):
            if (value := getattr(self, name)) is not None:
                found &= Q(**{f"subject__{path}": value})
        if self.owner is not None:
            found &= Q(subject__owner=self.owner) if self.owner else Q(subject__owner=None)
        for key, value in self.tags:
            found &= Q(_is(_tag(key), value or None))
        return found


def _tag(key: str) -> KeyTextTransform:
    return KeyTextTransform(key, "subject__tags")


def _is(expression: Any, value: Any) -> Any:
    return IsNull(expression, True) if value is None else Exact(expression, value)  # noqa: FBT003


def _fields(group: str) -> tuple[tuple[str, ...], dict[str, Any]]:
    """The names of a group's columns, and the expressions that must be annotated for them."""
    if group.startswith("tag:"):
        return ("tag",), {"tag": _tag(group.removeprefix("tag:"))}
    return _FIELDS[group], {}


# -- the table ----------------------------------------------------------------------------------------


@dataclass(slots=True)
class Cost:
    """A sum: nano-dollars by column, seconds of compute, what was given for it, and the price now, nano an hour."""

    nano: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("usd", *PARTS), 0))
    seconds: float = 0
    tokens_in: int = 0
    tokens_out: int = 0
    busy_seconds: int = 0
    watched_seconds: int = 0
    best_hour: int = 0
    rate: int = 0

    def add(self, other: Self) -> None:
        for column, nano in other.nano.items():
            self.nano[column] += nano
        for name in ("seconds", *OUTPUT[:-1], "rate"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.best_hour = max(self.best_hour, other.best_hour)

    @property
    def usd(self) -> Decimal:
        return from_nano(self.nano["usd"])

    @property
    def compute(self) -> Decimal:
        return from_nano(self.nano["compute_usd"])

    @property
    def disk(self) -> Decimal:
        """Disks and volumes."""
        return from_nano(self.nano["disk_usd"] + self.nano["volume_usd"])

    @property
    def volume(self) -> Decimal:
        return from_nano(self.nano["volume_usd"])

    @property
    def traffic(self) -> Decimal:
        return from_nano(self.nano["traffic_usd"])

    @property
    def adjusted(self) -> Decimal:
        return from_nano(self.nano["adjusted_usd"])

    @property
    def other(self) -> Decimal:
        """What is in no other part: requests."""
        return from_nano(self.nano["usd"] - sum(self.nano[part] for part in PARTS))

    @property
    def hours(self) -> Decimal:
        """For which compute was charged."""
        return Decimal(str(self.seconds)) / 3600

    @property
    def usd_per_hour(self) -> Decimal:
        """What it costs now."""
        return from_nano(self.rate)

    @property
    def tokens(self) -> int:
        return self.tokens_in + self.tokens_out

    @property
    def idle(self) -> float | None:
        """The share of the time watched in which nothing was asked of it; None where nobody watched."""
        return 1 - self.busy_seconds / self.watched_seconds if self.watched_seconds else None

    @property
    def per_million(self) -> Decimal | None:
        """USD for a million tokens, read and written: all that was charged. None without tokens."""
        return self.usd / self.tokens * MILLION if self.tokens else None

    @property
    def floor(self) -> Decimal | None:
        """What a million tokens cost in its best hour: all that time costs, by the hour, over that hour's tokens."""
        if not self.best_hour or not self.seconds:
            return None
        return (self.compute + self.disk) / self.hours / self.best_hour * MILLION


@dataclass(slots=True)
class Group:
    """One row of the table. `key` tells it from others; None or empty: those without one."""

    key: tuple[Any, ...]
    label: str
    cost: Cost
    providers: set[str] = field(default_factory=set)


def total(days: Days, asked: Filter, *, now: datetime) -> Cost:
    """What all that is asked for cost and gave in these days."""
    found = Cost()
    for group in table(days, "provider", asked, now=now):
        found.add(group.cost)
    return found


def table(days: Days, group: str, asked: Filter, *, now: datetime) -> list[Group]:
    """What each group cost in these days and costs now, in one query, the dearest first.

    `group` is one of GROUPS or "tag:<key>". A group that costs nothing and gave nothing is left out.
    """
    if group == "component":
        return _by_component(days, asked, now=now)
    window = _window(days, now)
    names, extra = _fields(group)
    width, told = len(names), _KEYS.get(group, 1)
    found: dict[tuple[Any, ...], Group] = {}
    for row in _rows(days, names, extra, asked.where(), now=now):
        key = row[:told]
        mine = found.get(key)
        if mine is None:
            mine = found[key] = Group(key, "", Cost())
        if width > told and row[told]:
            mine.label = row[told]
        if group in ("deployment", "machine", "account"):
            mine.providers.add(row[width - 1])
        _add(mine.cost, row[width:], window)
    kept = [g for g in found.values() if g.cost.nano["usd"] or g.cost.rate or g.cost.tokens]
    return sorted(kept, key=lambda g: (-g.cost.nano["usd"], g.label, str(g.key)))


def _by_component(days: Days, asked: Filter, *, now: datetime) -> list[Group]:
    whole, rates = Cost(), dict.fromkeys((*PARTS, "usd"), 0)
    window = _window(days, now)
    for row in _rows(days, (), {}, asked.where(), now=now):
        _add(whole, row, window)
        if row[_START] is not None:
            rates[PART_OF.get(row[_COMPONENT], "usd")] += row[0]
    found = []
    for column in (*PARTS, "usd"):
        mine = Cost(rate=rates[column])
        mine.nano["usd"] = whole.nano[column] - (sum(whole.nano[p] for p in PARTS) if column == "usd" else 0)
        mine.seconds = whole.seconds if column == "compute_usd" else 0
        if mine.nano["usd"] or mine.rate:
            found.append(Group((column,), COMPONENTS[column], mine))
    return sorted(found, key=lambda g: -g.cost.nano["usd"])


COMPONENTS = {
    "compute_usd": "Compute", "disk_usd": "Disk", "volume_usd": "Volumes", "traffic_usd": "Traffic",
    "adjusted_usd": "Adjustments", "usd": "Requests",
}  # fmt: skip

_SUMS = (*COST, *OUTPUT)
_START, _HELD, _COMPONENT = len(_SUMS), len(_SUMS) + 1, len(_SUMS) + 2
"""Where these stand behind a group's columns."""


def _add(cost: Cost, row: tuple[Any, ...], window: Window) -> None:
    """Add what is booked; or what an open price, in `usd` of such a row, costs beyond that."""
    start, held = row[_START], row[_HELD]
    nano = cost.nano
    if start is None:
        for column, value in zip(_MONEY, row, strict=False):
            nano[column] += value
        cost.seconds += row[6]
        cost.tokens_in += row[7]
        cost.tokens_out += row[8]
        cost.busy_seconds += row[9]
        cost.watched_seconds += row[10]
        cost.best_hour = max(cost.best_hour, row[11])
        return
    accrued = window.cost(Row((), row[0], start, held))
    nano["usd"] += accrued
    if part := PART_OF.get(row[_COMPONENT]):
        nano[part] += accrued
    cost.rate += row[0]
    if row[_COMPONENT] == Component.COMPUTE:
        a = max(held or start, window.start or start)
        b = min(window.end or window.now, window.now)
        cost.seconds += max(0.0, (b - a).total_seconds())


_MONEY = COST[:-1]


def _window(days: Days, now: datetime) -> Window:
    return Window.of(midnight(days.start), midnight(days.end), now)


def _rows(
    days: Days, names: tuple[str, ...], extra: dict[str, Any], where: Q, *, now: datetime
) -> Iterator[tuple[Any, ...]]:
    """The sums that are booked in these days, by the columns `names`, and every open price."""
    first, *others = [
        _summed(model, where & within, names, extra) for model, within in _pieces(days, now=now)
    ]
    rows: Iterator[tuple[Any, ...]] = iter(first.union(*others, _open(names, extra, where), all=True))
    # Without anything to group by, nothing is one row of nulls.
    return (row for row in rows if row[len(names)] is not None)


def _pieces(days: Days, *, now: datetime) -> Iterator[tuple[Any, Q]]:
    """The month totals and day totals that make up these days, no day twice."""
    whole, edges = _months(days, now=now)
    if whole:
        yield MonthTotal, Q(month__gte=whole.start, month__lt=whole.end)
    for edge in edges:
        yield DayTotal, Q(day__gte=edge.start, day__lt=edge.end)


def _months(days: Days, *, now: datetime) -> tuple[Days | None, list[Days]]:
    """The whole months among these days, and the days at the edges; the month that runs is whole to its today."""
    first = days.start if days.start.day == 1 else month_after(days.start)
    last = month_after(days.end - DAY) if days.end > utc(now).date() else first_of(days.end)
    if first >= last:
        return None, [days]
    edges = [Days(days.start, first), Days(last, days.end)]
    return Days(first, last), [e for e in edges if e.start < e.end]


def _summed(model: Any, where: Q, names: tuple[str, ...], extra: dict[str, Any]) -> QuerySet[Any, Any]:
    grouped = model._default_manager.filter(where).order_by().annotate(**extra, all=Value(1))
    sums: dict[str, Any] = {f"n_{c}": Cast(Sum(c), BigIntegerField()) for c in _SUMS[:-1]}
    sums[f"n_{_SUMS[-1]}"] = Max(_SUMS[-1])
    listed: QuerySet[Any, Any] = (
        grouped.values(*(names or ("all",)))
        .annotate(**sums, start=_constant(None, DateTimeField()), held=_constant(None, DateTimeField()))
        .annotate(part=_constant("", CharField()))
        .values_list(*names, *sums, "start", "held", "part")
    )
    return listed


def _open(names: tuple[str, ...], extra: dict[str, Any], where: Q) -> QuerySet[Any, Any]:
    """Every open price, in the columns of the sums: the price in `usd`, nothing in the others."""
    segments = PriceSegment.objects.filter(where, ended_at=None).order_by().annotate(**extra, nano=RATE)
    zeros = {f"n_{c}": Cast(Value(0), BigIntegerField()) for c in _SUMS[1:]}
    return segments.annotate(**zeros).values_list(
        *names, "nano", *zeros, "started_at", "metered_to", "component"
    )


class _Constant(Cast):
    """To group by it, as every other expression is, would sort all rows for nothing."""

    def get_group_by_cols(self) -> list[Any]:
        return []


def _constant(value: Any, field: Any) -> Combinable:
    return _Constant(Value(value), field)


# -- the chart ----------------------------------------------------------------------------------------


def chart(
    days: Days, step: Step, group: str, shown: Sequence[Group], asked: Filter, *, now: datetime
) -> tuple[list[datetime], list[list[Decimal]]]:
    """The bars' begins, and for each of the groups `shown` (some of `table`'s) what it cost in each, in one query.

    What belongs to none of them is one more series, the last.
    """
    starts = list(_starts(days, step))
    at = {start: i for i, start in enumerate(starts)}
    if group == "component":
        cells = _component_cells(days, step, at, [g.key[0] for g in shown], asked, now=now)
    else:
        cells = _cells(days, step, at, _which(group, shown), len(shown) + 1, asked, now=now)
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


def _which(group: str, shown: Sequence[Group]) -> Combinable:
    """The number of the group that a row belongs to, among those that are shown; else the next number."""
    names, extra = _fields(group)
    whens = []
    for i, g in enumerate(shown):
        mine = dict(zip(names, g.key, strict=False))
        condition = Q(_is(extra["tag"], g.key[0])) if extra else Q(**mine)
        whens.append(When(condition, then=Value(i)))
    return Case(*whens, default=Value(len(shown)), output_field=IntegerField())


def _cells(
    days: Days, step: Step, at: dict[datetime, int], which: Combinable, count: int, asked: Filter, *, now: datetime
) -> list[list[int]]:  # fmt: skip
    """Nano-dollars of each series in each bar."""
    cells = [[0] * len(at) for _ in range(count)]
    window, where = _window(days, now), asked.where()
    sums = []
    for model, within, bucket in _buckets(days, step, now=now):
        rows = model._default_manager.filter(where & within).order_by()
        rows = rows.annotate(bucket=bucket, which=which).values("bucket", "which")
        sums.append(rows.annotate(nano=Cast(Sum("usd"), BigIntegerField()), **_NEVER))
    unknown = _constant(None, DateTimeField() if step is Step.HOUR else DateField())
    prices = PriceSegment.objects.filter(where, ended_at=None).order_by()
    columns = ("bucket", "which", "nano", "start", "held")
    opened = prices.annotate(
        bucket=unknown, which=which, nano=RATE, start=F("started_at"), held=F("metered_to")
    ).values_list(*columns)
    first, *others = [rows.values_list(*columns) for rows in sums]
    for bucket, series, nano, start, held in first.union(*others, opened, all=True):
        row = cells[series]
        if start is None:
            row[at[_moment(bucket, step)]] += nano
            continue
        for moment, part in window.unbooked(Row((), nano, start, held), HOUR if step is Step.HOUR else DAY):
            row[at[_start_of(moment, step)]] += part
    return cells


_NEVER = {
    "start": _constant(None, DateTimeField()),
    "held": _constant(None, DateTimeField()),
}


def _component_cells(
    days: Days, step: Step, at: dict[datetime, int], columns: list[str], asked: Filter, *, now: datetime
) -> list[list[int]]:
    """As `_cells`, by component: each is a column already, but in entries."""
    kept = {column: [0] * len(at) for column in (*PARTS, "usd")}
    window, where = _window(days, now), asked.where()
    parts = ("n_usd", *(f"n_{part}" for part in PARTS))
    sums = []
    for model, within, bucket in _buckets(days, step, now=now):
        rows = model._default_manager.filter(where & within).order_by().annotate(bucket=bucket)
        added = {f"n_{c}": Cast(Sum(_column(model, c)), BigIntegerField()) for c in ("usd", *PARTS)}
        rows = rows.values("bucket").annotate(**added, **_NEVER, part=_constant("", CharField()))
        sums.append(rows.values_list("bucket", *parts, "start", "held", "part"))
    unknown = _constant(None, DateTimeField() if step is Step.HOUR else DateField())
    zeros = {f"n_{part}": Cast(Value(0), BigIntegerField()) for part in PARTS}
    prices = PriceSegment.objects.filter(where, ended_at=None).order_by()
    opened = prices.annotate(bucket=unknown, nano=RATE, **zeros)
    first, *others = sums
    listed = opened.values_list("bucket", "nano", *zeros, "started_at", "metered_to", "component")
    for bucket, usd, *split, start, held, component in first.union(*others, listed, all=True):
        if start is None:
            i = at[_moment(bucket, step)]
            for column, nano in zip(PARTS, split, strict=True):
                kept[column][i] += nano
            kept["usd"][i] += usd - sum(split)
            continue
        row = kept[PART_OF.get(component, "usd")]
        for moment, part in window.unbooked(Row((), usd, start, held), HOUR if step is Step.HOUR else DAY):
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
    whole, edges = _months(days, now=now)
    if whole:
        yield MonthTotal, Q(month__gte=whole.start, month__lt=whole.end), F("month")
    for edge in edges:
        # The days at an edge may lie in two months when they are all there is.
        month = first_of(edge.start)
        while month < edge.end:
            within = Q(day__gte=max(month, edge.start), day__lt=min(month_after(month), edge.end))
            yield DayTotal, within, _constant(month, DateField())
            month = month_after(month)


def _moment(bucket: Any, step: Step) -> datetime:
    moment = bucket if isinstance(bucket, datetime) else midnight(bucket)
    return _start_of(moment, step)


def _start_of(moment: datetime, step: Step) -> datetime:
    return midnight(first_of(moment.date())) if step is Step.MONTH else moment


# -- what there is to choose from ---------------------------------------------------------------------


@dataclass(slots=True)
class Choices:
    """Every value that the ledger knows of what may be asked for."""

    providers: set[str] = field(default_factory=set)
    accounts: dict[UUID, str] = field(default_factory=dict)
    tiers: set[str] = field(default_factory=set)
    gpus: set[str] = field(default_factory=set)
    owners: set[int] = field(default_factory=set)
    has_former: bool = False
    """Whether something belongs to nobody who is here."""
    tags: dict[str, set[str]] = field(default_factory=dict)

    @property
    def pairs(self) -> list[str]:
        """The tags as they are written."""
        return [f"{key}={value}" for key, values in sorted(self.tags.items()) for value in sorted(values)]


def choices() -> Choices:
    found = Choices()
    rows = Subject.objects.order_by().values_list(
        "provider", "account", "account_label", "tier", "gpu", "owner", "tags"
    )
    for provider, account, account_label, tier, gpu, owner, tags in rows.distinct():
        found.providers.add(provider)
        if account:
            found.accounts[account] = account_label or str(account)
        found.tiers.add(tier)
        found.gpus.add(gpu)
        if owner:
            found.owners.add(owner)
        else:
            found.has_former = True
        for key, value in tags.items():
            found.tags.setdefault(key, set()).add(value)
    return found


def step_for(days: Days, asked: str = "") -> Step:
    """The step that is asked for if the range can be told by it; else the finest that makes no thicket of it."""
    fitting = [s for s in Step if days.count <= LONGEST[s]]
    if asked in fitting:
        return Step(asked)
    usual = Step.HOUR if days.count == 1 else Step.DAY if days.count <= LONGEST[Step.DAY] else Step.MONTH
    return usual if usual in fitting else Step.MONTH


def span_of(now: datetime, back: timedelta) -> Days:
    """The days of the last `back`, today included."""
    today = utc(now).date()
    return Days(today - back + DAY, today + DAY)
