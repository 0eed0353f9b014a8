"""A provider that goes wrong on purpose: it wraps any other and follows a plan.

    cloud = FakeCloud(path=tmp_path / "cloud.json")
    provider = Faulty(cloud, {"create": [Fault.TIMEOUT_AFTER], "terminate": [Fault.ERROR_BEFORE] * 3})
    provider.crash = exit_at(Point.BEFORE_ANSWER, "create")
    ADAPTERS["local"] = lambda account: provider

Each method takes the next fault of its own row in the plan; a row that is used up means all is well.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from enum import IntEnum, StrEnum
from pathlib import Path
from threading import RLock
from typing import TypeVar

from deployments.providers.base import (
    Balance,
    Charge,
    Gone,
    Inspection,
    Listing,
    LogLine,
    NoCapacity,
    Order,
    Provider,
    Quote,
    RateLimited,
    Rejected,
    Right,
    Traits,
    Unauthorized,
    Unavailable,
    Unknown,
)
from tests.providers.fakecloud import FakeCloud, fake_quote

__all__ = ["Crash", "FakeCloud", "Fault", "Faulty", "Point", "exit_at", "fake_quote", "raise_at"]

T = TypeVar("T")


class Fault(StrEnum):
    """What happens to one call."""

    OK = "ok"
    # Definite answers: nothing was done.
    NO_CAPACITY = "no capacity"
    REJECTED = "rejected"
    UNAUTHORIZED = "unauthorized"
    GONE = "gone"
    RATE_LIMITED = "rate limited, without Retry-After"
    UNAVAILABLE = "not reached"
    # Unclear answers: Unknown is raised.
    ERROR_BEFORE = "500, nothing was done"
    TIMEOUT_BEFORE = "timeout, nothing was done"
    ERROR_AFTER = "500 after doing it"
    TIMEOUT_AFTER = "timeout after doing it"
    LOST_RESPONSE = "done, the answer was lost"
    LATE = "timeout after doing it, and lists show it late"
    """For create: hidden from `late_lists` lists, and until `late_until`."""
    OK_LATE = "a clean yes, and lists show it late"
    # For list_machines.
    EMPTY = "200, but empty and complete"
    INCOMPLETE = "cut short: half of it, complete=False"
    MISSING = "complete, but `missing` labels (none named: all of ours seen so far) are left out"


_NOTHING_DONE: dict[Fault, Callable[[str], Exception]] = {
    Fault.NO_CAPACITY: lambda call: NoCapacity(f"{call}: there are no such machines now."),
    Fault.REJECTED: lambda call: Rejected(f"{call}: refused."),
    Fault.UNAUTHORIZED: lambda call: Unauthorized(f"{call}: the key is wrong or revoked."),
    Fault.GONE: lambda call: Gone(f"{call}: there is no such machine."),
    Fault.RATE_LIMITED: lambda call: RateLimited(f"{call}: too many calls."),
    Fault.UNAVAILABLE: lambda call: Unavailable(f"{call}: the provider was not reached."),
    Fault.ERROR_BEFORE: lambda call: Unknown(f"{call}: the provider answered 500."),
    Fault.TIMEOUT_BEFORE: lambda call: Unknown(f"{call}: no answer in time."),
}
_DONE_BUT_UNCLEAR: dict[Fault, Callable[[str], Exception]] = {
    Fault.ERROR_AFTER: lambda call: Unknown(f"{call}: the provider answered 500."),
    Fault.TIMEOUT_AFTER: lambda call: Unknown(f"{call}: no answer in time."),
    Fault.LOST_RESPONSE: lambda call: Unknown(f"{call}: the connection broke before the answer."),
    Fault.LATE: lambda call: Unknown(f"{call}: no answer in time."),
}


class Point(IntEnum):
    """Where a process may end inside a call that changes something."""

    BEFORE_REQUEST = 1
    BEFORE_ANSWER = 2
    """The request was carried out; its answer was not read."""
    AFTER_ANSWER = 3
    """The answer was read; nothing of it was saved."""


class Crash(BaseException):
    """The process ends here, for tests that stay in one process. Nothing may catch it."""


CrashHook = Callable[[Point, str, str], None]


def exit_at(point: Point, method: str = "create", *, code: int = 137) -> CrashHook:
    """A hook that ends the process, without any clean-up, as SIGKILL does."""

    def hook(here: Point, called: str, subject: str) -> None:
        if here is point and called == method:
            os._exit(code)

    return hook


def raise_at(point: Point, method: str = "create", *, once: bool = True) -> CrashHook:
    """A hook that raises Crash at the point, the first time only with `once`."""
    left = [1 if once else -1]

    def hook(here: Point, called: str, subject: str) -> None:
        if here is point and called == method and left[0]:
            left[0] -= 1
            raise Crash(f"{called} {subject} at {here.name}")

    return hook


class Faulty:
    """A Provider that passes every call to `inner`, unless the plan says otherwise.

    `calls` lists what was asked of it: (method, label or remote id). With `memory` (a file) the calls and
    what is hidden outlive the process, so that the next one goes on with the same world.
    """

    def __init__(
        self,
        inner: Provider,
        plan: Mapping[str, Sequence[Fault]] | None = None,
        *,
        crash: CrashHook | None = None,
        late_lists: int = 2,
        late_until: Callable[[], bool] | None = None,
        missing: Sequence[str] = (),
        latency: float = 0.0,
        memory: Path | None = None,
    ) -> None:
        self.inner = inner
        self.plan: dict[str, list[Fault]] = {m: list(row) for m, row in (plan or {}).items()}
        self.crash = crash
        self.late_lists = late_lists
        self.late_until = late_until
        """Called at each list: True once the late machine may be seen. None: `late_lists` alone decides."""
        self.missing = list(missing)
        self.latency = latency
        self.calls: list[tuple[str, str]] = []
        self._hidden: dict[str, int] = {}
        self._memory = memory
        self._lock = RLock()
        self._recall()

    @property
    def traits(self) -> Traits:
        return self.inner.traits

    def count(self, method: str, subject: str | None = None) -> int:
        """How often `method` was asked, of `subject` alone when it is given."""
        return sum(m == method and subject in {None, s} for m, s in self.calls)

    def then(self, method: str, *faults: Fault) -> None:
        """Append faults to a method's row of the plan."""
        self.plan.setdefault(method, []).extend(faults)

    # -- the Protocol ---------------------------------------------------------------------------

    def quotes(self) -> Sequence[Quote]:
        fault = self._take("quotes", "")
        self._refuse(fault, "quotes")
        return self.inner.quotes()

    def list_machines(self) -> Listing:
        fault = self._take("list_machines", "")
        self._refuse(fault, "list")
        listing = self.inner.list_machines()
        listing = self._without_hidden(listing)
        if fault is Fault.EMPTY:
            return Listing((), complete=True)
        if fault is Fault.INCOMPLETE:
            return Listing(listing.machines[: len(listing.machines) // 2], complete=False)
        if fault is Fault.MISSING:
            absent = self.missing or [subject for method, subject in self.calls if method == "create"]
            return Listing(tuple(m for m in listing.machines if m.label not in absent), complete=True)
        return listing

    def stands(self, remote_id: str) -> bool:
        self._refuse(self._take("stands", remote_id), "stands")
        return self.inner.stands(remote_id)

    def create(self, order: Order, *, deadline: float) -> str:
        return self._change("create", order.label, lambda: self.inner.create(order, deadline=deadline))

    def terminate(self, remote_id: str) -> None:
        self._change("terminate", remote_id, lambda: self.inner.terminate(remote_id))

    def kill(self, remote_id: str) -> None:
        self._change("kill", remote_id, lambda: self.inner.kill(remote_id))

    def stop(self, remote_id: str) -> None:
        self._change("stop", remote_id, lambda: self.inner.stop(remote_id))

    def start(self, remote_id: str) -> None:
        self._change("start", remote_id, lambda: self.inner.start(remote_id))

    def change_bid(self, remote_id: str, usd_per_hour: Decimal) -> None:
        self._change("change_bid", remote_id, lambda: self.inner.change_bid(remote_id, usd_per_hour))

    def mend(self, remote_id: str) -> None:
        self._change("mend", remote_id, lambda: self.inner.mend(remote_id))

    def inspect(self, remote_id: str) -> Inspection:
        self._refuse(self._take("inspect", remote_id), "inspect")
        return self.inner.inspect(remote_id)

    def balance(self) -> Balance:
        self._refuse(self._take("balance", ""), "balance")
        return self.inner.balance()

    def rights(self) -> tuple[Right, ...]:
        return self.inner.rights()

    def logs(self, remote_id: str, *, tail: int = 200) -> tuple[LogLine, ...]:
        self._refuse(self._take("logs", remote_id), "logs")
        return self.inner.logs(remote_id, tail=tail)

    def system_logs(self, remote_id: str, *, tail: int = 200) -> tuple[LogLine, ...]:
        self._refuse(self._take("system_logs", remote_id), "system_logs")
        return self.inner.system_logs(remote_id, tail=tail)

    def charges(self, since: datetime, until: datetime) -> Sequence[Charge]:
        self._refuse(self._take("charges", ""), "charges")
        return self.inner.charges(since, until)

    # -- inside ---------------------------------------------------------------------------------

    def _change(self, method: str, subject: str, act: Callable[[], T]) -> T:
        self._pass(Point.BEFORE_REQUEST, method, subject)
        fault = self._take(method, subject)
        self._refuse(fault, method)
        if fault in {Fault.LATE, Fault.OK_LATE}:
            self._hide(subject)
        answer = act()
        self._pass(Point.BEFORE_ANSWER, method, subject)
        if fault in _DONE_BUT_UNCLEAR:
            raise _DONE_BUT_UNCLEAR[fault](method)
        self._pass(Point.AFTER_ANSWER, method, subject)
        return answer

    def _take(self, method: str, subject: str) -> Fault:
        time.sleep(self.latency)
        with self._lock:
            self.calls.append((method, subject))
            row = self.plan.get(method)
            fault = row.pop(0) if row else Fault.OK
            self._note(call=[method, subject])
        return fault

    def _refuse(self, fault: Fault, call: str) -> None:
        if fault in _NOTHING_DONE:
            raise _NOTHING_DONE[fault](call)

    def _pass(self, point: Point, method: str, subject: str) -> None:
        if self.crash is not None:
            self.crash(point, method, subject)

    def _hide(self, label: str) -> None:
        with self._lock:
            self._hidden[label] = self.late_lists
            self._note(hide=[label, self.late_lists])

    def _without_hidden(self, listing: Listing) -> Listing:
        with self._lock:
            hidden = set(self._hidden)
            for label in hidden:
                waits = self.late_until is not None and not self.late_until()
                self._hidden[label] = max(self._hidden[label] - 1, 0 if waits else -1)
                if self._hidden[label] < 0:
                    del self._hidden[label]
                self._note(hide=[label, self._hidden.get(label, -1)])
            hidden &= set(self._hidden)
        return Listing(tuple(m for m in listing.machines if m.label not in hidden), complete=listing.complete)

    def _note(self, **entry: list[object]) -> None:
        if self._memory is not None:
            with open(self._memory, "a") as file:
                file.write(json.dumps(entry) + "\n")

    def _recall(self) -> None:
        if self._memory is None or not self._memory.exists():
            return
        for line in self._memory.read_text().splitlines():
            entry = json.loads(line)
            if "call" in entry:
                self.calls.append((entry["call"][0], entry["call"][1]))
            elif entry["hide"][1] < 0:
                self._hidden.pop(entry["hide"][0], None)
            else:
                self._hidden[entry["hide"][0]] = entry["hide"][1]
