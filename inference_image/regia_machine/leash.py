"""Becomes a child's command, after telling the kernel to kill it when its parent dies.

Started by its path, as `leash.py <parent's pid> <command> …`, because it must not need the parent's PYTHONPATH.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def hold(parent: int) -> None:
    """This process dies with its parent. What it becomes by exec does too."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)  # The parent died before it could be watched.


if __name__ == "__main__":
    hold(int(sys.argv[1]))
    os.execvp(sys.argv[2], sys.argv[2:])  # noqa: S606
