"""Which machines this process has stopped: a bid's row looks the same, stopped or outbid.

It is no record to rely on: another process or the next one does not have it, and whoever knows that a stop
was wanted reads OUTBID as stopped. It makes the usual case right at once, and is soon forgotten: another
process may have started the machine since.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager

from deployments.providers.base import ProviderError, Unknown

LASTS = 60.0
"""Seconds for which a stop is remembered."""


class Stops:
    """By account and machine, when it was stopped (`time.monotonic()`)."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._at: dict[tuple[str, str], float] = {}
        self._lock = threading.Lock()

    @contextmanager
    def stopping(self, who: str, machine: str) -> Iterator[None]:
        """A stop is sent inside: it counts from before it is sent, and no more when it certainly was not done."""
        with self._lock:
            before = self._at.get((who, machine))
            # While it is under way no list is newer.
            self._at[who, machine] = math.inf
        done = True
        try:
            yield
        except Unknown:
            raise
        except ProviderError:
            done = False
            raise
        finally:
            with self._lock:
                if done or before is not None:
                    self._at[who, machine] = self._clock()
                else:
                    self._at.pop((who, machine), None)

    def forget(self, who: str, machine: str) -> None:
        with self._lock:
            self._at.pop((who, machine), None)

    def known(self, who: str) -> frozenset[str]:
        with self._lock:
            now = self._clock()
            return frozenset(
                machine for (account, machine), at in self._at.items() if account == who and now < at + LASTS
            )

    def seen_running(self, who: str, machines: Collection[str], *, since: float) -> None:
        """A list that was begun at `since` shows these running: they were started after our stop."""
        with self._lock:
            for machine in machines:
                if self._at.get((who, machine), math.inf) < since:
                    del self._at[who, machine]


SHARED = Stops()
