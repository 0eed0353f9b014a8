"""How often Vast.ai may be asked: the least seconds between two calls of one kind with one key.

Source: the `threshold` in the API's own 429 answers. A call that comes a little early waits, one that comes
much too early is told when to come back. One process, one pace; more processes are told by Vast's 429.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from deployments.providers.base import RateLimited


@dataclass(frozen=True, slots=True)
class Limit:
    seconds: float
    calls: int = 1
    """As many in any span of `seconds`."""
    penalty: float = 0.0
    """Seconds to stay away after a 429 that does not say how long."""


LIMITS: Mapping[str, Limit] = {
    # Ten in a minute, less one: we see our own moments, not those at which they arrive.
    "search": Limit(61.0, calls=9, penalty=15.0),
    "list": Limit(1.0, penalty=2.0),
    "create": Limit(4.5, penalty=12.0),
    "state": Limit(1.0, penalty=2.0),
    "terminate": Limit(3.0, penalty=3.0),
    "bid": Limit(5.5, penalty=6.0),
    "inspect": Limit(2.0, penalty=2.0),
    "logs": Limit(1.0, penalty=2.0),
    "charges": Limit(1.0, penalty=3.0),
    "balance": Limit(1.0, penalty=2.0),
}
PATIENCE = 3.0
"""Seconds that a call waits for its turn."""
END_PATIENCE = 15.0
"""... that a terminate waits: what is not given back costs money, so it is refused last."""

_Turns = dict[tuple[str, str], deque[float]]


class Pace:
    """The turns of every account of this process. Any thread may ask."""

    def __init__(
        self, limits: Mapping[str, Limit] = LIMITS, *, clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:  # fmt: skip
        self.limits = limits
        self._clock, self._sleep = clock, sleep
        self._turns: _Turns = {}
        """The moments of the last calls, as many as a span may hold."""
        self._barred: dict[tuple[str, str], float] = {}
        self._lock = threading.Lock()

    def enter(self, who: str, kind: str, *, patience: float = PATIENCE) -> None:
        """Wait for the turn. Raises RateLimited, at once and without taking a turn, when that is too long."""
        limit = self.limits.get(kind)
        if limit is None:
            return
        with self._lock:
            now = self._clock()
            turns = self._turns.setdefault((who, kind), deque(maxlen=limit.calls))
            free = turns[0] + limit.seconds if len(turns) == limit.calls else now
            turn = max(now, free, self._barred.get((who, kind), now))
            if turn - now > patience:
                raise RateLimited(
                    f"Vast.ai takes {limit.calls} such call(s) in {limit.seconds:g} s: the next turn comes in {turn - now:.1f} s.",
                    retry_after=turn - now,
                )
            turns.append(turn)
        if turn > now:
            self._sleep(turn - now)

    def leave(self, who: str, kind: str) -> None:
        """The call has its answer: it came to Vast no later than now, and maybe later than its turn."""
        limit = self.limits.get(kind)
        if limit is None or limit.calls > 1:
            return
        with self._lock:
            turns = self._turns[who, kind]
            turns.append(max(turns[-1], self._clock()))

    def back_off(self, who: str, kind: str, seconds: float | None) -> None:
        """Vast said 429: nobody asks again before `seconds` have passed."""
        limit = self.limits.get(kind)
        if limit is None:
            return
        until = self._clock() + (limit.penalty if seconds is None else seconds)
        with self._lock:
            self._barred[who, kind] = max(self._barred.get((who, kind), until), until)


SHARED = Pace()
