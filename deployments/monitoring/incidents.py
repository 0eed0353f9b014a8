"""Incidents open and close by themselves, from what rows say; people acknowledge, comment on and close them.

`watch` may run twice at once and at any time: an incident is opened once for each cause that stands (a unique
row), touched once for each deployment, and closed by a guarded UPDATE.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from itertools import batched
from typing import Any
from uuid import UUID

from django.db import IntegrityError, transaction

from deployments.models import Heartbeat, Incident, IncidentEntry
from deployments.monitoring import causes, figures, measured, telling
from deployments.monitoring.causes import Standing, Trouble
from panel.accounts.models import User
from panel.audit import chain
from panel.notices import notify
from panel.notices.notify import clear_notice, open_notices, raise_notice

logger = logging.getLogger(__name__)

Entry = IncidentEntry.Kind

SETTLE = timedelta(minutes=2)
"""A cause must be gone for this long: what comes and goes is one incident."""
MEASURE_EVERY = timedelta(minutes=1)
COUNT_EVERY = timedelta(minutes=1)
COMMENT_LENGTH = 4000
"""Characters of the longest comment."""
_MEASURED = "incidents-measured"
_ROOTS = (Incident.Kind.KEY, Incident.Kind.PROVIDER)
"""The kinds that swallow what follows from them."""


class IncidentRefused(Exception):
    """What was asked of an incident is not valid now. The text is for the operator."""


# -- by themselves ------------------------------------------------------------------------------------


def watch(*, now: datetime) -> None:
    """Open what is wrong, note whom it touches, and close what is over."""
    standing = _standing()
    troubles = {t.cause: t for t in causes.find(standing, now=now)}
    measures = _measure_is_due(now)
    if measures:
        touched = {touch.deployment for t in troubles.values() for touch in t.touches}
        # What does not answer at all is not slow besides.
        slow = [t for t in measured.find(now=now) if t.deployment not in touched]
        troubles |= {t.cause: t for t in slow}
    for trouble in troubles.values():
        with _apart(trouble.cause):
            _take_in(trouble, standing.get(trouble.cause), now=now)
    telling.take_notices(troubles, now=now)
    judged = Incident.objects.standing().exclude(cause__in=troubles)
    if not measures:
        judged = judged.exclude(kind__in=measured.KINDS)
    for incident in judged:
        with _apart(incident.cause):
            _settle(incident, now=now)
    _count_due(now=now)


@contextmanager
def _apart(cause: str) -> Iterator[None]:
    """One odd row is logged, and keeps no other incident from being told."""
    try:
        yield
    except Exception:
        logger.exception("The incident of %s could not be looked after", cause)


def _standing() -> dict[str, Standing]:
    rows = {i.pk: i for i in Incident.objects.standing()}
    touched: dict[int, set[UUID]] = {pk: set() for pk in rows}
    for pk, deployment in IncidentEntry.objects.filter(
        incident__in=rows, deployment__isnull=False
    ).values_list("incident_id", "deployment_id"):
        touched[pk].add(deployment)
    return {
        i.cause: Standing(
            i.kind, i.title, i.severity, i.guess, i.opened_at, i.clear_since, frozenset(touched[i.pk])
        )
        for i in rows.values()
    }


def _measure_is_due(now: datetime) -> bool:
    last = Heartbeat.objects.filter(name=_MEASURED).values_list("at", flat=True).first()
    if last is not None and timedelta() <= now - last < MEASURE_EVERY:
        return False
    Heartbeat.beat(_MEASURED, now)
    return True


def _take_in(trouble: Trouble, known: Standing | None, *, now: datetime) -> None:
    if known is None:
        incident = _grow(trouble, now=now) or _open(trouble, now=now)
    else:
        incident = Incident.objects.standing().filter(cause=trouble.cause).first()
    if incident is None:
        return  # it ended a moment ago; the next round tells
    _touch(incident, trouble, known.touched if known else frozenset(), now=now)
    _follow(incident, trouble, now=now)
    if trouble.kind in _ROOTS:
        _merge(incident, [t.deployment for t in trouble.touches], now=now)


def _open(trouble: Trouble, *, now: datetime) -> Incident | None:
    last = Incident.objects.filter(cause=trouble.cause).order_by("-opened_at").first()
    # What was over before cannot have begun again before its end.
    since = max(min(trouble.since, now), last.over_at if last and last.over_at else trouble.since)
    try:
        with transaction.atomic():
            incident = Incident.objects.create(
                cause=trouble.cause, kind=trouble.kind, severity=trouble.severity, title=trouble.title[:200],
                guess=trouble.guess[:500], deployment_id=trouble.deployment, account_id=trouble.account,
                opened_at=min(since, now),
            )  # fmt: skip
            _note(incident, Entry.OPENED, at=now, text=incident.guess)
            _tell(incident, now=now)
    except IntegrityError:
        # Another worker saw it in the same moment.
        return Incident.objects.standing().filter(cause=trouble.cause).first()
    return incident


def _grow(trouble: Trouble, *, now: datetime) -> Incident | None:
    """The oldest incident of what the trouble touches becomes the trouble's own: one cause makes one incident."""
    if trouble.kind not in _ROOTS or not trouble.touches:
        return None
    parts = [causes.cause_of(t.deployment) for t in trouble.touches]
    first = Incident.objects.standing().filter(cause__in=parts).order_by("opened_at", "pk").first()
    if first is None:
        return None
    try:
        with transaction.atomic():
            moved = Incident.objects.standing().filter(pk=first.pk, cause=first.cause).update(
                cause=trouble.cause, kind=trouble.kind, severity=trouble.severity, title=trouble.title[:200],
                guess=trouble.guess[:500], deployment=None, account_id=trouble.account, clear_since=None,
                # Who closed the smaller one did not close this.
                closed_at=None,
            )  # fmt: skip
            if not moved:
                return None
            incident = Incident.objects.get(pk=first.pk)
            _note(incident, Entry.GREW, at=now, text=f"It was “{first.title}”. {incident.guess}")
            _tell(incident, now=now)
    except IntegrityError:
        return Incident.objects.standing().filter(cause=trouble.cause).first()
    return incident


def _touch(incident: Incident, trouble: Trouble, known: Collection[UUID], *, now: datetime) -> None:
    fresh = sorted((t for t in trouble.touches if t.deployment not in known), key=lambda t: t.deployment)
    rows = [
        IncidentEntry(
            incident=incident, at=now, kind=Entry.TOUCHES, deployment_id=touch.deployment, instance_id=touch.instance
        )
        for touch in fresh
    ]  # fmt: skip
    # In the deployments' order, as everybody who holds several of them, and only some in one transaction.
    for some in batched(rows, 100):
        IncidentEntry.objects.bulk_create(some, ignore_conflicts=True)
    if fresh:
        # The rules of single deployments hear of an outage too that takes theirs down.
        touched = sorted({str(pk) for pk in (*known, *(t.deployment for t in fresh))})
        open_notices().filter(key=incident.notice_key).update(touches=touched)


def _follow(incident: Incident, trouble: Trouble, *, now: datetime) -> None:
    """What is known by now, and that it is not over."""
    fresh: dict[str, Any] = {"severity": trouble.severity.value, "title": trouble.title[:200]}
    if trouble.guess:
        fresh["guess"] = trouble.guess[:500]
    if not trouble.lingers:
        fresh["clear_since"] = None
    elif incident.clear_since is None:
        fresh["clear_since"] = now
    changed = {name: value for name, value in fresh.items() if getattr(incident, name) != value}
    if not changed:
        return
    with transaction.atomic():
        Incident.objects.standing().filter(pk=incident.pk).update(**changed)
        for name, value in changed.items():
            setattr(incident, name, value)
        if changed.keys() & {"severity", "title", "guess"} and incident.is_open:
            _tell(incident, now=now)


def _merge(incident: Incident, deployments: Sequence[UUID], *, now: datetime) -> None:
    """What stands for parts of it is part of it."""
    parts = [causes.cause_of(pk) for pk in deployments]
    for part in Incident.objects.standing().filter(cause__in=parts).exclude(pk=incident.pk):
        with transaction.atomic():
            over = {"over_at": now, "closed_at": part.closed_at or now, "merged_into": incident}
            if Incident.objects.standing().filter(pk=part.pk).update(**over):
                _note(part, Entry.MERGED, at=now, text=f"Part of #{incident.pk}: {incident.title}")
                clear_notice(part.notice_key, now=now)
                notify.hand_over(part.notice_key, incident.notice_key)


def _settle(incident: Incident, *, now: datetime) -> None:
    """Its cause is not seen any more: once that has lasted, it is over."""
    since = incident.clear_since
    if since is None or since > now:
        Incident.objects.standing().filter(pk=incident.pk).update(clear_since=now)
        return
    if now - since < SETTLE:
        return
    # What it took down may have come back later than its own signs went.
    over = max([since, *figures.recoveries(incident, since, now=now)])
    if now - over < SETTLE:
        return
    incident.over_at = over
    counted = figures.columns(incident, now=now)
    with transaction.atomic():
        mine = Incident.objects.standing().filter(pk=incident.pk, clear_since=since)
        if not mine.update(over_at=over, closed_at=incident.closed_at or now, **counted):
            return
        _note(incident, Entry.OVER, at=over)
        if incident.is_open:
            _note(incident, Entry.CLOSED, at=now, text="Its cause is gone.")
        clear_notice(incident.notice_key, now=now)
        # What still stands is of another cause, and is raised again.
        notify.clear_parts(incident.notice_key, now=now)


def _tell(incident: Incident, *, now: datetime) -> None:
    raise_notice(
        incident.notice_key, incident.severity, incident.title, now=now, detail=incident.guess,
        url=incident.get_absolute_url(), subject=incident.deployment_id,
    )  # fmt: skip


def _note(
    incident: Incident, kind: IncidentEntry.Kind, *, at: datetime, text: str = "", actor: User | None = None
) -> None:
    who = chain.pseudonym_of(actor) if actor else "system"
    IncidentEntry.objects.create(incident=incident, at=at, kind=kind, text=text, actor=who)


# -- its figures --------------------------------------------------------------------------------------


def _count_due(*, now: datetime) -> None:
    """Bring the figures of what stands up to date, each once a minute."""
    for incident in Incident.objects.standing():
        if incident.counted_at is None or not timedelta() <= now - incident.counted_at < COUNT_EVERY:
            with _apart(incident.cause):
                _count(incident, now=now)


def _count(incident: Incident, *, now: datetime) -> None:
    Incident.objects.filter(pk=incident.pk).update(**figures.columns(incident, now=now))


# -- by people ----------------------------------------------------------------------------------------


def acknowledge(incident: Incident, *, actor: User, now: datetime) -> None:
    """Somebody has seen it and looks after it. Raises IncidentRefused when somebody did before, or it is closed."""
    with transaction.atomic():
        mine = Incident.objects.open().filter(pk=incident.pk, acknowledged_at=None)
        if not mine.update(acknowledged_at=now):
            raise IncidentRefused("Somebody has acknowledged or closed it already.")
        _note(incident, Entry.ACKNOWLEDGED, at=now, actor=actor)
        for notice in open_notices().filter(key=incident.notice_key):
            notify.acknowledge(notice.pk, by=chain.pseudonym_of(actor), now=now)
        chain.record("incident.acknowledge", actor=actor, target=incident, now=now)


def comment(incident: Incident, text: str, *, actor: User, now: datetime) -> None:
    """Add to its story. Raises IncidentRefused for a comment without words or one that is too long."""
    text = text.replace("\0", "").strip()
    if not text:
        raise IncidentRefused("Write something first.")
    if len(text) > COMMENT_LENGTH:
        raise IncidentRefused(f"A comment has at most {COMMENT_LENGTH:,} characters; this has {len(text):,}.")
    with transaction.atomic():
        _note(incident, Entry.COMMENT, at=now, text=text, actor=actor)
        # Not its words: the audit is kept for ever.
        chain.record("incident.comment", actor=actor, target=incident, now=now)


def close(incident: Incident, *, actor: User, now: datetime) -> None:
    """Nobody needs to be told any more. While its cause stands, the same cause opens no other incident."""
    with transaction.atomic():
        if not Incident.objects.open().filter(pk=incident.pk).update(closed_at=now):
            raise IncidentRefused("It is closed already.")
        _note(incident, Entry.CLOSED, at=now, actor=actor)
        clear_notice(incident.notice_key, now=now)
        chain.record("incident.close", actor=actor, target=incident, now=now, reason=incident.title)
