"""Raise, clear and acknowledge notices. Any app may raise; who is told how is the alerts' (`panel/alerts`)."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from django.db.models import QuerySet

from panel.notices.models import Notice


def raise_notice(
    key: str, severity: str, title: str, *, now: datetime, detail: str = "", url: str = "",
    subject: UUID | None = None,
) -> Notice:  # fmt: skip
    """Open the notice of `key`, or refresh the open one. Saying it twice shows it once.

    `subject` is the deployment it is about. One that gets worse is no longer acknowledged. A title is cut to
    what a row holds: no name of somebody's choosing breaks the cycle that warns of it.
    """
    title = title[: Notice._meta.get_field("title").max_length]
    notice, created = Notice.objects.get_or_create(
        key=key,
        cleared_at=None,
        defaults={
            "severity": severity, "title": title, "detail": detail, "url": url, "subject": subject,
            "raised_at": now, "last_seen_at": now, "severity_since": now,
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
    return bool(mine.update(acknowledged_at=now, acknowledged_by=by))


def open_notices() -> QuerySet[Notice]:
    """The open notices, newest first."""
    return Notice.objects.filter(cleared_at=None).order_by("-raised_at")
