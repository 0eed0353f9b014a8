"""Whether the panel lives (`/healthz`) and whether it works (`/readyz`), for supervisors and load balancers.

Anonymous may ask those: the answers hold words and ages, never a path, a host or an error's text. By the same
thresholds the header of every page tells the signed-in what is wrong with the panel itself (`problems`).
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from django.apps import apps
from django.conf import settings
from django.contrib.auth.decorators import login_not_required
from django.db import DatabaseError, InterfaceError
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from panel.ui.live import live

logger = logging.getLogger(__name__)

LOOPS = ("beat", "reconcile")


@login_not_required
@require_safe
@never_cache
def healthz(request: HttpRequest) -> HttpResponse:
    """200 as long as this process answers. It asks nothing of the database."""
    return HttpResponse("ok\n", content_type="text/plain")


@login_not_required
@require_safe
@never_cache
def readyz(request: HttpRequest) -> HttpResponse:
    """JSON: each part "ok", "stale", "never" or "failed", with ages in seconds; 503 unless all are ok."""
    found = parts(now=timezone.now())
    ready = all(part["state"] == "ok" for part in found.values())
    body = {
        "ready": ready,
        "not_ready": [name for name, part in found.items() if part["state"] != "ok"],
        **found,
    }
    return JsonResponse(body, status=200 if ready else 503)


def parts(*, now: datetime) -> dict[str, dict[str, Any]]:
    """The state of the database, the broker and each loop at `now`; ages in seconds."""
    loops: dict[str, dict[str, Any]] = {name: {"state": "failed", "age_seconds": None} for name in LOOPS}
    try:
        loops = _loops(now)
        database = "ok"
    except (DatabaseError, InterfaceError):
        logger.exception("/readyz: the database does not answer")
        database = "failed"
    return {"database": {"state": database}, "broker": {"state": broker()}, **loops}


def _loops(now: datetime) -> dict[str, dict[str, Any]]:
    # Through the registry: the panel imports nothing of the apps above it.
    beats = apps.get_model("deployments", "Heartbeat")._default_manager.filter(name__in=LOOPS)
    seen = dict(beats.values_list("name", "at"))
    return {name: _loop(seen.get(name), now) for name in LOOPS}


def _loop(at: datetime | None, now: datetime) -> dict[str, Any]:
    if at is None:
        return {"state": "never", "age_seconds": None}
    age = age_of(at, now=now)
    return {"state": "ok" if age <= settings.READY_MAX_AGE else "stale", "age_seconds": round(age, 1)}


def age_of(at: datetime, *, now: datetime) -> float:
    """Seconds. A clock that was set back must not make a dead loop look young for ever, nor an age negative."""
    return abs((now - at).total_seconds())


def broker() -> str:
    """Whether the broker takes bells: ok or failed."""
    try:
        if settings.CELERY_BROKER_URL.startswith("filesystem://"):
            return "ok" if _folder_works(Path(settings.BROKER_DIR) / "queue") else "failed"
        return _broker_answers()
    except Exception:  # whatever the broker's client raises
        logger.exception("/readyz: the broker does not answer")
        return "failed"


def _folder_works(folder: Path) -> bool:
    return folder.is_dir() and os.access(folder, os.R_OK | os.W_OK | os.X_OK)


BROKER_HOLDS = 5.0
"""Seconds that a broker's answer stands: strangers may ask /readyz as often as they like, it opens no more connections."""
_asking = threading.Lock()
_told: tuple[float, str] = (0.0, "")


def _broker_answers() -> str:
    global _told
    with _asking:
        if time.monotonic() >= _told[0]:
            _told = (time.monotonic() + BROKER_HOLDS, _broker_asked())
        return _told[1]


def _broker_asked() -> str:
    from panel.celery import app

    try:
        with app.connection_for_write() as connection:
            connection.ensure_connection(max_retries=1, interval_start=0, interval_step=0, timeout=2)
    except Exception:  # whatever the broker's client raises
        logger.exception("/readyz: the broker does not answer")
        return "failed"
    return "ok"


# -- what the header of every page tells ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is wrong with the panel itself. `detail` is for those who may see the accounts."""

    key: str
    sentence: str
    """Without its full stop: with `since` the age stands at its end, "The clock was last seen 3 min ago"."""
    meaning: str = ""
    """What follows from it."""
    detail: str = ""
    since: datetime | None = None
    critical: bool = True
    url_name: str = ""
    """Where there is more to see."""
    query: str = ""
    """What follows that page's address."""


Source = Callable[[datetime], list[Problem]]
_sources: list[Source] = []


def add_source(source: Source) -> None:
    """Let `source` tell its problems in the header too. Apps above the panel call this when they are ready."""
    if source not in _sources:
        _sources.append(source)


def problems(*, now: datetime) -> list[Problem]:
    """Everything that is wrong with the panel itself, the worst first. A query for each source: it is on every page."""
    return sorted((p for source in _sources for p in source(now)), key=lambda p: not p.critical)


class Round(NamedTuple):
    """A task of the clock's schedule. `period` and `max_age` in seconds."""

    name: str
    """Of its Heartbeat: `round:probe`."""
    task: str
    period: float
    max_age: float
    """Without a success for longer than this it is stale."""


def rounds() -> list[Round]:
    """Every task that the clock rings at an interval."""
    found = []
    for name, entry in settings.CELERY_BEAT_SCHEDULE.items():
        every = entry["schedule"]
        period = every.total_seconds() if isinstance(every, timedelta) else every
        if isinstance(period, int | float):
            found.append(
                Round(f"round:{name}"[:40], str(entry["task"]), period, settings.READY_MAX_AGE + 3 * period)
            )
    return found


@require_safe
def strip(request: HttpRequest) -> HttpResponse:
    """The part of the header that tells it, for pages that stay open."""
    return live(request, "ui/panel_health.html", {}, fragments=("panel-health",))


def header(request: HttpRequest) -> dict[str, Any]:
    """`panel_problems` for every page, and whether it is `panel_silent`: what it shows is old.

    Asked for once, only by pages that show it, and not for strangers.
    """

    @cache
    def found() -> list[Problem]:
        user = getattr(request, "user", None)
        return problems(now=timezone.now()) if user is not None and user.is_authenticated else []

    return {"panel_problems": found, "panel_silent": lambda: any(p.key in LOOPS for p in found())}
