"""In which order offers are taken, by policy, and why in words. Pure.

    reliability   standing, then trust, then price
    balanced      price x (2 - trust)^2: an offer of trust 0.4 must be half as dear as one of trust 0.9
    cheapest      price, then standing and trust

**Standing** is the ground an offer stands on: 3 a data centre that answers for its uptime, 2 a certified data
centre (or your own machine), 1 a single host, 0 one that a higher bid takes away. A host that failed us more
often than not loses a step. **Trust** is 0 to 1: the standing, and within it what is known of the offer.
The tests hold what must be so: a dearer twin never ranks above, a better SLA never ranks lower.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import NamedTuple

from deployments.providers.base import Quote

RELIABILITY, BALANCED, CHEAPEST = "reliability", "balanced", "cheapest"

LONG_RENTAL = 730.0
"""Hours; a rental that lasts a month counts as one without an end."""
NEUTRAL = 0.5
"""What is not known counts as the middle."""


@dataclass(frozen=True, slots=True)
class History:
    """What we saw of one host or site ourselves: machines that came up or did not, and what befell them."""

    worked: int = 0
    failed: int = 0
    interruptions: int = 0
    seconds_to_ready: float | None = None
    """The mean of those that worked."""

    @property
    def boots(self) -> int:
        return self.worked + self.failed


@dataclass(frozen=True, slots=True)
class Reason:
    """One thing that speaks for an offer, or against it."""

    text: str
    good: bool


class Place(NamedTuple):
    """Where an offer stands in every policy's order, its price apart."""

    standing: int
    trust: float


def place(quote: Quote, history: History | None = None) -> Place:
    """The offer's standing and trust; see above."""
    return Place(standing(quote, history), trust(quote, history))


def key(
    quote: Quote, policy: str, *, usd_per_hour: Decimal | float, history: History | None = None
) -> tuple[float, ...]:
    """What offers are sorted by, the best first. `usd_per_hour` is the all-in price."""
    return order(place(quote, history), policy, float(usd_per_hour))


def order(place: Place, policy: str, price: float) -> tuple[float, ...]:
    """`key` of an offer whose place is known."""
    ground, score = place
    if policy == CHEAPEST:
        return price, -ground, -score
    if policy == BALANCED:
        return price * (2 - score) ** 2, price
    return -ground, -score, price


def standing(quote: Quote, history: History | None = None) -> int:
    """0 to 3; see above."""
    if quote.interruptible:
        return 0
    ground = 3 if quote.sla else 2 if quote.certification or quote.own_machine else 1
    failing = history is not None and history.boots >= 2 and history.failed > history.worked
    return max(0, ground - failing)


def trust(quote: Quote, history: History | None = None) -> float:
    """0 to 1: the standing, and within it reliability, evidence, rental and history."""
    stated = NEUTRAL if quote.reliability is None else min(1.0, max(0.0, (quote.reliability - 0.9) / 0.1))
    rental = 1.0 if quote.max_hours is None else min(1.0, quote.max_hours / LONG_RENTAL)
    within = (
        0.30 * stated
        + 0.15 * bool(quote.certification)
        + 0.15 * rental
        + 0.30 * _experience(history)
        # Where its workers will stand is known only once they stand there.
        + 0.10 * (not quote.serverless)
    )
    return (standing(quote, history) + within) / 4


def _experience(history: History | None) -> float:
    """Our own boots there, smoothed so that one of them proves little; interruptions count as half a failure."""
    if history is None or not (history.boots or history.interruptions):
        return NEUTRAL
    bad = history.failed + history.interruptions / 2
    return (history.worked + 1) / (history.worked + bad + 2)


def reasons(quote: Quote, *, history: History | None = None) -> tuple[Reason, ...]:
    """What speaks for the offer and what against it, in words, the weightiest first."""
    return tuple(_reasons(quote, history))


def _reasons(quote: Quote, history: History | None) -> Iterator[Reason]:
    yield from _ground(quote)
    if quote.certification:
        yield Reason(quote.certification, good=True)
    if quote.reliability is not None:
        measured = f"{quote.reliability * 100:.1f} % reliable, as the provider measures it"
        yield Reason(measured, good=quote.reliability >= 0.98)
    yield _rental(quote)
    if quote.serverless and not quote.workers_min:
        yield Reason("Scales to zero: the first request after a pause waits for a cold start", good=False)
    if history is not None:
        yield from _own(history)


def _ground(quote: Quote) -> Iterator[Reason]:
    if quote.interruptible:
        yield Reason("A higher bid takes it away at any moment", good=False)
    if quote.own_machine:
        yield Reason("Your own machine: nothing is rented, nobody else answers for it", good=True)
    elif quote.sla:
        yield Reason("A data centre that answers for its uptime (SLA)", good=True)
    elif not quote.certification:
        yield Reason("A single host: nobody answers for its uptime", good=False)
    else:
        yield Reason("No SLA", good=False)


def _rental(quote: Quote) -> Reason:
    if quote.max_hours is None:
        return Reason("No end of the rental is known", good=True)
    days = quote.max_hours / 24
    span = f"{days:.0f} days" if days >= 2 else f"{quote.max_hours:.0f} h"
    return Reason(f"It can be rented for {span} at most", good=quote.max_hours >= LONG_RENTAL)


def _own(history: History) -> Iterator[Reason]:
    if history.boots:
        ready = f", ready after {history.seconds_to_ready / 60:.0f} min" if history.seconds_to_ready else ""
        came = f"Of our {history.boots} boots there {history.worked} worked{ready}"
        yield Reason(came, good=history.failed <= history.worked / 4)
    if history.interruptions:
        times = "once" if history.interruptions == 1 else f"{history.interruptions} times"
        yield Reason(f"It was interrupted {times} with us", good=False)
