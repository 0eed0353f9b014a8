"""The lease: a machine with our image ends itself unless the panel says, again and again, that it is wanted.

All that are due at once on one event loop; facts only are written. The same request changes a machine's key
(`services.rotate_machine_key`), in steps that may each be repeated:

    asked      both keys are told, the old one opens the door; then the new one is used from now on
    switched   SETTLE later the new one alone is told; then it is done

A machine that was started again and could not keep its keys knows only the one that it was ordered with: what it is
refused with is told anew. One that failed answers with its cause, and waits for nothing else before it exits.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import aiohttp
from django.db import transaction
from django.db.models import Q, QuerySet

from deployments import services
from deployments.certificates import request_options
from deployments.endpoints import check_url
from deployments.lifecycle import SERVING, STARTING, State
from deployments.models import Cause, Deployment, Event, Instance, KeyStep
from deployments.monitoring.connection import TROUBLE, Target, ask_all, target_of, trouble
from panel.notices.models import Notice
from panel.notices.notify import clear_notice, raise_notice

INTERVAL = timedelta(seconds=60)
RETRY = timedelta(seconds=20)
"""After a failure. A machine whose lease has lapsed waits longer than that before it ends."""
SETTLE = timedelta(seconds=10)
"""How long the old key goes on opening the door: who read it from its row just before has connected by then.

It is longer than a request may take (connection.TIMEOUT): nothing that was sent before a step arrives after the next.
"""
FAR = timedelta(minutes=5)
WARN, ALARM = 0.25, 0.5
"""How much of a lease may go by without a renewal before somebody is told."""
LONGEST = 604_800
_STATES = [s.value for s in STARTING | SERVING | {State.UNKNOWN}]
_ANSWER_BYTES = 4096
_DRAINING = "the machine is draining"


@dataclass(frozen=True, slots=True)
class Renewal(Target):
    """One request for a lease."""

    seconds: int = 0
    keys: tuple[str, ...] = field(default=(), repr=False)
    """Those that are to open the door from now on; empty: as before."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of it. `detail` says why not, empty when it was renewed."""

    expires_in: float = 0.0
    draining: bool = False
    refused_key: bool = False
    detail: str = ""
    failure: str = ""
    """What the machine failed of; empty: it did not."""


def renew_due(*, clock: Callable[[], datetime]) -> int:
    """Renew every lease whose time has come; returns how many were tried."""
    return renew(Instance.objects.filter(state__in=_STATES), clock=clock)


def renew(rows: QuerySet[Instance], *, clock: Callable[[], datetime]) -> int:
    """Renew the leases of `rows` that are due and that no other worker has just taken."""
    now = clock()
    mine = _claim(rows, now=now)
    if not mine:
        return 0
    asked = {i.pk: _renewal(i, now=now) for i in mine}
    answers = dict(zip(asked, asyncio.run(ask_all(list(asked.values()), ask)), strict=True))
    lost = _with_birth_keys([i for i in mine if answers[i.pk].refused_key], asked)
    if lost:
        asked |= lost
        answers |= zip(lost, asyncio.run(ask_all(list(lost.values()), ask)), strict=True)
    # The lease runs from when it was asked for, not from when the answer came: it never ends before the page says.
    _renewed([i for i in mine if not answers[i.pk].detail], answers, asked_at=now)
    for i in mine:
        if answers[i.pk].failure:
            _note_failure(i, answers[i.pk].failure, now=clock())
        elif answers[i.pk].detail:
            _failed(i, answers[i.pk], now=clock())
        elif keys := asked[i.pk].keys:
            _told_keys(i, keys, now=clock())
    return len(mine)


def _claim(rows: QuerySet[Instance], *, now: datetime) -> list[Instance]:
    """Those that are due, put ahead in one transaction so that two workers renew once."""
    is_due = Q(next_lease_at__lte=now) | Q(next_lease_at=None) | Q(next_lease_at__gt=now + FAR)
    due = rows.filter(is_due, lease_seconds__gt=0).exclude(endpoint_url="")
    if not due.exists():
        return []
    with transaction.atomic():
        mine = list(
            due.select_related("deployment", "account")
            .defer("tls_key")
            .order_by("pk")
            .select_for_update(of=("self",))
        )
        Instance.objects.filter(pk__in=[i.pk for i in mine]).update(next_lease_at=now + INTERVAL)
    for i in mine:
        i.next_lease_at = now + INTERVAL
    return mine


def _ours(i: Instance) -> QuerySet[Instance]:
    """The row while our claim holds: whoever stalled in between writes nothing."""
    return Instance.objects.filter(pk=i.pk, next_lease_at=i.next_lease_at)


# -- what is asked ------------------------------------------------------------------------------------


def _renewal(i: Instance, *, now: datetime) -> Renewal:
    t = target_of(i)
    keys = _keys(i) if i.key_step == KeyStep.ASKED or _has_settled(i, now=now) else ()
    return Renewal(t.url, t.key, t.plaintext, t.loopback, t.pin, i.lease_seconds, keys)


def _keys(i: Instance) -> tuple[str, ...]:
    """Those that are to open its door, the present one first."""
    return (i.api_key, i.next_key) if i.key_step == KeyStep.ASKED else (i.api_key,)


def _has_settled(i: Instance, *, now: datetime) -> bool:
    if i.key_step != KeyStep.SWITCHED:
        return False
    # One that lies ahead was set by a clock that has been put back since.
    return i.key_changed_at is None or not timedelta() <= now - i.key_changed_at < SETTLE


def _with_birth_keys(refused: list[Instance], asked: dict[Any, Renewal]) -> dict[Any, Renewal]:
    """For machines that refused their key and once had another: tell them their keys with that one."""
    again = {}
    for i in refused:
        # Looked at once more: by a worker that stalled, a machine must not be told keys that are over.
        fresh = _ours(i).first()
        if fresh and fresh.birth_key not in ("", i.api_key) and _keys(fresh) == _keys(i):
            again[i.pk] = replace(asked[i.pk], key=fresh.birth_key, keys=_keys(fresh))
    return again


async def ask(session: aiohttp.ClientSession, renewal: Renewal) -> Answer:
    """One renewal. It never raises: whatever goes wrong is the answer."""
    body: dict[str, Any] = {"seconds": renewal.seconds}
    if renewal.keys:
        body["keys"] = list(renewal.keys)
    try:
        check_url(renewal.url, plaintext=renewal.plaintext, loopback=renewal.loopback)
        async with session.put(
            f"{renewal.url}/lease", json=body, headers={"Authorization": f"Bearer {renewal.key}"},
            allow_redirects=False, **request_options(renewal.pin),
        ) as response:  # fmt: skip
            return _read(response.status, await response.content.read(_ANSWER_BYTES))
    except TROUBLE as e:
        return Answer(detail=trouble(e, renewal.pin))


def _read(status: int, body: bytes) -> Answer:
    if status == 401:
        return Answer(refused_key=True, detail="the machine did not accept its key (401)")
    if status == 404:
        return Answer(detail="the machine knows no lease (404): it runs without one, or another image")
    if status == 409:
        return Answer(detail="it is too late: the machine is ending (409)")
    if status != 200:
        return Answer(detail=f"/lease answered {status}")
    try:
        told = json.loads(body)
    except (ValueError, RecursionError):
        told = None
    if isinstance(told, dict) and told.get("state") == "failed":
        return Answer(detail="the machine says that it failed", failure=_failure(told))
    left = told.get("expires_in") if isinstance(told, dict) else None
    if isinstance(left, bool) or not isinstance(left, int | float) or not math.isfinite(left):
        return Answer(detail="what answered /lease is no machine of ours")
    if not 0 < left <= LONGEST:
        return Answer(detail=f"/lease answered with {left:.0f} seconds")
    return Answer(expires_in=float(left), draining=told.get("state") == "draining")


def _failure(told: dict[str, Any]) -> str:
    """`code 70: The engine ended with exit code 1. ...`: one line, whatever it sends."""
    code, cause = told.get("code"), told.get("cause")
    number = (
        str(code) if isinstance(code, int) and not isinstance(code, bool) and 0 < code < 256 else "unknown"
    )
    words = "".join(c if c.isprintable() else " " for c in cause) if isinstance(cause, str) else ""
    return f"code {number}: {' '.join(words.split()) or 'it gives no cause'}"[:300]


# -- what is written ----------------------------------------------------------------------------------


def _renewed(rows: Iterable[Instance], answers: dict[Any, Answer], *, asked_at: datetime) -> None:
    """All of them in a few writes: it is nearly always nearly all, and for the same time."""
    alike: dict[tuple[float, bool], list[Instance]] = defaultdict(list)
    for i in rows:
        alike[answers[i.pk].expires_in, answers[i.pk].draining].append(i)
    for (seconds, draining), some in alike.items():
        columns: dict[str, Any] = {"lease_detail": _DRAINING if draining else ""}
        if draining:
            # It answers nobody: it is asked again at once, until it says that it serves.
            columns["next_lease_at"] = asked_at
        Instance.objects.filter(pk__in=[i.pk for i in some], next_lease_at=some[0].next_lease_at).update(
            lease_renewed_at=asked_at, lease_expires_at=asked_at + timedelta(seconds=seconds),
            lease_failures=0, told_failure="", **columns,
        )  # fmt: skip
        for i in some:
            if draining:
                i.next_lease_at = asked_at
            if i.lease_failures:
                clear_notice(_notice(i), now=asked_at)


def _note_failure(i: Instance, failure: str, *, now: datetime) -> None:
    """It is said once, and then the machine is gone: written whether or not our claim holds, but for this life alone."""
    with transaction.atomic():
        # The order of everybody who writes both.
        Deployment.objects.filter(pk=i.deployment_id).select_for_update().values_list("pk").first()
        alike = Instance.objects.filter(
            pk=i.pk, state__in=_STATES, endpoint_url=i.endpoint_url, stop_asked_at=i.stop_asked_at,
            interruptions=i.interruptions,
        )  # fmt: skip
        if alike.update(told_failure=failure):
            services.ring(i.deployment, now=now)


def _failed(i: Instance, answer: Answer, *, now: datetime) -> None:
    if i.status in STARTING:
        return  # Its door opens when it is ready: until then a failure is no news.
    written = _ours(i).update(
        lease_failures=i.lease_failures + 1, lease_detail=answer.detail[:300], next_lease_at=now + RETRY
    )
    if written:
        _tell(i, answer.detail, now=now)


def _tell(i: Instance, detail: str, *, now: datetime) -> None:
    spent = i.lease_spent(now)
    if spent < WARN:
        return
    severity = Notice.Severity.CRITICAL if spent >= ALARM else Notice.Severity.WARNING
    minutes = round(spent * i.lease_seconds / 60)
    raise_notice(
        _notice(i), severity, f"The lease of {i.deployment.name} is not renewed", now=now,
        url=i.deployment.get_absolute_url(), subject=i.deployment.pk, cause=Cause.DEPLOYMENT.of(i.deployment.pk),
        detail=f"Its machine could not be told that it is wanted for {minutes} of {i.lease_seconds // 60} minutes: {detail}. "
        "At the end of it the machine stops answering and ends itself.",
    )  # fmt: skip


def _notice(i: Instance) -> str:
    return f"lease:{i.pk}"


def _told_keys(i: Instance, keys: tuple[str, ...], *, now: datetime) -> None:
    """The machine has these keys now: take the step that waited for it."""
    if i.key_step == KeyStep.ASKED:
        _ours(i).filter(key_step=KeyStep.ASKED).update(
            api_key=i.next_key, next_key="", key_step=KeyStep.SWITCHED, key_changed_at=now,
            next_lease_at=now + SETTLE,
        )  # fmt: skip
    elif i.key_step == KeyStep.SWITCHED and keys == (i.api_key,):
        _finish(i, now=now)


def _finish(i: Instance, *, now: datetime) -> None:
    with transaction.atomic():
        # The order of everybody who writes both, and the Event holds the deployment's row too.
        Deployment.objects.filter(pk=i.deployment_id).select_for_update().values_list("pk").first()
        if _ours(i).filter(key_step=KeyStep.SWITCHED).update(key_step=""):
            Event.objects.create(
                deployment_id=i.deployment_id, instance=i, at=now, kind="rotated",
                reason="the old key no longer opens its door",
            )  # fmt: skip
