"""The plan of faults: for each kind of call, what goes wrong next."""

from __future__ import annotations

from collections import defaultdict, deque
from enum import StrEnum


class Fault(StrEnum):
    OK = "ok"
    DELAY = "delay"
    """A clean answer, `delay_seconds` late."""
    ERROR_BEFORE = "error_before"
    """500, nothing done."""
    ERROR_AFTER = "error_after"
    """500 after doing it."""
    GATEWAY_AFTER = "gateway_after"
    """504 after doing it."""
    LOST = "lost"
    """Done; the connection is closed without an answer."""
    HANG_BEFORE = "hang_before"
    """Nothing done, and no answer until the client gives up."""
    HANG_AFTER = "hang_after"
    """Done, and no answer until the client gives up."""
    LATE = "late"
    """A clean yes to a create; lists show the machine `late_seconds` later."""
    LOST_LATE = "lost_late"
    TRUNCATED = "truncated"
    """A list cut to half, in the way of that API."""
    EMPTY = "empty"
    """200 with an empty list."""
    RATE_LIMITED = "rate_limited"
    """429 without Retry-After, nothing done."""
    RATE_LIMITED_AFTER = "rate_limited_after"
    """429 with Retry-After: `retry_after`, nothing done."""
    UNAUTHORIZED = "unauthorized"
    """As the API says it for a revoked key."""
    FORBIDDEN = "forbidden"
    HTML = "html"
    """Done; 200 with an HTML page in place of the answer."""
    EMPTY_BODY = "empty_body"
    """Done; 200 with nothing."""
    WRONG_TYPE = "wrong_type"
    """Done; 200 with JSON of another type."""
    UNKNOWN_FIELDS = "unknown_fields"
    """Done; every object of the answer has fields that no specification knows."""
    NULLS = "nulls"
    """Done; every optional field of the answer is null."""
    UNKNOWN_STATE = "unknown_state"
    """Done; every status is a word that no specification knows."""
    NO_CAPACITY = "no_capacity"
    REJECTED = "rejected"
    """A definite no for a reason of its own, nothing done."""
    MISSING_BALANCE = "missing_balance"


REFUSALS = {
    Fault.ERROR_BEFORE, Fault.RATE_LIMITED, Fault.RATE_LIMITED_AFTER, Fault.UNAUTHORIZED, Fault.FORBIDDEN,
    Fault.NO_CAPACITY, Fault.REJECTED,
}  # fmt: skip
"""Answered without doing anything."""
SPOILERS = {
    Fault.TRUNCATED, Fault.EMPTY, Fault.UNKNOWN_FIELDS, Fault.NULLS, Fault.UNKNOWN_STATE,
    Fault.MISSING_BALANCE, Fault.WRONG_TYPE,
}  # fmt: skip
"""Done, then another JSON is answered."""


class Faults:
    """Consumed in order, one for each call of the kind; what `always` says holds when none is planned."""

    def __init__(self) -> None:
        self.delay_seconds = 0.3
        self.late_seconds = 90.0
        self.retry_after = 2
        self._planned: dict[str, deque[Fault]] = defaultdict(deque)
        self._standing: dict[str, Fault] = {}

    def add(self, kind: str, *faults: Fault | str) -> None:
        self._planned[kind].extend(Fault(fault) for fault in faults)

    def always(self, kind: str, fault: Fault | str) -> None:
        """From now on, until `clear`; the kind "*" means every call."""
        self._standing[kind] = Fault(fault)

    def clear(self) -> None:
        self._planned.clear()
        self._standing.clear()

    def take(self, kind: str, part: str = "") -> Fault:
        names = (f"{kind}/{part}", kind)
        for name in names:
            if self._planned.get(name):
                return self._planned[name].popleft()
        return next((self._standing[name] for name in (*names, "*") if name in self._standing), Fault.OK)

    @property
    def left(self) -> dict[str, list[Fault]]:
        """What was planned and has not come."""
        return {kind: list(faults) for kind, faults in self._planned.items() if faults}
