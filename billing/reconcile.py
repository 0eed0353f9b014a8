"""Three-way reconciliation: our meter, the provider's bill, and what its balance moved.

`match` compares what is billed in full, machine by machine and day by day. What differs by more than the larger of
1 % and a cent is a Discrepancy: opened, followed while it changes, and closed by itself once a later bill or the
ledger explains it. What is too young to be billed is none.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.db.models import Sum
from django.db.models.functions import Abs

from billing import sides
from billing.judging import ZERO, agree, guess, tolerance
from billing.models import AccountDay, Adjustment, Bill, Discrepancy, DiscrepancyNote
from billing.money import dollars
from billing.periods import DAY, calendar_month, midnight, utc
from billing.sides import Day, Machine
from billing.statements import BALANCE, floor_step, moved, unassigned_id
from panel.audit import chain
from panel.notices.models import Notice
from panel.notices.notify import clear_notice, raise_notice

State, Reason = Discrepancy.State, Discrepancy.Reason

LOOK_BACK = timedelta(days=62)
"""How far back the ledger itself is looked through for days that changed; the bill's own news has no such end."""
OVERLAP = timedelta(hours=1)
"""What was told shortly before the last comparison is compared again: two workers' clocks differ."""
DAYS = 40
"""Days compared in one transaction."""
OLD = timedelta(hours=48)
NOTICE = "unexplained-money"


def horizon(bill: Bill, *, now: datetime) -> datetime:
    """All before it is billed in full, as far as the bill was read."""
    return floor_step(min(bill.told_until, utc(now) - bill.lag), bill.step)


def match_due(*, now: datetime) -> int:
    """Compare every account's news; how many gaps are unexplained after it."""
    for account in Bill.objects.order_by("pk").values_list("pk", flat=True):
        match(account, now=now)
    warn(now=now)
    return Discrepancy.objects.filter(state__in=Discrepancy.UNEXPLAINED).count()


def match(account: UUID, *, now: datetime) -> int:
    """Compare the account's days that are new or changed; how many days those were. Repeating it changes nothing."""
    bill = Bill.objects.get(pk=account)
    end = horizon(bill, now=now)
    days = sorted(_news(bill, end, now=now))
    for i in range(0, len(days), DAYS):
        _match(bill, days[i : i + DAYS], end, now=now)
    for month in sorted({d.replace(day=1) for d in days}):
        _match_balance(bill, month, now=now)
    Bill.objects.filter(pk=account).update(matched_at=now)
    return len(days)


def compare(account: UUID, days: list[date], *, now: datetime) -> None:
    """Compare these days, news or not."""
    bill = Bill.objects.get(pk=account)
    end = horizon(bill, now=now)
    _match(bill, sorted(d for d in days if midnight(d) < end), end, now=now)


def _news(bill: Bill, end: datetime, *, now: datetime) -> set[date]:
    known = AccountDay.objects.filter(account=bill.account)
    last = known.order_by("-day").values_list("day", flat=True).first()
    first = bill.since.date()
    found = set(known.filter(final=False).values_list("day", flat=True))
    day = last or first
    while midnight(day) < end:
        found.add(day)
        day += DAY
    if bill.matched_at:
        found |= sides.days_with_news(bill.account, bill.matched_at - OVERLAP)
    since = max(first, (utc(now) - LOOK_BACK).date())
    ours = sides.metered_by_day(bill.account, since, end.date())
    then = dict(known.filter(day__gte=since).values_list("day", "metered_usd"))
    found |= {
        d for d in ours.keys() | then.keys() if ours.get(d, ZERO) != then.get(d, ZERO) and midnight(d) < end
    }
    return {d for d in found if d >= first and midnight(d) < end}


@transaction.atomic
def _match(bill: Bill, days: list[date], end: datetime, *, now: datetime) -> None:
    # Two who compare the same account take turns.
    compared_at = Bill.objects.select_for_update().values_list("matched_at", flat=True).get(pk=bill.pk)
    was_final = set(
        AccountDay.objects.filter(account=bill.account, day__in=days, final=True).values_list(
            "day", flat=True
        )
    )
    standing: dict[date, dict[str, Discrepancy]] = {d: {} for d in days}
    rows = Discrepancy.objects.filter(account=bill.account, day__in=days).exclude(reason=Reason.BALANCE)
    for row in rows.order_by("pk").select_for_update():
        standing[row.day][row.key] = row
    totals, gone = [], []
    for day in sides.days_of(bill, days, horizon=end):
        gaps = {m.key: m for m in day.machines.values() if not agree(m.metered, m.charged)}
        before = compared_at if day.day in was_final else None
        _follow(bill, day, gaps, standing[day.day], compared_at=before, now=now)
        gone += [row for key, row in standing[day.day].items() if key not in gaps and _go(row, day, now=now)]
        totals.append(_total(bill, day, len(gaps)))
    AccountDay.objects.bulk_create(
        totals, update_conflicts=True, unique_fields=["account", "day"],
        update_fields=["metered_usd", "charged_usd", "moved_usd", "topped_up", "final", "gaps"],
    )  # fmt: skip
    _audit_gone(gone, now=now)


def _total(bill: Bill, day: Day, gaps: int) -> AccountDay:
    start = midnight(day.day)
    fell = moved(bill.account, start, start + DAY) if day.whole else moved(bill.account, start, day.end)
    return AccountDay(
        account=bill.account, day=day.day, metered_usd=day.metered, charged_usd=day.charged, moved_usd=fell.usd,
        topped_up=fell.topped_up, final=day.whole, gaps=gaps,
    )  # fmt: skip


# -- gaps come, change and go ---------------------------------------------------------------------------


def _follow(
    bill: Bill, day: Day, gaps: dict[str, Machine], standing: dict[str, Discrepancy], *,
    compared_at: datetime | None, now: datetime,
) -> None:  # fmt: skip
    """Open a row for each gap, or bring its row up to it."""
    fresh = [m for key, m in gaps.items() if key not in standing or _is_news(standing[key], m)]
    if not fresh:
        return
    facts = sides.facts_of(bill, day, fresh, compared_at=compared_at)
    new = []
    for machine in fresh:
        row, reason = standing.get(machine.key), guess(facts[machine.key])
        if row is None:
            new.append(_opened(bill, day, machine, reason, now=now))
        else:
            _changed(row, machine, reason, now=now)
    Discrepancy.objects.bulk_create(new)


def _is_news(row: Discrepancy, machine: Machine) -> bool:
    return (row.metered_usd, row.charged_usd) != (machine.metered, machine.charged)


def _opened(bill: Bill, day: Day, machine: Machine, reason: str, *, now: datetime) -> Discrepancy:
    return Discrepancy(
        account=bill.account, account_label=bill.account_label, provider=bill.provider, day=day.day, key=machine.key,
        subject_id=machine.subject, remote_id=machine.remote_id, label=machine.label[:256], reason=reason,
        metered_usd=machine.metered, charged_usd=machine.charged, usd=machine.usd, opened_at=now, changed_at=now,
    )  # fmt: skip


def _changed(row: Discrepancy, machine: Machine, reason: str, *, now: datetime) -> None:
    before = row.usd
    row.metered_usd, row.charged_usd, row.usd = machine.metered, machine.charged, machine.usd
    row.remote_id, row.subject_id = machine.remote_id or row.remote_id, machine.subject
    row.changed_at = now
    if row.is_unexplained:
        row.reason = reason
    elif not _is_accepted(row):
        _open_again(row, before, now=now)
        row.reason = reason
    row.save()


def _is_accepted(row: Discrepancy) -> bool:
    """Whether what was explained or closed is still this gap."""
    accepted = row.accepted_usd
    return accepted is not None and abs(row.usd - accepted) <= tolerance(row.metered_usd, row.charged_usd)


def _open_again(row: Discrepancy, before: Decimal, *, now: datetime) -> None:
    was, row.state = row.state, State.ASSIGNED if row.owner_id else State.OPEN
    row.opened_at, row.closed_at, row.accepted_usd, row.by_itself = now, None, None, False
    note(
        row,
        f"Opened again: it was {was}, and the gap is {signed(row.usd)} now, not {signed(before)}.",
        now=now,
    )


def _go(row: Discrepancy, day: Day, *, now: datetime) -> bool:
    """Close what is no gap any more; whether it stood."""
    if row.state == State.CLOSED:
        return False
    machine = day.machines.get(row.key)
    gone = (machine.metered, machine.charged, machine.usd) if machine else (ZERO, ZERO, ZERO)
    row.metered_usd, row.charged_usd, row.usd = gone
    row.state, row.by_itself, row.closed_at, row.changed_at = State.CLOSED, True, now, now
    row.save()
    note(row, "Closed by itself: the two figures agree now.", now=now)
    return True


def _audit_gone(gone: list[Discrepancy], *, now: datetime) -> None:
    for row in gone:
        chain.record("discrepancy.gone", actor=None, target=row, after={"state": row.state}, now=now)


def note(row: Discrepancy, text: str, *, now: datetime, author_id: int | None = None) -> None:
    """Write a line into the discrepancy's story."""
    DiscrepancyNote.objects.create(discrepancy=row, at=now, author_id=author_id, text=text[:1200])


def signed(usd: Decimal) -> str:
    return f"+{dollars(usd)}" if usd > 0 else dollars(usd, up=True)


# -- the balance --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ThreeWay:
    """An account's figures in a month, USD. `moved` None: the balance is not told.

    `compared` is what was charged on the days of which `moved` tells: the figure that it is compared with.
    """

    metered: Decimal
    charged: Decimal
    moved: Decimal | None
    compared: Decimal
    days: int
    told_days: int
    gaps: int


def three_way(account: UUID, month: date) -> ThreeWay:
    """The sums of the month's days that are billed in full. Days with a top-up tell nothing of the balance."""
    first = midnight(month)
    rows = list(
        AccountDay.objects.filter(account=account, day__gte=month, day__lt=calendar_month(first).end.date())
    )
    told = [r for r in rows if r.final and r.moved_usd is not None and not r.topped_up]
    return ThreeWay(
        sum((r.metered_usd for r in rows), ZERO), sum((r.charged_usd for r in rows), ZERO),
        sum((r.moved_usd or ZERO for r in told), ZERO) if told else None, sum((r.charged_usd for r in told), ZERO),
        len(rows), len(told), sum(r.gaps for r in rows),
    )  # fmt: skip


def balance_slack(bill: Bill, figures: ThreeWay) -> Decimal:
    """USD by which a month's balance may differ from its bill: the tolerance, and one cycle of the provider's billing."""
    cycle = (
        Decimal(bill.lag_seconds)
        / 86_400
        * (figures.compared / figures.told_days if figures.told_days else ZERO)
    )
    return tolerance(figures.moved or ZERO, figures.compared) + cycle


@transaction.atomic
def _match_balance(bill: Bill, month: date, *, now: datetime) -> None:
    """A month's balance that moved otherwise than its bill says is a gap as well: a fee or a volume that no line tells."""
    Bill.objects.select_for_update().get(pk=bill.pk)
    figures = three_way(bill.account, month)
    rows = Discrepancy.objects.filter(account=bill.account, day=month, key=BALANCE).select_for_update()
    row = rows.first()
    if figures.moved is None and row is None:
        return
    booked = booked_of_balance(bill.account, month)
    gap, told = balance_gap(figures, booked), figures.compared + booked
    machine = Machine(BALANCE, None, label="prepaid money", metered=told, charged=told + gap)
    day = Day(month, midnight(month), {BALANCE: machine})
    if abs(gap) <= balance_slack(bill, figures):
        if row and _go(row, day, now=now):
            _audit_gone([row], now=now)
    elif row is None:
        _opened(bill, day, machine, Reason.BALANCE, now=now).save()
    elif _is_news(row, machine):
        _changed(row, machine, Reason.BALANCE, now=now)


def balance_gap(figures: ThreeWay, booked: Decimal) -> Decimal:
    """USD that the balance moved beyond what lines tell and what is booked for it; none where nobody can tell."""
    return ZERO if figures.moved is None else figures.moved - figures.compared - booked


def booked_of_balance(account: UUID, month: date) -> Decimal:
    first = midnight(month)
    rows = Adjustment.objects.filter(subject=unassigned_id(account, BALANCE), hour__gte=first)
    booked: Decimal | None = rows.filter(hour__lt=calendar_month(first).end).aggregate(total=Sum("usd"))[
        "total"
    ]
    return booked or ZERO


# -- what is unexplained ------------------------------------------------------------------------------


def unexplained(now: datetime, *, older_than: timedelta = timedelta()) -> Decimal | None:
    """USD on which our ledger and the bills differ and that nobody has explained, both directions added.

    `older_than`: only gaps that stand for so long. None while no bill was ever compared.
    """
    if not Bill.objects.exclude(matched_at=None).exists():
        return None
    rows = Discrepancy.objects.filter(state__in=Discrepancy.UNEXPLAINED)
    if older_than:
        rows = rows.filter(opened_at__lte=now - older_than)
    total: Decimal | None = rows.annotate(size=Abs("usd")).aggregate(total=Sum("size"))["total"]
    return total or ZERO


def warn(*, now: datetime) -> None:
    """Tell the operators of money that nobody has explained for two days, and take it back when it is little."""
    least = Decimal(settings.UNEXPLAINED_ALERT_USD)
    old = unexplained(now, older_than=OLD)
    if old is None or old <= least:
        clear_notice(NOTICE, now=now)
        return
    raise_notice(
        NOTICE, Notice.Severity.WARNING, f"{dollars(old)} is unexplained for more than two days", now=now,
        url="/spend/reconciliation/",
        detail="The providers’ bills and this panel’s meter differ. Explain the gaps on the Reconciliation page.",
    )  # fmt: skip
