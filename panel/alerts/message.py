"""What a message says, once, for every channel: plain values that are frozen into its row."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from django.conf import settings

from panel.alerts.models import Delivery
from panel.notices.models import Notice

_BEGINS = {
    "raised": "", "worsened": "Worse: ", "escalated": "Not acknowledged: ", "resolved": "Resolved: ", "test": "Test: ",
}  # fmt: skip


def of_notice(notice: Notice, occasion: str) -> dict[str, Any]:
    """The notice as JSON. Times are ISO 8601 in UTC; `url` is a path of the panel, empty for none."""
    return {
        "notice": notice.pk,
        "key": notice.key,
        "occasion": str(occasion),
        "severity": notice.severity,
        "title": notice.title,
        "detail": notice.detail,
        "url": notice.url,
        "deployment": str(notice.subject) if notice.subject else None,
        "raised_at": _iso(notice.raised_at),
        "resolved_at": _iso(notice.cleared_at),
    }


def of_test(channel_name: str, *, now: datetime) -> dict[str, Any]:
    return {
        "notice": None,
        "key": "test",
        "occasion": Delivery.Occasion.TEST.value,
        "severity": Notice.Severity.INFO.value,
        "title": "Regia reaches you here",
        "detail": f"Somebody pressed Test for the channel {channel_name}. Nothing is wrong.",
        "url": "",
        "deployment": None,
        "raised_at": _iso(now),
        "resolved_at": None,
    }


def subject_of(values: dict[str, Any]) -> str:
    """One line: "[Regia critical] chat is down", "[Regia] Resolved: chat is down"."""
    loud = values["occasion"] not in {"resolved", "test"}
    tag = f"[Regia {values['severity']}]" if loud else "[Regia]"
    return " ".join(f"{tag} {_BEGINS[values['occasion']]}{values['title']}".split())


def text_of(values: dict[str, Any]) -> str:
    """The body as plain text: what, since when, until when, and where to look."""
    lines = [values["detail"] or values["title"], "", f"Since {_words(values['raised_at'])}"]
    if values["resolved_at"]:
        lines[-1] += f", over since {_words(values['resolved_at'])}"
    if values["occasion"] == "escalated":
        lines.append("Nobody has acknowledged it.")
    if link := link_of(values):
        lines.append(link)
    return "\n".join(lines)


def link_of(values: dict[str, Any]) -> str:
    """The page of it, with the panel's own address (`REGIA_PUBLIC_URL`); empty when that is not set."""
    if not settings.PUBLIC_URL:
        return ""
    path = values["url"] if values["url"].startswith("/") else "/alerts/"
    return f"{settings.PUBLIC_URL}{path}"


def _iso(when: datetime | None) -> str | None:
    return when.astimezone(UTC).isoformat(timespec="seconds") if when else None


def _words(iso: str) -> str:
    when = datetime.fromisoformat(iso)
    return f"{when.day} {when:%b %Y, %H:%M:%S} UTC"
