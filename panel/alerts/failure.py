"""Why a message did not arrive, in a sentence that may be shown: no address, no token, no receiver's text."""

from __future__ import annotations

from datetime import timedelta


class Undelivered(Exception):
    """It has not arrived, and is tried again later.

    `down`: the receiver itself seems to be, so the channel's other messages wait too. `after`: the receiver
    asked not to be tried again sooner.
    """

    def __init__(self, sentence: str, *, down: bool = False, after: timedelta | None = None) -> None:
        super().__init__(sentence)
        self.down = down
        self.after = after
