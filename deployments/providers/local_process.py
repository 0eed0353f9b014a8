"""Processes of the local provider: known by label, pid and start, never by pid alone."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import psutil

MARK = "REGIA_MACHINE"
"""Environment variable of every process of a machine: `<root>/<label>`."""
SUPERVISOR = "deployments.providers.local_engine"

_START_TOLERANCE = 2.0


def start_of(pid: int) -> str | None:
    """A text that tells this process from any other that ever has its pid; None when there is none.

    On Linux the kernel's boot id and start tick, which no clock step changes; elsewhere the time of creation.
    """
    if sys.platform == "linux":
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
            boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        except OSError:
            return None
        # The second field is the program's name in brackets and may hold anything; count behind it.
        return f"{boot}:{stat.rpartition(')')[2].split()[19]}"
    try:
        return f"at:{psutil.Process(pid).create_time()}"
    except psutil.Error:
        return None


def is_alive(identity: Mapping[str, Any] | None) -> bool:
    """Whether the very process {pid, start} runs. A zombie is dead, and so is another with its pid."""
    if not identity:
        return False
    try:
        pid, start = int(identity["pid"]), str(identity["start"])
    except (KeyError, TypeError, ValueError):
        return False
    return _same_start(start_of(pid), start) and not _is_zombie(pid)


def identity_of(pid: int) -> dict[str, Any]:
    return {"pid": pid, "start": start_of(pid)}


def find(root: Path, label: str, state: Mapping[str, Any]) -> list[psutil.Process]:
    """Every living process of a machine: those that carry its mark, and the rest of their group."""
    ours = [p for p in psutil.process_iter() if is_ours(p, root, label) or _is_recorded(p, state)]
    groups = {_group_of(p) for p in ours} - {None, os.getpgrp()}
    # An engine's own children may rename themselves and lose the mark, but they stay in its group.
    mates = [p for p in psutil.process_iter() if _group_of(p) in groups]
    return [p for p in {*ours, *mates} if not _is_zombie(p.pid)]


def is_ours(process: psutil.Process, root: Path, label: str) -> bool:
    """Whether its command line or environment carries the machine's mark."""
    try:
        words = process.cmdline()
        if SUPERVISOR in words:
            at = words.index(SUPERVISOR)
            return bool(words[at + 1 : at + 3] == [str(root), label])
        return bool(process.environ().get(MARK) == mark_of(root, label))
    except (psutil.Error, OSError):
        return False


def supervised_labels(root: Path) -> set[str]:
    """Labels of every supervisor that runs for this folder, whatever their files say."""
    labels = set()
    for process in psutil.process_iter():
        try:
            words = process.cmdline()
        except (psutil.Error, OSError):
            continue
        if SUPERVISOR in words:
            at = words.index(SUPERVISOR)
            if words[at + 1 : at + 2] == [str(root)] and len(words) > at + 2 and not _is_zombie(process.pid):
                labels.add(words[at + 2])
    return labels


def mark_of(root: Path, label: str) -> str:
    return str(root / label)


def end(root: Path, label: str, state: Mapping[str, Any], *, gentle: float, hard: float) -> bool:
    """End every process of a machine: SIGTERM, then SIGKILL after `gentle` seconds. True when none is left."""
    if _send_until_gone(root, label, state, signal.SIGTERM, seconds=gentle):
        return True
    return _send_until_gone(root, label, state, signal.SIGKILL, seconds=hard)


def kill(identity: Mapping[str, Any] | None) -> bool:
    """SIGKILL the very process {pid, start}; False when it does not run."""
    if not identity or not is_alive(identity):
        return False
    try:
        psutil.Process(int(identity["pid"])).kill()
    except psutil.Error:
        return False
    return True


def _send_until_gone(
    root: Path, label: str, state: Mapping[str, Any], number: signal.Signals, *, seconds: float
) -> bool:
    give_up = time.monotonic() + seconds
    told: set[psutil.Process] = set()
    while living := find(root, label, state):
        # A process that forked meanwhile left one that has not been told yet.
        _send(set(living) - told, number)
        told |= set(living)
        if time.monotonic() > give_up:
            return False
        _wait(living, give_up)
    return True


def _send(processes: Iterable[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        try:
            process.send_signal(number)  # psutil looks at the start time once more before it sends.
        except psutil.Error:
            continue


def _wait(processes: Iterable[psutil.Process], give_up: float) -> None:
    while time.monotonic() < give_up and any(p.is_running() and not _is_zombie(p.pid) for p in processes):
        time.sleep(0.02)


def _is_recorded(process: psutil.Process, state: Mapping[str, Any]) -> bool:
    recorded = [state.get("supervisor") or {}, state.get("engine") or {}]
    return any(r.get("pid") == process.pid and is_alive(r) for r in recorded)


def _same_start(found: str | None, start: str) -> bool:
    if found is None or not start.startswith("at:") or not found.startswith("at:"):
        return found == start
    return abs(float(found[3:]) - float(start[3:])) <= _START_TOLERANCE


def _is_zombie(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True
    except psutil.Error:
        return False


def _group_of(process: psutil.Process) -> int | None:
    try:
        return os.getpgid(process.pid)
    except OSError:
        return None
