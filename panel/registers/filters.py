"""The filters of the registers' lists: what is due."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.contrib import admin
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.utils import timezone

from panel.registers import clocks, periods
from panel.registers.completeness import SOON

type Choices = list[tuple[str, str]]


class Words(admin.SimpleListFilter):
    """A filter whose choices are queries, by a word in the address."""

    choices_of: dict[str, str] = {}

    def lookups(self, request: HttpRequest, model_admin: Any) -> Choices:
        return list(self.choices_of.items())

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        value = self.value()
        return self.narrowed(queryset, value) if value in self.choices_of else queryset

    def narrowed(self, rows: QuerySet[Any], value: Any) -> QuerySet[Any]:
        raise NotImplementedError


class ReviewFilter(Words):
    title = "review"
    parameter_name = "review"
    choices_of = {"overdue": "Overdue", "soon": "Within 30 days", "never": "Not planned"}

    def narrowed(self, rows: QuerySet[Any], value: Any) -> QuerySet[Any]:
        today = periods.today(timezone.now())
        if value == "never":
            return rows.filter(next_review=None)
        if value == "overdue":
            return rows.filter(next_review__lt=today)
        return rows.filter(next_review__gte=today, next_review__lte=today + SOON)


class AgreementFilter(Words):
    title = "agreement"
    parameter_name = "agreement"
    choices_of = {"unsigned": "Not signed", "soon": "Ends within 30 days", "ended": "Has ended"}

    def narrowed(self, rows: QuerySet[Any], value: Any) -> QuerySet[Any]:
        today = periods.today(timezone.now())
        if value == "unsigned":
            return rows.filter(dpa_signed_on=None)
        if value == "ended":
            return rows.filter(dpa_expires_on__lt=today)
        return rows.filter(dpa_expires_on__gte=today, dpa_expires_on__lte=today + SOON)


class AssessmentFilter(Words):
    title = "transfer assessment"
    parameter_name = "assessment"
    choices_of = {"missing": "Missing", "done": "Done or not needed"}

    def narrowed(self, rows: QuerySet[Any], value: Any) -> QuerySet[Any]:
        return rows.filter(tia="") if value == "missing" else rows.exclude(tia="")


class BreachFilter(Words):
    title = "clock"
    parameter_name = "clock"
    choices_of = {"running": "Runs", "told": "The authority was told", "open": "Not closed"}

    def narrowed(self, rows: QuerySet[Any], value: Any) -> QuerySet[Any]:
        if value == "told":
            return rows.exclude(notified_at=None)
        if value == "open":
            return rows.filter(closed_at=None)
        return rows.filter(pk__in=[breach.pk for breach in clocks.open_breaches()])


class RequestFilter(Words):
    title = "clock"
    parameter_name = "clock"
    choices_of = {
        "running": "To be answered",
        "overdue": "Overdue",
        "week": "Due within 7 days",
        "answered": "Answered",
    }

    def narrowed(self, rows: QuerySet[Any], value: Any) -> QuerySet[Any]:
        today = periods.today(timezone.now())
        waiting = Q(answered_on=None)
        if value == "overdue":
            return rows.filter(waiting, due_on__lt=today)
        if value == "week":
            return rows.filter(waiting, due_on__gte=today, due_on__lte=today + timedelta(days=7))
        return rows.filter(waiting) if value == "running" else rows.exclude(answered_on=None)


class StaleFilter(Words):
    title = "checked"
    parameter_name = "checked"
    choices_of = {"year": "Never, or more than a year ago"}

    def narrowed(self, rows: QuerySet[Any], value: Any) -> QuerySet[Any]:
        return rows.exclude(checked_on__gte=periods.today(timezone.now()) - timedelta(days=365))
