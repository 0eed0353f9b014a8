"""Processes that meet over a bill, and processes that are killed: nothing is booked twice, and nothing is lost."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from functools import partial

import pytest

from billing import closing, gaps, ledger, reconcile
from billing.models import (
    Adjustment,
    Bill,
    Booking,
    DayTotal,
    Discrepancy,
    LedgerEntry,
    MonthClose,
    ProviderStatement,
)
from deployments import statements
from deployments.models import ProviderAccount
from deployments.models.account import ADAPTERS
from panel.audit.models import AuditEvent
from tests import factories
from tests.billing.conftest import ADMITTED, LONG, apart, killed_at
from tests.billing.laws import total
from tests.billing.test_reconcile import ACCOUNT, DAY, HOUR, a_bill, a_line, a_machine, compared, told
from tests.deployments.test_statements import BORN, Cloud, an_instance

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("shared_database")]

MONTH = date(2026, 10, 1)
START = datetime(2026, 10, 28, tzinfo=UTC)
OVER = datetime(2026, 11, 3, tzinfo=UTC)
STEP = 1 if LONG else 4
"""A process is killed before each statement of this distance."""


def charged(*usd: str) -> None:
    """The days of a machine that costs $12 on each of them, as the provider bills them."""
    a_bill(since=START)
    machine = a_machine(since=START, until=START + 4 * DAY)
    told(*(a_line(machine, each, day=START + n * DAY) for n, each in enumerate(usd)), since=START, now=OVER)
    ledger.meter(OVER)


def october() -> Decimal:
    return ledger.spent(START, START + 4 * DAY, now=OVER)


def test_processes_that_match_and_book_the_same_gap_book_it_once():
    charged("20", "12", "12", "12")
    admin = factories.administrator()
    match = partial(reconcile.match, ACCOUNT, now=OVER)
    assert apart(match, match, match) == 3 * [ADMITTED]
    gap = Discrepancy.objects.get()
    gaps.explain(gap, "So it was.", reason=gap.reason, actor=admin, now=OVER)
    book = partial(gaps.book, gap, actor=admin, now=OVER)
    assert apart(book, match, book, match, book) == 5 * [ADMITTED]
    assert (Adjustment.objects.get().usd, Booking.objects.count(), october()) == (8, 1, 56)
    gap.refresh_from_db()
    assert (gap.state, gap.usd) == (Discrepancy.State.CLOSED, 0)
    assert AuditEvent.objects.filter(action="discrepancy.book").count() == 1
    assert total(LedgerEntry) + total(Adjustment) == total(DayTotal)


def test_processes_that_close_the_same_month_while_another_matches_close_it_once():
    charged("12.05", "12.01", "12", "11.99")
    compared(OVER)
    admin = factories.administrator()

    def close() -> None:
        try:
            closing.close_month(MONTH, {}, actor=admin, now=OVER)
        except closing.CloseRefused as e:
            assert "closed" in str(e)  # noqa: PT017 - the other one was quicker

    match = partial(reconcile.match, ACCOUNT, now=OVER)
    assert apart(close, match, close) == 3 * [ADMITTED]
    assert MonthClose.objects.get().total_usd == october() == Decimal("48.05")
    assert sorted(Adjustment.objects.values_list("usd", flat=True)) == [
        Decimal(u) for u in ("-0.01", "0.01", "0.05")
    ]
    assert AuditEvent.objects.filter(action="month.close").count() == 1
    assert total(LedgerEntry) + total(Adjustment) == total(DayTotal)


def test_a_close_that_is_killed_anywhere_is_completed_by_the_next_and_books_nothing_twice():
    charged("12.05", "12.01", "12", "11.99")
    compared(OVER)
    close = partial(closing.close_month, MONTH, {}, actor=factories.administrator(), now=OVER)
    kills = 0
    while killed_at(kills * STEP, close):
        kills += 1
        assert not MonthClose.objects.exists(), "half a close is none"
        assert total(Adjustment) in {Decimal(0), Decimal("0.05"), Decimal("0.06")}
        assert total(LedgerEntry) + total(Adjustment) == total(DayTotal)
    assert kills >= 5
    assert MonthClose.objects.get().total_usd == october() == Decimal("48.05")
    assert (Adjustment.objects.count(), Booking.objects.count()) == (3, 3)
    assert AuditEvent.objects.filter(action="month.close").count() == 1


def test_a_bill_whose_reader_is_killed_anywhere_is_read_whole_by_the_next_and_each_line_once(monkeypatch):
    cloud = Cloud()
    monkeypatch.setitem(ADAPTERS, "runpod", lambda account: cloud)
    account = ProviderAccount.objects.create(name="Cloud", backend="runpod", credentials="sk-secret")
    an_instance(account)
    now, kills = BORN + 20 * DAY, 0
    while killed_at(kills * STEP, partial(statements.fetch, account, now=now)):
        kills += 1
        now += 2 * HOUR
        bill = Bill.objects.filter(pk=account.pk).first()
        told_days = (bill.told_until - BORN) // DAY if bill else 0
        lines = ProviderStatement.objects.filter(start__lt=BORN + told_days * DAY)
        assert [row.usd for row in lines] == told_days * [24], "what counts as told is there"
    assert kills >= 5
    assert statements.fetch(account, now=now + 2 * HOUR)
    days = list(ProviderStatement.objects.order_by("start").values_list("start", "usd"))
    assert days == [(BORN + n * DAY, Decimal(24)) for n in range(len(days))]
    assert Bill.objects.get().told_until == now + 2 * HOUR
