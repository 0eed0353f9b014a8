"""Whatever happens to prices and clocks, in any order: the ledger is the integral of the prices.

The model is a list of pieces (start, end, price) for each component and a table of usage charges by name, kept
by the plainest rules.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal

import pytest
from django.db import transaction
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from billing import ledger
from billing.models import Adjustment, Component, LedgerEntry, PriceSegment
from billing.money import accrued, quantize
from billing.periods import hour_of
from tests import factories
from tests.billing.conftest import LONG, PROFILE
from tests.billing.laws import assert_books_balance, books, total
from tests.conftest import NOW

ZERO = Decimal(0)
START = NOW - timedelta(hours=20)
COMPONENTS = (Component.COMPUTE, Component.DISK)
components = st.sampled_from(COMPONENTS)
prices = st.one_of(st.sampled_from([ZERO, Decimal(1), Decimal("0.43")]), st.decimals(0, 9, places=9))
# Whole hours are where the mistakes are; zones must not matter.
moments = st.one_of(
    st.integers(-5, 90).map(lambda h: START + timedelta(hours=h)),
    st.integers(-5 * 3600 * 10**6, 90 * 3600 * 10**6).map(lambda us: START + timedelta(microseconds=us)),
).flatmap(lambda at: st.timezones().map(at.astimezone))
USAGE = (Component.TRAFFIC_IN, Component.TRAFFIC_OUT, Component.REQUESTS)
NAMES = "abcdef"
quantities = st.one_of(st.just(ZERO), st.decimals(0, 10_000, places=6))
steps = st.one_of(
    st.integers(1, 3600).map(lambda s: timedelta(seconds=s)),
    st.integers(1, 40).map(lambda h: timedelta(hours=h)),
    st.just(timedelta(hours=-2)),
)


@dataclass
class Piece:
    start: object
    end: object
    price: Decimal

    def cost(self, now) -> Decimal:
        return accrued(self.price, min(self.end or now, now) - self.start)


class Books(RuleBasedStateMachine):
    @initialize()
    def begin(self):
        self.savepoint = transaction.atomic()
        self.savepoint.__enter__()
        self.machine = factories.subject()
        self.pieces: dict[str, list[Piece]] = {c: [] for c in COMPONENTS}
        self.used: dict[str, Decimal] = {}
        self.said: list[tuple] = []
        self.now = self.farthest = START
        self.closed = None

    def teardown(self):
        transaction.set_rollback(True)
        self.savepoint.__exit__(None, None, None)

    # -- what happens ---------------------------------------------------------------------------

    @rule(component=components, price=prices, at=moments)
    def set_price(self, component, price, at):
        ledger.set_price(self.machine.pk, component, price, at=at)
        pieces = self.pieces[component]
        opened = pieces[-1] if pieces and pieces[-1].end is None else None
        if price == (opened.price if opened else 0):
            return
        at = max([at, *(p.end or p.start for p in pieces)])
        if opened:
            opened.end = at
        if price:
            pieces.append(Piece(at, None, price))

    @rule(at=moments)
    def close(self, at):
        ledger.close(self.machine.pk, at=at)
        for pieces in self.pieces.values():
            if pieces and pieces[-1].end is None:
                pieces[-1].end = max(at, pieces[-1].start)

    @rule(component=components, to=moments)
    def backdate(self, component, to):
        ledger.backdate(self.machine.pk, component, to=to)
        lasting = [p for p in self.pieces[component] if p.end is None or p.end > p.start]
        to = max(to, self.closed or to)
        if lasting and to < lasting[0].start:
            lasting[0].start = to
            for piece in self.pieces[component][: self.pieces[component].index(lasting[0])]:
                piece.start = piece.end = to

    @rule(name=st.sampled_from(NAMES), quantity=quantities, price=prices, at=moments)
    def charge_usage(self, name, quantity, price, at):
        """A new charge, or a former one said again with another quantity."""
        said = (USAGE[NAMES.index(name) % 3], quantity, "GB", price, at, name)
        ledger.charge_usage(self.machine.pk, *said)
        self.used[name] = quantize(quantity * price)
        self.said = [*(s for s in self.said if s[-1] != name), said]

    @precondition(lambda self: self.said)
    @rule(order=st.permutations(NAMES))
    def say_all_usage_again(self, order):
        """In any order, at another time: nothing moves."""
        before = books()
        again = sorted(self.said, key=lambda said: order.index(said[-1]))
        charges = [ledger.Usage(self.machine.pk, *said[:4], self.now, said[5]) for said in again]
        assert ledger.charge_all(charges) == 0
        assert books() == before

    @rule(step=steps)
    def the_clock_moves(self, step):
        before = self.cost()
        self.now += step
        assert step < timedelta(0) or self.cost() >= before

    @rule(step=steps)
    def meter(self, step):
        booked = total(LedgerEntry) + total(Adjustment)
        cost = self.cost()
        self.now += step
        ledger.meter(self.now)
        self.farthest = max(self.farthest, self.now)
        assert total(LedgerEntry) + total(Adjustment) >= booked, "whatever the clock does"
        assert self.cost() >= booked
        assert step < timedelta(0) or self.cost() >= cost

    @rule()
    def meter_again(self):
        ledger.meter(self.now)
        self.farthest = max(self.farthest, self.now)
        before = books()
        assert ledger.meter(self.now) == 0
        assert books() == before

    @precondition(lambda self: self.now == self.farthest)
    @rule(hours=st.integers(0, 8))
    def close_period(self, hours):
        until = hour_of(self.now) - timedelta(hours=hours)
        if self.closed is None or until > self.closed:
            # What lies after the clock is not known to it; what is booked must not move.
            booked = self.cost()
            ledger.close_period(until, now=self.now)
            assert self.cost() == booked
            self.closed = until
            self.frozen = self.closed_entries()

    # -- what must hold -------------------------------------------------------------------------

    @invariant()
    def the_books_balance(self):
        assert_books_balance()

    @invariant()
    def the_cost_is_the_integral_of_the_prices(self):
        far = START + timedelta(days=3_000)
        model = sum((p.cost(far) for pieces in self.pieces.values() for p in pieces), ZERO)
        model += sum(self.used.values(), ZERO)
        assert ledger.cost_of([self.machine.pk], now=far) == model

    @invariant()
    def segments_run_forward_without_overlap(self):
        for component in COMPONENTS:
            end = None
            for s in PriceSegment.objects.filter(component=component).order_by("started_at", "pk"):
                assert s.ended_at is None or s.started_at <= s.ended_at
                assert end is None or end <= s.started_at
                end = s.ended_at

    @invariant()
    def closed_hours_keep_their_entries(self):
        if self.closed:
            assert self.closed_entries() == self.frozen

    @invariant()
    def every_question_adds_up_to_the_same(self):
        whole = self.cost()
        start, end = START - timedelta(days=9), START + timedelta(days=400)
        asked = {"now": self.now}
        assert ledger.spent(start, end, **asked) == whole
        assert ledger.cost_of(self.machine.scope, **asked) == whole
        assert sum(c.usd for c in ledger.by_scope(start, end, **asked)) == whole
        assert sum(usd for _, usd in ledger.by_day(start.date(), end.date(), **asked)) == whole
        hours = ledger.by_hour(None, START - timedelta(hours=9), START + timedelta(hours=200), **asked)
        days = ledger.by_day((START - timedelta(days=1)).date(), (START + timedelta(days=9)).date(), **asked)
        for day, usd in days[2:7]:
            assert sum(u for hour, u in hours if hour.date() == day) == usd

    def closed_entries(self):
        closed = LedgerEntry.objects.filter(hour__lt=self.closed).order_by("component", "hour")
        return list(closed.values_list("component", "hour", "seconds", "usd"))

    def cost(self):
        return ledger.cost_of([self.machine.pk], now=self.now)


def check(machine, *, examples: int, length: int) -> None:
    profile = settings(PROFILE, max_examples=examples, stateful_step_count=length)
    run_state_machine_as_test(machine, settings=profile)


@pytest.mark.django_db
def test_the_ledger_is_the_integral_of_the_prices_whatever_happens():
    check(Books, examples=600 if LONG else 8, length=40 if LONG else 15)


@pytest.mark.django_db
@settings(PROFILE, max_examples=300 if LONG else 15)
@given(
    price=st.decimals("0.000000001", 9, places=9),
    start=st.integers(0, 3 * 3600 * 10**6),
    looks=st.lists(st.integers(0, 60 * 3600 * 10**6), min_size=1, max_size=8),
)
def test_any_moments_of_metering_give_the_same_entries(price, start, looks):
    """In any order too: a metering that comes late, with an earlier clock, finds nothing to do."""
    begin = START + timedelta(microseconds=start)
    end = START + timedelta(microseconds=max(looks))
    results = []
    for order in (looks, sorted(looks), [max(looks)]):
        with transaction.atomic():
            machine = factories.subject()
            ledger.set_price(machine.pk, Component.COMPUTE, price, at=begin)
            for look in order:
                ledger.meter(START + timedelta(microseconds=look))
            results.append(list(LedgerEntry.objects.order_by("hour").values_list("hour", "seconds", "usd")))
            assert total(LedgerEntry) == accrued(price, end - begin)
            transaction.set_rollback(True)
    assert results[0] == results[1] == results[2]


@pytest.mark.django_db
@settings(PROFILE, max_examples=200 if LONG else 10)
@given(
    charges=st.lists(
        st.tuples(st.sampled_from(NAMES), quantities, st.integers(-30, 30)),
        min_size=1, max_size=8, unique_by=lambda charge: charge[0],
    ),
    order=st.randoms(use_true_random=False),
    closed=st.integers(0, 30),
)  # fmt: skip
def test_usage_costs_its_sum_in_any_order_with_any_close_between(charges, order, closed):
    shuffled = list(charges)
    order.shuffle(shuffled)
    results = []
    for told, cut in ((charges, None), (shuffled, len(shuffled) // 2)):
        with transaction.atomic():
            machine = factories.subject()
            for i, (name, quantity, hours) in enumerate(told):
                if i == cut:
                    ledger.close_period(NOW - timedelta(hours=closed), now=NOW)
                at = NOW + timedelta(hours=hours, minutes=59)
                component = USAGE[NAMES.index(name) % 3]
                ledger.charge_usage(machine.pk, component, quantity, "GB", Decimal("0.02"), at, name)
            assert_books_balance()
            days = ledger.by_day((NOW - timedelta(days=3)).date(), (NOW + timedelta(days=4)).date(), now=NOW)
            results.append(days)
            transaction.set_rollback(True)
    assert results[0] == results[1]
    assert sum(usd for _, usd in results[0]) == sum(quantize(q * Decimal("0.02")) for _, q, _ in charges)
