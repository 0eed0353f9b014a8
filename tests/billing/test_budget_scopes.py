"""Several budgets at once: what each covers, the strictest of them, the rungs, and the lift that ends by itself."""

from __future__ import annotations

import uuid
from datetime import timedelta
from decimal import Decimal

import pytest
from django.core.exceptions import ValidationError

from billing import budgets, forecast, ledger
from billing.budgets import Whom
from billing.models import Budget, BudgetCrossing, Component
from panel.audit.models import AuditEvent
from panel.notices.models import Notice
from tests import factories
from tests.conftest import NOW

pytestmark = pytest.mark.django_db
H = timedelta(hours=1)


def machine(price="1", *, provider="runpod", scope=None, since=NOW, until=None, account=None):
    """One that is reserved and burns from `since` on."""
    made = factories.subject(provider=provider, scope=scope)
    if account:
        type(made).objects.filter(pk=made.pk).update(account=account)
    budgets.reserve(made.pk, Decimal(price), until=until, now=since)
    ledger.set_price(made.pk, Component.COMPUTE, Decimal(price), at=since)
    return made


def budget(amount, name="Everything", **more):
    return Budget.objects.create(name=name, amount_usd=Decimal(amount), **more)


def by_name(now=NOW):
    return {s.budget.name: s for s in budgets.statuses(now=now)}


def test_each_budget_counts_what_it_covers_and_nothing_else():
    scope, account = uuid.uuid4(), uuid.uuid4()
    machine("1", since=NOW - 10 * H)
    machine("2", since=NOW - 10 * H, provider="vast", account=account)
    machine("4", since=NOW - 10 * H, scope=scope)
    budget("9000")
    budget("9000", "RunPod", provider="runpod")
    budget("9000", "Vast's account", account=account)
    budget("9000", "One", scope=scope, period="day")
    budget("9000", "Nobody's", scope=uuid.uuid4())
    got = {name: (s.spent, s.burn) for name, s in by_name().items()}
    assert got == {
        "Everything": (70, 7), "RunPod": (50, 5), "Vast's account": (20, 2), "One": (40, 4), "Nobody's": (0, 0),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("provider", "refused_by"), [("runpod", "RunPod"), ("vast", None)], ids=["covered", "not-covered"]
)
def test_a_launch_must_fit_every_budget_that_covers_it(provider, refused_by):
    budget("100")
    budget("5", "RunPod", provider="runpod")
    new = factories.subject(provider=provider)
    if refused_by is None:
        budgets.reserve(new.pk, Decimal(1), until=NOW + 10 * H, now=NOW)
        assert by_name()["RunPod"].held == 0
        return
    with pytest.raises(budgets.OverBudget) as no:
        budgets.reserve(new.pk, Decimal(1), until=NOW + 10 * H, now=NOW)
    assert (no.value.budget, no.value.needed, no.value.free) == ("RunPod", 10, 5)
    assert str(no.value).endswith("$5.00 is free of $5.00 in the budget RunPod.")
    assert {s.held for s in by_name().values()} == {0}, "nothing is held anywhere"


def test_a_budget_that_does_not_block_admits_and_still_stops():
    budget("5", blocks=False)
    machine("1", until=None)
    assert not budgets.verdict(now=NOW).stop
    assert budgets.verdict(now=NOW + 5 * H).stop


def test_the_verdict_is_that_of_the_strictest_budget_that_covers_it():
    scope = uuid.uuid4()
    machine("1", since=NOW - 10 * H, scope=scope)
    budget("1000")
    budget("9", "One", scope=scope)
    own = budgets.verdict(now=NOW, whom=[Whom(scope, "runpod")])
    assert (own.stop, own.budget) == (True, "One")
    other = budgets.verdict(now=NOW, whom=[Whom(uuid.uuid4(), "runpod")])
    assert (other.stop, other.budget) == (False, "Everything")
    assert budgets.strictest(now=NOW).budget == "One"


def test_what_is_protected_is_part_of_the_stated_bound():
    scope = uuid.uuid4()
    budget("9000", period="day")
    machine("3.60")
    machine("1", scope=scope)
    ending = Decimal("4.60") * int(budgets.REACTION.total_seconds()) / 3600
    assert budgets.status(now=NOW).bound == pytest.approx(ending)
    budgets.protect(scope, protected=True)
    status = budgets.status(now=NOW)
    assert status.protected_held == 12, "to the end of the day"
    assert status.bound == pytest.approx(12 + Decimal("3.60") * int(budgets.REACTION.total_seconds()) / 3600)
    budgets.protect(scope, protected=False)
    assert budgets.status(now=NOW).protected_held == 0


def test_twenty_budgets_are_read_in_as_few_queries_as_two(django_assert_num_queries):
    scopes = [machine("0.1").scope for _ in range(9)]
    for n, scope in enumerate(scopes):
        budget("100", f"D{n}", scope=scope, period=("day", "month")[n % 2])
        budget("100", f"A{n}", account=uuid.uuid4())
    budget("100")
    budget("100", "P", provider="runpod")
    with django_assert_num_queries(4):
        budgets.verdict(now=NOW, whom=[Whom(scopes[0], "runpod")])
    with django_assert_num_queries(5):
        assert len(budgets.statuses(now=NOW)) == 20


# -- the lift ---------------------------------------------------------------------------------------


def test_a_lifted_budget_refuses_and_stops_nothing_until_its_end():
    made, admin = budget("5"), factories.administrator()
    machine("1", until=NOW + 5 * H)
    budgets.lift(made.pk, until=NOW + 6 * H, reason="A demonstration.", actor=admin, now=NOW)
    machine("1", since=NOW)
    at = NOW + 5 * H
    assert (budgets.verdict(now=at).stop, budgets.verdict(now=at).warned) == (False, True)
    assert "lifted until 24 November 18:00 UTC" in budgets.verdict(now=at).reason
    assert budgets.verdict(now=NOW + 6 * H).stop, "it ends by itself"
    told = AuditEvent.objects.get(action="budget.lift")
    assert told.reason == "A demonstration."
    budgets.end_lift(made.pk, actor=admin, now=NOW + H)
    assert not budgets.can_spend(Decimal(1), until=None, now=NOW + H).allowed


@pytest.mark.parametrize(("hours", "reason"), [(0, "x"), (-1, "x"), (24 * 7 + 1, "x"), (1, "  ")])
def test_a_lift_has_an_end_within_days_and_a_reason(hours, reason):
    made = budget("5")
    with pytest.raises(ValidationError):
        budgets.lift(made.pk, until=NOW + hours * H, reason=reason, actor=factories.administrator(), now=NOW)
    assert not Budget.objects.get().is_lifted(NOW)


# -- the rungs --------------------------------------------------------------------------------------


def open_rungs():
    return set(BudgetCrossing.objects.filter(fell_at=None).values_list("rung", flat=True))


def test_each_rung_is_told_once_for_each_crossing_and_period():
    made = budget("20", period="day", warns_of_forecast=False, hard_stop=False, blocks=False)
    machine("2", since=NOW - 11 * H)  # 22 by NOW - but begun within the day
    at = [NOW - 11 * H + n * timedelta(minutes=30) for n in range(23)]
    told = {moment: budgets.watch(now=moment) for moment in at for _ in range(2)}
    assert open_rungs() == {"50", "80", "100"}
    assert sum(told.values()) == 0, "the second look of each moment tells nothing"
    assert BudgetCrossing.objects.count() == 3
    notices = Notice.objects.filter(key__startswith="budget:", cleared_at=None)
    assert sorted(notices.values_list("severity", flat=True)) == ["critical", "info", "warning"]
    assert AuditEvent.objects.filter(action="budget.rung").count() == 3

    # Raised: what is below again is over, and told anew only when it is reached anew.
    Budget.objects.filter(pk=made.pk).update(amount_usd=Decimal(40))
    assert budgets.watch(now=NOW) == 0
    assert open_rungs() == {"50"}
    assert budgets.watch(now=NOW + 10 * H) == 2
    assert BudgetCrossing.objects.count() == 5

    # A new day begins: everything of the last one is over.
    budgets.watch(now=NOW + 12 * H)
    assert open_rungs() == set()
    assert not Notice.objects.filter(key__startswith="budget:", cleared_at=None).exists()


def test_the_forecast_is_told_before_the_money_is_spent():
    budget("20", period="day", rungs=[], blocks=False)
    machine("2", since=NOW)
    assert budgets.watch(now=NOW) == 1
    assert open_rungs() == {"forecast"}
    assert Notice.objects.get(cleared_at=None).title == "The budget Everything will not last"
    assert budgets.watch(now=NOW + H) == 0


def test_a_removed_budget_takes_its_notices_with_it():
    made = budget("1", blocks=False)
    machine("2", since=NOW - 10 * H)
    assert budgets.watch(now=NOW) == 4
    budgets.remove(made.pk, actor=factories.administrator(), now=NOW)
    assert not Notice.objects.filter(cleared_at=None).exists()
    assert AuditEvent.objects.filter(action="budget.remove").exists()
    assert budgets.watch(now=NOW) == 0


# -- the forecast -----------------------------------------------------------------------------------


def test_the_forecast_runs_each_to_its_own_end_and_keeps_to_its_bounds():
    machine("1", since=NOW - 10 * H, until=NOW + 2 * H)
    machine("0.5", since=NOW - 10 * H)
    got = forecast.of(now=NOW, period="day")
    assert (got.actual, got.expected, got.keep_all) == (15, 15 + 2 + 6, 15 + 18)
    assert 15 < got.stop_now < Decimal("15.1")
    assert (got.run_rate, got.by_run_rate) == (None, None), "there are no three whole days"


def test_a_run_rate_needs_three_whole_days():
    machine("1", since=NOW - 4 * 24 * H)
    ledger.meter(NOW)
    got = forecast.of(now=NOW)
    assert (got.days, got.run_rate) == (3, 24)
    assert got.by_run_rate == got.actual + 24 * Decimal("6.5")


def test_a_runway_takes_off_what_burnt_since_the_balance_was_read():
    got = forecast.runway(Decimal(10), Decimal(2), at=NOW - H, now=NOW, stale_after=timedelta(minutes=30))
    assert (got.balance, got.hours, got.at, got.stale) == (8, 4, NOW + 4 * H, True)
    rests = forecast.runway(Decimal(10), Decimal(0), at=NOW, now=NOW, stale_after=H)
    assert (rests.hours, rests.at, rests.stale) == (None, None, False)
