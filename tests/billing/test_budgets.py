"""Money is committed before it is spent, and what runs stops before it is gone."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from django.core.exceptions import ValidationError
from django.db import transaction

from billing import budgets, ledger
from billing.budgets import changes
from billing.models import Budget, Component, DayTotal, ProtectedScope, Reservation
from billing.money import BadAmount, accrued
from panel.audit.chain import AuditUnavailable
from panel.audit.models import AuditEvent
from tests import factories
from tests.conftest import NOW

pytestmark = pytest.mark.django_db
H = timedelta(hours=1)
COMPUTE = Component.COMPUTE
# NOW is noon of 24 November: 156 hours to the end of the month, 12 to the end of the day.
LEFT = 156


def running(price: str, *, since: datetime = NOW, until: datetime | None = None, reserve: bool = True):
    machine = factories.subject()
    if reserve:
        budgets.reserve(machine.pk, Decimal(price), until=until, now=since)
    ledger.set_price(machine.pk, COMPUTE, Decimal(price), at=since)
    return machine


def free() -> Decimal:
    return budgets.status(now=NOW).free


def test_without_a_budget_spending_is_unlimited_and_says_so():
    assert budgets.current() is None
    assert budgets.status(now=NOW) is None
    assert "unlimited" in budgets.verdict(now=NOW).reason
    assert not budgets.verdict(now=NOW).stop
    admission = budgets.can_spend(Decimal(10_000), until=None, now=NOW)
    assert admission.allowed
    assert admission.free is None
    assert "unlimited" in admission.text
    budgets.reserve(factories.subject().pk, Decimal(10_000), until=None, now=NOW)
    assert Reservation.objects.count() == 1, "a budget that is set later knows what was launched before"


def test_a_launch_reserves_its_price_to_the_end_of_the_month():
    factories.budget("100")
    budgets.reserve(factories.subject().pk, Decimal("0.10"), until=None, now=NOW)
    status = budgets.status(now=NOW)
    assert (status.held, status.free) == (Decimal("0.10") * LEFT, 100 - Decimal("0.10") * LEFT)
    assert (status.period_start, status.period_end) == (
        datetime(2026, 11, 1, tzinfo=UTC),
        datetime(2026, 12, 1, tzinfo=UTC),
    )


def test_a_stop_date_bounds_what_is_reserved():
    factories.budget("200")
    budgets.reserve(factories.subject().pk, Decimal(2), until=NOW + 3 * H, now=NOW)
    budgets.reserve(factories.subject().pk, Decimal(1), until=NOW + 9_000 * H, now=NOW)
    assert free() == 200 - 6 - LEFT * 1


def test_a_day_ends_at_midnight_utc():
    factories.budget("10", period="day")
    budgets.reserve(factories.subject().pk, Decimal("0.5"), until=None, now=NOW)
    assert free() == 4
    assert budgets.status(now=NOW).period_end == datetime(2026, 11, 25, tzinfo=UTC)


@pytest.mark.parametrize(
    ("period", "until", "text"),
    [
        (
            "month",
            None,
            "It needs $15.60 to the end of November, $1.20 is free of $10.00 in the budget Everything.",
        ),
        (
            "day",
            None,
            "It needs $1.20 to the end of 24 November, $1.19 is free of $10.00 in the budget Everything.",
        ),
        (
            "month",
            NOW + 13 * H,
            "It needs $1.30 until 25 November 01:00 UTC, $1.20 is free of $10.00 in the budget Everything.",
        ),
    ],
)
def test_a_refusal_holds_the_figures(period, until, text):
    factories.budget("10", period=period)
    held = "8.80" if period == "month" else "8.801"
    budgets.reserve(factories.subject().pk, Decimal(held), until=NOW + H, now=NOW)
    machine = factories.subject()
    with pytest.raises(budgets.OverBudget) as refused:
        budgets.reserve(machine.pk, Decimal("0.1"), until=until, now=NOW)
    assert str(refused.value) == text
    assert refused.value.free == 10 - Decimal(held)
    assert refused.value.needed > refused.value.free
    assert not Reservation.objects.filter(subject=machine).exists()
    assert budgets.can_spend(Decimal("0.1"), until=until, now=NOW).text == text


def test_what_fits_exactly_is_admitted():
    factories.budget("15.6")
    assert budgets.can_spend(Decimal("0.1"), until=None, now=NOW).allowed
    budgets.reserve(factories.subject().pk, Decimal("0.1"), until=None, now=NOW)
    assert free() == 0
    assert not budgets.can_spend(Decimal("0.000000001"), until=None, now=NOW).allowed
    assert budgets.can_spend(Decimal(0), until=None, now=NOW).allowed


def test_what_a_running_machine_has_spent_is_not_held_a_second_time():
    factories.budget("100")
    running("0.1")
    for hours in (1, 7, 150):
        status = budgets.status(now=NOW + hours * H)
        assert status.spent == Decimal("0.1") * hours
        assert status.spent + status.held == Decimal("0.1") * LEFT
        ledger.meter(NOW + hours * H)
        assert budgets.status(now=NOW + hours * H) == status


def test_a_machine_that_nobody_reserved_is_held_to_the_end():
    factories.budget("100")
    running("0.1", reserve=False)
    assert free() == 100 - Decimal("0.1") * LEFT


def test_the_dearer_of_reservation_and_price_is_held():
    factories.budget("1000")
    machine = running("1")
    ledger.set_price(machine.pk, COMPUTE, Decimal(2), at=NOW)
    assert budgets.status(now=NOW).held == 2 * LEFT
    budgets.reprice(machine.pk, Decimal(3), now=NOW)
    assert budgets.status(now=NOW).held == 3 * LEFT
    assert budgets.status(now=NOW).burn == 2


def test_releasing_gives_back_what_is_not_spent():
    factories.budget("100")
    machine = running("0.1", since=NOW - 10 * H)
    ledger.close(machine.pk, at=NOW)
    budgets.release(machine.pk, now=NOW)
    budgets.release(machine.pk, now=NOW + H)
    assert free() == 99
    assert Reservation.objects.get().released_at == NOW
    budgets.release(factories.subject().pk, now=NOW)


def test_what_is_given_back_but_still_burns_is_held_until_it_can_have_ended():
    factories.budget("1000000")
    machine = running("3600")
    budgets.release(machine.pk, now=NOW)
    assert budgets.status(now=NOW).held == budgets.REACTION.total_seconds()


def test_a_machine_past_its_stop_date_is_held_until_it_can_have_ended():
    factories.budget("100")
    running("3600", until=NOW + timedelta(seconds=10))
    now = NOW + timedelta(seconds=20)
    assert budgets.status(now=now).held == budgets.REACTION.total_seconds()
    assert budgets.status(now=now).spent == 20


def test_reserving_again_replaces_what_was_held():
    factories.budget("20")
    machine = factories.subject()
    budgets.reserve(machine.pk, Decimal("0.1"), until=None, now=NOW)
    budgets.reserve(machine.pk, Decimal("0.12"), until=None, now=NOW)
    assert free() == 20 - Decimal("0.12") * LEFT
    with pytest.raises(budgets.OverBudget):
        budgets.reserve(machine.pk, Decimal("0.2"), until=None, now=NOW)
    assert Reservation.objects.get().usd_per_hour == Decimal("0.12"), "a refusal keeps what was held"


def test_a_stopped_machine_starts_again_at_its_whole_price():
    """Its disk goes on to burn while it is stopped; the price of the start holds the disk too."""
    factories.budget("20")
    machine = factories.subject()
    ledger.set_price(machine.pk, Component.DISK, Decimal("0.02"), at=NOW)
    budgets.reserve(machine.pk, Decimal("0.12"), until=None, now=NOW)
    assert free() == 20 - Decimal("0.12") * LEFT


def test_a_relaunch_takes_over_what_the_lost_machine_held():
    factories.budget("16")
    lost, new = running("0.1"), factories.subject()
    with pytest.raises(budgets.OverBudget):
        budgets.reserve(new.pk, Decimal("0.1"), until=None, now=NOW)
    ledger.close(lost.pk, at=NOW)
    budgets.reserve(new.pk, Decimal("0.1"), until=None, now=NOW, release_of=lost.pk)
    assert free() == 16 - Decimal("0.1") * LEFT
    assert Reservation.objects.get(subject=lost).released_at == NOW


def test_a_relaunch_that_does_not_fit_gives_nothing_back():
    factories.budget("16")
    lost, new = running("0.1"), factories.subject()
    with pytest.raises(budgets.OverBudget):
        budgets.reserve(new.pk, Decimal("0.2"), until=None, now=NOW, release_of=lost.pk)
    assert Reservation.objects.get().released_at is None


def test_a_reservation_goes_with_the_transaction_that_made_it():
    factories.budget("100")

    def launch() -> None:
        with transaction.atomic():
            budgets.reserve(factories.subject().pk, Decimal(0), until=None, now=NOW)
            raise RuntimeError("the launch failed")

    with pytest.raises(RuntimeError):
        launch()
    assert not Reservation.objects.exists()


@pytest.mark.parametrize("price", ["-1", "NaN", "1e12"])
def test_an_impossible_price_is_refused(price):
    machine = factories.subject()
    with pytest.raises(BadAmount):
        budgets.reserve(machine.pk, Decimal(price), until=None, now=NOW)
    with pytest.raises(BadAmount):
        budgets.reprice(machine.pk, Decimal(price), now=NOW)


# -- the hard stop ------------------------------------------------------------------------------


def test_it_stops_while_the_rest_still_pays_for_stopping():
    factories.budget("10")
    running("3.60", reserve=False)
    bound = Decimal("3.60") * Decimal(budgets.REACTION.total_seconds()) / 3600
    crossing = NOW + timedelta(hours=10 / 3.6) - budgets.REACTION
    before, after = crossing - timedelta(seconds=1), crossing + timedelta(seconds=1)
    assert budgets.status(now=before).bound == bound
    assert not budgets.verdict(now=before).stop
    stop = budgets.verdict(now=after)
    assert stop.stop
    assert stop.remaining <= stop.bound == bound
    assert stop.reason == "$9.80 of the budget Everything of $10.00 a month is spent, and $3.60/h is burning."


def test_the_overspend_stays_within_the_bound():
    """Asked every POLL_SECONDS, obeyed within TERMINATE_SECONDS: not a cent more than the amount."""
    factories.budget("5")
    machine = running("40", reserve=False)
    now = NOW
    while not budgets.verdict(now=now).stop:
        now += timedelta(seconds=budgets.POLL_SECONDS)
        ledger.meter(now)
    ledger.close(machine.pk, at=now + timedelta(seconds=budgets.TERMINATE_SECONDS))
    spent = budgets.status(now=now + H).spent
    assert spent <= 5
    assert 5 - spent <= accrued(Decimal(40), budgets.REACTION)


def test_a_lowered_budget_stops_what_runs():
    factories.budget("1000")
    running("1", since=NOW - 10 * H)
    assert not budgets.verdict(now=NOW).stop
    budgets.set_budget(Decimal(9), "month", True, actor=None, now=NOW)
    assert budgets.verdict(now=NOW).stop
    assert budgets.status(now=NOW).remaining == -1
    assert budgets.status(now=NOW).exhausted_at == NOW


def test_a_price_that_rises_past_the_budget_stops_what_runs():
    factories.budget("200")
    machine = running("1")
    assert not budgets.verdict(now=NOW + H).stop
    budgets.reprice(machine.pk, Decimal(4_000), now=NOW + H)
    assert budgets.verdict(now=NOW + H).stop, "what is reserved may burn at any moment"
    budgets.reprice(machine.pk, Decimal(1), now=NOW + H)
    ledger.set_price(machine.pk, COMPUTE, Decimal(4_000), at=NOW + H)
    assert budgets.verdict(now=NOW + H).stop


def test_nothing_stops_when_the_period_ends_before_the_money():
    """A machine that took the whole budget runs to the last second of the month, as it was promised."""
    factories.budget("15.6")
    running("0.1")
    end = datetime(2026, 12, 1, tzinfo=UTC)
    for before in (H, timedelta(seconds=100), timedelta(seconds=1)):
        assert not budgets.verdict(now=end - before).stop
    assert not budgets.verdict(now=end).stop
    assert budgets.status(now=end).remaining == Decimal("15.6")


def test_a_launch_that_took_the_whole_budget_runs_to_its_stop_date_and_no_further():
    factories.budget("10")
    until = NOW + H
    running("10", until=until)
    assert not budgets.verdict(now=until - timedelta(seconds=1)).stop
    assert budgets.verdict(now=until + timedelta(seconds=1)).stop, "it outlived its date"


def test_a_budget_that_only_warns_stops_nothing():
    factories.budget("1", hard_stop=False)
    running("10", since=NOW - H, reserve=False)
    verdict = budgets.verdict(now=NOW)
    assert not verdict.stop
    assert "only warns" in verdict.reason
    with pytest.raises(budgets.OverBudget):
        budgets.reserve(factories.subject().pk, Decimal("0.1"), until=None, now=NOW)


def test_a_budget_of_nothing_lets_a_free_machine_run():
    factories.budget("0")
    budgets.reserve(factories.subject().pk, Decimal(0), until=None, now=NOW)
    assert not budgets.verdict(now=NOW).stop
    with pytest.raises(budgets.OverBudget):
        budgets.reserve(factories.subject().pk, Decimal("0.001"), until=None, now=NOW)


def test_the_budget_is_also_a_date():
    factories.budget("10")
    assert budgets.status(now=NOW).exhausted_at is None
    machine = running("1", reserve=False)
    assert budgets.status(now=NOW + H).exhausted_at == NOW + 10 * H
    ledger.set_price(machine.pk, COMPUTE, Decimal("0.000000001"), at=NOW + H)
    assert budgets.status(now=NOW + H).exhausted_at is None, "it lasts to the end of the month"


def test_a_new_period_begins_with_its_whole_amount():
    factories.budget("100")
    running("0.1")
    ledger.meter(NOW + LEFT * H)
    status = budgets.status(now=NOW + LEFT * H + H)
    assert status.spent == Decimal("0.1")
    assert status.period_start == datetime(2026, 12, 1, tzinfo=UTC)


@pytest.mark.parametrize(("ask", "queries"), [(budgets.status, 4), (budgets.verdict, 3)])
def test_the_budget_is_read_in_few_queries(ask, queries, django_assert_num_queries):
    factories.budget("1000")
    for _ in range(5):
        running("0.1", since=NOW - 30 * H)
    ledger.meter(NOW)
    with django_assert_num_queries(queries):
        ask(now=NOW + H)


@pytest.mark.parametrize("period", ["day", "month"])
@pytest.mark.parametrize("spared", [False, True])
def test_the_outlook_is_the_status_the_days_and_the_costs(period, spared, django_assert_num_queries):
    factories.budget("1000", period=period)
    ended, _open = running("0.31", since=NOW - 75 * H), running("0.17", since=NOW - 30 * H)
    ledger.meter(NOW - H)
    ledger.close(ended.pk, at=NOW - H)
    if spared:
        ProtectedScope.objects.create(scope=_open.scope)
    first = (NOW - 40 * 24 * H).date()
    with django_assert_num_queries(3):
        found = budgets.outlook(first, now=NOW + H / 3, scopes=[ended.scope, _open.scope])
    assert found.budget == budgets.status(now=NOW + H / 3)
    assert found.burn == ledger.burn(now=NOW + H / 3)
    days = ledger.by_day(first, (NOW + 24 * H).date(), now=NOW + H / 3)
    assert found.days == {day: usd for day, usd in days if usd}
    assert found.costs == {s: ledger.cost_of(s, now=NOW + H / 3) for s in (ended.scope, _open.scope)}


def test_the_outlook_says_what_a_million_tokens_cost_this_month():
    subject = running("0.25", since=NOW - 4 * H)
    ledger.meter(NOW)
    DayTotal.objects.filter(subject=subject.pk).update(tokens_in=1_500_000, tokens_out=500_000)
    assert budgets.outlook(NOW.date(), now=NOW).per_million == Decimal("0.5")
    assert budgets.outlook(NOW.date(), now=NOW + 40 * 24 * H).per_million is None


def test_the_budget_that_binds_first_is_the_one_that_is_exhausted_first_and_holds():
    machine = running("1")
    wide = factories.budget("10000")
    assert budgets.outlook(NOW.date(), now=NOW).budget.budget == wide
    tight = Budget.objects.create(name="One", scope=machine.scope, amount_usd=Decimal(5))
    warns = Budget.objects.create(name="Warns", amount_usd=Decimal(1), blocks=False, hard_stop=False)
    assert budgets.outlook(NOW.date(), now=NOW).budget.budget == tight
    budgets.lift(tight.pk, until=NOW + H, reason="A test.", actor=factories.administrator(), now=NOW)
    assert budgets.outlook(NOW.date(), now=NOW).budget.budget == wide
    Budget.objects.exclude(pk=warns.pk).delete()
    assert budgets.outlook(NOW.date(), now=NOW).budget.budget == warns, (
        "what only warns, when nothing else is there"
    )


def test_the_outlook_without_a_budget_knows_the_days_and_the_burn():
    running("0.1", since=NOW - 14 * H)
    found = budgets.outlook(NOW.date(), now=NOW)
    days = {(NOW - 24 * H).date(): Decimal("0.2"), NOW.date(): Decimal("1.2")}
    assert (found.budget, found.burn, found.days) == (None, Decimal("0.1"), days)


# -- setting it ---------------------------------------------------------------------------------


def test_a_budget_is_set_changed_and_audited():
    admin = factories.administrator()
    budgets.set_budget(Decimal("10.50"), "month", True, actor=admin, now=NOW)
    budgets.set_budget(Decimal(20), "day", False, actor=admin, now=NOW + H)
    budget = Budget.objects.get()
    assert (budget.amount_usd, budget.period, budget.hard_stop) == (20, "day", False)
    first, second = AuditEvent.objects.filter(action="budget.set").order_by("pk")
    assert first.before in (None, {})
    assert first.after | {"amount_usd": "10.5", "period": "month", "hard_stop": True} == first.after
    assert second.before == first.after
    assert second.after == first.after | {"amount_usd": "20", "period": "day", "hard_stop": False}


def test_setting_the_same_budget_again_is_not_an_act():
    for _ in range(2):
        budgets.set_budget(Decimal(10), "month", True, actor=factories.administrator(), now=NOW)
    assert AuditEvent.objects.filter(action="budget.set").count() == 1


def test_a_budget_that_cannot_be_audited_is_not_changed(monkeypatch):
    factories.budget("10")

    def unavailable(*args, **kwargs):
        raise AuditUnavailable("no disk")

    monkeypatch.setattr(changes.chain, "record", unavailable)
    with pytest.raises(AuditUnavailable):
        budgets.set_budget(Decimal(99), "month", True, actor=factories.administrator(), now=NOW)
    assert budgets.current().amount_usd == 10


@pytest.mark.parametrize(
    ("amount", "period", "sentence"),
    [
        ("-1", "month", "A budget cannot be negative."),
        ("NaN", "month", "A budget must be a number."),
        ("1e10", "month", "A budget cannot be more than $999,999,999."),
        ("1", "year", "A budget is for a day or a month."),
    ],
)
def test_an_impossible_budget_is_refused_with_a_sentence(amount, period, sentence):
    factories.budget("10")
    with pytest.raises(ValidationError) as refused:
        budgets.set_budget(Decimal(amount), period, True, actor=factories.administrator(), now=NOW)
    assert refused.value.messages == [sentence]
    assert budgets.current().amount_usd == 10
