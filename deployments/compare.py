"""The same need priced on every provider and tier, and what each policy would rent. Pure.

    candidates (live offers, or a dated price list) ── lines      a row for each tier: cheapest, median, stopped
                                                    └─ verdicts   one for each policy, with its reasons

The judgement of each candidate (does it fit, may it stand there) comes with it; the order of a policy is
`rank`'s. Amounts in USD. A month has 730 hours, as the providers count when they compare.

Somebody waits while thousands are compared: candidates and prices are tuples, and no list is sorted whose
first alone is asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from operator import attrgetter
from typing import NamedTuple

from deployments import rank
from deployments.providers.base import Quote
from deployments.rank import BALANCED, CHEAPEST, RELIABILITY, History, Reason
from deployments.tiers import TIERS, Tier, described

HOURS = Decimal(730)
POLICIES = {RELIABILITY: "Reliability first", BALANCED: "Balanced", CHEAPEST: "Cheapest"}
NOT_OFFERED = "Nothing of this tier is offered now."
_DEVELOPMENT_ONLY = {(t.provider, t.key) for t in TIERS if t.development_only}


@dataclass(frozen=True, slots=True)
class Need:
    """What is to be served, as far as prices depend on it."""

    production: bool
    budget: Decimal | None = None
    """USD for a month of 730 hours; None: no limit."""
    busy_hours: Decimal = Decimal(24)
    """Hours a day in which a worker that scales to zero is at work."""

    def admits(self, candidate: Candidate) -> bool:
        """Production takes nothing that is advised for development and tests alone."""
        return not (self.production and candidate.development_only)

    def affords(self, priced: Priced) -> bool:
        return self.budget is None or priced.month <= self.budget


class Candidate(NamedTuple):
    """One thing that could be rented. `reasons` say why not, in sentences; none: it fits."""

    provider: str
    quote: Quote
    usd_per_hour: Decimal
    """All-in: compute, disk and the traffic that is expected."""
    name: str
    place: rank.Place
    """Its standing and trust in every policy's order."""
    reasons: tuple[str, ...] = ()
    obstacles: tuple[str, ...] = ()
    """What stands in the way of renting it now, though it fits: no key, no image, in sentences."""
    offer_id: int | None = None
    """Of the row that can be launched; None for a price of a list."""
    held_usd_per_hour: Decimal | None = None
    """Stopped; None: not known."""
    history: History | None = None
    """Our own, with its host or site."""
    source: str = ""
    where: str = ""
    """In words, when it is not one country."""

    @property
    def tier(self) -> Tier:
        return described(self.provider, self.quote.tier)

    @property
    def development_only(self) -> bool:
        """Advised for development and tests alone: nobody answers for it, or a bid takes it away."""
        return self.quote.interruptible or (self.provider, self.quote.tier) in _DEVELOPMENT_ONLY

    @property
    def scales_to_zero(self) -> bool:
        return self.quote.serverless and not self.quote.workers_min

    @property
    def stays_on(self) -> bool:
        """Neither sleep nor a bid takes it away."""
        return not self.quote.interruptible and not self.scales_to_zero


class Priced(NamedTuple):
    """A candidate and what it costs for the need."""

    candidate: Candidate
    hours: Decimal
    """How many of a month's 730 hours it bills: a worker that scales to zero, its busy ones alone."""
    cost: float
    """USD for an hour on average, for sorting alone."""

    @property
    def hour(self) -> Decimal:
        """USD for an hour in which it works."""
        return self.candidate.usd_per_hour

    @property
    def month(self) -> Decimal:
        """USD for a month of 730 hours."""
        return self.candidate.usd_per_hour * self.hours


def price(need: Need, candidates: Sequence[Candidate]) -> list[Priced]:
    """Every candidate with its price for the need."""
    always, busy = (HOURS, 1.0), (HOURS * need.busy_hours / 24, float(need.busy_hours) / 24)
    priced = []
    for c in candidates:
        hours, share = busy if c.scales_to_zero else always
        priced.append(Priced(c, hours, float(c.usd_per_hour) * share))
    return priced


# -- a line for each tier --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class BreakEven:
    """Up to how many busy hours a day it is cheaper than `than`, the cheapest that is always on. 24: always."""

    hours: Decimal
    than: str


@dataclass(frozen=True, slots=True)
class Line:
    """One tier. Without `cheapest` nothing of it fits: `nearest` is shown all the same, `why` says what is wrong."""

    tier: Tier
    offers: int
    fitting: int
    cheapest: Priced | None
    median: Priced | None
    nearest: Priced | None
    why: str
    over_budget: bool
    break_even: BreakEven | None
    """Of a worker that scales to zero alone."""

    @property
    def shown(self) -> Priced | None:
        return self.cheapest or self.nearest

    @property
    def stopped(self) -> Decimal | None:
        """What the shown one costs stopped, USD per hour; None when that is not known."""
        return self.shown.candidate.held_usd_per_hour if self.shown else None


def lines(
    need: Need, priced: Sequence[Priced], *, missing: dict[str, str], absent: str = NOT_OFFERED
) -> list[Line]:
    """A line for every tier, known or offered.

    `missing` says why a provider has no offers, `absent` why a tier of another has none. Sentences.
    """
    groups: dict[tuple[str, str], list[Priced]] = {(t.provider, t.key): [] for t in TIERS}
    for p in priced:
        groups.setdefault((p.candidate.provider, p.candidate.quote.tier), []).append(p)
    always_on = _cheapest_always_on(need, priced)
    return [
        _line(described(*key), group, need, missing.get(key[0], absent), always_on)
        for key, group in groups.items()
    ]


_COST = attrgetter("cost")


def _cheapest_always_on(need: Need, priced: Sequence[Priced]) -> Priced | None:
    """What a worker that scales to zero has to beat, of what the purpose admits."""
    running = (
        p for p in priced
        if not p.candidate.reasons and p.candidate.stays_on and need.admits(p.candidate)
    )  # fmt: skip
    return min(running, key=_COST, default=None)


def _line(tier: Tier, group: list[Priced], need: Need, missing: str, always_on: Priced | None) -> Line:
    fitting = sorted((p for p in group if not p.candidate.reasons), key=_COST)
    cheapest = fitting[0] if fitting else None
    # Of what does not fit the one that least speaks against is shown, greyed, with its reasons.
    nearest = None if fitting else min(group, key=lambda p: (len(p.candidate.reasons), p.cost), default=None)
    return Line(
        tier=tier, offers=len(group), fitting=len(fitting), cheapest=cheapest,
        # The lower of the two in the middle: a median that can be rented.
        median=fitting[(len(fitting) - 1) // 2] if fitting else None,
        nearest=nearest, why=" ".join(nearest.candidate.reasons) if nearest else missing, break_even=_break_even(cheapest, always_on),
        over_budget=bool(cheapest and not need.affords(cheapest)),
    )  # fmt: skip


def _break_even(cheapest: Priced | None, always_on: Priced | None) -> BreakEven | None:
    if cheapest is None or always_on is None or not cheapest.candidate.scales_to_zero or not cheapest.hour:
        return None
    hours = always_on.month / (cheapest.hour * HOURS / 24)
    return BreakEven(min(Decimal(24), hours), always_on.candidate.tier.name)


# -- a verdict for each policy ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a policy would rent, and why. Without a `pick` the reasons say why it would rent nothing."""

    policy: str
    title: str
    pick: Priced | None
    reasons: tuple[Reason, ...]
    excluded: tuple[str, ...]
    """What it did not look at, and why."""
    following: Priced | None
    """The next in its order, of another tier."""


def verdicts(need: Need, priced: Sequence[Priced]) -> list[Verdict]:
    """The verdict of each policy."""
    fitting = [p for p in priced if not p.candidate.reasons]
    admitted = [p for p in fitting if need.admits(p.candidate)]
    unfit = [p for p in fitting if not need.admits(p.candidate)]
    within = [p for p in admitted if need.affords(p)]
    dear = [p for p in admitted if not need.affords(p)]
    return [_verdict(policy, need, within, unfit=unfit, dear=dear) for policy in POLICIES]


def _verdict(
    policy: str, need: Need, within: list[Priced], *, unfit: list[Priced], dear: list[Priced]
) -> Verdict:
    excluded = tuple(_excluded(policy, need, unfit, dear))
    firsts = _firsts(within, policy)
    if not firsts:
        nothing = (
            "Nothing is left to choose from." if excluded else "Nothing that is known now fits this need."
        )
        return Verdict(policy, POLICIES[policy], None, (Reason(nothing, good=False),), excluded, None)
    pick, following = firsts[0], firsts[1] if len(firsts) > 1 else None
    cheapest = min(within, key=_COST)
    return Verdict(policy, POLICIES[policy], pick, tuple(_reasons(need, pick, cheapest)), excluded, following)


def _firsts(priced: list[Priced], policy: str) -> list[Priced]:
    """The first of each tier, in the policy's order; of two that are alike the one that can be rented now."""
    best: dict[tuple[str, str], tuple[tuple[float, ...], bool, int]] = {}
    for i, (c, _, cost) in enumerate(priced):
        kind, place = (c.provider, c.quote.tier), (rank.order(c.place, policy, cost), bool(c.obstacles), i)
        if kind not in best or place < best[kind]:
            best[kind] = place
    return [priced[i] for *_, i in sorted(best.values())]


def _excluded(policy: str, need: Need, unfit: list[Priced], dear: list[Priced]) -> Iterator[str]:
    """What the purpose and the budget ruled out; of what is too dear the policy's first is named."""
    if unfit:
        names = _listed(sorted(described(*kind).name for kind in {_kind(p) for p in unfit}))
        yield f"{names}, from {_usd(min(unfit, key=_COST).month)}: for development and tests only."
    for first in _firsts(dear, policy)[:1]:
        more = f" and {len(dear) - 1} more" if len(dear) > 1 else ""
        yield f"{first.candidate.tier.name} at {_usd(first.month)}{more}: over {_usd(need.budget)} a month."


def _kind(p: Priced) -> tuple[str, str]:
    return p.candidate.provider, p.candidate.quote.tier


def _reasons(need: Need, pick: Priced, cheapest: Priced) -> Iterator[Reason]:
    if pick.month > cheapest.month:
        dearer = f"{_usd(pick.month - cheapest.month)} a month more than {cheapest.candidate.tier.name}, the cheapest"
        yield Reason(dearer, good=False)
    else:
        yield Reason("The cheapest of all that is admitted", good=True)
    if need.budget is not None:
        yield Reason(f"{_usd(need.budget - pick.month)} of the budget are left", good=True)
    if pick.candidate.quote.estimate:
        yield Reason("Its price is an estimate", good=False)
    yield from rank.reasons(pick.candidate.quote, history=pick.candidate.history)


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _usd(value: Decimal | None) -> str:
    return "n/a" if value is None else f"${value:,.2f}"
