"""What each machine of an account cost on a day, by our ledger and by its provider. Reads alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from uuid import UUID

from django.db.models import Q, Sum

from billing.judging import ZERO, Facts
from billing.models import Adjustment, Bill, Component, DayTotal, LedgerEntry, ProviderStatement
from billing.periods import DAY, HOUR, midnight
from billing.statements import BALANCE, UNASSIGNED, unassigned_id


@dataclass(slots=True)
class Machine:
    """One machine on one day, USD. `subject` None: the ledger does not know it."""

    key: str
    subject: UUID | None
    remote_id: str = ""
    label: str = ""
    metered: Decimal = ZERO
    charged: Decimal = ZERO
    told_at: datetime | None = None
    """When its newest line was told."""
    hour: datetime | None = None
    """The start of its dearest line."""
    dearest: Decimal = ZERO
    known: bool = True

    @property
    def usd(self) -> Decimal:
        return self.charged - self.metered


@dataclass(slots=True)
class Day:
    """One account's day; what is before `end` is billed in full."""

    day: date
    end: datetime
    machines: dict[str, Machine] = field(default_factory=dict)

    @property
    def whole(self) -> bool:
        return self.end >= midnight(self.day) + DAY

    @property
    def metered(self) -> Decimal:
        return sum((m.metered for m in self.machines.values()), ZERO)

    @property
    def charged(self) -> Decimal:
        return sum((m.charged for m in self.machines.values()), ZERO)


def key_of(subject: UUID, tier: str, label: str) -> str:
    """What a machine is called in discrepancies. What is no machine of ours keeps the provider's name for it."""
    return f"remote:{label}" if tier == UNASSIGNED else str(subject)


def days_of(bill: Bill, days: Collection[date], *, horizon: datetime) -> list[Day]:
    """The account's figures on these days, each to its end or to `horizon`, oldest first."""
    found = {d: Day(d, min(midnight(d) + DAY, horizon)) for d in sorted(days) if midnight(d) < horizon}
    if found:
        _meter(bill, found)
        _charge(bill, found, horizon)
    return list(found.values())


def _meter(bill: Bill, found: dict[date, Day]) -> None:
    columns = ("subject_id", "subject__tier", "subject__label")
    mine = Q(subject__account=bill.account) & ~Q(subject=unassigned_id(bill.account, BALANCE))
    totals = DayTotal.objects.filter(mine, day__in=[d for d, day in found.items() if day.whole])
    for day, subject, tier, label, usd in totals.values_list("day", *columns, "usd"):
        _machine(found[day], subject, tier, label).metered += usd
    for day in (d for d in found.values() if not d.whole):
        for model in (LedgerEntry, Adjustment):
            rows = model._default_manager.filter(mine, hour__gte=midnight(day.day), hour__lt=day.end)
            for subject, tier, label, usd in rows.values_list(*columns).annotate(total=Sum("usd")).order_by():
                _machine(day, subject, tier, label).metered += usd


def _machine(day: Day, subject: UUID, tier: str, label: str) -> Machine:
    key = key_of(subject, tier, label)
    if key not in day.machines:
        remote_id = label if tier == UNASSIGNED else ""
        day.machines[key] = Machine(key, subject, remote_id, label, known=tier != UNASSIGNED)
    return day.machines[key]


def _charge(bill: Bill, found: dict[date, Day], horizon: datetime) -> None:
    spans = Q()
    for day in found.values():
        spans |= Q(start__gte=midnight(day.day), start__lt=day.end)
    if len(found) > 40:  # neither database likes a condition of hundreds of parts
        spans = Q(start__gte=midnight(min(found)), start__lt=horizon)
    lines = ProviderStatement.objects.filter(spans, account=bill.account).values_list(
        "start", "remote_id", "label", "usd", "fetched_at", "subject_id", "subject__tier", "subject__label"
    )
    for start, remote_id, label, usd, told_at, subject, tier, name in lines.iterator(chunk_size=5_000):
        if start.date() not in found or start >= found[start.date()].end:
            continue
        day = found[start.date()]
        if subject is None or tier == UNASSIGNED:
            key = f"remote:{remote_id}"
            machine = day.machines.setdefault(key, Machine(key, subject, known=False))
        else:
            machine = _machine(day, subject, tier, name)
        machine.remote_id = remote_id
        machine.label = machine.label if machine.known else label or remote_id
        machine.charged += usd
        if machine.told_at is None or told_at > machine.told_at:
            machine.told_at = told_at
        if abs(usd) > machine.dearest:
            machine.hour, machine.dearest = start, abs(usd)


def facts_of(
    bill: Bill, day: Day, machines: Iterable[Machine], *, compared_at: datetime | None
) -> dict[str, Facts]:
    """The facts that tell why these machines' figures differ. `compared_at`: when the day had been compared before."""
    wanted = {m.key: m for m in machines}
    parts_metered, whole = _entries(wanted, day)
    parts_charged, whole_gap = _lines(bill, wanted, day, whole)
    return {
        key: Facts(
            m.metered, m.charged, m.known,
            bool(compared_at and m.told_at and m.told_at > compared_at),
            parts_metered[key], parts_charged[key], whole_gap[key],
        )
        for key, m in wanted.items()
    }  # fmt: skip


type _Spans = dict[tuple[str, str, datetime], tuple[int, Decimal]]


def _entries(wanted: dict[str, Machine], day: Day) -> tuple[dict[str, dict[str, Decimal]], _Spans]:
    """Metered USD by component, and (seconds, USD) of each hour."""
    keys = {m.subject: key for key, m in wanted.items() if m.subject}
    parts: dict[str, dict[str, Decimal]] = defaultdict(lambda: defaultdict(Decimal))
    spans: _Spans = {}
    # With every component named the index finds the day; without, all of a machine's history would be read.
    rows = LedgerEntry.objects.filter(
        subject__in=list(keys), component__in=Component.values, hour__gte=midnight(day.day), hour__lt=day.end
    )
    for subject, component, hour, seconds, usd in rows.values_list(
        "subject_id", "component", "hour", "seconds", "usd"
    ):
        parts[keys[subject]][component] += usd
        spans[keys[subject], component, hour] = (seconds, usd)
    return parts, spans


def _lines(
    bill: Bill, wanted: dict[str, Machine], day: Day, entries: _Spans
) -> tuple[dict[str, dict[str, Decimal]], dict[str, Decimal]]:
    """Charged USD by component, and the gap of the spans that ran from end to end by both accounts."""
    parts: dict[str, dict[str, Decimal]] = defaultdict(lambda: defaultdict(Decimal))
    whole: dict[str, Decimal] = defaultdict(Decimal)
    ids = [m.remote_id for m in wanted.values() if m.remote_id]
    rows = ProviderStatement.objects.filter(
        account=bill.account, remote_id__in=ids, start__gte=midnight(day.day), start__lt=day.end
    ).select_related("subject")
    for row in rows:
        key = f"remote:{row.remote_id}"
        if row.subject and row.subject.tier != UNASSIGNED:
            key = str(row.subject_id)
        if key not in wanted:
            continue
        parts[key][row.component] += row.usd
        span = HOUR if bill.step <= HOUR else DAY
        hours = [
            entries.get((key, row.component, row.start + n * HOUR), (0, ZERO)) for n in range(span // HOUR)
        ]
        seconds, told = sum(s for s, _ in hours), row.seconds or int(span.total_seconds())
        if seconds and abs(seconds - told) <= told // 50:
            whole[key] += row.usd - sum((usd for _, usd in hours), ZERO)
    return parts, whole


def metered_by_day(account: UUID, since: date, until: date) -> dict[date, Decimal]:
    """What the ledger says of each day that has a cost, all machines together."""
    rows = DayTotal.objects.filter(subject__account=account, day__gte=since, day__lt=until)
    rows = rows.exclude(subject=unassigned_id(account, BALANCE))
    return dict(rows.values_list("day").annotate(total=Sum("usd")).order_by())


def days_with_news(account: UUID, since: datetime) -> set[date]:
    """The days of lines that were told first, or otherwise, since then."""
    news = ProviderStatement.objects.filter(account=account, fetched_at__gte=since).values_list(
        "start", flat=True
    )
    return {start.date() for start in news.distinct().order_by()}
