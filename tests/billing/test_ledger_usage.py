"""Bytes and requests: charged once each, in their hour, corrected where they are said again."""

from datetime import timedelta
from decimal import Decimal
from uuid import uuid4

import pytest

from billing import ledger
from billing.models import Adjustment, Component, DayTotal, LedgerEntry, Subject, UsageCharge
from billing.money import BadAmount
from tests import factories
from tests.billing.conftest import together
from tests.billing.laws import assert_books_balance, books, total
from tests.conftest import NOW

pytestmark = pytest.mark.django_db
H = timedelta(hours=1)
IN, OUT = Component.TRAFFIC_IN, Component.TRAFFIC_OUT


def charge(machine, quantity="10", *, at=NOW, name="a", component=IN, price="0.02"):
    return ledger.charge_usage(machine.pk, component, Decimal(quantity), "GB", Decimal(price), at, name)


def test_a_charge_is_part_of_its_hour_and_of_every_sum():
    machine = factories.metered_machine("1", since=NOW - H)
    assert charge(machine, at=NOW + timedelta(minutes=5))
    ledger.meter(NOW + H)
    entry = LedgerEntry.objects.get(component=IN)
    assert (entry.hour, entry.seconds, entry.usd) == (NOW, 0, Decimal("0.2"))
    later = NOW + H
    assert (
        ledger.cost_of([machine.pk], now=later) == ledger.spent(NOW - H, later, now=later) == Decimal("2.2")
    )
    assert [c.usd for c in ledger.by_scope(NOW - H, later, now=later)] == [Decimal("2.2")]
    assert dict(ledger.by_hour(machine.scope, NOW - H, later, now=later))[NOW] == Decimal("1.2")
    assert ledger.burn(now=later) == 1, "what has no rate burns nothing"
    assert_books_balance()


def test_charges_of_one_hour_add_up_and_ways_stay_apart():
    machine = factories.subject()
    charge(machine, "1")
    charge(machine, "2", at=NOW + 59 * timedelta(minutes=1), name="b")
    charge(machine, "4", name="c", component=OUT)
    assert dict(LedgerEntry.objects.values_list("component", "usd")) == {
        IN: Decimal("0.06"),
        OUT: Decimal("0.08"),
    }
    assert DayTotal.objects.get().usd == Decimal("0.14")


def test_saying_it_twice_is_once():
    machine = factories.subject()
    charge(machine)
    before = books()
    assert not charge(machine, at=NOW + 5 * H)
    assert books() == before


def test_what_is_said_again_with_another_quantity_is_corrected_in_its_own_hour():
    machine = factories.subject()
    charge(machine)
    assert charge(machine, "15", at=NOW + 9 * H)
    assert LedgerEntry.objects.get().hour == NOW
    assert total(LedgerEntry) == Decimal("0.3")
    charge(machine, "0")
    assert not LedgerEntry.objects.exists(), "nothing is charged in that hour any more"
    assert_books_balance()


def test_in_a_closed_hour_the_difference_is_an_adjustment():
    machine = factories.subject()
    charge(machine, at=NOW - 2 * H)
    ledger.close_period(NOW, now=NOW)
    charge(machine, "15", at=NOW - 2 * H)
    charge(machine, "1", at=NOW - H, name="late")
    charge(machine, "1", at=NOW - H, name="late")
    assert total(LedgerEntry) == Decimal("0.2")
    assert list(Adjustment.objects.order_by("hour").values_list("hour", "usd", "reason")) == [
        (NOW - 2 * H, Decimal("0.1"), "traffic-in: a charge was corrected"),
        (NOW - H, Decimal("0.02"), "traffic-in: charged after the period was closed"),
    ]
    assert ledger.cost_of([machine.pk], now=NOW) == Decimal("0.32")
    assert_books_balance()


def test_an_estimate_goes_when_the_truth_is_told():
    machine = factories.subject()
    charge(machine, name="told")
    ledger.charge_usage(machine.pk, IN, Decimal(50), "GB", Decimal("0.02"), NOW, "guess", estimate=True)
    assert ledger.withdraw(UsageCharge.objects.filter(estimate=True)) == 1
    assert ledger.withdraw(UsageCharge.objects.filter(estimate=True)) == 0
    assert total(LedgerEntry) == Decimal("0.2")


@pytest.mark.parametrize(
    ("quantity", "price", "component", "error", "sentence"),
    [
        ("-1", "1", IN, BadAmount, "from 0 to"),
        ("NaN", "1", IN, BadAmount, "from 0 to"),
        ("1", "-1", IN, BadAmount, "cannot be negative"),
        ("1", "1e-12", IN, BadAmount, "larger unit"),
        ("999999999", "999999", IN, BadAmount, "more than"),
        ("1", "1", Component.DISK, ValueError, "by the unit"),
        ("1", "1", "ether", ValueError, "by the unit"),
    ],
)
def test_what_cannot_be_charged_changes_nothing(quantity, price, component, error, sentence):
    machine = factories.subject()
    with pytest.raises(error, match=sentence):
        charge(machine, quantity, price=price, component=component)
    assert not UsageCharge.objects.exists()


def test_a_charge_keeps_its_component_and_an_unknown_machine_has_none():
    machine = factories.subject()
    charge(machine)
    with pytest.raises(ValueError, match="charged as traffic-in already"):
        charge(machine, component=OUT)
    with pytest.raises(Subject.DoesNotExist):
        ledger.charge_usage(uuid4(), IN, Decimal(1), "GB", Decimal(1), NOW, "a")


def test_a_thousand_charges_take_as_many_queries_as_one(django_assert_max_num_queries):
    machines = [factories.subject() for _ in range(150)]
    with django_assert_max_num_queries(14):
        charges = [ledger.Usage(m.pk, IN, Decimal(1), "GB", Decimal(1), NOW, "a") for m in machines]
        assert ledger.charge_all(charges) == 150
    assert total(LedgerEntry) == 150


def test_two_that_say_the_same_at_once_charge_once(shared_database):
    machine = factories.metered_machine("1", since=NOW - H)
    results = together(
        lambda: charge(machine),
        lambda: charge(machine),
        lambda: charge(machine, "3", name="b"),
        lambda: ledger.meter(NOW),
    )
    assert not [r for r in results if isinstance(r, Exception)]
    assert [results[0], results[1]].count(True) == 1
    assert UsageCharge.objects.count() == 2
    assert ledger.cost_of([machine.pk], now=NOW) == Decimal("1.26")
    assert_books_balance()
