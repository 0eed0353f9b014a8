"""The first process: it reaps what is orphaned, passes signals on, and lets nothing outlive the machine."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

from regia_machine import leash

ASKING = (signal.SIGTERM, signal.SIGINT)
"""The signals that ask the machine to stop."""
_PR_SET_CHILD_SUBREAPER = 36
_KILLED = 128
"""A shell's way to say that a signal ended a process: this and the signal's number."""


def run(work: Callable[[], int]) -> int:
    """Do the work in a child process; returns its exit code. The work begins with ASKING blocked."""
    # A core dump would put what is in memory, prompts among it, on the disk.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Orphans come to process 1 of a container by themselves; under another init they have to be asked for.
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)
    # Blocked until there is somebody to hear them, here and there.
    signal.pthread_sigmask(signal.SIG_BLOCK, ASKING)
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        _be_the_child(parent, work)
    for number in ASKING:
        signal.signal(number, lambda n, _: _pass_on(child, n))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ASKING)
    code = _reap_until(child)
    _end_the_rest()
    return code


def _be_the_child(parent: int, work: Callable[[], int]) -> NoReturn:
    code = 1
    try:
        os.setsid()
        leash.hold(parent)
        code = work()
    except BaseException as e:  # Nothing may leave by the way back: that is the first process's.
        sys.stderr.write(f"The machine's own process failed: {type(e).__name__}\n")
        sys.stderr.flush()
    os._exit(code)


def _pass_on(child: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, number)


def _reap_until(child: int) -> int:
    while True:
        pid, status = os.waitpid(-1, 0)
        if pid == child:
            break
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else _killed(-code)


def _killed(number: int) -> int:
    """Say what the child could not say itself any more."""
    code = _KILLED + number
    name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
    sys.stdout.write(f'regia exit code={code} cause="The machine\'s own process was killed by {name}."\n')
    sys.stdout.flush()
    return code


def _end_the_rest(*, seconds: float = 5.0) -> None:
    """Kill what is left until nothing is: whatever a killed process had started comes here in its turn."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for pid in _children():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        try:
            if os.waitpid(-1, os.WNOHANG) == (0, 0):
                time.sleep(0.02)
        except ChildProcessError:
            return


def _children() -> Iterator[int]:
    own = os.getpid()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and _parent_of(entry) == own:
            yield int(entry.name)


def _parent_of(entry: Path) -> int:
    try:
        # The name in brackets may hold spaces and brackets of its own.
        return int((entry / "stat").read_text(errors="replace").rpartition(")")[2].split()[1])
    except (OSError, ValueError, IndexError):
        return 0
