"""What the list of a million audit events needs: filters that read an index, and pages that are not counted."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta
from functools import cached_property
from typing import Any, cast

from django.contrib import admin
from django.core.paginator import Paginator
from django.db import connection
from django.db.models import QuerySet
from django.http import HttpRequest

from panel.audit import chain
from panel.audit.models import AuditEvent, Head, Pseudonym

type Lookups = list[tuple[str, str]]

COUNTED = 10_000
"""Of what a filter finds, no more is counted: who wants older ones narrows the period."""


class Pages(Paginator):  # type: ignore[type-arg]
    """Of all events the head says how many there are; of some, at most COUNTED are counted and shown."""

    @cached_property
    def count(self) -> int:
        found = cast("QuerySet[AuditEvent]", self.object_list)
        if not found.query.where:
            return Head.objects.filter(pk=1).values_list("sequence", flat=True).first() or 0
        return found.order_by()[:COUNTED].count()


class Pick(admin.SimpleListFilter):
    """One of what the column holds."""

    kind = "select"

    def queryset(self, request: HttpRequest, queryset: QuerySet[AuditEvent]) -> QuerySet[AuditEvent]:
        chosen, name = self.value(), str(self.parameter_name)
        return queryset.filter(**{name: chosen}) if chosen else queryset


class ActorFilter(Pick):
    title = "Actor"
    parameter_name = "actor"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Lookups:
        people = [
            (str(p.pk), str(p.user or p.name or chain.ERASED))
            for p in Pseudonym.objects.select_related("user")
        ]
        return [(chain.SYSTEM, chain.SYSTEM), *sorted(people, key=lambda person: person[1].lower())]


class ActionFilter(Pick):
    title = "Action"
    parameter_name = "action"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Lookups:
        return [(action, action) for action in distinct("action")]


class TargetFilter(Pick):
    title = "Target"
    parameter_name = "target_type"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Lookups:
        return [(kind, kind.partition(".")[2] or kind) for kind in distinct("target_type") if kind]


class _Day(admin.SimpleListFilter):
    kind = "date"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Lookups:
        # A filter without a choice would not be asked; the page draws a date's field.
        return [("", "any")]

    def day(self) -> date | None:
        try:
            return date.fromisoformat(self.value() or "")
        except ValueError:
            return None


class FromFilter(_Day):
    title = "From"
    parameter_name = "from"

    def queryset(self, request: HttpRequest, queryset: QuerySet[AuditEvent]) -> QuerySet[AuditEvent]:
        day = self.day()
        return queryset.filter(at__gte=_midnight(day)) if day else queryset


class UntilFilter(_Day):
    title = "To"
    parameter_name = "to"

    def queryset(self, request: HttpRequest, queryset: QuerySet[AuditEvent]) -> QuerySet[AuditEvent]:
        day = self.day()
        last = day and day < date.max
        return queryset.filter(at__lt=_midnight(day + timedelta(days=1))) if day and last else queryset


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)


def distinct(column: str) -> Sequence[str]:
    """What an indexed column holds, in order: one step in its index for each value, not one for each row."""
    name = connection.ops.quote_name(column)
    sql = f"""
        WITH RECURSIVE step(value) AS (
            SELECT MIN({name}) FROM audit_auditevent
            UNION ALL
            SELECT (SELECT MIN({name}) FROM audit_auditevent WHERE {name} > step.value)
            FROM step WHERE step.value IS NOT NULL
        )
        SELECT value FROM step WHERE value IS NOT NULL
    """  # noqa: S608 - a column of ours
    with connection.cursor() as cursor:
        cursor.execute(sql)
        return [value for (value,) in cursor.fetchall()]
