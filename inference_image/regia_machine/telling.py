"""Between a failure and the exit: the panel is told why, or, where nobody listens, the provider ends the machine.

A container's exit ends no rental: at one provider the machine goes on billing, at another it is started again and
again and looks alive. So what failed waits until the panel has heard its cause, and ends itself when none comes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from regia_machine import ending
from regia_machine.environment import Outline
from regia_machine.exits import FAILURES, Ending
from regia_machine.failed_door import FailedDoor
from regia_machine.report import Report, one_line, shortened
from regia_machine.waiting import STEP
from regia_machine.watchdog import now

CAUSE_LENGTH = 280
"""What the panel keeps of a cause, its code beside it."""


def tell(
    why: Ending, outline: Outline | None, keys: Sequence[str], environ: Mapping[str, str],
    report: Report, is_asked: Callable[[], bool],
) -> None:  # fmt: skip
    """Returns when the machine's process may exit. `is_asked`: it was told to stop, which ends the telling."""
    if outline is None or why.code not in FAILURES or not outline.has_lease or not outline.tell_seconds:
        return
    if is_asked():
        return
    report.phase("failed", code=int(why.code), cause=shortened(report.masked(why.cause)))
    # One that was to be ended before, and was started again, has had its time.
    seconds = 0 if ending.is_marked(outline.state_dir) else outline.tell_seconds
    if _is_heard(why, outline, keys, report, is_asked, seconds=seconds) or is_asked():
        return
    report.phase("ending", detail=f"No panel has heard of it within {seconds} s.")
    try:
        ending.mark(outline.state_dir, f"It failed with code {int(why.code)}, and nobody heard of it.")
    except OSError as e:
        report.phase("ending", detail=f"Its end cannot be noted ({e.strerror}).")
    ending.end(outline, environ, say=lambda sentence: report.phase("ending", detail=sentence))


def _is_heard(
    why: Ending, outline: Outline, keys: Sequence[str], report: Report, is_asked: Callable[[], bool], *, seconds: float
) -> bool:  # fmt: skip
    """Whether the panel has heard of it within `seconds`."""
    told = {"code": int(why.code), "cause": brief(report.masked(why.cause))}
    deadline = now() + seconds
    door: FailedDoor | None = None
    try:
        while now() < deadline and not is_asked():
            door = door or _opened(outline, keys, told)
            if door is None:
                time.sleep(STEP)
            elif door.heard.wait(STEP):
                return True
        return False
    finally:
        if door is not None:
            door.close()


def _opened(outline: Outline, keys: Sequence[str], told: Mapping[str, object]) -> FailedDoor | None:
    """None while the port is somebody else's: perhaps of what is just ending."""
    try:
        return FailedDoor(outline.port, outline.tls, keys, told)
    except OSError:
        return None


def brief(cause: str) -> str:
    """One line of at most CAUSE_LENGTH characters: how it begins says what failed, its end mostly why."""
    text = one_line(cause)
    if len(text) <= CAUSE_LENGTH:
        return text
    return f"{text[:100]} … {text[-(CAUSE_LENGTH - 103) :]}"
