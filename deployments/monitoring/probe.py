"""Is the endpoint alive? All due endpoints at once on one event loop; facts only are written.

An endpoint is alive when `/health` says 200 and `/v1/models` answers to the instance's own key. An answer is written
as it comes: who hangs keeps nobody else's waiting. `decide` judges by n of the last m (`damping`).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import aiohttp
from django.db import transaction
from django.db.models import Q, QuerySet

from deployments import damping, services
from deployments.certificates import request_options
from deployments.endpoints import check_url
from deployments.lifecycle import STARTING, State
from deployments.models import Deployment, Instance
from deployments.models.instance import SELDOM
from deployments.monitoring import samples
from deployments.monitoring.connection import TIMEOUT, TROUBLE, Target, answers, target_of, trouble

STEADY_INTERVAL = timedelta(seconds=10)
RETRY = timedelta(seconds=2)
"""After an answer that speaks against the state: what is damped is asked again soon."""
STARTING_INTERVAL = timedelta(seconds=0.2)
FAR = timedelta(minutes=5)
_STATES = [s.value for s in STARTING | {State.READY, State.DEGRADED}]


_KEY_REFUSED = "/v1/models answered 401"
_FAILED = "the machine says that it failed"


@dataclass(frozen=True, slots=True)
class Result:
    ok: bool
    seen: bool
    """It answered at all, if only that it is loading."""
    detail: str


def probe_due(*, clock: Callable[[], datetime]) -> int:
    """Probe every endpoint whose time has come; returns how many."""
    return probe_instances(Instance.objects.filter(state__in=_STATES), clock=clock)


def probe_instances(rows: QuerySet[Instance], *, clock: Callable[[], datetime]) -> int:
    """Probe the endpoints of `rows` now, those another worker has not just taken."""
    # A request to a serverless endpoint would wake a worker, which bills: those are inspected, not probed.
    mine = {i.pk: i for i in _claim(rows, now=clock()) if not i.quote.get("serverless")}
    for found in answers({pk: target_of(i) for pk, i in mine.items()}, probe):
        _note([(mine[pk], result) for pk, result in found.items()], now=clock())
    return len(mine)


def _note(found: list[tuple[Instance, Result]], *, now: datetime) -> None:
    unchanged = [i.pk for i, result in found if _goes_on(i, result)]
    news = sorted((pair for pair in found if not _goes_on(*pair)), key=lambda pair: pair[0].pk)
    with transaction.atomic():
        # The order of everybody who writes both: the deployment's row, then its instance's.
        ids = {i.deployment_id for i, _ in news}
        list(Deployment.objects.filter(pk__in=ids).order_by("pk").select_for_update().values_list("pk"))
        for instance, result in news:
            _write(instance, result, now=now)
        # What goes on well is noted for all of them at once: it is nearly always nearly all.
        Instance.objects.filter(pk__in=unchanged, state=State.READY, probe_failures=0).update(
            probe_ok_at=now, probe_seen_at=now, probe_detail=""
        )
    # By itself: the facts above stand whatever becomes of it.
    samples.record_many(
        (i.pk, now, {"up": float(result.ok)}) for i, result in found if i.status not in STARTING
    )


def _goes_on(i: Instance, result: Result) -> bool:
    return result.ok and i.status is State.READY and not i.probe_failures and not i.probe_recent


def _claim(rows: QuerySet[Instance], *, now: datetime) -> list[Instance]:
    """Those of `rows` whose probe is due, put ahead in one transaction so that two workers probe once."""
    is_due = Q(next_probe_at__lte=now) | Q(next_probe_at=None) | Q(next_probe_at__gt=now + FAR)
    with transaction.atomic():
        mine = list(
            rows.filter(is_due)
            .exclude(endpoint_url="")
            .select_related("deployment", "account")
            .defer(*SELDOM)
            .order_by("pk")
            .select_for_update(of=("self",))
        )
        starting = Q(state__in=[s.value for s in STARTING])
        taken = Instance.objects.filter(pk__in=[i.pk for i in mine])
        taken.filter(starting).update(next_probe_at=now + STARTING_INTERVAL)
        taken.exclude(starting).update(next_probe_at=now + STEADY_INTERVAL)
    return mine


async def probe(session: aiohttp.ClientSession, target: Target) -> Result:
    """One probe. It never raises: whatever goes wrong is the result."""
    try:
        check_url(target.url, plaintext=target.plaintext, loopback=target.loopback)
        # For both requests together: who is slow with each is told as early as who says nothing.
        async with asyncio.timeout(TIMEOUT.total):
            status, body = await _get(session, target, "/health")
            if status == 503 and _says_failed(body):
                return Result(ok=False, seen=False, detail=_FAILED)
            if status != 200:
                loading = status == 503 and b"oading" in body
                return Result(ok=False, seen=loading, detail=f"/health answered {status}")
            status, _ = await _get(session, target, "/v1/models", Authorization=f"Bearer {target.key}")
    except TROUBLE as e:
        return Result(ok=False, seen=False, detail=trouble(e, target.pin))
    if status != 200:
        return Result(ok=False, seen=True, detail=f"/v1/models answered {status}")
    return Result(ok=True, seen=True, detail="")


def _says_failed(body: bytes) -> bool:
    """Our image's word, whole: in other servers' sentences something may fail too."""
    try:
        return bool(json.loads(body) == {"state": "failed"})
    except (ValueError, RecursionError):
        return False


async def _get(
    session: aiohttp.ClientSession, target: Target, path: str, **headers: str
) -> tuple[int, bytes]:
    """Status and the first half kilobyte; redirects are not followed."""
    options = request_options(target.pin)
    async with session.get(
        f"{target.url}{path}", headers=headers, allow_redirects=False, **options
    ) as response:
        return response.status, await response.content.read(512)


def _write(i: Instance, result: Result, *, now: datetime) -> None:
    columns: dict[str, Any] = {"probe_detail": result.detail[:300]}
    if result.seen:
        columns["probe_seen_at"] = now
    if result.ok:
        columns |= {"probe_ok_at": now, "probe_failures": 0}
    elif i.status not in STARTING:
        # Before it is ready a failure is no news: refused is how an engine loads.
        columns["probe_failures"] = i.probe_failures + 1
    if i.status not in STARTING:
        columns["probe_recent"] = damping.after(i.probe_recent, failed=not result.ok)
        if result.ok == (i.status is State.DEGRADED):
            columns["next_probe_at"] = now + RETRY
    if result.detail in {_KEY_REFUSED, _FAILED} and i.lease_seconds:
        # It was started again and knows only the key it was born with: the lease gives it the present one.
        # Or it waits for somebody with a key, to say why it failed: the lease asks.
        columns["next_lease_at"] = now
    rows = Instance.objects.filter(pk=i.pk, state=i.state, probe_failures=i.probe_failures)
    if rows.update(**columns) and _is_news(i, result):
        services.ring(i.deployment, now=now)


def _is_news(i: Instance, result: Result) -> bool:
    if i.status in STARTING:
        return result.ok or (result.seen and not i.probe_seen_at)
    return result.ok == (i.status is State.DEGRADED) or not result.ok
