"""The text for the authority, made from what is known: to copy into its form or a letter."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

from django.conf import settings

from panel.registers import clocks
from panel.registers.models import Breach

UNKNOWN = "Not known yet; we will tell you as soon as it is (Art. 33(4))."


def to_authority(breach: Breach) -> str:
    """What Art. 33(3) asks for, in its order."""
    people = _both(breach.subject_categories, breach.subjects_count)
    records = _both(breach.data_categories, breach.records_count)
    lines = [
        f"Notification of a personal data breach (Art. 33 GDPR), our number {breach.pk}",
        f"We became aware of it on {_at(breach.aware_at)}.",
        *([f"It happened on {_at(breach.occurred_at)}."] if breach.occurred_at else []),
        f"(a) What happened: {breach.facts or UNKNOWN}",
        f"    People concerned: {people or UNKNOWN}",
        f"    Data concerned: {records or UNKNOWN}",
        f"(b) Contact: {breach.contact or UNKNOWN}",
        f"(c) Likely consequences: {breach.effects or UNKNOWN}",
        f"(d) Measures taken or proposed: {breach.remedies or UNKNOWN}",
        f"Contained: {breach.get_contained_display() or 'not known yet'}",
        *_told(breach),
    ]
    return "\n".join(lines)


def _told(breach: Breach) -> list[str]:
    lines = []
    if breach.subjects_told_at:
        lines.append(
            f"The people concerned were told on {_at(breach.subjects_told_at)}. {breach.subjects_told_how}"
        )
    if breach.delay_reason:
        due = clocks.breach_due(breach)
        lines.append(f"Reason for telling you after {_at(due)}: {breach.delay_reason}")
    return lines


def _both(words: str, count: str) -> str:
    return "; ".join(filter(None, [words, count and f"about {count.removeprefix('about ')}"]))


def _at(when: datetime) -> str:
    local = when.astimezone(ZoneInfo(settings.OFFICE_TIME_ZONE))
    return f"{local.day} {local:%B %Y, %H:%M} ({settings.OFFICE_TIME_ZONE})"
