"""What we saw of hosts and sites ourselves: boots that worked or failed, minutes to ready, interruptions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from django.db.models import Avg, Count, DurationField, ExpressionWrapper, F, Q, Sum
from django.db.models.fields.json import KT

from deployments.lifecycle import State
from deployments.models import Instance
from deployments.providers.base import Quote
from deployments.rank import History

SPAN = timedelta(days=90)
"""Older boots say little of how a host is now."""


@dataclass(frozen=True, slots=True)
class Histories:
    """Our histories by host and by site; a site's own comes before its host's."""

    hosts: Mapping[str, History] = field(default_factory=dict)
    sites: Mapping[str, History] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.hosts or self.sites)

    def of(self, quote: Quote) -> History | None:
        """What is known of where `quote` stands; None when nothing is."""
        return (self.sites.get(quote.site) if quote.site else None) or (
            self.hosts.get(quote.host) if quote.host else None
        )


def recent(now: datetime) -> Histories:
    """Every host's and site's history of the last 90 days, in one query."""
    rows = _rows(now)
    return Histories(_by(rows, "where"), _by(rows, "site"))


def _rows(now: datetime) -> list[dict[str, Any]]:
    worked = Q(ready_at__isnull=False)
    # One that the provider never made (no remote id) says nothing of the host.
    failed = Q(ready_at=None, state=State.FAILED) | Q(ready_at=None) & ~Q(failure="")
    took = ExpressionWrapper(F("ready_at") - F("created_at"), output_field=DurationField())
    rows: Any = (
        Instance.objects.filter(created_at__gt=now - SPAN, create_sent_at__isnull=False)
        .exclude(remote_id="")
        .exclude(host="")
        .values(where=F("host"), site=KT("quote__site"))
        .annotate(
            worked=Count("pk", filter=worked),
            failed=Count("pk", filter=failed),
            interruptions_=Sum("interruptions"),
            took=Avg(took, filter=worked),
        )
        .order_by()
    )
    return list(rows)


def _by(rows: Iterable[dict[str, Any]], name: str) -> dict[str, History]:
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        if row[name]:
            groups.setdefault(row[name], []).append(row)
    return {name: _sum(group) for name, group in groups.items()}


def _sum(rows: list[dict[str, Any]]) -> History:
    worked = sum(r["worked"] for r in rows)
    seconds = sum(r["took"].total_seconds() * r["worked"] for r in rows if r["took"])
    return History(
        worked=worked,
        failed=sum(r["failed"] for r in rows),
        interruptions=sum(r["interruptions_"] or 0 for r in rows),
        seconds_to_ready=seconds / worked if worked else None,
    )
