"""Raise and clear notices. Any app may; the delivery to mail and chat hangs on `raise_notice`."""

from __future__ import annotations

from datetime import datetime

from django.db.models import QuerySet

from panel.notices.models import Notice


def raise_notice(
    key: str, severity: str, title: str, *, now: datetime, detail: str = "", url: str = ""
) -> Notice:
    """Open the notice of `key`, or refresh the open one. Saying it twice shows it once.

    A title is cut to what a row holds: no name of somebody's choosing breaks the cycle that warns of it.
    """
    title = title[: Notice._meta.get_field("title").max_length]
    notice, created = Notice.objects.get_or_create(
        key=key,
        cleared_at=None,
        defaults={
            "severity": severity, "title": title, "detail": detail, "url": url,
            "raised_at": now, "last_seen_at": now,
        },
    )  # fmt: skip
    if not created:
        Notice.objects.filter(pk=notice.pk).update(
            severity=severity, title=title, detail=detail, url=url, last_seen_at=now
        )
    return notice


def clear_notice(key: str, *, now: datetime) -> bool:
    """Close the open notice of `key`; False when there was none."""
    return bool(Notice.objects.filter(key=key, cleared_at=None).update(cleared_at=now))


def open_notices() -> QuerySet[Notice]:
    """The open notices, newest first."""
    return Notice.objects.filter(cleared_at=None).order_by("-raised_at")
