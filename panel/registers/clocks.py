"""The clocks of the GDPR: what must be done by when, what is left of it, and who is told in time."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import partial

from django.db import transaction

from panel.notices.models import Notice
from panel.notices.notify import clear_notice, open_notices, raise_notice
from panel.registers import periods
from panel.registers.models import Breach, Deadline, Holiday, SubjectRequest

PREFIX = "clock:"
HOUR = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Clock:
    """One that runs. `word` names no person: it stands in notices and messages."""

    kind: str
    pk: int
    word: str
    act: str
    url: str
    started_at: datetime
    due_at: datetime
    reminders: tuple[int, ...]
    """Hours before the end, the latest first."""
    now: datetime
    missing: int = 0

    @property
    def left(self) -> timedelta:
        return self.due_at - self.now

    @property
    def is_over(self) -> bool:
        return self.left <= timedelta()

    @property
    def overdue(self) -> timedelta:
        return -self.left

    @property
    def passed(self) -> int | None:
        """The last reminder that has come, hours; 0: the end; None: none yet."""
        if self.is_over:
            return 0
        return min((hours for hours in self.reminders if self.left <= hours * HOUR), default=None)

    @property
    def level(self) -> str:
        """ok, warn or critical."""
        if self.is_over or (self.passed is not None and self.passed == min(self.reminders)):
            return "critical"
        return "ok" if self.passed is None else "warn"

    @property
    def spent(self) -> float:
        """The share of the period that has gone by, 0 to 1."""
        return min(1.0, max(0.0, (self.now - self.started_at) / (self.due_at - self.started_at)))


def deadline(key: str) -> Deadline:
    return Deadline.objects.get(key=key)


def breach_due(breach: Breach, period: Deadline | None = None) -> datetime:
    """72 hours after we became aware (Art. 33(1)); weekends and holidays count."""
    found = period or deadline(Deadline.BREACH)
    return breach.aware_at + found.amount * HOUR


def answer_due(received: date, *, extended: bool = False) -> date:
    """The last day of the month, or of the three months, after receipt (Art. 12(3))."""
    months = deadline(Deadline.ANSWER).amount
    if extended:
        months += deadline(Deadline.EXTEND).amount
    return periods.working_day(periods.add_months(received, months), holidays())


def holidays() -> set[date]:
    return set(Holiday.objects.values_list("day", flat=True))


def running(*, now: datetime) -> list[Clock]:
    """Every clock that runs, the one that ends first on top."""
    known = {row.key: row for row in Deadline.objects.all()}
    breaches = [_of_breach(b, known[Deadline.BREACH], now=now) for b in open_breaches()]
    requests = [_of_request(r, known[Deadline.ANSWER], now=now) for r in open_requests()]
    return sorted([*breaches, *requests], key=lambda clock: clock.due_at)


def open_breaches() -> list[Breach]:
    return [b for b in Breach.objects.filter(notified_at=None).order_by("aware_at") if b.is_running]


def open_requests() -> list[SubjectRequest]:
    return list(SubjectRequest.objects.filter(answered_on=None).order_by("due_on"))


def of_breach(breach: Breach, *, now: datetime) -> Clock:
    return _of_breach(breach, deadline(Deadline.BREACH), now=now)


def of_request(request: SubjectRequest, *, now: datetime) -> Clock:
    return _of_request(request, deadline(Deadline.ANSWER), now=now)


def _of_breach(b: Breach, period: Deadline, *, now: datetime) -> Clock:
    return Clock(
        "breach", b.pk, str(b), "tell the authority", b.get_absolute_url(), b.aware_at, breach_due(b, period),
        _hours(period), now, len(b.missing),
    )  # fmt: skip


def _of_request(r: SubjectRequest, period: Deadline, *, now: datetime) -> Clock:
    started = periods.end_of(r.received_on - timedelta(days=1))
    return Clock(
        "request", r.pk, f"{r.word} request #{r.pk}", "answer", r.get_absolute_url(), started, periods.end_of(r.due_on),
        _hours(period), now, len(r.missing),
    )  # fmt: skip


def _hours(period: Deadline) -> tuple[int, ...]:
    return tuple(sorted((int(hours) for hours in period.reminders), reverse=True))


# -- telling ------------------------------------------------------------------------------------------


def watch(*, now: datetime) -> int:
    """Raise a notice for each reminder that has come, and close those that are over; how many are open.

    Each reminder is a notice of its own, so that each is told, also to who has acknowledged the one before.
    """
    wanted = {key: clock for clock in running(now=now) if (key := _key(clock))}
    for key, clock in wanted.items():
        _tell(key, clock, now=now)
    for notice in open_notices().filter(key__startswith=PREFIX):
        if notice.key not in wanted:
            clear_notice(notice.key, now=now)
    return len(wanted)


def look_soon(*, now: datetime) -> None:
    """After the commit: a clock that has stopped, or was moved, is told so at once."""
    transaction.on_commit(partial(watch, now=now))


def _key(clock: Clock) -> str:
    # A breach is told when it is filed: the first hours count most.
    passed = "filed" if clock.passed is None and clock.kind == "breach" else clock.passed
    return "" if passed is None else f"{PREFIX}{clock.kind}:{clock.pk}:{passed}"


def _tell(key: str, clock: Clock, *, now: datetime) -> None:
    severe = Notice.Severity.CRITICAL if clock.level == "critical" else Notice.Severity.WARNING
    if clock.is_over:
        title = f"{clock.word}: the time to {clock.act} is over"
        detail = (
            "Do it now, and write down the reason for the delay." if clock.kind == "breach" else "Answer now."
        )
    elif clock.passed is None:
        title = f"{clock.word} is filed: {hours_left(clock)} to {clock.act}"
        detail = "The time runs from when the team became aware; weekends count."
    else:
        title = f"{clock.word}: less than {_span(clock.passed)} to {clock.act}"
        detail = f"{clock.missing} things are missing in its record." if clock.missing else ""
    raise_notice(key, severe, title, now=now, detail=detail, url=clock.url)


def hours_left(clock: Clock) -> str:
    hours = max(0, int(clock.left / HOUR))
    return f"{hours} hour{'' if hours == 1 else 's'}"


def _span(hours: int) -> str:
    return f"{hours} hours" if hours < 72 else f"{hours // 24} days"
