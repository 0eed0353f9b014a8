"""What the panel's own rooms put into the pack: the audit, privacy, notices."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from functools import partial
from typing import Any

from panel.audit import exporting
from panel.audit.anchors import anchor_path, anchors_in
from panel.audit.models import AuditEvent
from panel.audit.verification import START, Point, walk
from panel.evidence.pack import head_of
from panel.evidence.registry import contribute
from panel.notices.models import Notice
from panel.privacy import evidence as privacy
from panel.registers import evidence as registers

type Rows = tuple[Sequence[str], Iterable[Sequence[object]]]


def contribute_all() -> None:
    contribute("audit-verification", "Audit: head and verification", audit_verification)
    contribute("audit-events", "Audit: acts", audit_events)
    contribute("data-map", "Data map: what is kept about whom", lambda start, end: privacy.data_map())
    contribute("purge-runs", "Purge: what was removed because its time was over", privacy.purge_runs)
    contribute("legal-holds", "Purge: what was held back", privacy.legal_holds)
    contribute("erasures", "Erasures of persons", privacy.erasure_receipts)
    # What the guard refused the deployments tell, with the machines.
    for name in (n for n in registers.NAMES if n != "refusals"):
        contribute(f"register-{name}", f"Registers: {registers.title(name)}", partial(_register, name))
    contribute("notices", "Notices: what went wrong and who saw to it", notices)


def _register(name: str, start: datetime, end: datetime) -> Rows:
    _, headers, found = registers.rows(name, start, end)
    return headers, found


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


def notices(start: datetime, end: datetime) -> Rows:
    """Those that were raised in the period. What came after it is not told."""
    found = Notice.objects.filter(raised_at__gte=start, raised_at__lt=end).order_by("raised_at", "pk")

    def until(when: datetime | None) -> Any:
        return when if when and when < end else None

    return ("raised", "severity", "title", "detail", "acknowledged", "cleared"), (
        (n.raised_at, n.severity, n.title, n.detail, until(n.acknowledged_at), until(n.cleared_at))
        for n in found.iterator(chunk_size=1000)
    )
