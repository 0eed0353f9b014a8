"""Drills: an administrator has a machine killed, and what becomes of it is measured like a real crash.

    asked      one transaction: the drill's row, an Event, a notice, an audit row; a bell
    killed     a worker claims the row and asks the provider once, as `Provider.kill` says
    followed   the figures are read from the Events that the reconciler writes, in its own time
    over       Ready again, not within an hour, or called off

Nothing here helps the panel to notice: probes, lists and relaunches go their usual way, and the relaunch
counts among the attempts of the hour.
"""

from __future__ import annotations

import logging
import statistics
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial

from django.conf import settings
from django.db import transaction
from django.db.models import Q

from billing import budgets
from deployments import calls, choice, services
from deployments.calls import Call
from deployments.lifecycle import Desired, State
from deployments.models import Deployment, Drill, Event, Instance
from deployments.providers.base import Gone, RateLimited, Rejected, Unavailable
from deployments.services import ADOPTABLE, ActionRefused
from panel import logs
from panel.accounts.models import User
from panel.audit import chain
from panel.notices.models import Notice
from panel.notices.notify import clear_notice, raise_notice
from panel.ui.format import duration

logger = logging.getLogger(__name__)

Clock = Callable[[], datetime]

BELL = "deployments.tasks.drills_due"
ASK_AGAIN = timedelta(seconds=30)
"""After this the worker that claimed the kill counts as gone."""
GIVE_UP = timedelta(minutes=5)
"""A machine that could not be killed by then is left alone: whoever asked looks elsewhere by now."""
UNSEEN = timedelta(minutes=15)
"""A killed machine that is still Ready then was not killed, or nothing watches it."""
LONGEST = timedelta(hours=1)
"""A drill that is not Ready again by then has failed."""
MEDIAN_OF, MEDIAN_SPAN = 50, timedelta(days=90)
"""The newest launches that the usual time is taken from."""


# -- asking for one --------------------------------------------------------------------------------------


def refusal(deployment: Deployment, *, now: datetime) -> str:
    """Why no drill may begin now, in a sentence; empty: it may."""
    return _standing_refusal(deployment) or _relaunch_refusal(deployment, now=now)


def _standing_refusal(d: Deployment) -> str:
    i = d.instances.order_by("-attempt").first()
    if d.protected:
        return "It is protected from drills and budgets. That is switched off in its settings."
    if d.desired != Desired.RUNNING or i is None:
        return "It is not meant to run, so there is nothing to kill."
    if d.launch_key.startswith(ADOPTABLE):
        return "An adopted machine is never replaced: a drill would only lose it."
    if d.drills.under_way().exists():
        return "A drill of it is under way."
    if i.status is not State.READY or not i.remote_id:
        return "A drill begins with a machine that is Ready."
    if i.offer.serverless:
        return "A serverless endpoint has no machine of its own that could be killed."
    if i.locked:
        return "Its machine is locked at its provider, and cannot be ended."
    return ""


def _relaunch_refusal(d: Deployment, *, now: datetime) -> str:
    """What is killed must be replaced: a drill is no way to lose a machine."""
    attempts, _ = choice.counted(d, now=now)
    if attempts >= settings.MAX_ATTEMPTS_PER_HOUR:
        return f"It was launched {attempts} times within the hour: nothing would replace its machine yet."
    standing = [
        budgets.Whom(d.pk, i.account.backend, i.account_id)
        for i in d.instances.may_exist().select_related("account")
    ]
    if budgets.verdict(now=now, whom=standing or [budgets.Whom(d.pk)]).stop:
        return "The budget has no room for a replacement."
    if choice.next_offer(d, now=now) is None:
        return "No offer suits it now: nothing could replace its machine."
    return ""


def begin(deployment: Deployment, *, actor: User, now: datetime) -> Drill:
    """Have its machine killed. Only what is to be stands in the row: a worker does it. Raises ActionRefused."""
    with transaction.atomic():
        # Held in the order of everybody else: the deployment, then its instance.
        held = Deployment.objects.select_for_update().get(pk=deployment.pk)
        current = held.instances.select_for_update().order_by("-attempt").first()
        reason = refusal(held, now=now)
        if reason or current is None:
            raise ActionRefused(reason)
        drill = Drill.objects.create(
            deployment=held, instance=current, actor=chain.pseudonym_of(actor), asked_at=now,
            usual_seconds=usual_seconds(current, now=now),
        )  # fmt: skip
        services.note(held, "drill", now=now, actor=actor, reason=f"{current.label} is killed on purpose")
        raise_notice(
            _notice(held), Notice.Severity.INFO, f"A drill of {held.name} is under way", now=now,
            url=held.get_absolute_url(), detail="Its machine is killed on purpose. What follows is measured.",
        )  # fmt: skip
        transaction.on_commit(partial(services.ring_bell, BELL))
        chain.record("deployment.drill", actor=actor, target=held, now=now, reason=current.label)
    return drill


def usual_seconds(instance: Instance, *, now: datetime) -> float | None:
    """The median of past launches on this provider and tier, from the row to Ready; None: none is known."""
    past = Instance.objects.filter(
        account__backend=instance.account.backend, quote__tier=instance.offer.tier, ready_at__isnull=False,
        created_at__gt=now - MEDIAN_SPAN,
    )  # fmt: skip
    spans = past.order_by("-created_at").values_list("created_at", "ready_at")[:MEDIAN_OF]
    took = [(ready_at - created_at).total_seconds() for created_at, ready_at in spans if ready_at]
    return statistics.median(took) if took else None


def _notice(d: Deployment) -> str:
    return f"drill:{d.pk}"


# -- carrying it out -------------------------------------------------------------------------------------


def due(*, clock: Clock) -> int:
    """Kill what is to be killed and follow what was; returns how many drills are under way."""
    open_ones = list(
        Drill.objects.under_way().select_related("deployment", "instance__account", "instance__deployment")
    )
    for drill in open_ones:
        logs.about(deployment=drill.deployment_id)
        try:
            if drill.killed_at is None:
                _kill(drill, clock=clock)
            if drill.killed_at is not None:
                _follow(drill, now=clock())
        except Exception:
            # One that fails keeps no other from being carried out.
            logger.exception("%s could not be carried out", drill)
    return len(open_ones)


def _kill(drill: Drill, *, clock: Clock) -> None:
    now = clock()
    asked_before, changed = drill.sent_at, _changed(drill)
    if changed and asked_before:
        # Whoever asked for it died before it could say so.
        _killed(drill, now=asked_before)
        return
    if changed:
        _close(drill, Drill.Outcome.ABORTED, f"Nothing was killed: {changed}", now=now)
        return
    if now - drill.asked_at > GIVE_UP:
        why = drill.detail or "no worker did it in time."
        _close(drill, Drill.Outcome.ABORTED, f"It could not be killed: {why}", now=now)
        return
    free = Q(sent_at=None) | Q(sent_at__lte=now - ASK_AGAIN) | Q(sent_at__gt=now)
    if not Drill.objects.filter(free, pk=drill.pk, killed_at=None, over_at=None).update(sent_at=now):
        return
    i = drill.instance
    try:
        calls.ask(i.account, Call.CHANGE, lambda: i.account.adapter().kill(i.remote_id), now=now)
    except (RateLimited, Unavailable) as e:
        # Nothing was done: the next round asks again.
        Drill.objects.filter(pk=drill.pk).update(sent_at=None, detail=str(e)[:300])
        return
    except Gone:
        if asked_before:
            _killed(drill, now=asked_before)
            return
        _close(
            drill, Drill.Outcome.ABORTED, "Its machine was gone already, and not by this drill.", now=clock()
        )
        return
    except Rejected as e:
        _close(drill, Drill.Outcome.ABORTED, f"Its provider refused: {e}", now=clock())
        return
    except Exception as e:
        # Unclear is not undone. It is followed: a machine that lives on stays Ready, and that ends the drill.
        logger.warning("%s: the answer to its kill is unclear (%s)", i.label, type(e).__name__)
    _killed(drill, now=now)


def _changed(drill: Drill) -> str:
    """What somebody changed between the asking and the killing; empty: nothing."""
    d = Deployment.objects.get(pk=drill.deployment_id)
    current = d.instances.order_by("-attempt").first()
    if d.protected:
        return "it was protected meanwhile."
    if d.desired != Desired.RUNNING:
        return f"it is to be {d.desired}."
    if current is None or current.pk != drill.instance_id or current.status is not State.READY:
        return "its machine is not Ready any more."
    return ""


def _killed(drill: Drill, *, now: datetime) -> None:
    with transaction.atomic():
        _hold(drill)
        if not Drill.objects.filter(pk=drill.pk, killed_at=None).update(killed_at=now, detail=""):
            return
        Event.objects.create(
            deployment_id=drill.deployment_id, instance_id=drill.instance_id, at=now, kind="drill-killed",
            reason="the drill killed its machine",
        )  # fmt: skip
    drill.killed_at = now


def _hold(drill: Drill) -> None:
    """The deployment's row first, in the order of everybody else: the Event holds it too."""
    Deployment.objects.filter(pk=drill.deployment_id).select_for_update().values_list("pk").first()


# -- following it ----------------------------------------------------------------------------------------


def _follow(drill: Drill, *, now: datetime) -> None:
    """Write what the Events tell by now, and close it when there is nothing more to wait for."""
    _read(drill)
    Drill.objects.filter(pk=drill.pk, over_at=None).update(
        detected_at=drill.detected_at, relaunched_at=drill.relaunched_at, ready_at=drill.ready_at,
        replacement=drill.replacement,
    )  # fmt: skip
    desired = Deployment.objects.values_list("desired", flat=True).get(pk=drill.deployment_id)
    assert drill.killed_at is not None  # noqa: S101 - only what was killed is followed
    if drill.ready_at is not None:
        _close(drill, Drill.Outcome.READY, _figures(drill), now=now)
    elif desired != Desired.RUNNING:
        reason = Deployment.objects.values_list("desired_reason", flat=True).get(pk=drill.deployment_id)
        _close(drill, Drill.Outcome.ABORTED, f"It is to be {desired} since. {reason}".strip(), now=now)
    elif drill.detected_at is None and now - drill.killed_at > UNSEEN:
        words = f"It was still taken for Ready {duration(UNSEEN)} after the kill."
        _close(drill, Drill.Outcome.FAILED, words, now=now)
    elif now - drill.killed_at > LONGEST:
        _close(drill, Drill.Outcome.FAILED, f"It was not Ready again within {duration(LONGEST)}.", now=now)


def _read(drill: Drill) -> None:
    moves = Event.objects.filter(deployment_id=drill.deployment_id, kind="state", at__gte=drill.killed_at)
    told = list(moves.order_by("at", "pk").values_list("instance_id", "from_state", "to_state", "at"))
    left = [at for pk, was, _, at in told if pk == drill.instance_id and was == State.READY]
    drill.detected_at = left[0] if left else None
    later = Instance.objects.filter(
        deployment_id=drill.deployment_id, attempt__gt=drill.instance.attempt
    ).order_by("attempt")
    first = later.without_secrets().first()
    drill.relaunched_at = first.created_at if first else None
    # The machine itself may come back, where its provider starts a dead container again.
    ready = [(pk, at) for pk, _, to, at in told if to == State.READY and left and at >= left[0]]
    if ready:
        drill.ready_at = ready[0][1]
        drill.replacement_id = ready[0][0] if ready[0][0] != drill.instance_id else None


def _figures(drill: Drill) -> str:
    words = [f"detected after {duration(drill.detection)}"]
    if drill.replacement_id is None:
        words.append(f"back by itself after {duration(drill.outage)}")
    else:
        words += [
            f"relaunched after {duration(drill.relaunch)}", f"Ready {duration(drill.startup)} later",
        ]  # fmt: skip
    return ", ".join(words)


def _close(drill: Drill, outcome: Drill.Outcome, detail: str, *, now: datetime) -> None:
    with transaction.atomic():
        _hold(drill)
        mine = Drill.objects.filter(pk=drill.pk, over_at=None)
        if not mine.update(over_at=now, outcome=outcome, detail=detail[:300]):
            return
        services.note(drill.deployment, "drill-over", now=now, reason=f"{outcome.label}: {detail}")
        clear_notice(_notice(drill.deployment), now=now)
    drill.over_at, drill.outcome, drill.detail = now, outcome, detail[:300]
