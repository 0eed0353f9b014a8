"""What the evidence pack says of money: the months that were closed, and what the providers' bills differ by."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from billing.models import Bill, Discrepancy, MonthClose
from panel import evidence

type Rows = tuple[Sequence[str], Iterable[Sequence[object]]]


def contribute() -> None:
    evidence.contribute("month-closes", "Months that were closed", month_closes)
    evidence.contribute("reconciliation", "Reconciliation: gaps between meter and bill", gaps)
    evidence.contribute("bills", "Reconciliation: how far each account's bill was read", bills)


def month_closes(start: datetime, end: datetime) -> Rows:
    found = MonthClose.objects.filter(closed_at__gte=start, closed_at__lt=end).order_by("month")
    return ("month", "closed at", "total USD", "accounts"), (
        (close.month, close.closed_at, close.total_usd, close.accounts) for close in found
    )


def gaps(start: datetime, end: datetime) -> Rows:
    """Of the period's days (a balance is of its month's first), as they stand."""
    last = (end - timedelta(microseconds=1)).date()
    found = Discrepancy.objects.filter(day__gte=start.date(), day__lte=last).order_by("day", "pk")
    header = (
        "day", "account", "provider", "machine", "reason", "metered USD", "charged USD", "gap USD", "state", "explanation",
        "opened", "closed",
    )  # fmt: skip
    return header, (
        (
            g.day, g.account_label, g.provider, g.label or g.remote_id or g.key, g.reason, g.metered_usd, g.charged_usd, g.usd,
            g.state, g.explanation, g.opened_at, g.closed_at,
        )
        for g in found.iterator(chunk_size=1000)
    )  # fmt: skip


def bills(start: datetime, end: datetime) -> Rows:
    """Whose bill covers the period, and up to where in it."""
    found = Bill.objects.filter(since__lt=end, told_until__gt=start).order_by("account_label", "pk")
    return ("account", "provider", "read from", "read to, within the period"), (
        (bill.account_label, bill.provider, bill.since, min(bill.told_until, end)) for bill in found
    )
