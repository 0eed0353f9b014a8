"""What providers say they charged, written down: the lines of their bills, and what their balances moved.

Whoever reads a bill hands it over a window at a time, in order: the window's lines and that it was told whole, in
one transaction. So a line is there once however often it is told, and the bill is read without a gap.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from uuid import UUID, uuid5

from django.db import transaction
from django.db.models import Max

from billing.models import BalanceSnapshot, Bill, ProviderStatement, StatementChange, Subject
from billing.money import quantize
from billing.periods import DAY, HOUR, day_of, day_up, hour_of, hour_up, utc
from billing.segments import Snapshot, open_subject

ZERO = Decimal(0)
UNASSIGNED = "unassigned"
"""The tier of the ledger's subjects that are no machine of ours."""
BALANCE = "balance"
"""The key of what a balance moved and no line tells."""
_ROWS = 500

type Key = tuple[str, str, datetime]
"""What a line is, inside its account: remote id, component, start."""


@dataclass(frozen=True, slots=True)
class Line:
    """What one component of one machine cost in one span, USD. `seconds` that were charged; 0: not told."""

    remote_id: str
    component: str
    start: datetime
    end: datetime
    usd: Decimal
    label: str = ""
    seconds: int = 0
    subject: UUID | None = None

    @property
    def key(self) -> Key:
        return self.remote_id[:120], self.component[:20], self.start


# -- the lines ----------------------------------------------------------------------------------------


def open_bill(
    account: UUID, label: str, *, provider: str, step: timedelta, lag: timedelta, since: datetime
) -> Bill:
    """The account's bill, read from the day of `since` on. Its name and its terms follow what is said now."""
    start = day_of(since)
    terms = {
        "account_label": label[:80], "provider": provider, "step_seconds": int(step.total_seconds()),
        "lag_seconds": int(lag.total_seconds()),
    }  # fmt: skip
    bill, created = Bill.objects.get_or_create(
        pk=account, defaults={**terms, "since": start, "told_until": start}
    )
    if not created and any(getattr(bill, name) != value for name, value in terms.items()):
        Bill.objects.filter(pk=account).update(**terms)
        bill.refresh_from_db()
    return bill


def ceil_step(at: datetime, step: timedelta) -> datetime:
    """The end of the span (an hour or a day) that holds `at`."""
    return hour_up(at) if step <= HOUR else day_up(at)


def floor_step(at: datetime, step: timedelta) -> datetime:
    return hour_of(at) if step <= HOUR else day_of(at)


@transaction.atomic
def record(account: UUID, lines: Iterable[Line], *, since: datetime, until: datetime, now: datetime) -> int:
    """Write the whole answer for [since, until); how many lines are new or changed.

    A line that an answer leaves out for the second time costs nothing any more. Raises ValueError when the window
    begins behind what was told: there would be a gap.
    """
    now = utc(now)
    bill = Bill.objects.select_for_update().get(pk=account)
    if since > bill.told_until:
        raise ValueError(f"The bill was told to {bill.told_until}: a window from {since} leaves a gap.")
    known = {
        (row.remote_id, row.component, row.start): row
        for row in ProviderStatement.objects.filter(account=account, start__gte=since, start__lt=until)
    }
    told = _added(lines)
    changed: list[ProviderStatement] = []
    history: list[StatementChange] = []
    for key, line in told.items():
        row = known.get(key)
        if row is None:
            changed.append(_row(account, line, now=now))
        elif was := _followed(row, line, now=now):
            changed.append(row)
            history += _correction(row, was[0], bill, now=now)
    for key in known.keys() - told.keys():
        row, before = known[key], known[key].usd
        if _left_out(row, now=now):
            changed.append(row)
            history += _correction(row, before, bill, now=now)
    ProviderStatement.objects.bulk_create(
        changed, batch_size=_ROWS, update_conflicts=True, unique_fields=["account", "remote_id", "component", "start"],
        update_fields=["end", "seconds", "usd", "label", "subject", "fetched_at", "missing_since"],
    )  # fmt: skip
    StatementChange.objects.bulk_create(history, batch_size=_ROWS)
    Bill.objects.filter(pk=account).update(
        told_until=max(bill.told_until, min(until, now)), fetched_at=now, error="", error_at=None
    )
    return len(changed)


def _added(lines: Iterable[Line]) -> dict[Key, Line]:
    """Each line once: what is told in parts is added up."""
    found: dict[Key, Line] = {}
    for line in lines:
        first = found.get(line.key)
        if first is None:
            found[line.key] = line
            continue
        found[line.key] = Line(
            first.remote_id, first.component, first.start, max(first.end, line.end), first.usd + line.usd,
            first.label or line.label, first.seconds + line.seconds, first.subject or line.subject,
        )  # fmt: skip
    return found


def _row(account: UUID, line: Line, *, now: datetime) -> ProviderStatement:
    remote_id, component, start = line.key
    return ProviderStatement(
        account=account, remote_id=remote_id, component=component, start=start, end=line.end, seconds=line.seconds,
        usd=quantize(line.usd), label=line.label[:256], subject_id=line.subject, first_seen_at=now, fetched_at=now,
    )  # fmt: skip


def _followed(row: ProviderStatement, line: Line, *, now: datetime) -> tuple[Decimal] | None:
    """Bring the row up to the line; what it cost before, None when nothing is new."""
    fresh = {"usd": quantize(line.usd), "end": line.end, "seconds": line.seconds, "missing_since": None}
    if line.subject:
        fresh["subject_id"] = line.subject
    before, is_news = row.usd, any(getattr(row, name) != value for name, value in fresh.items())
    if not is_news:
        return None
    for name, value in fresh.items():
        setattr(row, name, value)
    row.fetched_at = now
    return (before,)


def _left_out(row: ProviderStatement, *, now: datetime) -> bool:
    """Note that an answer left the line out; whether the row changed."""
    if row.missing_since is None and row.usd:
        row.missing_since = now
        return True
    if row.usd and row.missing_since != now:
        row.usd, row.fetched_at = ZERO, now
        return True
    return False


def _correction(
    row: ProviderStatement, before: Decimal, bill: Bill, *, now: datetime
) -> Sequence[StatementChange]:
    """What was kept of a span that was over. One that runs on grows, and that is no correction."""
    span_end = row.start + (HOUR if bill.step <= HOUR else DAY)
    if before == row.usd or now < span_end + bill.lag:
        return ()
    return (StatementChange(line=row, at=now, before_usd=before, after_usd=row.usd),)


def stand_still(account: UUID, sentence: str, *, now: datetime) -> None:
    """The bill could not be read: why, and since when."""
    Bill.objects.filter(pk=account, error_at=None).update(error_at=now)
    Bill.objects.filter(pk=account).update(error=sentence[:300] or "The provider did not answer.")


def ask_again(account: UUID, *, since: datetime) -> bool:
    """Have the bill read again from `since` on; False when it was not read beyond that."""
    bill = Bill.objects.get(pk=account)
    since = max(day_of(since), bill.since)
    return bool(Bill.objects.filter(pk=account, told_until__gt=since).update(told_until=since, next_at=None))


# -- money that belongs to no machine -----------------------------------------------------------------


def unassigned_id(account: UUID, key: str) -> UUID:
    """The ledger's subject of what the account pays and no machine of ours explains."""
    return uuid5(account, f"unassigned:{key}")


def open_unassigned(bill: Bill, key: str, *, label: str, now: datetime) -> Subject:
    """Make it known to the ledger, in a scope of the account's own."""
    snapshot = Snapshot(
        label=label[:256], scope=uuid5(bill.account, UNASSIGNED), provider=bill.provider, tier=UNASSIGNED,
        scope_label=f"{bill.account_label}: not of a deployment", account=bill.account, account_label=bill.account_label,
    )  # fmt: skip
    return open_subject(unassigned_id(bill.account, key), snapshot, now=now)


# -- the balance --------------------------------------------------------------------------------------


def record_balance(account: UUID, usd: Decimal | None, *, now: datetime) -> None:
    """Keep what the balance was; saying it twice is once. None, and a clock that went back, tell nothing."""
    if usd is None:
        return
    last = BalanceSnapshot.objects.filter(account=account).aggregate(at=Max("at"))["at"]
    if last is None or last < now:
        BalanceSnapshot.objects.bulk_create(
            [BalanceSnapshot(account=account, at=now, usd=usd)], ignore_conflicts=True
        )


@dataclass(frozen=True, slots=True)
class Moved:
    """By how much a balance fell in a span, USD; None: nobody can tell. `topped_up`: it rose as well."""

    usd: Decimal | None
    topped_up: bool = False


def moved(account: UUID, start: datetime, end: datetime) -> Moved:
    """By how much the balance fell from `start` to `end`, parts of an interval by their share of its time.

    It is told only by readings before and after the span. A rise is a top-up: what was spent between its two
    readings is hidden.
    """
    readings = BalanceSnapshot.objects.filter(account=account).order_by("at")
    before = readings.filter(at__lte=start).last()
    after = readings.filter(at__gte=end).first()
    if before is None or after is None:
        return Moved(None)
    within = [before, *readings.filter(at__gt=before.at, at__lt=after.at), after]
    fell, rose = ZERO, False
    for a, b in pairwise((r.at, r.usd) for r in within):
        first, last = max(a[0], start), min(b[0], end)
        if first >= last:
            continue
        if b[1] > a[1]:
            rose = True
            continue
        fell += (
            (a[1] - b[1])
            * ((last - first) // timedelta(microseconds=1))
            / ((b[0] - a[0]) // timedelta(microseconds=1))
        )
    return Moved(quantize(fell), rose)
