"""What traffic costs: from the provider's counters where its list tells them, else as an estimate that says so.

A counter runs from the machine's creation. What it gained is one charge for each hour in which it was read, named by
way, epoch and hour; a counter that fell has begun anew, which is the next epoch. Reading it again, late or by two
workers at once charges the same. Without counters a day's share of the expected traffic is charged for each
day, and is taken back when a counter tells. A second machine under one label is charged by its own counters.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from datetime import date, datetime, timedelta
from decimal import ROUND_CEILING, Decimal
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import transaction

from billing import ledger
from billing.models import Component, UsageCharge
from billing.periods import DAY, days_between, hour_of, midnight
from deployments import money
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
type _State = dict[str, Any]
"""The counters by way, as `Instance.traffic` keeps them."""
_BESIDE = "beside"
"""Where `Instance.traffic` keeps the counters of the doubles, by remote id."""


def note(rows: Iterable[Instance], by_id: Mapping[str, Machine], *, now: datetime) -> int:
    """Charge what the list tells of these machines' traffic; how many charges that changed."""
    due = []
    for row in rows:
        if row.status is State.REQUESTED or not _costs(row):
            continue
        state, usages = _own(row, by_id, now=now)
        beside, more = _beside(row, by_id, now=now)
        state = {**state, _BESIDE: beside} if beside else state
        if state != row.traffic:
            due.append((row, state, [*usages, *more]))
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
def _write(due: list[tuple[Instance, _State, list[ledger.Usage]]], *, now: datetime) -> int:
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


def _own(row: Instance, by_id: Mapping[str, Machine], *, now: datetime) -> tuple[_State, list[ledger.Usage]]:
    """The state of the instance's own machine, and its charges."""
    before = {name: kept for name, kept in row.traffic.items() if name != _BESIDE}
    machine = by_id.get(row.remote_id) if row.remote_id else None
    if machine is None:
        return before, []
    since = row.traffic_at or row.remote_created_at or row.created_at
    told = _told(row, row.pk, before, machine, since=since, now=now)
    if told is None:
        return _estimated(row, before, now=now)
    state, usages, gained = told
    return (state, usages) if _is_due(row, gained, now=now) else (before, [])


def _beside(
    row: Instance, by_id: Mapping[str, Machine], *, now: datetime
) -> tuple[_State, list[ledger.Usage]]:
    """The same of what stands beside it under its label: all of it at once, for it is ended soon."""
    found: _State = dict(row.traffic.get(_BESIDE, {}))
    usages: list[ledger.Usage] = []
    for remote_id in row.duplicates:
        if machine := by_id.get(remote_id):
            subject, since = money.duplicate_id(row, remote_id), machine.created_at or row.created_at
            told = _told(row, subject, found.get(remote_id, {}), machine, since=since, now=now)
            if told:
                found[remote_id] = told[0]
                usages += told[1]
    return found, usages


def _told(
    row: Instance, subject: UUID, before: _State, machine: Machine, *, since: datetime, now: datetime
) -> tuple[_State, list[ledger.Usage], Decimal] | None:  # fmt: skip
    """The new state of a machine's counters, its charges and the GB that it gained; None: they are not told."""
    told = {"in": machine.traffic_in_gb, "out": machine.traffic_out_gb}
    if all(gb is None for gb in told.values()):
        return None
    state = {way: before[way] for way in _WAYS if way in before}
    usages, gained, price = [], Decimal(0), prices(row.offer)
    for way, gb in told.items():
        if gb is None:
            continue
        was = state.get(way, {"epoch": 0, "hour": "", "base": "0", "seen": "0"})
        state[way] = after = _counted(was, gb, hour_of(now))
        gain = Decimal(after["seen"]) - (Decimal(was["seen"]) if after["epoch"] == was["epoch"] else 0)
        if gain > LINE * Decimal(max((now - since).total_seconds(), 60.0)):
            logger.warning("%s: its counter of traffic gained %s GB, which no line carries", row.label, gain)
            return before, [], Decimal(0)
        gained += gain
        if gain:
            usages.append(_usage(subject, way, after, price[way], now=now))
    return state, usages, gained


def _counted(before: _State, gb: Decimal, hour: datetime) -> _State:
    """`base` is where the counter stood when its hour began, `seen` where it stands."""
    seen = gb.quantize(_QUANTUM, rounding=ROUND_CEILING)
    # After a clock was put back the hour that was begun goes on.
    named = max(before["hour"], hour.isoformat())
    if seen < Decimal(before["seen"]):
        return {"epoch": before["epoch"] + 1, "hour": named, "base": "0", "seen": str(seen)}
    base = before["base"] if named == before["hour"] else before["seen"]
    return {"epoch": before["epoch"], "hour": named, "base": base, "seen": str(seen)}


def _usage(subject: UUID, way: str, counter: _State, price: Decimal, *, now: datetime) -> ledger.Usage:
    quantity = Decimal(counter["seen"]) - Decimal(counter["base"])
    return ledger.Usage(
        subject, _WAYS[way], quantity, UNIT, price, now, f"counter:{way}:{counter['epoch']}:{counter['hour']}"
    )


def _is_due(row: Instance, gained: Decimal, *, now: datetime) -> bool:
    if "estimated" in row.traffic or gained >= LEAST:
        return True
    quiet = row.status not in SERVING | STARTING
    is_first_today = row.traffic_at is None or now.date() != row.traffic_at.date()
    return bool(gained) and (quiet or is_first_today)


# -- estimates ------------------------------------------------------------------------------------------


def _estimated(row: Instance, before: _State, *, now: datetime) -> tuple[_State, list[ledger.Usage]]:
    """The days of which nothing was told yet, today included. Once a counter was told, nothing is guessed."""
    if any(way in before for way in _WAYS) or not settings.EXPECTED_TRAFFIC_GB:
        return before, []
    today, born = now.date(), max(row.create_sent_at or row.created_at, now - _MOST_DAYS * DAY)
    last = before.get("estimated")
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
    return {**before, "estimated": today.isoformat()}, usages
