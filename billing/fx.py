"""Money in another currency than the one of record, each figure with the rate of its day. Exact.

The ledger counts USD. What is shown beside it is converted with the last rate known on the figure's day, which
says its day and its source. A closed day keeps the rates that were known when it was closed. Nothing is
rounded before the end: a sum is converted exactly and rounded once, half to even, to the currency's smallest unit.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from fractions import Fraction
from typing import Any, NamedTuple

from django.db import transaction
from django.db.models import (
    BigIntegerField,
    CharField,
    DateField,
    DateTimeField,
    DecimalField,
    Field,
    Subquery,
    Value,
)
from django.db.models.functions import Cast, Coalesce

from billing.models import ClosedPeriod, DisplayCurrency, ExchangeRate
from billing.periods import DAY, utc
from panel.accounts.models import User
from panel.audit import chain

RECORD = "USD"
EURO = "EUR"
CURRENCIES = {
    "EUR": "Euro", "USD": "US dollar", "BGN": "Bulgarian lev", "CHF": "Swiss franc", "CZK": "Czech koruna",
    "DKK": "Danish krone", "GBP": "Pound sterling", "HUF": "Hungarian forint", "ISK": "Icelandic króna",
    "NOK": "Norwegian krone", "PLN": "Polish złoty", "RON": "Romanian leu", "SEK": "Swedish krona",
}  # fmt: skip
"""What money can be shown in: the currencies of the European Economic Area, its neighbours and the dollar."""
SYMBOLS = {"USD": "$", "EUR": "€", "GBP": "£"}
WHOLE = frozenset({"ISK"})
"""Currencies without a smaller unit."""
PLAUSIBLE = Decimal("0.10")
"""By how much of the last known rate one entered by hand may differ before it has to be confirmed."""
FIRST_DAY = date(1999, 1, 4)
"""The first day for which the ECB published rates."""


class BadRate(ValueError):
    """A rate or a currency that cannot be taken. The text is a sentence for operators."""


@dataclass(frozen=True, slots=True)
class Rate:
    """One USD is `units` / `per_usd_units` of `currency`. `source` is "ecb", "hand", or "" for the dollar itself."""

    currency: str
    day: date | None
    units: Decimal
    per_usd_units: Decimal
    source: str
    recorded_at: datetime | None = field(default=None, compare=False)

    @property
    def exact(self) -> Fraction:
        """Units of the currency for one USD."""
        return Fraction(self.units) / Fraction(self.per_usd_units)

    @property
    def per_usd(self) -> Decimal:
        """Units of the currency for one USD, to six places."""
        return rounded(self.exact, 6)

    @property
    def words(self) -> str:
        """ "1 EUR = 1.085 USD, ECB, 27 Nov 2026": as it was published."""
        if self.day is None:
            return "the currency of record"
        source = ExchangeRate.Source(self.source).label
        return f"{self.equation}, {source}, {self.day.day} {self.day:%b %Y}"

    @property
    def equation(self) -> str:
        if self.units == 1:
            return f"1 {self.currency} = {_plain(self.per_usd_units)} USD"
        return f"1 USD = {_plain(self.per_usd)} {self.currency}"


DOLLAR = Rate(RECORD, None, Decimal(1), Decimal(1), "")


@dataclass(frozen=True, slots=True)
class Converted:
    """A figure in the currency that is shown, with the rate that made it. `amount` is None without a rate."""

    usd: Decimal
    currency: str
    amount: Decimal | None
    rate: Rate | None

    @property
    def text(self) -> str:
        return written(self.amount, self.currency)


_RATE, _CLOSING, _SETTING = "rate", "closing", "setting"


class _Row(NamedTuple):
    """A rate, a closing (`day` is the end of what it closed) or the setting, whose currency `source` holds."""

    kind: str
    pk: int
    day: date
    units: Decimal
    per_usd_units: Decimal
    source: str
    at: datetime


def _read(currency: Any) -> list[_Row]:
    """The rates of `currency`, an expression, with the closings and the setting; one query, for many pages ask."""

    def one(text: str) -> Cast:
        # PostgreSQL wants to know what a column of a union is before it has read it.
        return Cast(Value(text), CharField())

    def none(field: Field[Any, Any]) -> Cast:
        return Cast(Value(None), field)

    number = DecimalField(max_digits=15, decimal_places=6)
    rates = ExchangeRate.objects.filter(currency=currency).values_list(
        one(_RATE), Cast("pk", BigIntegerField()), "day", "units", "per_usd_units", "source", "recorded_at"
    )
    closings = ClosedPeriod.objects.values_list(
        one(_CLOSING), Cast("pk", BigIntegerField()), Cast("until", DateField()), none(number), none(number), one(""),
        "closed_at",
    )  # fmt: skip
    setting = DisplayCurrency.objects.values_list(
        one(_SETTING), Cast("pk", BigIntegerField()), none(DateField()), none(number), none(number), "currency",
        none(DateTimeField()),
    )  # fmt: skip
    return [_Row(*row) for row in rates.union(closings.order_by(), setting, all=True)]


class Rates:
    """Every rate of one currency, read once: `on(day)` answers from memory."""

    def __init__(self, currency: str, rows: Iterable[_Row] | None = None) -> None:
        self.currency = currency
        self._rates: list[Rate] = []
        self._closings: list[tuple[date, datetime]] = []
        self._of: dict[datetime | None, list[Rate]] = {}
        if currency == RECORD:
            return
        rates, closings = [], []
        for row in _read(Value(currency)) if rows is None else rows:
            if row.kind == _CLOSING:
                closings.append((row.day, row.at))
            elif row.kind == _RATE:
                rates.append(row)
        # Of one day, the last in this order counts: the bank before a hand, the later of two hands.
        rates.sort(key=lambda r: (r.day, r.source == ExchangeRate.Source.ECB, r.at, r.pk))
        self._rates = [Rate(currency, r.day, r.units, r.per_usd_units, r.source, r.at) for r in rates]
        self._closings = sorted(closings, key=lambda c: c[1])

    def on(self, day: date) -> Rate | None:
        """The last rate known on `day`; None before the first one."""
        if self.currency == RECORD:
            return DOLLAR
        closed_at = next((at for until, at in self._closings if day < until), None)
        return self._last(day, closed_at) or (self._last(day, None) if closed_at else None)

    @property
    def last(self) -> Rate | None:
        return self.on(date.max)

    def convert(self, usd: Decimal, day: date) -> Converted:
        """`usd` in the currency at the rate of `day`, rounded to its smallest unit."""
        rate = self.on(day)
        amount = None if rate is None else smallest(exactly(usd, rate), self.currency)
        return Converted(usd, self.currency, amount, rate)

    def total(self, parts: Iterable[tuple[date, Decimal]]) -> Decimal | None:
        """The USD of several days, each at its own rate, added exactly and rounded once.

        None when a day that cost something has no rate.
        """
        found = self.exact_total(parts)
        return None if found is None else smallest(found, self.currency)

    def exact_total(self, parts: Iterable[tuple[date, Decimal]]) -> Fraction | None:
        """As `total`, not rounded."""
        whole = Fraction(0)
        for day, usd in parts:
            if not usd:
                continue
            rate = self.on(day)
            if rate is None:
                return None
            whole += exactly(usd, rate)
        return whole

    def _last(self, day: date, closed_at: datetime | None) -> Rate | None:
        if closed_at not in self._of:
            self._of[closed_at] = [
                r
                for r in self._rates
                if closed_at is None or (r.recorded_at is not None and r.recorded_at <= closed_at)
            ]
        known = self._of[closed_at]
        at = bisect_right(known, day, key=_day_of)
        return known[at - 1] if at else None


def exactly(usd: Decimal, rate: Rate) -> Fraction:
    """`usd` in the rate's currency, not rounded."""
    return Fraction(usd) * rate.exact


def places(currency: str) -> int:
    """Decimal places of the currency's smallest unit."""
    return 0 if currency in WHOLE else 2


def smallest(amount: Fraction, currency: str) -> Decimal:
    """`amount` rounded half to even to the currency's smallest unit."""
    return rounded(amount, places(currency))


def rounded(amount: Fraction, digits: int) -> Decimal:
    """`amount` to `digits` places, half to even."""
    return Decimal(round(amount * 10**digits)).scaleb(-digits)


def written(amount: Decimal | None, currency: str) -> str:
    """ "€1,234.50", "−€0.40", "CZK 1,234.50"; "n/a" for None."""
    if amount is None:
        return "n/a"
    mark = SYMBOLS.get(currency, f"{currency} ")
    return f"{'−' if amount < 0 else ''}{mark}{abs(amount):,.{places(currency)}f}"


# -- what is set and entered --------------------------------------------------------------------------


def setting() -> DisplayCurrency:
    """The stored setting; EUR while nobody has set one."""
    return DisplayCurrency.objects.filter(pk=DisplayCurrency.ONLY).first() or DisplayCurrency()


def shown() -> Rates:
    """The rates of the currency that pages show beside USD; one query."""
    chosen = DisplayCurrency.objects.filter(pk=DisplayCurrency.ONLY).values("currency")
    rows = _read(Coalesce(Subquery(chosen), Value(EURO)))
    return Rates(next((row.source for row in rows if row.kind == _SETTING), EURO), rows)


@transaction.atomic
def show_in(currency: str, *, actor: User | None, now: datetime) -> None:
    """Show money in `currency` from now on. Audited. Raises BadRate."""
    if currency not in CURRENCIES:
        raise BadRate("Choose one of the currencies listed.")
    row, _ = DisplayCurrency.objects.select_for_update().get_or_create(pk=DisplayCurrency.ONLY)
    before = row.currency
    if before == currency:
        return
    row.currency = currency
    row.save(update_fields=["currency"])
    chain.record(
        "currency.set", actor=actor, before={"currency": before}, after={"currency": currency}, now=now
    )


@transaction.atomic
def enter(
    currency: str, day: date, per_usd: Decimal, *, note: str, actor: User | None, now: datetime, sure: bool = False
) -> ExchangeRate:  # fmt: skip
    """Add a rate by hand: one USD was `per_usd` of `currency` on `day`. Audited.

    Raises BadRate for a day that has not come, a number that is none, and unless `sure` for a rate that is
    more than a tenth away from the last one known.
    """
    if currency not in CURRENCIES or currency == RECORD:
        raise BadRate("Choose one of the currencies listed, not the dollar: it is the currency of record.")
    if not FIRST_DAY <= day <= utc(now).date():
        raise BadRate("A rate is of a day from 1999 to today.")
    if not per_usd.is_finite() or not Decimal("0.000001") <= per_usd <= 1_000_000:
        raise BadRate("A rate lies between 0.000001 and 1,000,000.")
    near = Rates(currency).on(day)
    if near and not sure and abs(Fraction(per_usd) - near.exact) > Fraction(PLAUSIBLE) * near.exact:
        raise BadRate(
            f"That is more than a tenth away from the last rate known ({near.words}). "
            "If it is right, tick the box and enter it again."
        )
    row = ExchangeRate.objects.create(
        currency=currency, day=day, units=per_usd, source=ExchangeRate.Source.HAND, recorded_at=utc(now),
        note=note.strip()[:200],
    )  # fmt: skip
    after = {
        "currency": currency,
        "day": day.isoformat(),
        "per_usd": f"{per_usd.normalize():f}",
        "note": row.note,
    }
    chain.record("rate.entered", actor=actor, target=row, after=after, now=now)
    return row


def record_ecb(days: Iterable[tuple[date, dict[str, Decimal]]], *, now: datetime) -> int:
    """Keep what the ECB published, as units for one euro; how many rates were new. Known ones stay as they are."""
    rows = []
    for day, per_euro in days:
        dollars = per_euro[RECORD]
        if day > utc(now).date() + DAY:
            continue
        for currency in CURRENCIES:
            units = Decimal(1) if currency == EURO else per_euro.get(currency)
            if currency != RECORD and units is not None:
                rows.append(
                    ExchangeRate(
                        currency=currency, day=day, units=units, per_usd_units=dollars,
                        source=ExchangeRate.Source.ECB, recorded_at=utc(now),
                    )
                )  # fmt: skip
    before = ExchangeRate.objects.count()
    ExchangeRate.objects.bulk_create(rows, ignore_conflicts=True, batch_size=500)
    return ExchangeRate.objects.count() - before


def _day_of(rate: Rate) -> Any:
    return rate.day


def _plain(value: Decimal) -> str:
    return f"{value.normalize():f}"
