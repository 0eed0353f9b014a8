"""Reading the ledger: what was spent, by whom and when, to any moment.

Every question is one query, so one snapshot of the database: what is booked (day totals for whole days,
entries and adjustments for the hours at the edges) in a union with the open segments, whose accrual after
`metered_to` is added here, exactly. Pages never sum entries of whole days.

A window's edges are whole hours: its start is rounded down, its end up. Where the end is `now` or later,
all that is booked of that day counts: after the clock went back, no amount falls.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID

from django.db.models import (
    BigIntegerField,
    DateField,
    DateTimeField,
    ExpressionWrapper,
    F,
    Model,
    Q,
    QuerySet,
    Sum,
    Value,
)
from django.db.models.expressions import Combinable
from django.db.models.functions import Cast, Coalesce

from billing.models import Adjustment, DayTotal, LedgerEntry, PriceSegment
from billing.money import accrued_nano, from_nano
from billing.periods import (
    DAY,
    HOUR,
    day_of,
    day_up,
    days_between,
    hour_of,
    hour_up,
    hours_between,
    midnight,
    utc,
)

if TYPE_CHECKING:
    _DateTime = DateTimeField[datetime, datetime]
else:
    _DateTime = DateTimeField

RATE = ExpressionWrapper(F("usd_per_unit_hour") * F("quantity"), output_field=BigIntegerField())
"""What a segment costs, nano-dollars per hour."""


Marks = Mapping[str, Any]
"""Names and expressions over a row's subject."""


@dataclass(frozen=True, slots=True)
class ScopeCost:
    """What one scope (a deployment) cost in a window, USD, and what it costs now, USD per hour."""

    scope: UUID
    label: str
    provider: str
    usd: Decimal
    usd_per_hour: Decimal


@dataclass(slots=True)
class _Sum:
    label: str
    nano: int = 0
    rate: int = 0
    providers: set[str] = field(default_factory=set)


class Row(NamedTuple):
    """A sum that is booked, nano-dollars (`start` None), or an open segment with its price in `nano`."""

    key: tuple[Any, ...]
    nano: int
    start: datetime | None
    held: datetime | None


class Window(NamedTuple):
    """From `start` to before `end`; None is without a bound. `now` ends what is not booked yet."""

    start: datetime | None
    end: datetime | None
    now: datetime

    @classmethod
    def of(cls, start: datetime | None, end: datetime | None, now: datetime) -> Window:
        now = utc(now)
        if end is not None and end >= now:
            end = day_up(end)
        return cls(hour_of(start) if start else None, hour_up(end) if end else None, now)

    def cost(self, row: Row) -> int:
        """What is booked, or what an open segment costs in the window beyond that, nano-dollars."""
        if row.start is None:
            return row.nano
        a = row.held or row.start
        if self.start and self.start > a:
            a = self.start
        b = self.end if self.end and self.end < self.now else self.now
        if a >= b:
            return 0
        return accrued_nano(row.nano, b - row.start) - accrued_nano(row.nano, a - row.start)

    def unbooked(self, row: Row, step: timedelta) -> Iterator[tuple[datetime, int]]:
        """The days or hours that an open segment's accrual beyond what is booked falls in, and its parts."""
        at = row.held or row.start or self.now
        at = max(at, self.start or at)
        at = hour_of(at) if step == HOUR else day_of(at)
        while at < min(self.now, self.end or self.now):
            start, end = max(at, self.start or at), min(at + step, self.end or at + step)
            yield at, Window(start, end, self.now).cost(row)
            at += step


def burn(*, now: datetime) -> Decimal:
    """What all that runs costs together, USD per hour; whatever the clock says, what is open burns."""
    return from_nano(PriceSegment.objects.filter(ended_at=None).aggregate(nano=Sum(RATE))["nano"] or 0)


def spent(start: datetime, end: datetime, *, now: datetime) -> Decimal:
    """What everything cost from `start` to `end`, at most to `now`, USD."""
    window = Window.of(start, end, now)
    return from_nano(sum(window.cost(row) for row in rows(window)))


def cost_of(subjects: UUID | Collection[UUID], *, now: datetime, since: datetime | None = None) -> Decimal:
    """What a scope (its id) or some subjects (their ids) cost to `now`, all in, USD."""
    window = Window.of(since, None, now)
    mine = Q(subject__scope=subjects) if isinstance(subjects, UUID) else Q(subject_id__in=list(subjects))
    return from_nano(sum(window.cost(row) for row in rows(window, mine)))


def by_scope(start: datetime, end: datetime, *, now: datetime) -> list[ScopeCost]:
    """What each scope cost from `start` to `end` and costs now, the dearest first.

    A scope that was on several providers names them all.
    """
    window = Window.of(start, end, now)
    sums: dict[UUID, _Sum] = {}
    for row in rows(window, by=("subject__scope", "subject__scope_label", "subject__provider")):
        scope, label, provider = row.key
        # One look-up for each row: to hash a UUID costs more than to add the money.
        if (total := sums.get(scope)) is None:
            total = sums[scope] = _Sum(label)
        total.nano += window.cost(row)
        total.rate += row.nano if row.start else 0
        total.providers.add(provider)
    ranked = sorted(sums.items(), key=lambda item: (-item[1].nano, item[1].label))
    return [
        ScopeCost(scope, s.label, ", ".join(sorted(s.providers)), from_nano(s.nano), from_nano(s.rate))
        for scope, s in ranked
    ]


def by_day(start_date: date, end_date: date, *, now: datetime) -> list[tuple[date, Decimal]]:
    """What each day (UTC) from `start_date` to before `end_date` cost, USD, days without cost included."""
    window = Window.of(midnight(start_date), midnight(end_date), now)
    cost = dict.fromkeys(days_between(start_date, end_date), 0)
    for row in rows(window, by=("day",)):
        if row.start is None:
            cost[row.key[0]] += row.nano
            continue
        for day, nano in window.unbooked(row, DAY):
            cost[day.date()] += nano
    return [(day, from_nano(nano)) for day, nano in cost.items()]


def by_hour(
    scope: UUID | None, start: datetime, end: datetime, *, now: datetime
) -> list[tuple[datetime, Decimal]]:
    """What each hour from `start` to before `end` cost, USD, hours without cost included.

    Of one scope, or with None of everything.
    """
    window = Window(hour_of(start), hour_up(end), utc(now))
    cost = dict.fromkeys(hours_between(start, end), 0)
    mine = Q(subject__scope=scope) if scope else Q()
    for row in rows(window, mine, by=("hour",)):
        if row.start is None:
            cost[row.key[0]] += row.nano
            continue
        for hour, nano in window.unbooked(row, HOUR):
            cost[hour] += nano
    return [(hour, from_nano(nano)) for hour, nano in cost.items()]


def rows(
    window: Window, where: Q | None = None, *, by: tuple[str, ...] = (), merged: bool = False,
    marks: Marks | None = None,
) -> Iterator[Row]:  # fmt: skip
    """One query: the sums booked in the window, grouped by the fields `by`, and every open segment.

    For an open segment the fields "day" and "hour" are None: its accrual may span several. With `merged`,
    open segments that are metered to the same moment are one row: quick for a thousand of them, and the
    accrual since then is exact but for a nano-dollar each. `marks` are further values to group by, after `by`.
    """
    where, marks = where or Q(), marks or {}
    last = _merged(where, by, marks) if merged else _open(where, by, marks)
    first, *others = [*_booked(window, where, by, marks), last]
    for *key, nano, start, held in first.union(*others, all=True):
        if nano is not None:
            yield Row(tuple(key), nano, start, held)


def _booked(window: Window, where: Q, by: tuple[str, ...], marks: Marks) -> Iterator[QuerySet[Any, Any]]:
    if by == ("hour",):
        yield _sums(LedgerEntry, where & _between("hour", window.start, window.end), by, marks)
        yield _sums(Adjustment, where & _between("hour", window.start, window.end), by, marks)
        return
    first = day_up(window.start) if window.start else None
    last = day_of(window.end) if window.end else None
    yield _sums(DayTotal, where & _between("day", _date(first), _date(last)), by, marks)
    edges = [(window.start, first), (last, window.end)]
    if first and last and first > last:
        edges = [(window.start, window.end)]
    for a, b in edges:
        if a != b:
            yield _sums(LedgerEntry, where & _between("hour", a, b), by, marks)
            yield _sums(Adjustment, where & _between("hour", a, b), by, marks)


def _sums(model: type[Model], where: Q, by: tuple[str, ...], marks: Marks) -> QuerySet[Any, Any]:
    # A constant to group by, where nothing else is: one row for all.
    marked = model._default_manager.filter(where).order_by().annotate(all=Value(1), **marks)
    grouped = marked.values(*(*by, *marks) or ("all",))
    sums = grouped.annotate(nano=Cast(Sum("usd"), BigIntegerField()), **NEVER)
    listed: QuerySet[Any, Any] = sums.values_list(*by, *marks, "nano", "start", "held")
    return listed


def _open(where: Q, by: tuple[str, ...], marks: Marks) -> QuerySet[Any, Any]:
    segments = PriceSegment.objects.filter(where, ended_at=None).annotate(nano=RATE, **marks).order_by()
    unknown = {"day": Cast(Value(None), DateField()), "hour": Cast(Value(None), DateTimeField())}
    segments = segments.annotate(**{name: unknown[name] for name in by if name in unknown})
    return segments.values_list(*by, *marks, "nano", "started_at", "metered_to")


def _merged(where: Q, by: tuple[str, ...], marks: Marks) -> QuerySet[Any, Any]:
    held = Coalesce("metered_to", "started_at")
    segments = PriceSegment.objects.filter(where, ended_at=None).order_by().annotate(held=held, **marks)
    grouped = segments.values(*by, *marks, "held")
    sums = grouped.annotate(nano=Cast(Sum(RATE), BigIntegerField()), start=F("held"))
    listed: QuerySet[Any, Any] = sums.values_list(*by, *marks, "nano", "start", "held")
    return listed


class _Moment(_DateTime):
    """A time of thousands of rows, most of them the same: on SQLite each text is read once."""

    def get_internal_type(self) -> str:
        return "Moment"

    def from_db_value(self, value: Any, expression: Any, connection: Any) -> datetime | None:
        return _moment(value) if isinstance(value, str) else value


@lru_cache(maxsize=10_000)
def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


class _Constant(Cast):
    """To group by it, as every other expression is, would sort all rows for nothing."""

    def get_group_by_cols(self) -> list[Any]:
        return []


def constant(value: Any, field: Any) -> Combinable:
    """A column of a union that holds the same in every row."""
    return _Constant(Value(value), field)


def _never() -> Combinable:
    return ExpressionWrapper(constant(None, DateTimeField()), output_field=_Moment())


NEVER: dict[str, Combinable] = {"start": _never(), "held": _never()}
"""The columns of what is no open price."""


def _between(field: str, start: date | None, end: date | None) -> Q:
    low = Q(**{f"{field}__gte": start}) if start else Q()
    return low & Q(**{f"{field}__lt": end}) if end else low


def _date(at: datetime | None) -> date | None:
    return at.date() if at else None
