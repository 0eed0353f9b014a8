"""What an incident took: the downtime of what it touched, when that was back, and what was billed meanwhile."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from billing import ledger
from billing.periods import HOUR, hour_of
from deployments.models import Incident
from deployments.monitoring import uptime
from deployments.monitoring.uptime import Span, Was

ALL_OF_IT = (Incident.Kind.STUCK, Incident.Kind.ORPHAN)
"""What stands still or was never asked for costs all that it bills meanwhile, not only while it was down."""
BY_HOUR = 20
"""Up to so many deployments the hours of each are read; of more, each one's sum is taken as spread evenly."""
ZERO = Decimal(0)


def columns(incident: Incident, *, now: datetime) -> dict[str, Any]:
    """The row's figures from its first sign to its end, or to now."""
    start, end = incident.opened_at, incident.over_at or now
    down: timedelta = timedelta()
    paid: dict[UUID, list[tuple[datetime, datetime]]] = {}
    for deployment, spans in _spans(incident, start, end).items():
        lost = [s for s in spans if s.was is Was.DOWN]
        down += sum((s.within(start, end) for s in lost), timedelta())
        paid[deployment] = _clipped(spans if incident.kind in ALL_OF_IT else lost, start, end)
    billed = _billed if len(paid) <= BY_HOUR else _billed_evenly
    return {"downtime": down, "cost_usd": billed(paid, start, end, now=now), "counted_at": now}


def recoveries(incident: Incident, since: datetime, *, now: datetime) -> list[datetime]:
    """When the downtimes of what it touched ended, after `since`."""
    found = _spans(incident, since, now + timedelta(seconds=1))
    # The last span goes on: it has not ended.
    return [s.end for spans in found.values() for s in spans[:-1] if s.was is Was.DOWN and s.end > since]


def _spans(incident: Incident, since: datetime, until: datetime) -> dict[UUID, list[Span]]:
    rows = incident.entries.filter(deployment__isnull=False).values_list("deployment_id", flat=True)
    found = uptime.facts_of([pk for pk in rows if pk], since=since, until=until)
    return {pk: uptime.walk(facts, until=until)[0] for pk, facts in found}


def _clipped(spans: Iterable[Span], start: datetime, end: datetime) -> list[tuple[datetime, datetime]]:
    return [(max(s.start, start), min(s.end, end)) for s in spans if s.end > start and s.start < end]


def _billed(
    paid: Mapping[UUID, list[tuple[datetime, datetime]]], start: datetime, end: datetime, *, now: datetime
) -> Decimal:
    """USD: each hour's cost of each deployment, by the share of the hour that counts."""
    total = ZERO
    for deployment, times in paid.items():
        if not times:
            continue
        for hour, usd in ledger.by_hour(deployment, times[0][0], times[-1][1], now=now):
            length = max(min(hour + HOUR, now) - hour, timedelta(seconds=1))
            total += usd * _share(_length(times, hour, hour + HOUR), length)
    return total


def _billed_evenly(
    paid: Mapping[UUID, list[tuple[datetime, datetime]]], start: datetime, end: datetime, *, now: datetime
) -> Decimal:
    """USD, in one query for all: each deployment's cost in the hours of the incident, by the share that counts."""
    first, last = hour_of(start), min(hour_of(end) + HOUR, now)
    length = max(last - first, timedelta(seconds=1))
    costs = {s.scope: s.usd for s in ledger.by_scope(first, last, now=now)}
    return sum(
        (costs.get(pk, ZERO) * _share(_length(times, first, last), length) for pk, times in paid.items()),
        ZERO,
    )


def _length(times: Iterable[tuple[datetime, datetime]], start: datetime, end: datetime) -> timedelta:
    return sum((max(min(b, end) - max(a, start), timedelta()) for a, b in times), timedelta())


def _share(part: timedelta, whole: timedelta) -> Decimal:
    return Decimal(min(1.0, part / whole))
