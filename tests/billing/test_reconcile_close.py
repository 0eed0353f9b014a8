"""The monthly close: when it may be, what it books, and that nothing of it is undone."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest

from billing import closing, gaps, ledger, reconcile
from billing.models import Adjustment, Bill, ClosedPeriod, Discrepancy, LedgerEntry, MonthClose
from panel.audit.models import AuditEvent
from tests import factories
from tests.billing.test_reconcile import ACCOUNT, DAY, HOUR, a_bill, a_line, a_machine, compared, told

pytestmark = pytest.mark.django_db

MONTH = date(2026, 10, 1)
START = datetime(2026, 10, 30, tzinfo=UTC)
OVER = datetime(2026, 11, 3, tzinfo=UTC)


@pytest.fixture
def machine():
    """Two days of October at $12, the second told as $12.05: within the tolerance."""
    a_bill(since=START)
    made = a_machine(since=START, until=START + 2 * DAY)
    told(a_line(made, "12", day=START), a_line(made, "12.05", day=START + DAY), since=START, now=OVER)
    compared(OVER)
    return made


def october() -> Decimal:
    return ledger.spent(START, START + 2 * DAY, now=OVER)


def test_a_reconciled_month_closes_at_the_bill_to_the_cent(machine):
    admin = factories.administrator()
    made = closing.close_month(MONTH, {}, actor=admin, now=OVER)
    assert (made.total_usd, october(), made.closed_by) == (Decimal("24.05"), Decimal("24.05"), admin)
    (told_of,) = made.accounts
    figures = [Decimal(told_of[name]) for name in ("charged", "metered", "booked")]
    assert figures == [Decimal("24.05"), Decimal("24.05"), Decimal("0.05")]
    assert ClosedPeriod.objects.get().until == datetime(2026, 11, 1, tzinfo=UTC)
    assert AuditEvent.objects.filter(action="month.close").count() == 1


def test_it_closes_once(machine):
    closing.close_month(MONTH, {}, actor=factories.administrator(), now=OVER)
    with pytest.raises(closing.CloseRefused, match="closed already"):
        closing.close_month(MONTH, {}, actor=factories.administrator(), now=OVER)
    assert (MonthClose.objects.count(), Adjustment.objects.count()) == (1, 1)


def test_a_gap_that_nobody_explained_keeps_it_open_unless_the_administrator_says_why(machine):
    told(a_line(machine, "20", day=START), a_line(machine, "12.05", day=START + DAY), since=START, now=OVER)
    compared(OVER)
    admin = factories.administrator()
    with pytest.raises(closing.CloseRefused, match="1 gap of it is not explained"):
        closing.close_month(MONTH, {}, actor=admin, now=OVER)
    made = closing.close_month(MONTH, {ACCOUNT: "They are looking into it."}, actor=admin, now=OVER)
    assert made.accounts[0]["reason"] == "They are looking into it."
    assert "They are looking into it." in AuditEvent.objects.get(action="month.close").reason


@pytest.mark.parametrize("is_compared", [True, False])
def test_closed_with_a_reason_what_lies_within_the_tolerance_is_booked_and_a_gap_is_not(machine, is_compared):
    told(a_line(machine, "20", day=START), a_line(machine, "12.05", day=START + DAY), since=START, now=OVER)
    if is_compared:
        compared(OVER)
    else:
        Bill.objects.update(matched_at=None)
    made = closing.close_month(
        MONTH, {ACCOUNT: "They are looking into it."}, actor=factories.administrator(), now=OVER
    )
    assert (made.total_usd, october()) == (Decimal("24.05"), Decimal("24.05"))
    assert made.accounts[0]["booked"] == "0.050000000"
    assert (Discrepancy.objects.get().usd, Adjustment.objects.get().usd) == (8, Decimal("0.05"))


def test_closed_with_a_reason_the_days_that_are_told_are_booked(machine):
    """The bill stands still a day before the month's end."""
    Bill.objects.update(told_until=START + DAY + HOUR, error="No answer.")
    told(
        a_line(machine, "12.05", day=START), a_line(machine, "12.05", day=START + DAY), since=START, now=OVER
    )
    Bill.objects.update(told_until=START + DAY + HOUR)
    closing.close_month(MONTH, {ACCOUNT: "They do not answer."}, actor=factories.administrator(), now=OVER)
    assert october() == Decimal("24.05")


def test_a_bill_that_is_not_told_to_the_end_keeps_it_open(machine):
    with pytest.raises(closing.CloseRefused, match="told in full to"):
        closing.close_month(MONTH, {}, actor=factories.administrator(), now=OVER - 2 * DAY + HOUR)


def test_an_account_whose_bill_was_never_read_keeps_it_open(machine):
    Bill.objects.all().delete()
    with pytest.raises(closing.CloseRefused, match="never read"):
        closing.close_month(MONTH, {}, actor=factories.administrator(), now=OVER)


def test_a_month_that_runs_and_one_out_of_order_are_refused(machine):
    a_machine(since=OVER)
    admin = factories.administrator()
    with pytest.raises(closing.CloseRefused, match="when it is over"):
        closing.close_month(date(2026, 11, 1), {}, actor=admin, now=OVER)
    with pytest.raises(closing.CloseRefused, match=r"October 2026 comes first"):
        closing.close_month(date(2026, 11, 1), {ACCOUNT: "so"}, actor=admin, now=OVER + 40 * DAY)


def test_afterwards_a_late_bill_becomes_an_adjustment(machine):
    admin = factories.administrator()
    closing.close_month(MONTH, {}, actor=admin, now=OVER)
    entries = list(LedgerEntry.objects.order_by("pk").values_list("usd", flat=True))
    later = OVER + 2 * DAY
    told(a_line(machine, "13", day=START), a_line(machine, "12.05", day=START + DAY), since=START, now=later)
    (gap,) = compared(later)
    assert (gap.reason, gap.usd) == ("price", 1)
    gaps.explain(gap, "They billed late.", reason="late", actor=admin, now=later)
    gaps.book(gap, actor=admin, now=later)
    assert october() == Decimal("25.05")
    assert list(LedgerEntry.objects.order_by("pk").values_list("usd", flat=True)) == entries


def test_what_was_accepted_unbooked_is_not_booked_by_the_close(machine):
    told(a_line(machine, "20", day=START), a_line(machine, "12.05", day=START + DAY), since=START, now=OVER)
    (gap,) = compared(OVER)
    admin = factories.administrator()
    gaps.explain(gap, "They give it back.", reason="price", actor=admin, now=OVER)
    gaps.close(gap, actor=admin, now=OVER)
    closing.close_month(MONTH, {}, actor=admin, now=OVER)
    assert october() == Decimal("24.05")
    assert Discrepancy.objects.get().usd == 8


def test_the_oldest_open_month_comes_next(machine):
    assert closing.next_month(now=OVER) == MONTH
    closing.close_month(MONTH, {}, actor=factories.administrator(), now=OVER)
    assert closing.next_month(now=OVER) is None
    assert closing.next_month(now=OVER + timedelta(days=30)) == date(2026, 11, 1)
    assert reconcile.unexplained(OVER) == 0
