"""How much of RunPod's quota a key has left, as the last answers told.

Source: RunPod's REST v2, headers `RateLimit` (`"minute";r=3;t=12, "hour";…`: requests left, seconds until the
window begins anew) and `Retry-After`. One process, one memory; what others use up, the next answer tells.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Mapping

from deployments.providers.base import RateLimited

RESERVE = 4
"""Requests of each window that are kept for giving machines back."""
_LONGEST = 86_400.0
_MEMBER = re.compile(r'"?(\w+)"?((?:\s*;\s*\w+=\d+)+)')
_PARAMETER = re.compile(r"(\w+)=(\d+)")


class Pace:
    """The quota of every key of this process. Any thread may ask."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._left: dict[str, dict[str, tuple[int, float]]] = {}
        self._lock = threading.Lock()

    def enter(self, who: str, *, urgent: bool = False) -> None:
        """Take one request. Raises RateLimited when only the reserve is left; `urgent` may use that up."""
        now = self._clock()
        with self._lock:
            windows = self._left.setdefault(who, {})
            waits = [ends - now for left, ends in windows.values() if ends > now and left <= RESERVE]
            if waits and not urgent:
                raise RateLimited(
                    "RunPod's quota of requests is nearly used up: nothing was sent.", retry_after=max(waits)
                )
            for name, (left, ends) in windows.items():
                windows[name] = (left - 1, ends)

    def told(self, who: str, headers: Mapping[str, str], *, status: int) -> float | None:
        """Remember what an answer says. Returns the seconds to stay away after a 429, None when it says none."""
        now = self._clock()
        with self._lock:
            windows = self._left.setdefault(who, {})
            for name, left, seconds in windows_of(headers.get("RateLimit", "")):
                windows[name] = (left, now + seconds)
            if status != 429:
                return None
            wait = _retry_after(headers) or _longest_empty(windows, now)
            if wait is not None:
                windows["retry"] = (0, now + wait)
            return wait


def windows_of(header: str) -> list[tuple[str, int, float]]:
    """(window, requests left, seconds until it begins anew) of each member that can be read."""
    found = []
    for name, parameters in _MEMBER.findall(header):
        values = {key: int(value[:9]) for key, value in _PARAMETER.findall(parameters)}
        if "r" in values and "t" in values:
            found.append((name, values["r"], min(float(values["t"]), _LONGEST)))
    return found


def _retry_after(headers: Mapping[str, str]) -> float | None:
    said = headers.get("Retry-After", "").strip()
    return min(float(said), _LONGEST) if said.isdecimal() and said.isascii() and len(said) < 10 else None


def _longest_empty(windows: Mapping[str, tuple[int, float]], now: float) -> float | None:
    return max((ends - now for left, ends in windows.values() if left <= 0 and ends > now), default=None)


PACE = Pace()
