"""When two sums of money agree, and the likely reason when they do not. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal

from billing.models.statement import Discrepancy

Reason = Discrepancy.Reason
ZERO = Decimal(0)
SHARE, LEAST = Decimal("0.01"), Decimal("0.01")
TRAFFIC = frozenset({"traffic-in", "traffic-out", "requests"})
FEES = frozenset({"fee", "other", "volume"})
_MOSTLY = Decimal("0.8")
"""The part of a gap that a reason has to explain to be its reason."""


def tolerance(a: Decimal, b: Decimal) -> Decimal:
    """USD by which two figures may differ and still be the same: the larger of 1 % and a cent."""
    return max(SHARE * max(abs(a), abs(b)), LEAST)


def agree(a: Decimal, b: Decimal) -> bool:
    return abs(a - b) <= tolerance(a, b)


@dataclass(frozen=True, slots=True)
class Facts:
    """One machine on one day, USD. The mappings are by component."""

    metered: Decimal
    charged: Decimal
    known: bool
    """The ledger has a machine for it."""
    late: bool = False
    """A line of it came or changed after the day had been compared."""
    parts_metered: Mapping[str, Decimal] = field(default_factory=dict)
    parts_charged: Mapping[str, Decimal] = field(default_factory=dict)
    whole_gap: Decimal = ZERO
    """The gap of those spans alone that ran from end to end by both accounts: no time can differ in them."""

    @property
    def usd(self) -> Decimal:
        return self.charged - self.metered


def guess(facts: Facts) -> Reason:
    """Why the two figures differ, most likely."""
    if not facts.known:
        return Reason.NOT_SEEN
    if not facts.charged:
        return Reason.NOT_CHARGED
    if _explains(facts, _excess(facts, FEES)):
        return Reason.FEE
    if _explains(facts, _excess(facts, TRAFFIC)):
        return Reason.TRAFFIC
    if _explains(facts, facts.whole_gap):
        return Reason.PRICE
    return Reason.LATE if facts.late else Reason.TIME


def _excess(facts: Facts, components: frozenset[str]) -> Decimal:
    charged = sum((facts.parts_charged.get(name, ZERO) for name in components), ZERO)
    return charged - sum((facts.parts_metered.get(name, ZERO) for name in components), ZERO)


def _explains(facts: Facts, part: Decimal) -> bool:
    """Whether `part` makes up the gap, in its direction."""
    return bool(part) and (part > 0) == (facts.usd > 0) and abs(part) >= _MOSTLY * abs(facts.usd)
