"""Whether the clock's tasks go round: each leaves the moment it last went well, and its failures.

It hangs on Celery's own signals, so that a task that is added to the schedule is watched without being told.
"""

from __future__ import annotations

import logging
from functools import lru_cache
from typing import Any

from celery import signals
from django.db import DatabaseError, InterfaceError
from django.utils import timezone

from deployments.models import Heartbeat
from panel import health

logger = logging.getLogger(__name__)


def watch() -> None:
    """Follow every task of the schedule, in whichever process runs it."""
    signals.task_prerun.connect(begins, weak=False, dispatch_uid="rounds")
    signals.task_success.connect(went_well, weak=False, dispatch_uid="rounds")
    signals.task_failure.connect(failed, weak=False, dispatch_uid="rounds")


_begun: set[str] = set()
"""The rounds that this process has begun already."""


def begins(sender: Any = None, **_: Any) -> None:
    """Once in a process, so that a round that hangs from the very first time is seen too."""
    name = round_of(getattr(sender, "name", ""))
    if name and name not in _begun:
        try:
            Heartbeat.first_tried(name, timezone.now())
            _begun.add(name)
        except (DatabaseError, InterfaceError) as e:
            logger.warning("That %s began could not be noted (%s)", name, type(e).__name__)


def went_well(sender: Any = None, **_: Any) -> None:
    if name := round_of(getattr(sender, "name", "")):
        try:
            Heartbeat.went_round(name, timezone.now())
        except (DatabaseError, InterfaceError) as e:
            logger.warning("That %s went round could not be noted (%s)", name, type(e).__name__)


def failed(sender: Any = None, exception: BaseException | None = None, **_: Any) -> None:
    if name := round_of(getattr(sender, "name", "")):
        try:
            Heartbeat.failed(name, type(exception).__name__, timezone.now())
        except (DatabaseError, InterfaceError) as e:
            logger.warning("That %s failed could not be noted (%s)", name, type(e).__name__)


def round_of(task: str) -> str:
    """The Heartbeat's name of a task of the schedule; empty for any other."""
    return _names().get(task, "")


@lru_cache(maxsize=1)
def _names() -> dict[str, str]:
    return {r.task: r.name for r in health.rounds()}
