"""The panel's own exports: every entry, a row for each day, a row for each deployment; as CSV or as JSON.

Amounts are exact. Each line that is converted says its rate, the rate's day and its source; where a row stands
for several days it says their sum, converted day by day.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from fractions import Fraction
from itertools import groupby
from operator import attrgetter

from billing import fx
from billing.exports.focus import instant, number
from billing.exports.lines import Reader, Selection
from panel.ui.csvfile import Plain

type Row = Sequence[object]
ZERO = Decimal(0)
CONVERTED = ("converted", "currency", "rate", "rate_date", "rate_source")


@dataclass(frozen=True, slots=True)
class Table:
    """`rows` gives the cells of each row, in the order of `header`."""

    title: str
    header: tuple[str, ...]
    rows: Callable[[Selection], Iterator[Row]]


def entries(selection: Selection) -> Iterator[Row]:
    """A row for each line."""
    rates = fx.shown()
    for line in Reader(selection).lines():
        s = line.subject
        yield (
            instant(line.start), instant(line.end), "correction" if line.is_correction else "usage", s.scope_label,
            str(s.scope), s.label, s.provider, s.account_label, s.tier, s.gpu, s.country, s.data_center,
            line.component, Plain("" if line.is_correction else line.seconds), number(line.usd),
            *_converted(line.usd, line.day, rates), line.reason, json.dumps(s.tags, ensure_ascii=False, sort_keys=True),
        )  # fmt: skip


def days(selection: Selection) -> Iterator[Row]:
    """A row for each day that cost something."""
    rates = fx.shown()
    for day, lines in groupby(Reader(selection).lines(), key=attrgetter("day")):
        usage = corrections = ZERO
        for line in lines:
            if line.is_correction:
                corrections += line.usd
            else:
                usage += line.usd
        whole = usage + corrections
        yield (
            Plain(day.isoformat()),
            number(usage),
            number(corrections),
            number(whole),
            *_converted(whole, day, rates),
        )


@dataclass(slots=True)
class _Deployment:
    label: str
    providers: set[str] = field(default_factory=set)
    parts: dict[str, Decimal] = field(default_factory=lambda: defaultdict(lambda: ZERO))
    exact: Fraction | None = Fraction(0)


_PARTS = ("compute", "disk", "volume", "traffic-in", "traffic-out", "requests", "corrections")


def deployments(selection: Selection) -> Iterator[Row]:
    """A row for each deployment, the dearest first; its conversion is the sum of its days'."""
    rates = fx.shown()
    found: dict[object, _Deployment] = {}
    for line in Reader(selection).lines():
        s = line.subject
        one = found.setdefault(s.scope, _Deployment(s.scope_label))
        one.providers.add(s.provider)
        one.parts["corrections" if line.is_correction else line.component] += line.usd
        rate = rates.on(line.day)
        one.exact = None if rate is None or one.exact is None else one.exact + fx.exactly(line.usd, rate)
    for scope, one in sorted(found.items(), key=lambda item: (-sum(item[1].parts.values()), item[1].label)):
        shown = "" if one.exact is None else number(fx.smallest(one.exact, rates.currency))
        yield (
            one.label, str(scope), ", ".join(sorted(one.providers)), *(number(one.parts[part]) for part in _PARTS),
            number(sum(one.parts.values(), ZERO)), shown, rates.currency,
        )  # fmt: skip


TABLES = {
    "entries": Table(
        "Every entry",
        (
            "from", "to", "kind", "deployment", "deployment_id", "machine", "provider", "account", "tier", "gpu",
            "country", "data_center", "component", "seconds", "usd", *CONVERTED, "reason", "tags",
        ),
        entries,
    ),
    "days": Table("A row for each day", ("day", "usage_usd", "corrections_usd", "usd", *CONVERTED), days),
    "deployments": Table(
        "A row for each deployment",
        (
            "deployment", "deployment_id", "providers", *(f"{part.replace('-', '_')}_usd" for part in _PARTS), "usd",
            "converted", "currency",
        ),
        deployments,
    ),
}  # fmt: skip


def as_json(header: Sequence[str], rows: Iterable[Row]) -> Iterator[str]:
    """The rows as one JSON array of objects, piece by piece. Amounts are texts: a float would round them."""
    begin = "[\n"
    for row in rows:
        values = {name: str(value) for name, value in zip(header, row, strict=True)}
        yield begin + json.dumps(values, ensure_ascii=False)
        begin = ",\n"
    yield "[]\n" if begin == "[\n" else "\n]\n"


def _converted(usd: Decimal, day: date, rates: fx.Rates) -> tuple[str, ...]:
    """Exact to nine places, so that rows add up to the cent however many they are; empty without a rate."""
    rate = rates.on(day)
    if rate is None:
        return "", Plain(rates.currency), "", "", ""
    return (
        number(fx.rounded(fx.exactly(usd, rate), 9)), Plain(rates.currency), number(rate.per_usd),
        Plain(rate.day.isoformat() if rate.day else ""), Plain(rate.source),
    )  # fmt: skip
