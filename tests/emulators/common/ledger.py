"""The provider's own books: what each machine cost, from a log of rates and single charges.

It is computed apart from anything of the product's, so that two sums can be compared.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

_MICROSECOND = timedelta(microseconds=1)
_PER_HOUR = 3_600_000_000


@dataclass(frozen=True, slots=True)
class Event:
    machine: str
    component: str
    at: datetime
    rate: Decimal
    """USD per hour from `at` on; 0 ends it."""


@dataclass(frozen=True, slots=True)
class Once:
    """A single charge: traffic."""

    machine: str
    component: str
    at: datetime
    usd: Decimal


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of time at one rate."""

    machine: str
    component: str
    start: datetime
    end: datetime
    rate: Decimal

    @property
    def rated(self) -> Decimal:
        """Rate times microseconds: sums of it are divided once, so that they stay exact."""
        return self.rate * ((self.end - self.start) // _MICROSECOND)

    @property
    def usd(self) -> Decimal:
        return self.rated / _PER_HOUR


class Ledger:
    def __init__(self) -> None:
        self.events: list[Event] = []
        self.singles: list[Once] = []
        self.rates: dict[tuple[str, str], Decimal] = {}
        """(machine, component) -> the last rate written, USD per hour."""
        self._of: dict[str, dict[str, list[Event]]] = {}

    def rate(self, machine: str, component: str, at: datetime, usd_per_hour: Decimal | int) -> None:
        """From `at` on the component costs this much; later calls must not lie before earlier ones."""
        if self.rates.get((machine, component), 0) != usd_per_hour:
            self.rates[machine, component] = Decimal(usd_per_hour)
            event = Event(machine, component, at, Decimal(usd_per_hour))
            self.events.append(event)
            self._of.setdefault(machine, {}).setdefault(component, []).append(event)

    def once(self, machine: str, component: str, at: datetime, usd: Decimal) -> None:
        self.singles.append(Once(machine, component, at, usd))
        self._of.setdefault(machine, {}).setdefault(component, [])

    def end(self, machine: str, at: datetime) -> None:
        """Nothing of the machine costs anything from `at` on."""
        for component in self.components(machine):
            self.rate(machine, component, at, 0)

    def rate_now(self, machine: str, component: str) -> Decimal:
        """The last rate written, USD per hour."""
        return self.rates.get((machine, component), Decimal(0))

    def components(self, machine: str) -> list[str]:
        return list(self._of.get(machine, {}))

    def machines(self) -> list[str]:
        return list(self._of)

    def spans(
        self, since: datetime, until: datetime, *, machine: str | None = None, component: str | None = None
    ) -> Iterator[Span]:
        """What was on between the two moments, cut to them."""
        for name in self._of if machine is None else (machine,):
            for part, events in self._of.get(name, {}).items():
                if component in {None, part}:
                    yield from _cut(events, since, until)

    def bill(
        self, machine: str | None, since: datetime, until: datetime, *, component: str | None = None
    ) -> Decimal:
        """USD between the two moments, of one machine or of all."""
        spans = self.spans(since, until, machine=machine, component=component)
        total = sum((span.rated for span in spans), Decimal(0)) / _PER_HOUR
        for one in self.singles:
            wanted = machine in {None, one.machine} and component in {None, one.component}
            if wanted and since <= one.at < until:
                total += one.usd
        return total


def _cut(events: list[Event], since: datetime, until: datetime) -> Iterator[Span]:
    if not events or events[0].at >= until:
        return
    ends = [*(e.at for e in events[1:]), until]
    for event, end in zip(events, ends, strict=True):
        start, stop = max(event.at, since), min(end, until)
        if event.rate and start < stop:
            yield Span(event.machine, event.component, start, stop, event.rate)
