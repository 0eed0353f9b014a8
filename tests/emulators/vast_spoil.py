"""Answers of the emulator of Vast.ai that are not right: cut, empty, null, unknown."""

from __future__ import annotations

from typing import Any

from tests.emulators.common import Fault
from tests.emulators.common.server import add_unknown_fields
from tests.emulators.vast_rows import to_token

KEPT = frozenset({"id", "label"})
STATUSES = ("actual_status", "intended_status", "cur_state", "next_state")


def spoilt(fault: Fault, payload: Any) -> Any:
    """The answer's JSON, spoilt by one of `faults.SPOILERS`."""
    if fault is Fault.WRONG_TYPE:
        return ["maintenance"]
    if fault is Fault.UNKNOWN_FIELDS:
        return add_unknown_fields(payload)
    if fault is Fault.NULLS:
        return _with_nulls(payload)
    if fault is Fault.MISSING_BALANCE:
        return {name: value for name, value in payload.items() if name not in {"credit", "balance"}}
    if fault is Fault.UNKNOWN_STATE:
        return _with_unknown_states(payload)
    return _cut(payload, empty=fault is Fault.EMPTY)


def _with_nulls(payload: Any) -> Any:
    """Every field null but what names the machine; the rows stay."""
    rows = _rows_of(payload)
    if rows is None:
        return dict.fromkeys(payload)
    name, found = rows
    if isinstance(found, dict):
        return {name: _null(found)}
    return {**dict.fromkeys(payload), name: [_null(row) for row in found]}


def _null(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value if name in KEPT else None for name, value in row.items()}


def _rows_of(payload: dict[str, Any]) -> tuple[str, Any] | None:
    """The name of what an answer holds, and that: a list, or one instance."""
    return next(((n, payload[n]) for n in ("instances", "offers", "results") if payload.get(n)), None)


def _cut(payload: Any, *, empty: bool) -> Any:
    """A list that is empty, or half of it: then the next page's token stands past what was left out."""
    found = _rows_of(payload)
    if found is None or not isinstance(found[1], list):
        return payload
    name, rows = found
    kept = [] if empty else rows[: len(rows) // 2]
    cut = {**payload, name: kept}
    if name == "instances":
        cut["instances_found"] = len(kept)
        if empty:
            cut |= {"total_instances": 0, "label_counts": {}, "next_token": None}
        else:
            cut["next_token"] = payload["next_token"] or (to_token(rows[-1]["id"]) if rows else None)
    elif name == "results":
        cut["count"] = len(kept)
    return cut


def _with_unknown_states(payload: Any) -> Any:
    rows = payload.get("instances") if isinstance(payload, dict) else None
    if isinstance(rows, dict):
        return {"instances": rows | dict.fromkeys(STATUSES, "hibernating")}
    if isinstance(rows, list):
        return {**payload, "instances": [row | dict.fromkeys(STATUSES, "hibernating") for row in rows]}
    return payload
