"""The meter beside the bill: what agrees, what is a gap, what people do about it, and what is booked."""

from __future__ import annotations

import uuid
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from billing import gaps, ledger, reconcile, statements
from billing.judging import Facts, Reason, agree, guess
from billing.models import (
    AccountDay,
    Adjustment,
    BalanceSnapshot,
    Bill,
    Discrepancy,
    ProviderStatement,
    StatementChange,
)
from billing.statements import Line
from panel.audit.models import AuditEvent
from panel.notices.models import Notice
from tests import factories
from tests.billing.conftest import PROFILE

DAY, HOUR = timedelta(days=1), timedelta(hours=1)
START = datetime(2026, 11, 2, tzinfo=UTC)
ACCOUNT = uuid.UUID(int=7)
State = Discrepancy.State

pytestmark = pytest.mark.django_db


def a_bill(*, step: timedelta = DAY, lag: timedelta = DAY, since: datetime = START) -> Bill:
    return statements.open_bill(ACCOUNT, "Vast", provider="vast", step=step, lag=lag, since=since)


def a_machine(usd_per_hour: str = "0.5", *, since: datetime = START, until: datetime | None = None):
    made = factories.subject(provider="vast")
    made.account, made.account_label = ACCOUNT, "Vast"
    made.save()
    ledger.set_price(made.pk, "compute", Decimal(usd_per_hour), at=since)
    if until:
        ledger.close(made.pk, at=until)
    return made


def a_line(subject, usd: str, *, day: datetime = START, remote_id: str = "", **more) -> Line:
    known = subject.pk if subject else None
    remote_id = remote_id or f"r{subject.pk.hex[:8]}"
    return Line(
        remote_id, more.pop("component", "compute"), day, day + DAY, Decimal(usd), subject=known, **more
    )


def told(*lines: Line, since: datetime = START, until: datetime | None = None, now: datetime) -> None:
    statements.record(ACCOUNT, lines, since=since, until=until or now, now=now)


def compared(now: datetime) -> list[Discrepancy]:
    ledger.meter(now)
    reconcile.match(ACCOUNT, now=now)
    return list(Discrepancy.objects.order_by("day", "key"))


def total(day: datetime = START) -> Decimal:
    """What the ledger says of a day, to the nano-dollar."""
    return ledger.spent(day, day + DAY, now=day + 30 * DAY)


# -- pure -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [("12.00", "12.12", True), ("12.00", "12.13", False), ("0", "0.01", True), ("0", "0.011", False)],
)
def test_figures_agree_within_a_hundredth_or_a_cent(a, b, same):
    assert agree(Decimal(a), Decimal(b)) is same
    assert agree(Decimal(b), Decimal(a)) is same


def facts(metered: str, charged: str, **more) -> Facts:
    return Facts(Decimal(metered), Decimal(charged), more.pop("known", True), **more)


@pytest.mark.parametrize(
    ("seen", "reason"),
    [
        (facts("0", "4", known=False), Reason.NOT_SEEN),
        (facts("4", "0"), Reason.NOT_CHARGED),
        (facts("4", "5", parts_charged={"fee": Decimal(1)}), Reason.FEE),
        (facts("4", "5", parts_charged={"traffic-out": Decimal("0.9")}), Reason.TRAFFIC),
        (facts("4", "5", whole_gap=Decimal(1)), Reason.PRICE),
        (facts("4", "5", whole_gap=Decimal(-1)), Reason.TIME),
        (facts("4", "5", late=True), Reason.LATE),
        (facts("4", "5"), Reason.TIME),
    ],
)
def test_the_likely_reason(seen, reason):
    assert guess(seen) == reason


# -- the lines ------------------------------------------------------------------------------------------


def test_a_line_told_twice_is_there_once_and_a_correction_keeps_what_it_was():
    a_bill()
    machine = a_machine()
    told(a_line(machine, "12"), now=START + 3 * DAY)
    told(a_line(machine, "12"), now=START + 4 * DAY)
    told(a_line(machine, "11.5"), now=START + 5 * DAY)
    assert ProviderStatement.objects.get().usd == Decimal("11.5")
    change = StatementChange.objects.get()
    assert (change.before_usd, change.after_usd) == (Decimal(12), Decimal("11.5"))


def test_what_a_day_that_runs_costs_so_far_is_no_correction():
    a_bill()
    machine = a_machine()
    told(a_line(machine, "3"), now=START + 6 * HOUR)
    told(a_line(machine, "6"), now=START + 12 * HOUR)
    assert (ProviderStatement.objects.get().usd, StatementChange.objects.count()) == (Decimal(6), 0)


def test_a_line_that_one_answer_leaves_out_stands_and_the_second_makes_it_nothing():
    a_bill()
    told(a_line(a_machine(), "12"), now=START + 3 * DAY)
    told(now=START + 3 * DAY + HOUR)
    assert ProviderStatement.objects.get().usd == 12
    told(now=START + 3 * DAY + 2 * HOUR)
    assert ProviderStatement.objects.get().usd == 0
    told(a_line(None, "12", remote_id=ProviderStatement.objects.get().remote_id), now=START + 4 * DAY)
    assert ProviderStatement.objects.get().usd == 12


def test_a_window_that_would_leave_a_gap_is_refused():
    a_bill()
    with pytest.raises(ValueError, match="leaves a gap"):
        told(since=START + DAY, now=START + 2 * DAY)


# -- the balance ----------------------------------------------------------------------------------------


def test_what_the_balance_moved_is_told_between_two_readings_and_a_rise_is_a_top_up():
    for hours, usd in ((-2, "100"), (10, "94"), (12, "193"), (26, "186")):
        statements.record_balance(ACCOUNT, Decimal(usd), now=START + hours * HOUR)
    fell = statements.moved(ACCOUNT, START, START + DAY)
    assert fell.topped_up
    assert fell.usd == Decimal(5) + Decimal(6)  # 10 of 12 hours, and 12 of 14
    assert statements.moved(ACCOUNT, START + DAY, START + 2 * DAY).usd is None
    assert statements.moved(uuid.uuid4(), START, START + DAY).usd is None


def test_a_balance_that_is_not_told_leaves_no_reading():
    statements.record_balance(ACCOUNT, None, now=START)
    assert not BalanceSnapshot.objects.exists()


def test_a_balance_that_fell_by_more_than_the_bill_tells_is_a_gap_and_can_be_booked():
    a_bill()
    machine = a_machine("0.5")
    lines = [a_line(machine, "12", day=START + n * DAY) for n in range(4)]
    for n in range(6):
        statements.record_balance(ACCOUNT, Decimal(100) - n * 19, now=START + n * DAY)
    told(*lines, now=START + 4 * DAY)
    told(*lines, now=START + 5 * DAY)
    (gap,) = [g for g in compared(START + 5 * DAY) if g.reason == "balance"]
    assert gap.usd == 28
    admin = factories.administrator()
    gaps.explain(gap, "A network volume.", reason="fee", actor=admin, now=START + 5 * DAY)
    assert gaps.book(gap, actor=admin, now=START + 5 * DAY) == 28
    assert gaps.book(gap, actor=admin, now=START + 5 * DAY) == 0
    assert Adjustment.objects.get().subject.scope_label == "Vast: not of a deployment"
    reconcile.match(ACCOUNT, now=START + 5 * DAY + HOUR)
    gap.refresh_from_db()
    assert gap.state == State.CLOSED


def test_a_balance_that_does_not_move_while_the_bill_grows_is_a_gap():
    a_bill()
    machine = a_machine("0.5")
    for n in range(6):
        statements.record_balance(ACCOUNT, Decimal(100), now=START + n * DAY)
    told(*(a_line(machine, "12", day=START + n * DAY) for n in range(4)), now=START + 5 * DAY)
    (gap,) = [g for g in compared(START + 5 * DAY) if g.reason == "balance"]
    assert gap.usd == -48


# -- gaps -----------------------------------------------------------------------------------------------


def test_what_is_too_young_to_be_billed_is_no_gap():
    a_bill()
    a_machine()
    told(now=START + DAY + HOUR)
    assert compared(START + DAY + HOUR) == []
    assert reconcile.unexplained(START + DAY + HOUR) == 0


def test_within_the_tolerance_it_agrees():
    a_bill()
    told(a_line(a_machine(), "12.1"), now=START + 2 * DAY)
    assert compared(START + 2 * DAY) == []
    day = AccountDay.objects.get(day=START.date())
    assert (day.metered_usd, day.charged_usd, day.moved_usd, day.final) == (
        Decimal(12),
        Decimal("12.1"),
        None,
        True,
    )


@pytest.mark.parametrize(
    ("line", "reason", "usd"),
    [
        ({"usd": "0", "remote_id": "other"}, "not-charged", "-12"),
        ({"usd": "14"}, "price", "2"),
        ({"usd": "15", "seconds": 40_000}, "time", "3"),
    ],
)
def test_a_gap_says_its_likely_reason(line, reason, usd):
    a_bill()
    machine = a_machine()
    subject = None if "remote_id" in line else machine
    told(a_line(subject, line.pop("usd"), **line), now=START + 2 * DAY)
    (gap,) = compared(START + 2 * DAY)
    assert (gap.reason, gap.usd, gap.state, gap.day) == (reason, Decimal(usd), State.OPEN, START.date())


def test_a_machine_that_nobody_knows_is_unexplained_money_of_its_account():
    a_bill()
    told(a_line(None, "4.2", remote_id="stranger", label="somebody-1"), now=START + 2 * DAY)
    (gap,) = compared(START + 2 * DAY)
    assert (gap.reason, gap.subject, gap.label) == ("not-seen", None, "somebody-1")
    assert reconcile.unexplained(START + 2 * DAY) == Decimal("4.2")


def test_where_hours_are_told_today_is_compared_too():
    a_bill(step=HOUR, lag=timedelta(minutes=15))
    machine = a_machine("1")
    now = START + 5 * HOUR + timedelta(minutes=20)
    lines = [
        Line("m", "compute", START + n * HOUR, START + (n + 1) * HOUR, Decimal(2), subject=machine.pk)
        for n in range(5)
    ]
    told(*lines, until=START + 6 * HOUR, now=now)
    (gap,) = compared(now)
    assert (gap.metered_usd, gap.charged_usd, gap.reason) == (Decimal(5), Decimal(10), "price")
    assert not AccountDay.objects.get().final


def test_a_late_bill_makes_the_gap_go_by_itself():
    a_bill()
    machine = a_machine()
    told(now=START + 2 * DAY)
    (gap,) = compared(START + 2 * DAY)
    told(a_line(machine, "12"), now=START + 3 * DAY)
    gap = compared(START + 3 * DAY)[0]
    assert (gap.state, gap.by_itself, gap.usd) == (State.CLOSED, True, 0)
    assert gap.notes.get().author is None
    assert AuditEvent.objects.filter(action="discrepancy.gone", target_id=str(gap.pk)).count() == 1


def test_comparing_twice_changes_nothing():
    a_bill()
    told(a_line(a_machine(), "14"), now=START + 2 * DAY)
    first = compared(START + 2 * DAY)[0]
    again = compared(START + 2 * DAY)
    assert [(g.pk, g.changed_at) for g in again] == [(first.pk, first.changed_at)]


# -- what people do ---------------------------------------------------------------------------------------


@pytest.fixture
def gap() -> Discrepancy:
    a_bill()
    told(a_line(a_machine(until=START + DAY), "14"), now=START + 2 * DAY)
    return compared(START + 2 * DAY)[0]


NOW = START + 2 * DAY


def test_a_gap_goes_from_open_to_closed_and_every_step_is_audited(gap):
    admin, operator = factories.administrator(), factories.operator()
    gaps.assign(gap, operator, actor=admin, now=NOW)
    gaps.comment(gap, "I ask them.", actor=operator, now=NOW)
    gaps.explain(gap, "They raised the price at noon.", reason="price", actor=operator, now=NOW)
    assert reconcile.unexplained(NOW) == 0
    assert gaps.book(gap, actor=admin, now=NOW) == 2
    gap.refresh_from_db()
    assert (gap.state, gap.owner, gap.usd, gap.bookings.get().adjustment.usd) == (
        State.CLOSED,
        operator,
        0,
        2,
    )
    actions = AuditEvent.objects.filter(target_id=str(gap.pk)).values_list("action", flat=True)
    assert [a.partition(".")[2] for a in actions.order_by("sequence")] == [
        "assign",
        "comment",
        "explain",
        "book",
    ]
    assert total() == 14


def test_booking_it_twice_books_it_once(gap):
    admin = factories.administrator()
    gaps.explain(gap, "The price.", reason="price", actor=admin, now=NOW)
    assert [gaps.book(gap, actor=admin, now=NOW) for _ in range(3)] == [2, 0, 0]
    assert Adjustment.objects.count() == 1


def test_a_machine_that_is_not_ours_is_booked_to_its_account():
    a_bill()
    told(a_line(None, "4.2", remote_id="stranger"), now=NOW)
    (gap,) = compared(NOW)
    admin = factories.administrator()
    gaps.explain(gap, "A colleague's test.", reason="not-seen", actor=admin, now=NOW)
    gaps.book(gap, actor=admin, now=NOW)
    assert total() == Decimal("4.2")
    assert compared(NOW + DAY)[0].state == State.CLOSED
    assert gaps.book(gap, actor=admin, now=NOW + DAY) == 0


def test_closed_as_it_is_it_stays_closed_until_the_gap_changes(gap):
    admin = factories.administrator()
    gaps.explain(gap, "They give it back.", reason="price", actor=admin, now=NOW)
    gaps.close(gap, actor=admin, now=NOW)
    assert compared(NOW + DAY)[0].state == State.CLOSED
    line = ProviderStatement.objects.get()
    told(a_line(gap.subject, "20", remote_id=line.remote_id), now=NOW + DAY)
    again = compared(NOW + DAY)[0]
    assert (again.state, again.usd) == (State.OPEN, 8)
    assert "Opened again" in again.notes.order_by("-pk")[0].text


@pytest.mark.parametrize("act", ["close", "book"])
def test_nothing_is_closed_or_booked_before_it_is_explained(gap, act):
    with pytest.raises(gaps.GapRefused, match="explained before"):
        getattr(gaps, act)(gap, actor=factories.administrator(), now=NOW)


def test_who_may_not_explain_is_given_no_gap_and_an_empty_word_is_refused(gap):
    admin = factories.administrator()
    with pytest.raises(gaps.GapRefused, match="may not explain"):
        gaps.assign(gap, factories.viewer(), actor=admin, now=NOW)
    with pytest.raises(gaps.GapRefused, match="empty"):
        gaps.comment(gap, "  ", actor=admin, now=NOW)
    with pytest.raises(gaps.GapRefused, match="longer"):
        gaps.explain(gap, "x" * 1001, reason="price", actor=admin, now=NOW)


def test_one_word_explains_the_same_gap_of_many_days():
    a_bill()
    machine = a_machine(until=START + 3 * DAY)
    told(*(a_line(machine, "14", day=START + n * DAY) for n in range(3)), now=START + 5 * DAY)
    first = compared(START + 5 * DAY)[0]
    said = gaps.explain(
        first,
        "A new price.",
        reason="price",
        actor=factories.administrator(),
        now=START + 5 * DAY,
        alike=True,
    )
    assert said == 3
    assert set(Discrepancy.objects.values_list("state", flat=True)) == {State.EXPLAINED}


def test_money_unexplained_for_two_days_is_told_to_the_operators_and_taken_back(gap, settings):
    settings.UNEXPLAINED_ALERT_USD = 1
    reconcile.warn(now=NOW + 47 * HOUR)
    assert not Notice.objects.exists()
    reconcile.warn(now=NOW + 49 * HOUR)
    assert "$2.00 is unexplained" in Notice.objects.get(cleared_at=None).title
    gaps.explain(gap, "The price.", reason="price", actor=factories.administrator(), now=NOW + 49 * HOUR)
    reconcile.warn(now=NOW + 50 * HOUR)
    assert not Notice.objects.filter(cleared_at=None).exists()


def test_where_no_bill_was_compared_nothing_is_known():
    assert reconcile.unexplained(START) is None


# -- any order ------------------------------------------------------------------------------------------


_CENTS = st.integers(0, 3_000).map(lambda n: Decimal(n) / 100)


@settings(PROFILE, max_examples=max(6, PROFILE.max_examples // 20))
@given(bills=st.lists(st.lists(_CENTS, min_size=3, max_size=3), min_size=1, max_size=4), stranger=_CENTS)
def test_however_often_the_bill_changes_what_is_booked_is_the_bill(bills, stranger):
    """Machines that are known, and one that is not; explained and booked after every answer."""
    from django.db import transaction

    with transaction.atomic():
        a_bill()
        admin = factories.administrator()
        machines = [a_machine(until=START + DAY) for _ in range(3)]
        now = START + 2 * DAY
        for amounts in bills:
            now += HOUR
            told(
                *(a_line(m, str(usd)) for m, usd in zip(machines, amounts, strict=True)),
                a_line(None, str(stranger), remote_id="stranger"), now=now,
            )  # fmt: skip
            for gap in compared(now):
                if gap.state != State.CLOSED:
                    gaps.explain(gap, "So it is.", reason="time", actor=admin, now=now)
                    gaps.book(gap, actor=admin, now=now)
        from billing.closing import true_up

        true_up(Bill.objects.get(), date(2026, 11, 1), now=now)
        assert total() == sum(bills[-1], stranger)
        transaction.set_rollback(True)
