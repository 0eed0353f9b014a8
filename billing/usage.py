"""What bytes and requests cost: charges at a moment, each of which becomes part of its hour's entry."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import ROUND_HALF_EVEN, Decimal
from typing import NamedTuple
from uuid import UUID

from django.db import transaction
from django.db.models import Sum

from billing.models import Adjustment, Component, LedgerEntry, UsageCharge
from billing.money import BadAmount, positive, quantize, to_nano
from billing.periods import HOUR, hour_of, utc
from billing.posting import Entry, closed_until, lock, write_entries
from billing.rollup import total_days
from billing.segments import TIMED

QUANTUM = Decimal("1e-6")
"""Of a quantity: a thousandth of a megabyte when its unit is GB."""
MOST = Decimal(999_999_999)
"""The largest quantity: every database keeps it to the last digit."""
_ROWS = 500
"""Charges in one look at the database."""


@dataclass(frozen=True, slots=True)
class Usage:
    """One charge. `external_id` is unique within the subject and names it for ever; see `charge_usage`."""

    subject_id: UUID
    component: str
    quantity: Decimal
    unit: str
    usd_per_unit: Decimal
    at: datetime
    external_id: str
    estimate: bool = False


def charge_usage(
    subject_id: UUID, component: str, quantity: Decimal, unit: str, usd_per_unit: Decimal, at: datetime,
    external_id: str, *, estimate: bool = False,
) -> bool:  # fmt: skip
    """Charge `quantity` of `unit` at `usd_per_unit`, USD, in the hour of `at`; whether that changed anything.

    Saying it twice is once. Said again with another quantity or price it is corrected, in the hour in which
    it was first charged. In an hour that is closed the difference becomes an adjustment. `estimate` marks what
    nobody has told yet.

    Raises BadAmount (a sentence) for what is negative, too large or below a nano-dollar a unit, ValueError
    for a component that costs by the hour, Subject.DoesNotExist.
    """
    usage = Usage(subject_id, component, quantity, unit, usd_per_unit, at, external_id, estimate)
    return bool(charge_all([usage]))


@transaction.atomic
def charge_all(usages: Iterable[Usage]) -> int:
    """Charge them all in one transaction, as `charge_usage` does each; how many changed anything.

    Of two with one external id the later counts. The subjects' rows are held to the transaction's end.
    """
    wanted = {(u.subject_id, u.external_id): _checked(u) for u in usages}
    if not wanted:
        return 0
    lock({subject_id for subject_id, _ in wanted})
    known = _known(wanted.values())
    posting = _Posting()
    fresh, corrected = [], []
    for key, usage in wanted.items():
        row, usd = known.get(key), quantize(usage.quantity * usage.usd_per_unit)
        if row is None:
            row = UsageCharge(
                subject_id=usage.subject_id, component=usage.component, quantity=usage.quantity, unit=usage.unit,
                usd_per_unit=usage.usd_per_unit, usd=usd, at=usage.at, external_id=usage.external_id,
                estimate=usage.estimate,
            )  # fmt: skip
            fresh.append(row)
            posting.note(row, usd, "charged after the period was closed")
            continue
        if row.component != usage.component:
            raise ValueError(f"{usage.external_id} is charged as {row.component} already.")
        told = (usage.quantity, usage.unit, usage.usd_per_unit, usage.estimate)
        if (row.quantity, row.unit, row.usd_per_unit, row.estimate) == told:
            continue
        difference = usd - row.usd
        row.quantity, row.unit, row.usd_per_unit, row.estimate = told
        row.usd = usd
        corrected.append(row)
        posting.note(row, difference, "a charge was corrected")
    UsageCharge.objects.bulk_create(fresh, batch_size=_ROWS)
    UsageCharge.objects.bulk_update(
        corrected, ["quantity", "unit", "usd_per_unit", "usd", "estimate"], batch_size=100
    )
    posting.write()
    return len(fresh) + len(corrected)


def withdraw(charges: Iterable[UsageCharge]) -> int:
    """Let these charges cost nothing: what was an estimate is known now. How many that changed."""
    return charge_all(
        Usage(c.subject_id, c.component, Decimal(0), c.unit, c.usd_per_unit, c.at, c.external_id, c.estimate)
        for c in charges
    )


class _Hour(NamedTuple):
    subject_id: UUID
    component: str
    hour: datetime


class _Posting:
    """The hours that a batch of charges touches. An open one is summed anew, a closed one is adjusted."""

    def __init__(self) -> None:
        self._closed = closed_until()
        self._open: dict[datetime, set[_Hour]] = defaultdict(set)
        self._adjustments: list[Adjustment] = []
        self._days: dict[date, set[UUID]] = defaultdict(set)

    def note(self, row: UsageCharge, difference: Decimal, reason: str) -> None:
        hour = hour_of(row.at)
        if self._closed is None or hour >= self._closed:
            self._open[hour].add(_Hour(row.subject_id, row.component, hour))
        elif difference:
            self._adjustments.append(
                Adjustment(
                    subject_id=row.subject_id, hour=hour, usd=difference, reason=f"{row.component}: {reason}"[:300]
                )
            )  # fmt: skip
        self._days[hour.date()].add(row.subject_id)

    def write(self) -> None:
        for hour, touched in self._open.items():
            _sum_hour(hour, touched)
        Adjustment.objects.bulk_create(self._adjustments, batch_size=_ROWS)
        total_days(self._days)


def _sum_hour(hour: datetime, touched: set[_Hour]) -> None:
    """Each entry is the sum of its hour's charges; without any cost there is no entry."""
    mine = {t.subject_id for t in touched}
    charges = UsageCharge.objects.filter(subject_id__in=mine, at__gte=hour, at__lt=hour + HOUR)
    sums = charges.order_by().values_list("subject_id", "component").annotate(total=Sum("usd"))
    cost = {(subject_id, component): usd for subject_id, component, usd in sums}
    entries, empty = [], defaultdict(list)
    for subject_id, component, _ in touched:
        if usd := cost.get((subject_id, component)):
            entries.append(Entry(subject_id, component, hour, 0, to_nano(usd)))
        else:
            empty[component].append(subject_id)
    write_entries(entries)
    for component, subject_ids in empty.items():
        LedgerEntry.objects.filter(subject_id__in=subject_ids, component=component, hour=hour).delete()


def _known(usages: Iterable[Usage]) -> dict[tuple[UUID, str], UsageCharge]:
    of: dict[str, set[UUID]] = defaultdict(set)
    for usage in usages:
        of[usage.external_id].add(usage.subject_id)
    subject_ids, names = list(set().union(*of.values())), list(of)
    found = {}
    # Charges of one round are named alike, so few names stand for many subjects.
    for some in _parts(subject_ids):
        for few in _parts(names):
            for row in UsageCharge.objects.filter(subject_id__in=some, external_id__in=few):
                found[row.subject_id, row.external_id] = row
    return found


def _parts[T](items: Sequence[T]) -> Iterable[Sequence[T]]:
    return (items[i : i + _ROWS] for i in range(0, len(items), _ROWS))


def _checked(usage: Usage) -> Usage:
    if usage.component in TIMED or usage.component not in Component.values:
        raise ValueError(f"{usage.component} is not charged by the unit.")
    if not usage.external_id or len(usage.external_id) > 160:
        raise ValueError("A charge needs a name of at most 160 characters.")
    if not usage.quantity.is_finite() or not 0 <= usage.quantity <= MOST:
        raise BadAmount(f"A quantity must be a number from 0 to {MOST:,}.")
    price = positive(usage.usd_per_unit, what="A price")
    if usage.usd_per_unit and not price:
        raise BadAmount("This price is below a nano-dollar a unit: charge by a larger unit.")
    quantity = usage.quantity.quantize(QUANTUM, rounding=ROUND_HALF_EVEN)
    positive(quantity * price, what="A charge")
    return Usage(
        usage.subject_id, usage.component, quantity, usage.unit[:20], price, utc(usage.at), usage.external_id,
        usage.estimate,
    )  # fmt: skip
