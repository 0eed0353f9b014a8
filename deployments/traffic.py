"""What traffic costs: from the provider's counters where its list tells them, else as an estimate that says so.

A counter runs from the machine's creation. What it gained is one charge for each hour in which it was read, named by
way, epoch and hour; a counter that fell has begun anew, which is the next epoch. Reading it again, late or by two
workers at once charges the same. Without counters a day's share of the expected traffic is charged for each
day, and is taken back when a counter tells.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from datetime import date, datetime, timedelta
from decimal import ROUND_CEILING, Decimal
from typing import Any

from django.conf import settings
from django.db import transaction

from billing import ledger
from billing.models import Component, UsageCharge
from billing.periods import DAY, days_between, hour_of, midnight
from deployments.lifecycle import SERVING, STARTING, State
from deployments.models import Instance
from deployments.providers.base import Machine, Quote

logger = logging.getLogger(__name__)

UNIT = "GB"
LEAST = Decimal(1) / 16
"""GB that a counter gains before it is charged in between; once a day, and of what does not serve, all is charged."""
LINE = Decimal("1.25")
"""GB a second, 10 Gbit/s: a counter that gains more was misread, and is not believed."""
_QUANTUM = Decimal("1e-6")
_DAYS_IN_MONTH = Decimal(30)
_MOST_DAYS = 90
_WAYS = {"in": Component.TRAFFIC_IN, "out": Component.TRAFFIC_OUT}


def note(rows: Iterable[Instance], by_id: Mapping[str, Machine], *, now: datetime) -> int:
    """Charge what the list tells of these machines' traffic; how many charges that changed."""
    due = []
    for row in rows:
        machine = by_id.get(row.remote_id) if row.remote_id else None
        if machine and row.status is not State.REQUESTED and _costs(row):
            state, usages = _told(row, machine, now=now) or _estimated(row, now=now)
            if state != row.traffic:
                due.append((row, state, usages))
    return _write(due, now=now) if due else 0


def _costs(row: Instance) -> bool:
    """By the frozen quote as it lies there: to thaw it for every machine of every list would cost more than the rest."""
    return Decimal(row.quote.get("traffic_usd_per_gb") or 0) > 0


def prices(quote: Quote) -> dict[str, Decimal]:
    """USD per GB, each way."""
    dearer = quote.traffic_usd_per_gb
    told = {"in": quote.traffic_in_usd_per_gb, "out": quote.traffic_out_usd_per_gb}
    return {way: dearer if usd is None else usd for way, usd in told.items()}


@transaction.atomic
def _write(due: list[tuple[Instance, dict[str, Any], list[ledger.Usage]]], *, now: datetime) -> int:
    charges: list[ledger.Usage] = []
    known = []
    for row, state, usages in sorted(due, key=lambda d: d[0].pk):
        mine = Instance.objects.filter(pk=row.pk, traffic_at=row.traffic_at)
        if not mine.update(traffic=state, traffic_at=now):
            continue  # another worker read them meanwhile
        if "estimated" in row.traffic and "estimated" not in state:
            known.append(row.pk)
        row.traffic, row.traffic_at = state, now
        charges += usages
    changed = ledger.charge_all(charges)
    if known:
        ledger.withdraw(UsageCharge.objects.filter(subject_id__in=known, estimate=True, quantity__gt=0))
    return changed


# -- counters -------------------------------------------------------------------------------------------


def _told(
    row: Instance, machine: Machine, *, now: datetime
) -> tuple[dict[str, Any], list[ledger.Usage]] | None:
    """The new state of the counters and the charges, none while it is too little; None: they are not told."""
    told = {"in": machine.traffic_in_gb, "out": machine.traffic_out_gb}
    if all(gb is None for gb in told.values()):
        return None
    state = {way: row.traffic[way] for way in _WAYS if way in row.traffic}
    usages, gained, price = [], Decimal(0), prices(row.offer)
    for way, gb in told.items():
        if gb is None:
            continue
        before = state.get(way, {"epoch": 0, "hour": "", "base": "0", "seen": "0"})
        state[way] = after = _counted(before, gb, hour_of(now))
        gain = Decimal(after["seen"]) - (Decimal(before["seen"]) if after["epoch"] == before["epoch"] else 0)
        if not _is_possible(row, gain, now=now):
            logger.warning("%s: its counter of traffic gained %s GB, which no line carries", row.label, gain)
            return row.traffic, []
        gained += gain
        if gain:
            usages.append(_usage(row, way, after, price[way], now=now))
    return (state, usages) if _is_due(row, gained, now=now) else (row.traffic, [])


def _counted(before: dict[str, Any], gb: Decimal, hour: datetime) -> dict[str, Any]:
    """`base` is where the counter stood when its hour began, `seen` where it stands."""
    seen = gb.quantize(_QUANTUM, rounding=ROUND_CEILING)
    # After a clock was put back the hour that was begun goes on.
    named = max(before["hour"], hour.isoformat())
    if seen < Decimal(before["seen"]):
        return {"epoch": before["epoch"] + 1, "hour": named, "base": "0", "seen": str(seen)}
    base = before["base"] if named == before["hour"] else before["seen"]
    return {"epoch": before["epoch"], "hour": named, "base": base, "seen": str(seen)}


def _usage(
    row: Instance, way: str, counter: dict[str, Any], price: Decimal, *, now: datetime
) -> ledger.Usage:
    quantity = Decimal(counter["seen"]) - Decimal(counter["base"])
    return ledger.Usage(
        row.pk, _WAYS[way], quantity, UNIT, price, now, f"counter:{way}:{counter['epoch']}:{counter['hour']}"
    )


def _is_due(row: Instance, gained: Decimal, *, now: datetime) -> bool:
    if "estimated" in row.traffic or gained >= LEAST:
        return True
    quiet = row.status not in SERVING | STARTING
    is_first_today = row.traffic_at is None or now.date() != row.traffic_at.date()
    return bool(gained) and (quiet or is_first_today)


def _is_possible(row: Instance, gain: Decimal, *, now: datetime) -> bool:
    since = row.traffic_at or row.remote_created_at or row.created_at
    seconds = max((now - since).total_seconds(), 60.0)
    return gain <= LINE * Decimal(seconds)


# -- estimates ------------------------------------------------------------------------------------------


def _estimated(row: Instance, *, now: datetime) -> tuple[dict[str, Any], list[ledger.Usage]]:
    """The days of which nothing was told yet, today included. Once a counter was told, nothing is guessed."""
    if any(way in row.traffic for way in _WAYS) or not settings.EXPECTED_TRAFFIC_GB:
        return row.traffic, []
    today, born = now.date(), max(row.create_sent_at or row.created_at, now - _MOST_DAYS * DAY)
    last = row.traffic.get("estimated")
    first = date.fromisoformat(last) + timedelta(days=1) if last else born.date()
    price = prices(row.offer)
    way = max(price, key=lambda w: price[w])
    gb = (settings.EXPECTED_TRAFFIC_GB / _DAYS_IN_MONTH).quantize(_QUANTUM, rounding=ROUND_CEILING)
    usages = [
        ledger.Usage(
            row.pk, _WAYS[way], gb, UNIT, price[way], min(max(midnight(day), born), now), f"estimate:{day}", estimate=True
        )
        for day in days_between(first, today + timedelta(days=1))
    ]  # fmt: skip
    return {**row.traffic, "estimated": today.isoformat()}, usages
