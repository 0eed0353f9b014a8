"""Numbered crash points: where tests end the process to prove what the protocol survives. Pure.

A point costs one dictionary look-up. Nothing in the product arms one.
"""

from __future__ import annotations

from collections.abc import Callable

POINTS = {
    1: "the next instance is committed, its bell not yet rung",
    2: "the create is marked, the request not yet sent",
    3: "the provider has answered, the consequence not yet committed",
    4: "the consequence is committed, the lease still held",
    5: "terminating is committed, the provider not yet asked",
    6: "the provider took the terminate, not yet noted",
    7: "a list was read, nothing of it applied",
    8: "the end is proved, not yet committed",
}
armed: dict[int, Callable[[], object]] = {}


def point(number: int) -> None:
    """Die here if a test armed this point."""
    if number in armed:
        armed[number]()
