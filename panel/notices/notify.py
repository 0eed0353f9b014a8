"""Raise, clear and acknowledge notices. Any app may raise; who is told how is the alerts' (`panel/alerts`)."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from uuid import UUID

from django.db import transaction
from django.db.models import Q, QuerySet
from django.dispatch import Signal

from panel.notices.models import Notice

INCIDENT_WITHIN = timedelta(minutes=3)
"""What is to be told by an incident is told by itself when none has taken it by then: nothing stays untold."""

acknowledged = Signal()
"""Sent in the transaction of an acknowledgement, with `key`, `by` (a pseudonym) and `now`."""


def raise_notice(
    key: str, severity: str, title: str, *, now: datetime, detail: str = "", url: str = "",
    subject: UUID | None = None, cause: str = "",
) -> Notice:  # fmt: skip
    """Open the notice of `key`, or refresh the open one. Saying it twice shows it once.

    `subject` is the deployment it is about; `cause` that of the incident which tells it (`take_over`). One that
    gets worse is no longer acknowledged. A title is cut to what a row holds: no name of somebody's choosing
    breaks the cycle that warns of it.
    """
    title = title[: Notice._meta.get_field("title").max_length]
    notice, created = Notice.objects.get_or_create(
        key=key,
        cleared_at=None,
        defaults={
            "severity": severity, "title": title, "detail": detail, "url": url, "subject": subject,
            "cause": cause, "raised_at": now, "last_seen_at": now, "severity_since": now,
        },
    )  # fmt: skip
    if not created:
        worse = Notice.Severity(severity).rank > Notice.Severity(notice.severity).rank
        news = {"severity_since": now, "acknowledged_at": None, "acknowledged_by": ""} if worse else {}
        Notice.objects.filter(pk=notice.pk).update(
            severity=severity, title=title, detail=detail, url=url, last_seen_at=now,
            subject=subject or notice.subject, **news,
        )  # fmt: skip
    return notice


def clear_notice(key: str, *, now: datetime) -> bool:
    """Close the open notice of `key`; False when there was none."""
    return bool(Notice.objects.filter(key=key, cleared_at=None).update(cleared_at=now))


def acknowledge(pk: int, *, by: str, now: datetime) -> bool:
    """Somebody (`by`, a pseudonym) sees to it: it is not escalated. False when it is over or somebody else's."""
    mine = Notice.objects.filter(pk=pk, cleared_at=None, acknowledged_at=None)
    key = mine.values_list("key", flat=True).first()
    if key is None:
        return False
    with transaction.atomic():
        # Before the notice is written: the loops that write both write the incident first.
        acknowledged.send(Notice, key=key, by=by, now=now)
        if not mine.update(acknowledged_at=now, acknowledged_by=by):
            return False
        acknowledge_parts(key, by=by, now=now)
    return True


def open_notices() -> QuerySet[Notice]:
    """The open notices, newest first, also those that another one tells."""
    return Notice.objects.filter(cleared_at=None).order_by("-raised_at")


def shown_notices() -> QuerySet[Notice]:
    """The open notices as people are shown them: each cause once."""
    return open_notices().filter(told_by="")


# -- told by another ----------------------------------------------------------------------------------


def untaken() -> QuerySet[Notice]:
    """Those that an incident is to tell and none has taken; what the alerts have looked at stays as it is."""
    return Notice.objects.filter(settled_at=None, routed_at=None, told_by="").exclude(cause="")


def is_waiting(*, now: datetime) -> Q:
    """Those whose incident may still come: nobody is told by them yet."""
    # A clock that was set back puts nothing off for longer.
    young = Q(raised_at__gt=now - INCIDENT_WITHIN, raised_at__lte=now + INCIDENT_WITHIN)
    return young & Q(routed_at=None, told_by="") & ~Q(cause="")


def take_over(pks: Sequence[int], *, key: str, now: datetime) -> int:
    """The notice `key` tells these from now on: they alert nobody, and are acknowledged and cleared with it."""
    return untaken().filter(pk__in=pks).update(told_by=key, settled_at=now)


def hand_over(key: str, to: str) -> None:
    """What `key` told is told by `to` from now on."""
    Notice.objects.filter(told_by=key).update(told_by=to)


def acknowledge_parts(key: str, *, by: str, now: datetime) -> int:
    """Whoever sees to the notice `key` sees to what it tells."""
    return _parts(key).filter(acknowledged_at=None).update(acknowledged_at=now, acknowledged_by=by)


def clear_parts(key: str, *, now: datetime) -> int:
    """Close what the notice `key` tells: its cause is gone."""
    return _parts(key).update(cleared_at=now)


def _parts(key: str) -> QuerySet[Notice]:
    return Notice.objects.filter(told_by=key, cleared_at=None)
