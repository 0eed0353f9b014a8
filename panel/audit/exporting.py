"""Audit events as files, in the chain's order, a chunk in memory at a time. Addresses are not in them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from itertools import batched
from typing import Any

from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone

from panel.audit import chain
from panel.audit.models import AuditEvent
from panel.csvfile import Plain

CHUNK = 1000
HEADER = (
    "sequence", "at", "actor", "who", "action", "target_type", "target_id", "before", "after", "reason", "request_id",
    "spooled", "previous", "hash",
)  # fmt: skip


def note_export(request: HttpRequest, what: str, **after: Any) -> None:
    """Note that somebody takes `what` with them, before the first row leaves. HEAD takes nothing."""
    if request.method == "GET":
        actor = request.user if request.user.is_authenticated else None
        chain.record(f"export.{what}", actor=actor, after=after, now=timezone.now())


def events(found: QuerySet[AuditEvent]) -> Iterator[tuple[AuditEvent, str]]:
    """Each of the events with its actor's name."""
    # One query for all: asked for in parts, a filter's index would be read from its start for each of them.
    rows = found.order_by("sequence").iterator(chunk_size=CHUNK)
    for some in batched(rows, CHUNK):
        names = chain.names_of({event.actor for event in some})
        yield from ((event, names[event.actor]) for event in some)


def as_rows(found: QuerySet[AuditEvent]) -> Iterator[Sequence[object]]:
    """For a CSV file under `HEADER`: before and after are JSON texts."""
    for event, who in events(found):
        yield [_cell(value) for value in values(event, who)]


def as_lines(found: QuerySet[AuditEvent]) -> Iterator[str]:
    """JSONL: an object a line, with everything that its hash covers."""
    for event, who in events(found):
        yield json.dumps(dict(zip(HEADER, values(event, who), strict=True)), ensure_ascii=False) + "\n"


def values(event: AuditEvent, who: str) -> tuple[Any, ...]:
    """Under `HEADER`, plain."""
    return (
        event.sequence, text_of(event.at), event.actor, who, event.action, event.target_type, event.target_id,
        event.before, event.after, event.reason, event.request_id, str(event.spooled) if event.spooled else None,
        event.previous, event.hash,
    )  # fmt: skip


def text_of(at: datetime) -> str:
    """As the hash covers it."""
    return at.astimezone(UTC).isoformat(timespec="microseconds")


def _cell(value: Any) -> object:
    if isinstance(value, dict):
        return Plain(json.dumps(value, sort_keys=True, ensure_ascii=False))
    return value
