"""What is exported and stated: the ledger's entries and corrections as lines, month by month in bounded memory.

A line is one component of one subject in one hour or one UTC day, or one correction. Every export and every
statement adds up the same lines.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from django.db.models import BigIntegerField, CharField, Max, Min, Sum
from django.db.models.functions import Cast, Substr

from billing.models import Adjustment, Component, LedgerEntry, Subject
from billing.money import from_nano
from billing.periods import DAY, HOUR, calendar_month, midnight

PROVIDERS = {"runpod": "RunPod", "vast": "Vast.ai", "local": "This computer"}
_KEPT = 5_000
"""Subjects kept in memory at once."""


class BadSelection(ValueError):
    """What was asked for cannot be exported. The text is a sentence that says what to change."""


@dataclass(frozen=True, slots=True)
class Selection:
    """From `start` to the end of `last`, UTC days; the filters are empty for everything. `tag` is (key, value)."""

    start: date
    last: date
    by_hour: bool = False
    provider: str = ""
    scope: UUID | None = None
    tag: tuple[str, str] | None = None

    @property
    def end(self) -> date:
        return self.last + DAY

    def takes(self, subject: Subject) -> bool:
        return (
            (not self.provider or subject.provider == self.provider)
            and (self.scope is None or subject.scope == self.scope)
            and (self.tag is None or subject.tags.get(self.tag[0]) == self.tag[1])
        )

    def audited(self) -> dict[str, Any]:
        return {
            "from": self.start.isoformat(),
            "to": self.last.isoformat(),
            "by": "hour" if self.by_hour else "day",
            "provider": self.provider,
            "deployment": str(self.scope or ""),
            "tag": "=".join(self.tag) if self.tag else "",
        }


@dataclass(frozen=True, slots=True)
class Line:
    """What `component` of `subject` cost from `start` to `end`, USD; `seconds` of it were charged.

    A correction has a `reason` and `made_at`; its component is "" where it is about the whole machine.
    """

    subject: Subject
    component: str
    start: datetime
    end: datetime
    seconds: int
    usd: Decimal
    reason: str = ""
    made_at: datetime | None = None

    @property
    def is_correction(self) -> bool:
        return self.made_at is not None

    @property
    def day(self) -> date:
        return self.start.date()


def read(selection: Mapping[str, str], *, today: date) -> Selection:
    """The selection that a query string asks for. Raises BadSelection.

    `from` and `to` are days, both included (default: this month to today); `by` is hour or day; `provider`,
    `deployment` (its id) and `tag` (key=value) narrow it.
    """
    start = _day(selection.get("from", ""), "The first day", default=today.replace(day=1))
    last = _day(selection.get("to", ""), "The last day", default=max(today, start))
    if last < start:
        raise BadSelection("The last day lies before the first one: swap them.")
    if last - start > timedelta(days=3660):
        raise BadSelection("That is more than ten years: ask for a shorter time.")
    by = selection.get("by", "") or "day"
    if by not in ("day", "hour"):
        raise BadSelection("Lines are by hour or by day.")
    return Selection(
        start, last, by == "hour", _provider(selection.get("provider", "")), _scope(selection.get("deployment", "")),
        _tag(selection.get("tag", "")),
    )  # fmt: skip


def _day(text: str, what: str, *, default: date) -> date:
    if not text.strip():
        return default
    try:
        day = date.fromisoformat(text.strip())
    except ValueError:
        raise BadSelection(f"{what} is written like 2026-11-28.") from None
    if not 2000 <= day.year <= 2200:
        raise BadSelection(f"{what} lies between 2000 and 2200.")
    return day


def _provider(text: str) -> str:
    if "\0" in text or len(text) > 40:
        raise BadSelection("There is no such provider.")
    return text.strip()


def _scope(text: str) -> UUID | None:
    try:
        return UUID(text.strip()) if text.strip() else None
    except ValueError:
        raise BadSelection("A deployment is named by its id, as its page's address shows it.") from None


def _tag(text: str) -> tuple[str, str] | None:
    if not text.strip():
        return None
    key, equals, value = text.strip().partition("=")
    if not equals or not key.strip():
        raise BadSelection("A tag is written key=value.")
    return key.strip(), value.strip()


@dataclass(slots=True)
class Reader:
    """Reads lines; knows the subjects that it met. One for each export."""

    selection: Selection
    _subjects: dict[UUID, Subject] = field(default_factory=dict)

    def windows(self) -> Iterator[tuple[datetime, datetime]]:
        """The parts in which the time is read: days where lines are hours, else calendar months."""
        at, end = midnight(self.selection.start), midnight(self.selection.end)
        found = LedgerEntry.objects.aggregate(first=Min("hour"), last=Max("hour"))
        corrected = Adjustment.objects.aggregate(first=Min("hour"), last=Max("hour"))
        first = min((m for m in (found["first"], corrected["first"]) if m), default=end)
        last = max((m for m in (found["last"], corrected["last"]) if m), default=end)
        # Nothing stands outside of these, however long the time asked for.
        at, end = max(at, midnight(first.date())), min(end, midnight(last.date()) + DAY)
        while at < end:
            step = at + DAY if self.selection.by_hour else calendar_month(at).end
            yield at, min(step, end)
            at = step

    def lines(self) -> Iterator[Line]:
        """Every line of the selection, in the order of time."""
        for start, end in self.windows():
            yield from self.between(start, end)

    def between(self, start: datetime, end: datetime) -> list[Line]:
        """The lines from `start` to before `end`, in the order of time, machine and component."""
        rows = [*self._entries(start, end), *Adjustment.objects.filter(hour__gte=start, hour__lt=end)]
        self._learn({row.subject_id if isinstance(row, Adjustment) else row[0] for row in rows})
        lines = [self._correction(row) if isinstance(row, Adjustment) else self._usage(row) for row in rows]
        kept = [line for line in lines if self.selection.takes(line.subject)]
        kept.sort(key=_order)
        return kept

    def _entries(self, start: datetime, end: datetime) -> list[Any]:
        entries = LedgerEntry.objects.filter(hour__gte=start, hour__lt=end).order_by()
        if self.selection.by_hour:
            return list(entries.values_list("subject_id", "component", "hour", "seconds", "usd"))
        # As text: a date function of SQLite is called for every row, a piece of its text is not.
        of_day = entries.annotate(day=Substr(Cast("hour", CharField()), 1, 10))
        return list(
            of_day.values("subject_id", "component", "day").annotate(
                charged=Sum("seconds"), nano=Cast(Sum("usd"), BigIntegerField())
            ).values_list("subject_id", "component", "day", "charged", "nano")
        )  # fmt: skip

    def _usage(self, row: Any) -> Line:
        subject, component, at, seconds, usd = row
        if isinstance(at, str):
            start = datetime.fromisoformat(at).replace(tzinfo=UTC)
            return Line(self._subjects[subject], component, start, start + DAY, seconds, from_nano(usd))
        return Line(self._subjects[subject], component, at, at + HOUR, seconds, usd)

    def _correction(self, row: Adjustment) -> Line:
        component = row.reason.partition(":")[0]
        return Line(
            self._subjects[row.subject_id], component if component in Component.values else "",
            row.hour, row.hour + HOUR, 0, row.usd, row.reason or "corrected", row.created_at,
        )  # fmt: skip

    def _learn(self, ids: set[UUID]) -> None:
        if len(self._subjects) > _KEPT:
            self._subjects.clear()
        unknown = list(ids - self._subjects.keys())
        for i in range(0, len(unknown), 500):
            self._subjects |= Subject.objects.in_bulk(unknown[i : i + 500])


def _order(line: Line) -> tuple[Any, ...]:
    return (line.start, line.subject.scope_label, line.subject.label, str(line.subject.pk), line.is_correction, line.component)  # fmt: skip


def provider_name(key: str) -> str:
    return PROVIDERS.get(key, key)
