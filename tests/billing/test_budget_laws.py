"""Whatever is launched, stopped and metered, in any order: what was admitted never exceeds the amount."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from django.db import transaction
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from billing import budgets, ledger
from billing.models import Component
from tests import factories
from tests.billing.conftest import LONG, PROFILE

START = datetime(2026, 11, 29, 3, 30, tzinfo=UTC)
END = datetime(2026, 12, 1, tzinfo=UTC)
NANO = Decimal("1e-9")


class Launches(RuleBasedStateMachine):
    """Machines that obey their stop dates and prices, in the last days of a month."""

    @initialize(amount=st.decimals(0, 60, places=9))
    def begin(self, amount):
        self.savepoint = transaction.atomic()
        self.savepoint.__enter__()
        self.amount, self.now = amount, START
        factories.budget(str(amount))
        self.live: dict[object, datetime | None] = {}
        self.count = 1

    def teardown(self):
        # Everything that was admitted runs to its stop date or the end of the month.
        self.pass_time(END)
        assert ledger.spent(START.replace(day=1), END, now=END) <= self.amount + 2 * self.count * NANO
        transaction.set_rollback(True)
        self.savepoint.__exit__(None, None, None)

    @rule(
        price=st.decimals(0, 5, places=9),
        hours=st.none() | st.integers(1, 60 * 3600).map(lambda s: timedelta(seconds=s)),
        starts=st.booleans(),
        takes_over=st.booleans(),
    )
    def launch(self, price, hours, starts, takes_over):
        machine, until = factories.subject(), self.now + hours if hours else None
        lost = next(iter(self.live), None) if takes_over else None
        if lost:
            ledger.close(lost, at=self.now)
        fits = budgets.can_spend(price, until=until, now=self.now).allowed
        try:
            budgets.reserve(machine.pk, price, until=until, now=self.now, release_of=lost)
        except budgets.OverBudget:
            assert not fits
            return
        assert fits or lost
        self.live.pop(lost, None)
        self.live[machine.pk] = until
        self.count += 1
        if starts:
            ledger.set_price(machine.pk, Component.COMPUTE, price, at=self.now)

    @rule(step=st.integers(1, 12 * 3600))
    def time_passes(self, step):
        self.pass_time(min(END - timedelta(microseconds=1), self.now + timedelta(seconds=step)))

    @rule()
    def meter(self):
        ledger.meter(self.now)

    @rule()
    def stop_one(self):
        if self.live:
            self.end(next(iter(self.live)), self.now)

    @invariant()
    def what_is_spent_and_held_fits(self):
        status = budgets.status(now=self.now)
        assert status.free >= -2 * self.count * NANO
        assert status.spent + status.held + status.free == self.amount
        assert status.held >= 0

    @invariant()
    def nothing_that_was_admitted_is_stopped(self):
        verdict = budgets.verdict(now=self.now)
        assert abs(verdict.remaining - budgets.status(now=self.now).remaining) <= self.count * NANO
        assert not verdict.stop

    def pass_time(self, to):
        for machine, until in list(self.live.items()):
            if until and until <= to:
                self.end(machine, until)
        self.now = to

    def end(self, machine, at):
        ledger.close(machine, at=at)
        budgets.release(machine, now=at)
        del self.live[machine]


@pytest.mark.django_db
def test_what_was_admitted_never_costs_more_than_the_budget():
    profile = settings(PROFILE, max_examples=600 if LONG else 12, stateful_step_count=40 if LONG else 15)
    run_state_machine_as_test(Launches, settings=profile)
