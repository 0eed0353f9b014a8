"""What was spent in a range of days, by whatever it may be grouped by, and how that went over time.

The table and the chart are one query each, so one snapshot each: month totals for whole months, day totals for the
days at the edges (of a chart by hour: entries), in a union with the open prices, whose accrual beyond what is booked
is added here, exactly. So three years are as quick as a day, and pages never sum entries of whole days.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Any
from uuid import UUID

from django.db.models import (
    BigIntegerField,
    CharField,
    Max,
    Q,
    QuerySet,
    Sum,
    Value,
)
from django.db.models.fields.json import KeyTextTransform
from django.db.models.functions import Cast
from django.db.models.lookups import Exact, IsNull

from billing.cost import Cost, Group
from billing.models import Component, DayTotal, MonthTotal, PriceSegment, Subject
from billing.periods import DAY, midnight, utc
from billing.rollup import COST, OUTPUT, PART_OF, PARTS, first_of, month_after
from billing.totals import NEVER, RATE, Row, Window, constant


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
}
"""What is read for each group: what tells it from others, what it is called, the provider."""


@dataclass(frozen=True, slots=True)
class Filter:
    """What is asked for: all of these. An owner of 0 and the empty value of a tag: those without one."""

    deployment: UUID | None = None
    machine: UUID | None = None
    provider: str | None = None
    account: UUID | None = None
    tier: str | None = None
    gpu: str | None = None
    owner: int | None = None
    tags: tuple[tuple[str, str], ...] = ()

    def where(self) -> Q:
        """For a query of what belongs to a subject."""
        found = Q(subject=self.machine) if self.machine else Q()
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
            found &= Q(subject__owner=self.owner or None)
        for key, value in self.tags:
            found &= Q(_is(tag(key), value or None))
        return found


def tag(key: str) -> KeyTextTransform:
    return KeyTextTransform(key, "subject__tags")


def _is(expression: Any, value: Any) -> Any:
    return IsNull(expression, True) if value is None else Exact(expression, value)  # noqa: FBT003


def fields(group: str) -> tuple[tuple[str, ...], dict[str, Any]]:
    """The names of a group's columns, and the expressions that must be annotated for them."""
    if group.startswith("tag:"):
        return ("tag",), {"tag": tag(group.removeprefix("tag:"))}
    return _FIELDS[group], {}


# -- the table ----------------------------------------------------------------------------------------


@dataclass(slots=True)
class Breakdown:
    """What was asked, and the groups, the dearest first."""

    days: Days
    group: str
    asked: Filter
    groups: list[Group]

    @property
    def whole(self) -> Cost:
        found = Cost()
        for group in self.groups:
            found.add(group.cost)
        return found


def of(days: Days, group: str, asked: Filter, *, now: datetime) -> Breakdown:
    """What each group cost in these days and costs now, in one query.

    `group` is one of GROUPS or "tag:<key>". A group that costs nothing and gave nothing is left out.
    """
    if group == "component":
        return Breakdown(days, group, asked, _by_component(days, asked, now=now))
    span = window(days, now)
    names, extra = fields(group)
    width, has_label, told = len(names), len(names) == 3, 2 if group == "tier" else 1
    found: dict[Any, Group] = {}
    for row in _rows(days, names, extra, asked.where(), now=now):
        key = row[:told]
        if (mine := found.get(key)) is None:
            mine = found[key] = Group(key, "", Cost())
        if has_label:
            # Of several names that it had, always the same one: what polls is told of news alone.
            mine.label = max(mine.label, row[1])
            mine.providers.add(row[2])
        _add(mine.cost, row[width:], span)
    runs = days.end > utc(now).date()
    kept = [g for g in found.values() if g.cost.nano["usd"] or g.cost.tokens or (runs and g.cost.rate)]
    groups = sorted(kept, key=lambda g: (-g.cost.nano["usd"], g.label, str(g.key)))
    return Breakdown(days, group, asked, groups)


def total(days: Days, asked: Filter, *, now: datetime) -> Cost:
    """What all that is asked for cost and gave in these days."""
    return of(days, "provider", asked, now=now).whole


def _by_component(days: Days, asked: Filter, *, now: datetime) -> list[Group]:
    whole, rates = Cost(), dict.fromkeys((*PARTS, "usd"), 0)
    span = window(days, now)
    for row in _rows(days, (), {}, asked.where(), now=now):
        _add(whole, row, span)
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


def _add(cost: Cost, row: Sequence[Any], span: Window) -> None:
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
    accrued = span.cost(Row((), row[0], start, held))
    nano["usd"] += accrued
    if part := PART_OF.get(row[_COMPONENT]):
        nano[part] += accrued
    cost.rate += row[0]
    if row[_COMPONENT] == Component.COMPUTE:
        a = max(held or start, span.start or start)
        b = min(span.end or span.now, span.now)
        cost.seconds += max(0.0, (b - a).total_seconds())


_MONEY = COST[:-1]


def window(days: Days, now: datetime) -> Window:
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
    whole, edges = months(days, now=now)
    if whole:
        yield MonthTotal, Q(month__gte=whole.start, month__lt=whole.end)
    for edge in edges:
        yield DayTotal, Q(day__gte=edge.start, day__lt=edge.end)


def months(days: Days, *, now: datetime) -> tuple[Days | None, list[Days]]:
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
        .annotate(**sums, **NEVER, part=constant("", CharField()))
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


def span_of(now: datetime, back: timedelta) -> Days:
    """The days of the last `back`, today included."""
    today = utc(now).date()
    return Days(today - back + DAY, today + DAY)
