"""Whether the panel lives (`/healthz`) and whether it works (`/readyz`), for supervisors and load balancers.

Anonymous may ask: the answers hold words and ages, never a path, a host or an error's text.
"""

from __future__ import annotations

import logging
import os
from datetime import datetime
from pathlib import Path
from typing import Any

from django.apps import apps
from django.conf import settings
from django.contrib.auth.decorators import login_not_required
from django.db import DatabaseError, InterfaceError
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

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
    return {"database": {"state": database}, "broker": {"state": _broker()}, **loops}


def _loops(now: datetime) -> dict[str, dict[str, Any]]:
    # Through the registry: the panel imports nothing of the apps above it.
    beats = apps.get_model("deployments", "Heartbeat")._default_manager.filter(name__in=LOOPS)
    seen = dict(beats.values_list("name", "at"))
    return {name: _loop(seen.get(name), now) for name in LOOPS}


def _loop(at: datetime | None, now: datetime) -> dict[str, Any]:
    if at is None:
        return {"state": "never", "age_seconds": None}
    # A clock that was set back must not make a dead loop look young for ever, nor an age negative.
    age = abs((now - at).total_seconds())
    return {"state": "ok" if age <= settings.READY_MAX_AGE else "stale", "age_seconds": round(age, 1)}


def _broker() -> str:
    try:
        if settings.CELERY_BROKER_URL.startswith("filesystem://"):
            return "ok" if _folder_works(Path(settings.BROKER_DIR) / "queue") else "failed"
        return _broker_answers()
    except Exception:  # whatever the broker's client raises
        logger.exception("/readyz: the broker does not answer")
        return "failed"


def _folder_works(folder: Path) -> bool:
    return folder.is_dir() and os.access(folder, os.R_OK | os.W_OK | os.X_OK)


def _broker_answers() -> str:
    from panel.celery import app

    with app.connection_for_write() as broker:
        broker.ensure_connection(max_retries=1, interval_start=0, interval_step=0, timeout=2)
    return "ok"
