"""How often something may fail before it counts: n of the last m, so that one failure is no news and no flapping
endpoint changes its state with every look. Pure.

The last looks are a number, a bit for each: set where it failed, the newest lowest.
"""

from __future__ import annotations

from dataclasses import dataclass

_KEPT = 0xFF


@dataclass(frozen=True, slots=True)
class Rule:
    """Bad when `bad` of the last `of` failed; steady again when they did not and the last `good` were good."""

    of: int
    bad: int
    good: int

    def is_bad(self, recent: int) -> bool:
        return (recent & ((1 << self.of) - 1)).bit_count() >= self.bad

    def is_steady(self, recent: int) -> bool:
        return not self.is_bad(recent) and not recent & ((1 << self.good) - 1)


PROBES = Rule(of=6, bad=3, good=2)
"""Besides those that fail in a row (`decide.PROBE_FAILURES_TO_DEGRADE`)."""
CANARIES = Rule(of=3, bad=2, good=1)


def after(recent: int, *, failed: bool) -> int:
    """`recent` with one more look."""
    return (recent << 1 | failed) & _KEPT
