"""What Vast.ai says it charged. Pure.

Source: the contract's section 3. Whether the ends of a `day` range count is not said anywhere, so a day more
is asked for on both sides, and each part is cut here to the span that is wanted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from decimal import Decimal

from deployments.providers.base import Charge, Unavailable
from deployments.providers.values import MAX_USD, Row, moment, number, text
from deployments.providers.vast_values import identity

COMPONENTS = {"gpu": "compute", "disk": "disk", "bwd": "traffic-in", "bwu": "traffic-out"}
"""Vast's word -> billing's."""
MARGIN = timedelta(days=1)
_UNREADABLE = "A charge that Vast.ai names cannot be read."


def days(since: datetime, until: datetime) -> tuple[int, int]:
    """The range to ask for, Unix seconds."""
    return int((since - MARGIN).timestamp()), int((until + MARGIN).timestamp()) + 1


def charges(rows: Iterable[object], since: datetime, until: datetime) -> Iterator[Charge]:
    """The rows' parts that lie in the span, each cut to it. A part said twice is charged once.

    Raises Unavailable for a part that cannot be read: a bill with a hole in it is no bill.
    """
    seen: set[Charge] = set()
    for row in rows:
        for whole in _parts(row):
            part = _cut(whole, since, until)
            if part is not None and whole not in seen:
                seen.add(whole)
                yield part


def _parts(row: object) -> Iterator[Charge]:
    """One charge for each item of a row; for the row itself when it has none."""
    source = text(row.get("source")) if isinstance(row, dict) else ""
    if not isinstance(row, dict) or not source:
        raise Unavailable(_UNREADABLE)
    kind, _, number_of_it = source.partition("-")
    remote_id = identity(number_of_it) if kind == "instance" else ""
    if not remote_id:
        return  # a volume or an endpoint
    metadata = row.get("metadata")
    label = metadata.get("label") if isinstance(metadata, dict) else None
    label = label if isinstance(label, str) else ""
    items = row.get("items")
    for item in items if isinstance(items, list) and items else [row]:
        part = _part(item, row, remote_id, label) if isinstance(item, dict) else None
        if part is None:
            raise Unavailable(_UNREADABLE)
        yield part


def _part(item: Row, row: Row, remote_id: str, label: str) -> Charge | None:
    amount = number(item.get("amount"))
    start = moment(item.get("start")) or moment(row.get("start"))
    end = moment(item.get("end")) or moment(row.get("end")) or start
    if amount is None or abs(amount) > MAX_USD or start is None or end is None or end < start:
        return None
    component = COMPONENTS.get(text(item.get("type")), "compute")
    return Charge(remote_id, label, component, start, end, Decimal(str(amount)))


def _cut(whole: Charge, since: datetime, until: datetime) -> Charge | None:
    """Its share of the span by time. What has no length counts where it begins."""
    if whole.start == whole.end:
        return whole if since <= whole.start < until else None
    start, end = max(since, whole.start), min(until, whole.end)
    if start >= end:
        return None
    microsecond = timedelta(microseconds=1)
    share = Decimal((end - start) // microsecond) / ((whole.end - whole.start) // microsecond)
    return Charge(whole.remote_id, whole.label, whole.component, start, end, whole.usd * share)
