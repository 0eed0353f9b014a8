"""One cause is told once: what the loops have noticed beside an incident is told, acknowledged and cleared with it.

Their notices stay: pages and loops read them. A notice names its cause when it is raised, and whichever incident
stands for that cause, or has swallowed it, takes it over. One that no incident takes within three minutes is told
by itself (`notify.INCIDENT_WITHIN`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from django.db import transaction

from deployments.models import Cause, Incident, IncidentEntry
from deployments.monitoring.causes import Trouble
from panel.notices import notify

_SWALLOWS = (Incident.Kind.KEY, Incident.Kind.PROVIDER, Incident.Kind.RESIDENCY)
_KEY = re.compile(r"incident:(\d+)")


def take_notices(troubles: Mapping[str, Trouble], *, now: datetime) -> None:
    """Let the standing incidents take over what is told of their causes."""
    waiting = dict(notify.untaken().values_list("pk", "cause"))
    if not waiting:
        return
    # What is swallowed is told by what has swallowed it, unless it has an incident of its own.
    of = {
        Cause.DEPLOYMENT.of(touch.deployment): trouble.cause
        for trouble in troubles.values()
        if trouble.kind in _SWALLOWS
        for touch in trouble.touches
    } | {cause: cause for cause in troubles}
    standing = {
        i.cause: i for i in Incident.objects.standing().filter(cause__in={*of.values(), *waiting.values()})
    }
    for pk, cause in waiting.items():
        incident = standing.get(of.get(cause, cause))
        if incident is not None:
            with transaction.atomic():
                notify.take_over([pk], key=incident.notice_key, now=now)
                _as_acknowledged(incident, now=now)


def _as_acknowledged(incident: Incident, *, now: datetime) -> None:
    """Who sees to the incident sees to what it tells."""
    for at, by in (
        notify.open_notices()
        .filter(key=incident.notice_key)
        .values_list("acknowledged_at", "acknowledged_by")
    ):
        if at is not None:
            notify.acknowledge_parts(incident.notice_key, by=by, now=now)


def on_acknowledged(sender: Any, *, key: str, by: str, now: datetime, **_: Any) -> None:
    """Whoever acknowledges an incident's notice has acknowledged the incident."""
    found = _KEY.fullmatch(key)
    if found and Incident.objects.open().filter(pk=found[1], acknowledged_at=None).update(
        acknowledged_at=now
    ):
        IncidentEntry.objects.create(
            incident_id=int(found[1]), at=now, kind=IncidentEntry.Kind.ACKNOWLEDGED, actor=by
        )
