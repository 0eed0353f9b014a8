"""What the evidence pack says of machines: where they stood, what the residency guard refused, what went wrong."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from django.db.models import Q

from deployments.models import Incident, Instance, ResidencyEvidence
from deployments.models.instance import SECRETS
from panel import evidence
from panel.audit.models import AuditEvent

type Rows = tuple[Sequence[str], Iterable[Sequence[object]]]

_CHUNK = 1000
_OF_ITS_INSTANCE = tuple(f"instance__{name}" for name in SECRETS)


def contribute() -> None:
    evidence.contribute("machines", "Machines and where they stood", machines)
    evidence.contribute("residency", "Residency evidence: each reading of where a machine stands", residency)
    evidence.contribute("guard-refusals", "What the residency guard refused or ended", refusals)
    evidence.contribute("incidents", "Incidents", incidents)


def machines(start: datetime, end: datetime) -> Rows:
    """Every attempt of which something may have stood in the period."""
    found = (
        Instance.objects.filter(Q(ended_at=None) | Q(ended_at__gte=start), created_at__lt=end)
        .select_related("deployment", "account")
        .defer(*SECRETS, "account__credentials")
        .order_by("created_at", "pk")
    )
    header = (
        "label", "deployment", "provider", "account", "machine", "countries allowed", "country promised",
        "country", "data centre", "asked for", "ready", "ended",
    )  # fmt: skip
    return header, (
        (
            i.label, i.deployment.name, i.account.backend, i.account.name, i.remote_id, i.deployment.allowed_countries,
            i.offer.country, i.country, i.data_center, i.created_at, _until(i.ready_at, end), _until(i.ended_at, end),
        )
        for i in found.iterator(chunk_size=_CHUNK)
    )  # fmt: skip


def residency(start: datetime, end: datetime) -> Rows:
    found = (
        ResidencyEvidence.objects.filter(at__gte=start, at__lt=end)
        .select_related("instance")
        .defer(*_OF_ITS_INSTANCE)
        .order_by("at", "pk")
    )
    header = ("read at", "machine", "asked", "promised", "found", "how we know", "allowed", "reason")
    return header, (
        (e.at, e.instance.label, e.asked, e.promised, e.found, e.source, e.allowed, e.reason)
        for e in found.iterator(chunk_size=_CHUNK)
    )


def refusals(start: datetime, end: datetime) -> Rows:
    """Launches that were refused, and machines that were ended because they stood where they may not."""
    found = AuditEvent.objects.filter(action__in=("residency.refused", "residency.violation"))
    found = found.filter(at__gte=start, at__lt=end).order_by("sequence")
    return ("event", "at", "what", "target", "reason", "countries"), (
        (e.sequence, e.at, e.action, f"{e.target_type} {e.target_id}", e.reason, e.after)
        for e in found.iterator(chunk_size=_CHUNK)
    )


def incidents(start: datetime, end: datetime) -> Rows:
    found = Incident.objects.filter(opened_at__gte=start, opened_at__lt=end).order_by("opened_at", "pk")
    header = (
        "number",
        "kind",
        "severity",
        "title",
        "probable cause",
        "opened",
        "acknowledged",
        "over",
        "closed",
    )
    return header, (
        (
            i.pk, i.kind, i.severity, i.title, i.guess, i.opened_at, _until(i.acknowledged_at, end), _until(i.over_at, end),
            _until(i.closed_at, end),
        )
        for i in found.iterator(chunk_size=_CHUNK)
    )  # fmt: skip


def _until(when: datetime | None, end: datetime) -> Any:
    """What came after the period is not told: the pack of a period that is over stays the same."""
    return when if when and when < end else None
