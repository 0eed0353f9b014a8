"""RunPod's billing records as charges. Pure.

Source: REST v2, `/v2/billing/pods`, `/serverless` and `/network-volumes` in buckets of an hour. A bucket that a span cuts counts
by its share of time, so that the parts of a span cost as much as the whole. Records name no label.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from deployments.providers.base import Charge, Unavailable
from deployments.providers.runpod_machines import moment
from deployments.providers.values import number

_PARTS = {
    "gpuAmount": "compute", "cpuAmount": "compute", "diskAmount": "disk", "feeAmount": "fee",
    "standardAmount": "volume", "highPerformanceAmount": "volume",
}  # fmt: skip
_DUST = Decimal("1e-9")
_MICROSECOND = timedelta(microseconds=1)


def charges(
    records: Sequence[Any], *, id_field: str, prefix: str, since: datetime, until: datetime
) -> Iterator[Charge]:
    """`prefix` makes our remote id of RunPod's. A record that cannot be read is left out."""
    for record in records:
        if not isinstance(record, Mapping):
            continue
        start, end, remote_id = (
            moment(record.get("startTime")),
            moment(record.get("endTime")),
            record.get(id_field),
        )
        if start is None or end is None or start >= end or not isinstance(remote_id, str) or not remote_id:
            continue
        first, last = max(since, start), min(until, end)
        if first < last:
            share = Decimal((last - first) // _MICROSECOND) / ((end - start) // _MICROSECOND)
            for component, usd in _components(record).items():
                yield Charge(f"{prefix}{remote_id}", "", component, first, last, usd * share)


def whole(told: Any, records: Sequence[Any]) -> Sequence[Any]:
    """The records, if they are as many as the answer counts. Raises Unavailable: a bill with a hole in it is no bill."""
    metadata = told.get("metadata") if isinstance(told, Mapping) else None
    count = metadata.get("recordCount") if isinstance(metadata, Mapping) else None
    if isinstance(count, int) and count > len(records):
        raise Unavailable(f"RunPod's bill is incomplete: {len(records)} of {count} records.")
    return records


def _components(record: Mapping[str, Any]) -> dict[str, Decimal]:
    """USD of the whole bucket by component; what the parts do not explain is `other`."""
    found: dict[str, Decimal] = {}
    for name, component in _PARTS.items():
        if usd := _usd(record.get(name)):
            found[component] = found.get(component, Decimal(0)) + usd
    total = _usd(record.get("totalAmount"))
    rest = total - sum(found.values(), Decimal(0)) if total is not None else Decimal(0)
    if abs(rest) > _DUST:
        found["other"] = rest
    return found


def _usd(value: object) -> Decimal | None:
    return None if number(value) is None else Decimal(str(value))
