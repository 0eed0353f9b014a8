"""Follows each attempt on its way up and keeps what it took, so that the figures outlive the machine and its log.

Logs of machines that start are read at a gentle pace, the more there are at one account the more seldom: a
launch must not use up the calls that its own list and its end need.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.models import Q

from deployments import calls
from deployments.calls import Call
from deployments.lifecycle import SERVING, STARTING, State
from deployments.models import Event, Instance, Launch
from deployments.monitoring import samples
from deployments.monitoring.phases import Move, Phase, Told, Way, told, way
from deployments.providers.base import LogLine, RateLimited

logger = logging.getLogger(__name__)

SPAN = timedelta(days=90)
"""Older launches say little of how a provider is now."""
OWN_INTERVAL = timedelta(seconds=2)
INTERVAL = timedelta(seconds=10)
INTERVAL_EACH = timedelta(seconds=5)
"""For each launch of one account: forty of them are read every 200 s each, which is twelve calls a minute."""
INTERVAL_MOST = timedelta(minutes=4)
WAITING = timedelta(seconds=30)
"""Between two looks for the first chat."""
FIRST_TOKEN_WITHIN = timedelta(minutes=10)
"""A first chat that comes later says nothing of the launch."""
FAR = timedelta(minutes=30)
ROWS = 100
PAST = 200
TAIL = 400
PATIENCE = 8.0
"""Seconds for all logs of one round. What comes later is read in the next."""
_POOL = ThreadPoolExecutor(4, thread_name_prefix="launches")


def follow_due(*, clock: Callable[[], datetime]) -> int:
    """Bring every launch forward whose time has come; returns how many."""
    begin(now=clock())
    mine = claim(now=clock())
    read = _read_logs([launch.instance for launch in mine if _has_log(launch)], now=clock())
    follow(mine, read, now=clock())
    return len(mine)


def follow(mine: Sequence[Launch], read: Mapping[UUID, Read], *, now: datetime) -> None:
    """Write what the events and what was `read` of the logs (instance id -> lines) tell of them."""
    taken = moves([launch.pk for launch in mine])
    for launch in mine:
        try:
            _follow(launch, taken[launch.pk], read.get(launch.pk), now=now)
        except Exception:
            # One odd log keeps no other launch from being followed.
            logger.exception("The launch of %s could not be followed", launch.instance_id)


def past_of(instance: Instance, *, now: datetime) -> list[Launch]:
    """The launches at the same provider and tier that came up in the last 90 days, the newest first."""
    alike = Launch.objects.filter(
        provider=instance.account.backend, tier=instance.quote.get("tier", ""), total__isnull=False,
        began_at__gt=now - SPAN,
    )  # fmt: skip
    seconds = ("model_key", *Phase, "total")
    return list(alike.exclude(pk=instance.pk).only(*seconds).order_by("-began_at")[:PAST])


def marks_of(launch: Launch | None) -> dict[str, datetime]:
    """The phases that its log told, and when each began."""
    return {p: datetime.fromisoformat(at) for p, at in launch.marks.items()} if launch else {}


# -- whose time has come -----------------------------------------------------------------------------------


def begin(*, now: datetime) -> None:
    """A row for each attempt that was asked for and has none. What was adopted was never launched."""
    asked = Instance.objects.filter(launch=None, create_sent_at__isnull=False, created_at__gt=now - SPAN)
    new = asked.select_related("account", "deployment").without_secrets().order_by("-created_at")[:ROWS]
    rows = [
        Launch(
            instance=i, provider=i.account.backend, tier=str(i.quote.get("tier", ""))[:40],
            model_key=i.deployment.model_key, began_at=i.created_at, next_read_at=now,
        )
        for i in new
    ]  # fmt: skip
    Launch.objects.bulk_create(rows, ignore_conflicts=True)


def claim(*, now: datetime) -> list[Launch]:
    """Those that are due, put ahead in one transaction so that two workers follow once."""
    due = Q(next_read_at__lte=now) | Q(next_read_at__gt=now + FAR)
    if not Launch.objects.filter(due).exists():
        return []
    with transaction.atomic():
        rows = Launch.objects.filter(due).order_by("next_read_at").select_for_update()[:ROWS]
        mine = [launch.pk for launch in rows.only("pk")]
        Launch.objects.filter(pk__in=mine).update(next_read_at=now + INTERVAL)
    found = Launch.objects.filter(pk__in=mine).select_related("instance__account", "instance__deployment")
    return list(
        found.defer(*(f"instance__{name}" for name in ("api_key", "birth_key", "next_key", "tls_key")))
    )


def moves(ids: Sequence[UUID]) -> dict[UUID, list[Move]]:
    """When each of these attempts took which state, oldest first."""
    found: dict[UUID, list[Move]] = defaultdict(list)
    events = Event.objects.filter(instance__in=ids, kind="state").exclude(to_state="").order_by("at", "pk")
    for instance_id, state, at in events.values_list("instance_id", "to_state", "at"):
        found[instance_id].append((State(state), at))
    return found


# -- the logs ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Read:
    lines: tuple[LogLine, ...] = ()
    put_off: timedelta | None = None
    """The provider wants to be left alone for so long."""


def _has_log(launch: Launch) -> bool:
    """Whether its log can tell more: our image's or the local engine's, from when its container runs until all is told.

    One that failed is read once more: its last line says why.
    """
    i = launch.instance
    tells = i.runs_our_image or i.offer.own_machine
    runs = i.status in {State.LOADING, State.WARMING, *SERVING, State.TERMINATING, State.FAILED}
    return tells and runs and bool(i.remote_id) and launch.total is None


def _read_logs(rows: Sequence[Instance], *, now: datetime) -> dict[UUID, Read]:
    """What could be read within PATIENCE, all at once."""
    futures: dict[Future[Read], UUID] = {}
    accounts = {i.account_id: i.account for i in rows}
    held = {pk for pk, account in accounts.items() if calls.held_for(account, Call.READ, now=now)}
    for i in rows:
        if i.account_id in held:
            continue
        try:
            adapter = i.account.adapter()
        except LookupError:
            continue
        futures[_POOL.submit(_read, adapter.logs, i.remote_id)] = i.pk
    done = wait(futures, timeout=PATIENCE).done if futures else set()
    return {futures[f]: f.result() for f in done}


def _read(logs: Callable[..., Sequence[LogLine]], remote_id: str) -> Read:
    """It never raises: a log that cannot be had says nothing."""
    try:
        return Read(tuple(logs(remote_id, tail=TAIL)))
    except RateLimited as e:
        return Read(put_off=timedelta(seconds=min(max(60.0, e.retry_after or 0.0), FAR.total_seconds() / 2)))
    except Exception as e:
        logger.info("A log could not be read (%s)", type(e).__name__)
        return Read()


# -- one launch ------------------------------------------------------------------------------------------------


def _follow(launch: Launch, moves: Sequence[Move], read: Read | None, *, now: datetime) -> None:
    columns: dict[str, Any] = {}
    if read and read.lines:
        columns |= _facts(launch, told(read.lines, now=now), now=now)
    found = way(moves, _fresh_marks(launch, columns))
    if found is None:
        columns["next_read_at"] = now + INTERVAL
    else:
        columns |= _lengths(found) | _first_token(launch, found, now=now)
        columns["next_read_at"] = _next(launch, found, columns, read, now=now)
    Launch.objects.filter(pk=launch.pk).update(**columns)


def _facts(launch: Launch, said: Told, *, now: datetime) -> dict[str, Any]:
    """What is new of the log. Where its times are our readings', the first one is the nearest to the truth."""
    is_new_boot = said.starts > launch.starts > 0
    before = {} if is_new_boot else marks_of(launch)
    marks = {p: min(at, before.get(p, at)) for p, at in said.marks.items()}
    columns: dict[str, Any] = {
        "marks": {p: at.isoformat() for p, at in {**before, **marks}.items()},
        "starts": max(launch.starts, said.starts),
        "progress": said.progress or launch.progress,
        "ended": said.ended or launch.ended,
        "read_at": now,
    }
    if said.bytes_there is not None:
        columns |= {"bytes_there": said.bytes_there, "bytes_of": said.bytes_of}
        if said.bytes_there != launch.bytes_there:
            columns["bytes_grown_at"] = now
    return columns


def _fresh_marks(launch: Launch, columns: dict[str, Any]) -> dict[str, datetime]:
    marks = columns.get("marks", launch.marks)
    return {p: datetime.fromisoformat(at) for p, at in marks.items()}


def _lengths(found: Way) -> dict[str, Any]:
    """The phases that are over, in seconds."""
    lengths: dict[str, Any] = {
        str(span.phase): span.took(span.ended).total_seconds() for span in found.spans if span.ended
    }
    if found.ready_at:
        lengths["total"] = (found.ready_at - found.began).total_seconds()
    return lengths


def _first_token(launch: Launch, found: Way, *, now: datetime) -> dict[str, Any]:
    """The first chat through the endpoint, once somebody has measured one."""
    if found.ready_at is None or launch.first_token is not None:
        return {}
    until = min(now, found.ready_at + FIRST_TOKEN_WITHIN) + timedelta(seconds=1)
    points = samples.read([launch.pk], ["canary_ttft"], found.ready_at, until, now=now)
    first = next((v for p in points if (v := p.values["canary_ttft"]) is not None), None)
    return {} if first is None else {str(Phase.FIRST_TOKEN): first}


def _next(
    launch: Launch, found: Way, columns: dict[str, Any], read: Read | None, *, now: datetime
) -> datetime | None:
    """When it is looked at again; None once nothing more will come."""
    i = launch.instance
    if found.over_at:
        return None
    if found.ready_at:
        is_known = launch.first_token is not None or str(Phase.FIRST_TOKEN) in columns
        late = now - found.ready_at > FIRST_TOKEN_WITHIN
        ended = i.status not in SERVING | {State.OUTBID, State.STOPPED}
        return None if is_known or late or ended or i.offer.serverless else now + WAITING
    if read and read.put_off:
        return now + read.put_off
    if i.offer.own_machine:
        return now + OWN_INTERVAL
    beside = Instance.objects.filter(account=i.account_id, state__in=[s.value for s in STARTING]).count()
    return now + min(INTERVAL_MOST, max(INTERVAL, INTERVAL_EACH * beside))
