"""Threads and processes that meet: the ledger and the budget come out as if they had queued."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import timedelta
from decimal import Decimal
from functools import partial

import pytest
from django.db import transaction

from billing import budgets, ledger
from billing.models import Budget, BudgetCrossing, Component, DayTotal, LedgerEntry, PriceSegment, Reservation
from billing.posting import cursor
from panel.audit.models import AuditEvent
from panel.notices.models import Notice
from panel.settings import BASE_DIR
from tests import factories
from tests.billing.conftest import ADMITTED, REFUSED, apart, together
from tests.billing.laws import assert_books_balance, books, total
from tests.conftest import NOW

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("shared_database")]
H = timedelta(hours=1)
SECOND = timedelta(seconds=1)
COMPUTE = Component.COMPUTE


def refused(results: list[object]) -> list[object]:
    others = [r for r in results if isinstance(r, Exception) and not isinstance(r, budgets.OverBudget)]
    assert not others
    return [r for r in results if isinstance(r, budgets.OverBudget)]


def test_ten_launches_in_the_same_instant_admit_only_what_fits():
    factories.budget("15.9")
    machines = [factories.subject() for _ in range(10)]

    def launch(machine):
        with transaction.atomic():
            budgets.reserve(machine.pk, Decimal("0.5"), until=NOW + 10 * H, now=NOW)
            ledger.set_price(machine.pk, COMPUTE, Decimal("0.5"), at=NOW)

    results = together(*(partial(launch, m) for m in machines))
    assert len(refused(results)) == 7
    assert Reservation.objects.count() == PriceSegment.objects.count() == 3
    assert budgets.status(now=NOW).held == 15


def test_launches_in_overlapping_budgets_fit_them_all_and_wait_for_nobody_for_ever():
    Budget.objects.create(name="RunPod", provider="runpod", amount_usd=Decimal(25))
    factories.budget("65")
    machines = [factories.subject(provider=("runpod", "vast")[n % 2]) for n in range(12)]
    own = Budget.objects.create(name="One", scope=machines[1].scope, amount_usd=Decimal(1))
    acts = [partial(budgets.reserve, m.pk, Decimal(1), until=NOW + 10 * H, now=NOW) for m in machines]
    results = together(*acts)
    no = {r.budget for r in refused(results)}
    held = {s.budget.name: s.held for s in budgets.statuses(now=NOW)}
    assert held == {"Everything": 60, "RunPod": held["RunPod"], "One": 0}
    assert held["RunPod"] <= 20
    assert {"Everything", own.name} <= no


def test_ten_processes_admit_only_what_fits_overlapping_budgets():
    factories.budget("45")
    Budget.objects.create(name="RunPod", provider="runpod", amount_usd=Decimal(15))
    machines = [factories.subject(provider=("runpod", "vast")[n % 2]) for n in range(10)]
    codes = apart(
        *(partial(budgets.reserve, m.pk, Decimal(1), until=NOW + 10 * H, now=NOW) for m in machines)
    )
    assert sorted(codes) == [ADMITTED] * codes.count(ADMITTED) + [REFUSED] * codes.count(REFUSED)
    held = {s.budget.name: s.held for s in budgets.statuses(now=NOW)}
    assert held["Everything"] == 10 * codes.count(ADMITTED) == 40
    assert held["RunPod"] <= 10
    assert Reservation.objects.count() == 4


def test_a_rung_that_several_workers_see_is_told_once():
    Budget.objects.create(amount_usd=Decimal(10), rungs=[50], warns_of_forecast=False)
    factories.metered_machine("1", since=NOW - 6 * H)
    results = together(*(partial(budgets.watch, now=NOW + n * SECOND) for n in range(5)))
    assert not [r for r in results if isinstance(r, Exception)]
    assert sum(results) == 1
    assert BudgetCrossing.objects.count() == Notice.objects.count() == 1
    assert AuditEvent.objects.filter(action="budget.rung").count() == 1


def test_a_budget_lowered_in_the_same_instant_is_kept_or_comes_after():
    factories.budget("100")
    machines = [factories.subject() for _ in range(5)]
    acts = [partial(budgets.reserve, m.pk, Decimal(1), until=NOW + 10 * H, now=NOW) for m in machines]
    lower = partial(budgets.set_budget, Decimal(20), "month", True, actor=None, now=NOW)
    results = together(*acts[:3], lower, *acts[3:])
    admitted = 5 - len(refused(results))
    assert admitted >= 2
    assert budgets.current().amount_usd == 20
    assert budgets.status(now=NOW).held == 10 * admitted


def test_two_reservations_of_one_machine_are_one():
    factories.budget("100")
    machine = factories.subject()
    results = together(
        *(partial(budgets.reserve, machine.pk, Decimal(1), until=NOW + H, now=NOW) for _ in range(4))
    )
    assert not refused(results)
    assert budgets.status(now=NOW).held == 1


def test_metering_in_parallel_charges_once():
    machines = [factories.metered_machine("0.43", since=NOW + n * SECOND) for n in range(40)]
    nows = [NOW + 50 * H, NOW + 50 * H, NOW + 30 * H, NOW + 49 * H + 7 * SECOND]
    refused(together(*(partial(ledger.meter, now) for now in nows)))
    assert_books_balance()
    assert ledger.meter(NOW + 50 * H) == 0
    expected = sum(ledger.cost_of([m.pk], now=NOW + 50 * H) for m in machines)
    assert total(LedgerEntry) == total(DayTotal) == expected
    assert LedgerEntry.objects.count() == 40 * 50


def test_metering_in_two_processes_charges_once(shared_database):
    for n in range(20):
        factories.metered_machine("0.43", since=NOW + n * SECOND)
    program = (
        "import django; django.setup(); from datetime import datetime; from billing import ledger;"
        f"ledger.meter(datetime.fromisoformat({(NOW + 30 * H).isoformat()!r}))"
    )
    environment = {**os.environ, "DATABASE_URL": shared_database, "DJANGO_SETTINGS_MODULE": "panel.settings"}
    beats = [
        subprocess.Popen([sys.executable, "-c", program], env=environment, cwd=BASE_DIR) for _ in range(2)
    ]
    assert [beat.wait(timeout=120) for beat in beats] == [0, 0]
    assert_books_balance()
    assert LedgerEntry.objects.count() == 20 * 30
    assert ledger.meter(NOW + 30 * H) == 0


def test_prices_change_and_end_while_metering_goes_on():
    machines = [factories.metered_machine("1", since=NOW) for _ in range(6)]

    def operate():
        for i, machine in enumerate(machines):
            ledger.set_price(machine.pk, COMPUTE, Decimal(2), at=NOW + (3 + i) * H)
            ledger.backdate(machine.pk, COMPUTE, to=NOW - H)
            if i % 2:
                ledger.close(machine.pk, at=NOW + (5 + i) * H)

    def meter():
        for n in range(12):
            ledger.meter(NOW + n * H)

    refused(together(operate, meter, operate, meter))
    assert_books_balance()
    ledger.meter(NOW + 20 * H)
    assert_books_balance()
    costs = [ledger.cost_of([m.pk], now=NOW + 20 * H) for m in machines]
    # An hour found late, three and more at 1, then at 2 to the end.
    ends = [5 + i if i % 2 else 20 for i in range(6)]
    assert costs == [1 + (3 + i) + 2 * (end - 3 - i) for i, end in enumerate(ends)]


def test_two_new_prices_in_the_same_instant_leave_one_open():
    machine = factories.subject()
    acts = [partial(ledger.set_price, machine.pk, COMPUTE, Decimal(p), at=NOW) for p in (1, 2, 3, 4)]
    refused(together(*acts))
    assert PriceSegment.objects.filter(ended_at=None).count() == 1
    assert ledger.burn(now=NOW) in {1, 2, 3, 4}
    assert_books_balance()


def test_two_that_open_one_subject_open_it_once():
    made = factories.subject()
    snapshot = ledger.Snapshot(label="m", scope=made.scope, scope_label="d", provider="local")
    new = partial(ledger.open_subject, made.scope, snapshot, now=NOW)
    results = together(new, new, new)
    assert {r.pk for r in results} == {made.scope}


def test_a_period_that_closes_under_metering_freezes_whole_hours():
    for n in range(10):
        factories.metered_machine("1", since=NOW + n * SECOND)

    def meter():
        for n in range(1, 9):
            ledger.meter(NOW + n * H)

    refused(together(meter, partial(ledger.close_period, NOW + 4 * H, now=NOW + 5 * H), meter))
    closed = list(LedgerEntry.objects.filter(hour__lt=NOW + 4 * H).values_list("pk", "usd"))
    ledger.meter(NOW + 9 * H)
    assert list(LedgerEntry.objects.filter(hour__lt=NOW + 4 * H).values_list("pk", "usd")) == closed
    assert_books_balance()


def test_metering_that_dies_in_the_middle_leaves_nothing_half_written(monkeypatch):
    for n in range(3):
        factories.metered_machine("1", since=NOW + n * SECOND)
    ledger.meter(NOW + H)
    before = books()

    def killed(*args, **kwargs):
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr("billing.posting.total_days", killed)
        with pytest.raises(SystemExit):
            ledger.meter(NOW + 5 * H)
    assert books() == before
    assert {cursor(s) for s in PriceSegment.objects.all()} == {NOW + H}
    ledger.meter(NOW + 5 * H)
    assert_books_balance()
