"""Waiting for something without going deaf: the caller's `look` is asked all the while."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

Look = Callable[[], None]
"""Raises Ending when the machine has to end, whatever is being waited for."""
STEP = 0.1


def until(done: Callable[[], object], look: Look, *, seconds: float, step: float = STEP) -> bool:
    """Whether it was done within `seconds`."""
    deadline = time.monotonic() + seconds
    while not done():
        look()
        if time.monotonic() >= deadline:
            return False
        time.sleep(step)
    return True


def in_background(work: Callable[[], Any], look: Look, *, seconds: float) -> Any:
    """What `work` returns, or raises. Raises TimeoutError after `seconds`; the work is then left behind."""
    answer: list[Any] = []
    failure: list[BaseException] = []

    def run() -> None:
        try:
            answer.append(work())
        except BaseException as e:  # It is raised again where it is waited for.
            failure.append(e)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    if not until(lambda: not thread.is_alive(), look, seconds=seconds, step=0.02):
        raise TimeoutError
    if failure:
        raise failure[0]
    return answer[0]
