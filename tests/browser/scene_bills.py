"""What one account was charged, and a gap in it."""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal

from billing import reconcile, statements
from billing.models import Discrepancy, LedgerEntry
from billing.periods import day_of
from billing.statements import Line
from deployments.models import ProviderAccount

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
STRANGER = "k7w2nq0vd3"
"""A machine that RunPod charged yesterday, six hours at $0.44."""


def build(account: ProviderAccount, *, now: datetime) -> Discrepancy:
    """RunPod's bill of two days: what the ledger says, and one machine that nobody knows."""
    today = day_of(now)
    since = today - 2 * DAY
    statements.open_bill(
        account.pk, account.name, provider="runpod", step=HOUR, lag=timedelta(minutes=15), since=since
    )
    entries = LedgerEntry.objects.filter(subject__account=account.pk, hour__gte=since)
    lines = [
        Line(e.subject.label[-10:], e.component, e.hour, e.hour + HOUR, e.usd, subject=e.subject_id)
        for e in entries.select_related("subject")
    ]
    strange = today - DAY + 9 * HOUR
    lines += [
        Line(STRANGER, "compute", strange + n * HOUR, strange + (n + 1) * HOUR, Decimal("0.44"))
        for n in range(6)
    ]
    for at in (since, today - DAY, today, now):
        spent = sum((line.usd for line in lines if line.start < at), Decimal(0))
        statements.record_balance(account.pk, Decimal(300) - spent, now=at)
    statements.record(account.pk, lines, since=since, until=now + HOUR, now=now)
    reconcile.match(account.pk, now=now)
    return Discrepancy.objects.get(remote_id=STRANGER)
