"""The statement of a month: what each deployment cost, at which provider, for what, and every correction.

Its lines are rounded to the cent, half to even, and all that is added up on the page is added from those, so that a
reader can check it. The month's total is the exact sum rounded once; the line "Rounding" is the difference.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from fractions import Fraction
from typing import Any
from uuid import UUID

from django.db.models import Max, Sum

from billing import fx
from billing.exports.lines import Line, Reader, Selection, provider_name
from billing.models import ClosedPeriod, DayTotal, PriceSegment
from billing.periods import DAY, Period, calendar_month, midnight, utc

ZERO = Decimal(0)
CORRECTIONS = "corrections"
COLUMNS = (
    ("Compute", frozenset({"compute"})),
    ("Storage", frozenset({"disk", "volume"})),
    ("Traffic, requests", frozenset({"traffic-in", "traffic-out", "requests"})),
    ("Corrections", frozenset({CORRECTIONS})),
)
_COMPONENTS = {
    "compute": "Compute", "disk": "Disks", "volume": "Network volumes", "traffic-in": "Traffic in",
    "traffic-out": "Traffic out", "requests": "Requests", CORRECTIONS: "Corrections",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Closing:
    """Whether a month can still change, in a word and a sentence."""

    word: str
    text: str
    is_closed: bool


@dataclass(frozen=True, slots=True)
class Cell:
    """The smallest part that is rounded: a component of one deployment at one provider, one correction, or a day."""

    exact_usd: Decimal
    usd: Decimal
    exact: Fraction | None
    amount: Decimal | None
    """In the currency that is shown, as `exact` rounded; None where a day of it has no rate."""


@dataclass(slots=True)
class Row:
    """A line or a sum of lines: `usd` and `amount` are added from rounded cells, `rate` says what made the amount."""

    label: str
    sub: str = ""
    scope: UUID | None = None
    at: datetime | None = None
    columns: list[Decimal] = field(default_factory=lambda: [ZERO] * len(COLUMNS))
    usd: Decimal = ZERO
    amount: Decimal | None = ZERO
    rate: str = ""
    _exact_usd: Decimal = ZERO
    _exact: Fraction | None = Fraction(0)

    def add(self, cell: Cell, component: str = "") -> None:
        for i, (_, members) in enumerate(COLUMNS):
            if component in members:
                self.columns[i] += cell.usd
        self.usd += cell.usd
        self._exact_usd += cell.exact_usd
        self.amount = None if cell.amount is None or self.amount is None else self.amount + cell.amount
        self._exact = None if cell.exact is None or self._exact is None else self._exact + cell.exact

    def settle(self) -> None:
        """Say the rate: what one USD was over the row's days, weighted by what they cost."""
        if self._exact is not None and self._exact_usd:
            self.rate = f"{fx.rounded(self._exact / Fraction(self._exact_usd), 6)}"


@dataclass(frozen=True, slots=True)
class Statement:
    """A month. Amounts are USD and `currency`; `total` and `amount` are the exact sums rounded once."""

    month: Period
    closing: Closing
    currency: str
    total: Decimal
    amount: Decimal | None
    deployments: list[Row]
    providers: list[Row]
    components: list[Row]
    corrections: list[Row]
    days: list[Row]
    lines: Row
    """The sum of all lines but `Rounding`."""
    rounding: tuple[Decimal, Decimal | None]
    day_rounding: tuple[Decimal, Decimal | None]

    @property
    def converts(self) -> bool:
        return self.currency != fx.RECORD


@dataclass(frozen=True, slots=True)
class Month:
    """A month in the list; `amount` is None where a day of it has no rate."""

    start: datetime
    usd: Decimal
    amount: Decimal | None
    closing: Closing


def months(*, now: datetime) -> list[Month]:
    """Every month from the first that cost something to this one, the newest first. One query for the money."""
    days = DayTotal.objects.order_by().values_list("day").annotate(usd_sum=Sum("usd"))
    rates, closed = fx.shown(), _closings()
    parts: dict[datetime, list[tuple[date, Decimal]]] = defaultdict(list)
    for day, usd in days:
        parts[midnight(day.replace(day=1))].append((day, usd))
    at, first, listed = calendar_month(utc(now)), min(parts, default=utc(now)), []
    while True:
        of_month = parts.get(at.start, [])
        usd = cents(sum((usd for _, usd in of_month), ZERO))
        listed.append(Month(at.start, usd, rates.total(of_month), _closing(at, closed, now=now)))
        if at.start <= first:
            return listed
        at = calendar_month(at.start - DAY)


def of_month(month: Period, *, now: datetime) -> Statement:
    """The month's statement, from what the ledger holds now."""
    reader = Reader(Selection(month.start.date(), (month.end - DAY).date()))
    lines, rates = reader.between(month.start, month.end), fx.shown()
    book = _Book(rates)
    for line in lines:
        book.take(line)
    total = cents(sum((line.usd for line in lines), ZERO))
    amount = rates.total((line.day, line.usd) for line in lines)
    deployments, whole = book.rows(), book.whole
    days = book.day_rows()
    return Statement(
        month, _closing(month, _closings(), now=now), rates.currency, total, amount, deployments, book.by(_provider),
        book.by(_component), book.corrections(), days, whole, _rest(total, amount, [whole]), _rest(total, amount, days),
    )  # fmt: skip


def cents(usd: Decimal) -> Decimal:
    """To the cent, half to even."""
    return fx.rounded(Fraction(usd), 2)


type _Key = tuple[UUID, str, str, str, str]
"""Deployment, its name, provider, component, and the reason that tells corrections apart."""


class _Book:
    """Gathers lines into cells, and cells into rows."""

    def __init__(self, rates: fx.Rates) -> None:
        self.rates = rates
        self.parts: dict[_Key, list[tuple[date, Decimal]]] = defaultdict(list)
        self.days: dict[date, list[tuple[date, Decimal]]] = defaultdict(list)
        self.corrected: dict[_Key, list[Line]] = defaultdict(list)
        self.whole = Row("All lines")
        self._cells: dict[_Key, Cell] = {}

    def take(self, line: Line) -> None:
        s = line.subject
        key = (
            s.scope,
            s.scope_label,
            s.provider,
            CORRECTIONS if line.is_correction else line.component,
            line.reason,
        )
        if line.is_correction:
            self.corrected[key].append(line)
        self.parts[key].append((line.day, line.usd))
        self.days[line.day].append((line.day, line.usd))

    def cells(self) -> dict[_Key, Cell]:
        if not self._cells:
            self._cells = {key: self._cell(parts) for key, parts in self.parts.items()}
        return self._cells

    def rows(self) -> list[Row]:
        """A row for each deployment at each provider, the dearest first."""
        rows: dict[tuple[UUID, str], Row] = {}
        for key, cell in self.cells().items():
            scope, label, provider, component, _ = key
            if (scope, provider) not in rows:
                rows[scope, provider] = Row(label, provider_name(provider), scope)
            rows[scope, provider].add(cell, component)
            self.whole.add(cell, component)
        self.whole.settle()
        return _settled(rows.values())

    def by(self, name: Callable[[_Key], str]) -> list[Row]:
        rows: dict[str, Row] = {}
        for key, cell in self.cells().items():
            rows.setdefault(name(key), Row(name(key))).add(cell, key[3])
        return _settled(rows.values())

    def corrections(self) -> list[Row]:
        """One row for each deployment and reason, in the order of time: a close corrects each day by a little."""
        found = []
        for key, lines in self.corrected.items():
            first, times = lines[0], f" ({len(lines)} times)" if len(lines) > 1 else ""
            row = Row(first.subject.scope_label, f"{first.reason}{times}", first.subject.scope, first.start)
            row.add(self.cells()[key], CORRECTIONS)
            row.settle()
            if len(lines) == 1:
                rate = self.rates.on(first.day)
                row.rate = rate.words if rate else ""
            found.append(row)
        return found

    def day_rows(self) -> list[Row]:
        """One row for each day, with the one rate that it has."""
        found = []
        for day in sorted(self.days):
            rate = self.rates.on(day)
            row = Row(f"{day.day} {day:%b %Y}", rate.words if rate else "")
            row.add(self._cell(self.days[day]))
            row.rate = f"{rate.per_usd}" if rate else ""
            found.append(row)
        return found

    def _cell(self, parts: Sequence[tuple[date, Decimal]]) -> Cell:
        usd, exact = sum((usd for _, usd in parts), ZERO), self.rates.exact_total(parts)
        amount = None if exact is None else fx.smallest(exact, self.rates.currency)
        return Cell(usd, cents(usd), exact, amount)


def _provider(key: _Key) -> str:
    return provider_name(key[2])


def _component(key: _Key) -> str:
    return _COMPONENTS.get(key[3], key[3])


def _settled(rows: Iterable[Row]) -> list[Row]:
    found = sorted(rows, key=lambda row: (-row.usd, row.label, row.sub))
    for row in found:
        row.settle()
    return found


def _rest(total: Decimal, amount: Decimal | None, rows: Iterable[Row]) -> tuple[Decimal, Decimal | None]:
    """What rounding line by line left out of the total, in both currencies."""
    rows = list(rows)
    known = [row.amount for row in rows if row.amount is not None]
    missing = amount is None or len(known) < len(rows)
    return total - sum((row.usd for row in rows), ZERO), None if missing or amount is None else amount - sum(known, ZERO)  # fmt: skip


def _closings() -> list[tuple[datetime, datetime]]:
    return list(ClosedPeriod.objects.order_by("closed_at").values_list("until", "closed_at"))


def _closing(month: Period, closed: Sequence[tuple[datetime, datetime]], *, now: datetime) -> Closing:
    at = next((at for until, at in closed if until >= month.end), None)
    if at:
        return Closing("Closed", f"Closed on {_day(at)}: it changes by corrections alone.", is_closed=True)
    if month.end > now:
        return Closing("Running", "The month runs: its figures still grow.", is_closed=False)
    return Closing(
        "Open", "The month is over and not closed yet: its hours can still change.", is_closed=False
    )


def metered_to() -> datetime | None:
    """Up to when the ledger holds what runs; None when nothing runs."""
    found: dict[str, Any] = PriceSegment.objects.filter(ended_at=None).aggregate(at=Max("metered_to"))
    at: datetime | None = found["at"]
    return at


def _day(at: datetime) -> str:
    return f"{at.day} {at:%b %Y}"
