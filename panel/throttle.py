"""How often and how many at once: bounds for one person, so that nobody takes what is there for all.

They stand in the memory of a process: a panel has one web process, and with more each has its own.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Hashable
from functools import wraps
from typing import Any, Concatenate

from django.http import HttpRequest, HttpResponse, HttpResponseBase

EXPORTS, EXPORTS_IN = 30, 60.0
"""Files that one person is given in so many seconds."""


class Often:
    """At most `most` in `seconds` for each key."""

    def __init__(self, most: int, seconds: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._most, self._seconds, self._clock = most, seconds, clock
        self._seen: dict[Hashable, deque[float]] = {}
        self._lock = threading.Lock()

    def wait(self, key: Hashable) -> float:
        """0 and it is counted; else the seconds until there is room again."""
        now = self._clock()
        with self._lock:
            if len(self._seen) > 10_000:
                self._seen = {k: d for k, d in self._seen.items() if d and now - d[-1] < self._seconds}
            times = self._seen.setdefault(key, deque())
            while times and now - times[0] >= self._seconds:
                times.popleft()
            if len(times) >= self._most:
                return self._seconds - (now - times[0])
            times.append(now)
            return 0.0


class AtOnce:
    """How many of a thing each key holds at the same time."""

    def __init__(self) -> None:
        self._held: Counter[Hashable] = Counter()
        self._lock = threading.Lock()

    def take(self, key: Hashable, *, most: int) -> Callable[[], None] | None:
        """What gives it back, to be called at least once; None when `most` are held."""
        with self._lock:
            if self._held[key] >= most:
                return None
            self._held[key] += 1
        return self._give(key)

    def _give(self, key: Hashable) -> Callable[[], None]:
        left = [key]

        def give() -> None:
            with self._lock:
                if left and not self._held.subtract([left.pop()]):
                    self._held += Counter()

        return give

    def held(self, key: Hashable) -> int:
        return self._held[key]


exports = Often(EXPORTS, EXPORTS_IN)


def few_exports[R: HttpRequest, **P](
    view: Callable[Concatenate[R, P], HttpResponseBase],
) -> Callable[Concatenate[R, P], HttpResponseBase]:
    """A view that makes a file from many rows: not for one person without an end."""

    @wraps(view)
    def bounded(request: R, /, *args: P.args, **kwargs: P.kwargs) -> HttpResponseBase:
        user: Any = getattr(request, "user", None)
        if wait := exports.wait(getattr(user, "pk", None)):
            text = f"That were {EXPORTS} files in a minute: try again in {wait:.0f} seconds.\n"
            refused = HttpResponse(text, status=429, content_type="text/plain; charset=utf-8")
            refused["Retry-After"] = str(int(wait) + 1)
            return refused
        return view(request, *args, **kwargs)

    return bounded
