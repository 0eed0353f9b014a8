"""The one loop: make what is wanted so, from whatever state is found. The only place that acts on providers.

    step(id)   1 take the lease (one guarded UPDATE)   2 load and decide (pure, `decide.py`)
               3 act on the provider, outside any transaction   4 apply, guarded by the lease token
    due(now)   every deployment whose next look has come
    observe (`observe.py`)          one list call for each account and cycle

A lost bell costs seconds: truth and due times stand in rows.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import DatabaseError, transaction
from django.db.models import Case, DateTimeField, F, Q, Value, When

from billing import budgets
from deployments import bids, calls, choice, crash, damping, offers, places, services
from deployments import decide as d
from deployments.acts import ACTS, ENDS_STEP, STARTED
from deployments.calls import Call
from deployments.lifecycle import STARTING, TERMINAL, Desired, State
from deployments.models import Deployment, Event, Heartbeat, Instance, ProviderAccount, StaleWrite
from deployments.models.account import ADAPTERS
from deployments.monitoring import canary, probe
from deployments.observe import due_accounts, observe
from deployments.providers.base import Gone, MachineStatus, ProviderError
from deployments.schedule import Edge
from deployments.services import ADOPTABLE
from deployments.step import Clock, Later, Step, call

__all__ = [
    "due",
    "due_accounts",
    "look",
    "observe",
    "observe_due",
    "refresh_offers",
    "step",
    "terminate",
]

logger = logging.getLogger(__name__)

LEASE = timedelta(seconds=60)
"""How long a worker may hold a deployment. It covers one create and what belongs to it."""
FAR = timedelta(minutes=15)
"""No next look is ever set this far ahead: one that is was set by a clock that has been put back since."""
CLAIM = timedelta(seconds=30)
"""What a rung deployment is put ahead, so that the clock does not ring it again each second."""
END_APART = timedelta(seconds=1)
"""Two terminates of one machine are this far apart at the least."""
EARLY = timedelta(milliseconds=100)
"""A delayed bell may come this much early."""
ROUNDS = 5
"""Looks in one step, while each has something to do."""


# -- the clock's rounds ----------------------------------------------------------------------------


def due(now: datetime, *, limit: int = 500) -> list[UUID]:
    """Ring for every deployment whose next look has come, at most `limit`; returns their ids.

    They are put ahead in one transaction first, so that two clocks ring once and a lost bell is rung again.
    """
    waiting = Deployment.objects.filter(Q(next_look_at__lte=now) | Q(next_look_at__gt=now + FAR))
    with transaction.atomic():
        first = waiting.select_for_update().order_by("next_look_at")[:limit]
        rung = [d.pk for d in first.only("pk")]
        Deployment.objects.filter(pk__in=rung).update(next_look_at=now + CLAIM)
    for pk in rung:
        services.ring_look(pk, claim=now + CLAIM)
    if not rung:
        Heartbeat.beat("reconcile", now)
    return rung


def observe_due(*, clock: Clock) -> None:
    """List every account whose time has come. One that fails oddly does not keep the others from it."""
    for account in due_accounts(clock()):
        try:
            observe(account.pk, now=clock())
        except Exception:
            logger.exception("The list of %s could not be applied", account)


def refresh_offers(*, clock: Clock) -> None:
    """Fetch the offers of every enabled account. A page never waits for this."""
    for account in ProviderAccount.objects.filter(enabled=True, backend__in=ADAPTERS):
        now = clock()
        try:
            calls.ask(account, Call.OFFERS, partial(offers.refresh, account, now=now), now=now)
        except ProviderError as e:
            logger.warning("The offers of %s could not be fetched: %s", account, e)
        except Exception:
            logger.exception("The offers of %s could not be read", account)


def look(deployment_id: UUID, *, clock: Clock, claim: datetime | None = None) -> timedelta | None:
    """A step, before it fresh facts for what is on the move, and a bell for the next one when it is near.

    A bell is a hint: when the next look has not come (another bell was quicker), nothing is done. `claim`
    is the moment to which `due` put the deployment ahead when it rang this bell.
    """
    due = _is_due(now=clock(), claim=claim)
    if not Deployment.objects.filter(due, pk=deployment_id).exists():
        return None
    moving = Instance.objects.filter(deployment_id=deployment_id, state__in=_MOVING)
    try:
        for account_id in set(moving.values_list("account_id", flat=True)):
            observe(account_id, now=clock())
        probe.probe_instances(moving.filter(state__in=_STARTING), clock=clock)
    except Exception:
        # Facts that cannot be had keep nobody from stopping, terminating or minding the budget.
        logger.exception("Fresh facts for %s could not be written", deployment_id)
    wait = step(deployment_id, clock=clock, when=_is_due(now=clock(), claim=claim))
    if wait is not None and wait <= d.MOVING * 2:
        services.ring_look(deployment_id, delay=wait.total_seconds())
    return wait


def _is_due(*, now: datetime, claim: datetime | None) -> Q:
    due = Q(next_look_at__lte=now + EARLY) | Q(next_look_at__gt=now + FAR)
    return due | Q(next_look_at=claim) if claim else due


_STARTING = [s.value for s in STARTING]
_MOVING = [*_STARTING, State.TERMINATING.value, State.STOPPING.value, State.UNKNOWN.value]


# -- the step --------------------------------------------------------------------------------------


def step(deployment_id: UUID, *, clock: Clock, when: Q | None = None) -> timedelta | None:
    """Look at one deployment until nothing is left to do now. Returns how long until the next look.

    `when` must hold for its row, or nothing is done. None when another worker holds the lease, when the row was moved under us, or when nothing is due.
    """
    started = time.monotonic()
    now = clock()
    token = _take_lease(deployment_id, when or Q(), now=now)
    if not token:
        return None
    planned = Deployment.objects.values_list("next_look_at", flat=True).get(pk=deployment_id)
    wait: timedelta | None = d.WAITING
    try:
        for _ in range(ROUNDS):
            work = _load(deployment_id, token, started + LEASE.total_seconds(), clock)
            decision = d.decide(
                _wanted(work, now=clock()),
                [_seen(i, now=clock()) for i in work.instances.values()],
                now=clock(),
            )
            wait = decision.next_look
            _act(work, decision.actions)
            if not decision.actions or any(isinstance(a, ENDS_STEP) for a in decision.actions):
                break
    except StaleWrite:
        # Somebody else moved it: what we know is old. Discard, and let the next look see afresh.
        wait = d.SOON
    except Later as e:
        # One attempt's patience must not keep another, which bills, from its end.
        others = sum(i.status not in TERMINAL for i in work.instances.values()) > 1
        wait = min(e.wait, d.WAITING) if others else e.wait
    except Exception:
        # A bug or a database error in one deployment must not hold its lease, nor stop the others.
        _release(deployment_id, token, planned, wait=d.WAITING, clock=clock)
        raise
    _release(deployment_id, token, planned, wait=wait, clock=clock)
    return wait


def _act(work: Step, actions: Sequence[d.Action]) -> None:
    """Carry out all of them. What one must wait for (a rate limit) keeps no other from being done."""
    waits = []
    for action in actions:
        try:
            ACTS[type(action)](work, action)
        except Later as e:
            waits.append(e)
    if waits:
        raise min(waits, key=lambda e: e.wait)


def _take_lease(deployment_id: UUID, when: Q, *, now: datetime) -> str:
    token = str(uuid.uuid4())
    # A lease that runs longer than any was given was taken under a clock that has been put back.
    free = Q(lease_until=None) | Q(lease_until__lte=now) | Q(lease_until__gt=now + 3 * LEASE)
    taken = Deployment.objects.filter(when, free, pk=deployment_id).update(
        lease_token=token, lease_until=now + LEASE
    )
    return token if taken else ""


def _release(
    deployment_id: UUID, token: str, planned: datetime | None, *, wait: timedelta | None, clock: Clock
) -> None:
    """Give the lease back and set the next look, unless somebody rang meanwhile: then it stays due."""
    now = clock()
    unrung = Q(next_look_at=planned) if planned else Q(next_look_at=None)
    following = Value(None if wait is None else now + wait, output_field=DateTimeField())
    Deployment.objects.filter(pk=deployment_id, lease_token=token).update(
        lease_token="",
        lease_until=None,
        looked_at=now,
        next_look_at=Case(When(unrung, then=following), default=F("next_look_at")),
    )
    Heartbeat.objects.filter(name="reconcile", at__lt=now - timedelta(seconds=5)).update(at=now)


def _load(deployment_id: UUID, token: str, lease_ends: float, clock: Clock) -> Step:
    deployment = Deployment.objects.get(pk=deployment_id)
    # What is over and unseen is left out, so that a step stays short after a thousand attempts.
    rows = deployment.instances.exclude(state__in=_TERMINAL, observed="", duplicates=[]).select_related(
        "account", "deployment"
    )
    return Step(deployment, {i.pk: i for i in rows.order_by("attempt")}, token, lease_ends, clock)


_TERMINAL = [s.value for s in TERMINAL]


def _wanted(work: Step, *, now: datetime) -> d.Wanted:
    deployment = work.deployment
    running = deployment.desired == Desired.RUNNING
    stoppable = running and not deployment.protected
    verdict = budgets.verdict(now=now, whom=_whom(work)) if stoppable else None
    live = any(i.status not in TERMINAL for i in work.instances.values())
    attempts, noes = (0, 0) if live or not running else choice.counted(deployment, now=now)
    outbid = any(i.status is State.OUTBID for i in work.instances.values())
    schedule = deployment.schedule
    following = schedule.next_edge(now) if schedule else None
    return d.Wanted(
        desired=Desired(deployment.desired),
        stop_at=deployment.stop_at,
        retry_at=deployment.retry_at,
        attempts_last_hour=attempts,
        max_attempts=settings.MAX_ATTEMPTS_PER_HOUR,
        budget_stop=verdict.reason if verdict and verdict.stop else "",
        noes=noes,
        plan_b=deployment.plan_b,
        bid_policy=deployment.bid_policy,
        moved=outbid and choice.has_moved(deployment, now=now),
        adopted=deployment.launch_key.startswith(ADOPTABLE),
        delete_at=deployment.delete_at,
        edge=_edge(deployment, now=now),
        next_edge_at=following.at if following else None,
    )


def _whom(work: Step) -> list[budgets.Whom]:
    """What of it budgets may cover: each account at which it stands or is ending."""
    scope = work.deployment.pk
    standing = [i.account for i in work.instances.values() if i.status not in TERMINAL]
    return [budgets.Whom(scope, a.backend, a.pk) for a in standing] or [budgets.Whom(scope)]


def _edge(deployment: Deployment, *, now: datetime) -> Edge | None:
    """The newest edge of its schedule that is not carried out yet. What came before the launch never is."""
    last = deployment.schedule.last_edge(now) if deployment.schedule else None
    return last if last and last.at > (deployment.schedule_at or deployment.created_at) else None


def _seen(i: Instance, *, now: datetime) -> d.Seen:
    traits, deployment, offer = i.account.adapter().traits, i.deployment, i.offer
    waits = i.status is State.REQUESTED and not i.create_sent_at
    return d.Seen(
        id=i.pk, state=i.status, since=i.state_since, create_sent_at=i.create_sent_at, remote_id=i.remote_id,
        observed=i.observed, missing_lists=i.missing_lists, missing_since=i.missing_since,
        gone_after=timedelta() if traits.own_machine else d.GONE_AFTER,
        creates_blocked=i.account.blocked, switched_off=not i.account.enabled, duplicates=tuple(i.duplicates),
        held=waits and _is_held(i, one_at_a_time=traits.one_create_per_offer, now=now),
        endpoint=bool(i.endpoint_url), probe_ok=bool(i.probe_ok_at) and not i.probe_failures,
        probe_seen=bool(i.probe_seen_at), probe_failures=i.probe_failures, end_tried_at=i.end_tried_at,
        probe_flaps=damping.PROBES.is_bad(i.probe_recent), probe_steady=damping.PROBES.is_steady(i.probe_recent),
        answered_at=i.probe_ok_at, canary=canary.verdict(i), canary_silent=i.canary_ttft is None,
        end_asked_at=i.end_asked_at, end_tries=i.end_tries, stop_asked_at=i.stop_asked_at,
        spared_until=i.spared_until, refused=places.refused(i), can_stop=traits.can_stop,
        start_timeout=timedelta(seconds=traits.start_timeout), phase_timeouts=traits.phase_timeouts,
        outdated=i.generation < deployment.generation, adopted=deployment.launch_key.startswith(ADOPTABLE),
        bid=i.bid_usd_per_hour, min_bid=i.min_bid, bid_changed_at=i.bid_changed_at,
        bid_ceiling=bids.ceiling(deployment.bid_ceiling, deployment.price_ceiling, offer.disk_usd_per_hour),
        starts=_starts(i, now=now), failure=i.told_failure, drift=i.drift, mend_wanted=bool(i.drift) and services.mend_is_wanted(i),
    )  # fmt: skip


def _starts(i: Instance, *, now: datetime) -> int:
    if i.status not in STARTING or i.observed != MachineStatus.STOPPED:
        return 0
    return i.events.filter(reason=STARTED, at__gt=now - timedelta(hours=1)).count()


def _is_held(i: Instance, *, one_at_a_time: bool, now: datetime) -> bool:
    held = calls.held_for(i.account, Call.CREATE, now=now) is not None
    return held or (one_at_a_time and choice.is_taken(i, now=now))


# -- the terminate worker --------------------------------------------------------------------------


def terminate(instance_id: UUID, *, clock: Clock) -> None:
    """Ask the provider for the machine's end. Retried for ever by `decide`; lists confirm.

    The request is sent even when the database cannot be written: giving a machine back comes first.
    """
    i = Instance.objects.select_related("account", "deployment").get(pk=instance_id)
    if i.status is not State.TERMINATING or not i.remote_id:
        return
    now = clock()
    if not _claim_end(i, now=now):
        return
    error = call(i, "terminate", i.remote_id, now=now)
    crash.point(6)
    if isinstance(error, Gone) and not i.account.key_unproved:
        # Under a new key that may be another team's, "no such machine" says nothing of ours.
        _note_end(i, end_asked_at=now, missing_lists=d.LISTS_THAT_PROVE)
    elif error is None:
        _note_end(i, end_asked_at=now)
    elif i.end_tries <= 1:
        Event.objects.create(
            deployment=i.deployment, instance=i, at=clock(), kind="terminate-failed", reason=str(error)[:300]
        )
    services.ring_look(i.deployment_id, delay=0 if error is None or isinstance(error, Gone) else 1)


def _claim_end(i: Instance, *, now: datetime) -> bool:
    """Whether this worker is to ask: bells may be many, requests are not. Without a database it asks."""
    if i.end_tried_at and timedelta() <= now - i.end_tried_at < END_APART:
        return False
    mine = Instance.objects.filter(pk=i.pk, state=State.TERMINATING, end_tries=i.end_tries)
    try:
        claimed = mine.update(end_tried_at=now, end_tries=i.end_tries + 1)
    except DatabaseError:
        logger.error("%s: the terminate could not be noted; it is asked for all the same", i.label)
        return True
    i.end_tried_at, i.end_tries = now, i.end_tries + 1
    return bool(claimed)


def _note_end(i: Instance, **columns: Any) -> None:
    try:
        if Instance.objects.filter(pk=i.pk, state=State.TERMINATING).update(**columns):
            for name, value in columns.items():
                setattr(i, name, value)
    except DatabaseError:
        logger.error("%s: what terminate did could not be written; it is asked for all the same", i.label)
