"""What the panel's own rooms put into the pack: the audit, the data map, notices."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any

from django.apps import apps

from panel.audit import exporting
from panel.audit.anchors import anchor_path, anchors_in
from panel.audit.models import AuditEvent
from panel.audit.verification import START, Point, walk
from panel.evidence.pack import head_of
from panel.evidence.registry import contribute
from panel.notices.models import Notice
from panel.privacy import policy

type Rows = tuple[Sequence[str], Iterable[Sequence[object]]]


def contribute_all() -> None:
    contribute("audit-verification", "Audit: head and verification", audit_verification)
    contribute("audit-events", "Audit: acts", audit_events)
    contribute("data-map", "Data map: what is kept about whom", data_map)
    contribute("notices", "Notices: what went wrong and who saw to it", notices)


def audit_verification(start: datetime, end: datetime) -> Rows:
    """The chain from its first event to the one that the pack stands on, walked for this pack."""
    head = head_of(end)
    point = Point(head["sequence"], head["hash"])
    anchors = {n: hashes for n, hashes in anchors_in([anchor_path()]).items() if n <= point.sequence}
    checked, problem = walk(START, point, anchors)
    return ("what", "value"), [
        ("stands on event", point.sequence),
        ("its hash", point.hash),
        ("events walked, from the first", checked),
        ("result", problem or "whole: each event follows the one before it"),
        ("anchors outside the database that agree", sum(n <= checked for n in anchors)),
    ]


def audit_events(start: datetime, end: datetime) -> Rows:
    found = AuditEvent.objects.filter(at__gte=start, at__lt=end)
    return exporting.HEADER, (exporting.values(event, who) for event, who in exporting.events(found))


def data_map(start: datetime, end: datetime) -> Rows:
    """The policy as it stands: each field of each model."""
    header = (
        "model",
        "field",
        "category",
        "about",
        "retention",
        "when somebody asks",
        "when somebody is erased",
    )
    return header, _fields()


def _fields() -> Iterator[Sequence[object]]:
    for model in sorted(apps.get_models(include_auto_created=True), key=lambda m: m._meta.label):
        for field in (*model._meta.local_fields, *model._meta.local_many_to_many):
            if rule := policy.rule_of(field):
                yield (
                    model._meta.label, field.name, rule.category.value, rule.subject, policy.retention_text(rule),
                    rule.export.value, rule.erase.value,
                )  # fmt: skip


def notices(start: datetime, end: datetime) -> Rows:
    """Those that were raised in the period. What came after it is not told."""
    found = Notice.objects.filter(raised_at__gte=start, raised_at__lt=end).order_by("raised_at", "pk")

    def until(when: datetime | None) -> Any:
        return when if when and when < end else None

    return ("raised", "severity", "title", "detail", "acknowledged", "cleared"), (
        (n.raised_at, n.severity, n.title, n.detail, until(n.acknowledged_at), until(n.cleared_at))
        for n in found.iterator(chunk_size=1000)
    )
