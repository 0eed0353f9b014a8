"""Prices begin, change and end; the ledger follows, once, whatever the order."""

from datetime import date, datetime, timedelta
from decimal import Decimal
from uuid import uuid4
from zoneinfo import ZoneInfo

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from billing import ledger
from billing.metering import HOURS
from billing.models import Adjustment, ClosedPeriod, Component, DayTotal, LedgerEntry, PriceSegment, Subject
from billing.money import BadAmount
from billing.tasks import meter as meter_task
from tests import factories
from tests.billing.laws import assert_books_balance, books, integral, total
from tests.conftest import NOW

pytestmark = pytest.mark.django_db
H = timedelta(hours=1)
MIN = timedelta(minutes=1)
COMPUTE, DISK = Component.COMPUTE, Component.DISK


def test_an_hour_of_a_running_machine_costs_its_price():
    machine = factories.metered_machine("0.43", since=NOW)
    assert ledger.cost_of([machine.pk], now=NOW + H) == Decimal("0.43")
    ledger.meter(NOW + H)
    assert ledger.cost_of([machine.pk], now=NOW + H) == Decimal("0.43")
    entry = LedgerEntry.objects.get()
    assert (entry.hour, entry.seconds, entry.usd) == (NOW, 3600, Decimal("0.43"))


def test_what_lasted_a_microsecond_and_cost_nothing_makes_no_entry():
    machine, before = factories.subject(), NOW - timedelta(microseconds=1)
    ledger.set_price(machine.pk, Component.COMPUTE, Decimal(1), at=before)
    ledger.close(machine.pk, at=NOW)
    ledger.meter(NOW)
    assert not LedgerEntry.objects.exists()
    assert_books_balance()


def test_the_cost_ticks_between_two_meterings():
    machine = factories.metered_machine("3.60", since=NOW)
    ledger.meter(NOW + 10 * MIN)
    assert ledger.cost_of([machine.pk], now=NOW + 10 * MIN + timedelta(seconds=1)) == Decimal("0.601")


def test_metering_twice_or_late_gives_the_same_books():
    factories.metered_machine("0.43", since=NOW - 50 * H)
    for step in range(1, 30):
        ledger.meter(NOW - 50 * H + step * 97 * MIN)
    often = books()
    assert ledger.meter(NOW - 50 * H + 29 * 97 * MIN) == 0
    assert books() == often
    LedgerEntry.objects.all().delete()
    DayTotal.objects.all().delete()
    PriceSegment.objects.update(metered_to=None)
    ledger.meter(NOW - 50 * H + 29 * 97 * MIN)
    assert [row[1:] for row in books()] == [row[1:] for row in often]
    assert_books_balance()


def test_hours_of_fractions_of_a_nano_dollar_add_up_to_the_whole():
    """Half a nano-dollar at each end, rounded by itself, would make three of two hours at one."""
    machine = factories.metered_machine("0.000000001", since=NOW + 30 * MIN)
    ledger.meter(NOW + 2 * H)
    ledger.close(machine.pk, at=NOW + 150 * MIN)
    assert LedgerEntry.objects.count() == 3
    assert total(LedgerEntry) == ledger.cost_of([machine.pk], now=NOW + 9 * H) == Decimal("2e-9")


def test_the_task_meters_to_the_clock(time_machine):
    time_machine.move_to(NOW + H, tick=False)
    machine = factories.metered_machine("1", since=NOW)
    meter_task()
    assert total(LedgerEntry) == Decimal(1)
    assert PriceSegment.objects.get(subject=machine).metered_to == NOW + H


def test_a_price_change_within_the_hour_splits_it():
    machine = factories.metered_machine("1", since=NOW)
    ledger.meter(NOW + 15 * MIN)
    ledger.set_price(machine.pk, COMPUTE, Decimal(3), at=NOW + 30 * MIN, reason="repriced")
    ledger.meter(NOW + H)
    assert LedgerEntry.objects.get().usd == Decimal(2)
    assert list(PriceSegment.objects.order_by("pk").values_list("usd_per_unit_hour", "reason")) == [
        (Decimal(1), ""),
        (Decimal(3), "repriced"),
    ]
    assert_books_balance()


def test_the_same_price_again_changes_nothing():
    machine = factories.metered_machine("1", since=NOW)
    for at in (NOW - H, NOW, NOW + H):
        ledger.set_price(machine.pk, COMPUTE, Decimal("1.0000000001"), at=at)
    assert PriceSegment.objects.count() == 1


def test_a_price_of_nothing_ends_the_component_alone():
    machine = factories.metered_machine("1", since=NOW)
    ledger.set_price(machine.pk, DISK, Decimal("0.1"), at=NOW)
    ledger.set_price(machine.pk, COMPUTE, Decimal(0), at=NOW + H)
    ledger.set_price(machine.pk, COMPUTE, Decimal(0), at=NOW + 2 * H)
    assert ledger.burn(now=NOW + 2 * H) == Decimal("0.1")
    assert ledger.cost_of([machine.pk], now=NOW + 2 * H) == Decimal("1.2")
    assert PriceSegment.objects.count() == 2


def test_a_price_known_late_corrects_the_hours_that_were_metered():
    machine = factories.metered_machine("1", since=NOW)
    ledger.meter(NOW + 3 * H)
    ledger.set_price(machine.pk, COMPUTE, Decimal(2), at=NOW + H)
    assert ledger.cost_of([machine.pk], now=NOW + 3 * H) == Decimal(5)
    assert total(LedgerEntry) == Decimal(5), "the correction does not wait for the next metering"
    assert_books_balance()


def test_a_price_never_begins_before_the_open_one():
    machine = factories.metered_machine("1", since=NOW)
    ledger.meter(NOW + H)
    ledger.set_price(machine.pk, COMPUTE, Decimal(2), at=NOW - 5 * H)
    assert ledger.cost_of([machine.pk], now=NOW + H) == Decimal(2)
    assert_books_balance()


def test_prices_never_overlap_after_a_close():
    machine = factories.metered_machine("1", since=NOW)
    ledger.close(machine.pk, at=NOW + 2 * H)
    ledger.set_price(machine.pk, COMPUTE, Decimal(1), at=NOW + H)
    assert ledger.cost_of([machine.pk], now=NOW + 3 * H) == Decimal(3)


def test_closing_ends_every_component_and_again_changes_nothing():
    machine = factories.metered_machine("1", since=NOW)
    ledger.set_price(machine.pk, DISK, Decimal("0.1"), at=NOW)
    ledger.close(machine.pk, at=NOW + H)
    ledger.close(machine.pk, at=NOW + 9 * H)
    assert ledger.cost_of([machine.pk], now=NOW + 9 * H) == Decimal("1.1")
    assert ledger.burn(now=NOW + 9 * H) == 0
    assert ledger.meter(NOW + 9 * H) == 0
    assert_books_balance()


def test_a_machine_that_ended_before_it_was_seen_to_end_gives_the_hours_back():
    machine = factories.metered_machine("1", since=NOW)
    ledger.meter(NOW + 5 * H)
    ledger.close(machine.pk, at=NOW + 90 * MIN)
    assert ledger.cost_of([machine.pk], now=NOW + 5 * H) == Decimal("1.5")
    assert LedgerEntry.objects.count() == 2, "an hour without charge has no entry"
    assert_books_balance()


def test_a_close_before_the_start_costs_nothing_and_is_never_negative():
    machine = factories.metered_machine("1", since=NOW)
    ledger.meter(NOW + H)
    ledger.close(machine.pk, at=NOW - 3 * H)
    assert ledger.cost_of([machine.pk], now=NOW + H) == 0
    assert not LedgerEntry.objects.exists()
    assert_books_balance()


@pytest.mark.parametrize("metered", [True, False])
def test_a_machine_found_late_is_charged_from_its_creation(metered):
    machine = factories.metered_machine("0.7", since=NOW)
    if metered:
        ledger.meter(NOW + 10 * MIN)
    ledger.backdate(machine.pk, COMPUTE, to=NOW - 90 * timedelta(seconds=1))
    ledger.backdate(machine.pk, COMPUTE, to=NOW - 30 * timedelta(seconds=1))
    assert ledger.cost_of([machine.pk], now=NOW + 10 * MIN) == Decimal("0.134166667")
    assert_books_balance()


def test_backdating_what_has_no_price_does_nothing():
    machine = factories.subject()
    ledger.backdate(machine.pk, COMPUTE, to=NOW)
    assert ledger.cost_of([machine.pk], now=NOW + H) == 0


def test_backdating_reaches_past_a_price_that_was_replaced_at_once():
    machine = factories.metered_machine("5", since=NOW)
    ledger.set_price(machine.pk, COMPUTE, Decimal(1), at=NOW)
    ledger.backdate(machine.pk, COMPUTE, to=NOW - H)
    assert ledger.cost_of([machine.pk], now=NOW + H) == Decimal(2)
    assert_books_balance()


def test_days_of_downtime_are_caught_up_in_batches():
    machine = factories.metered_machine("0.43", since=NOW - 80 * H)
    assert ledger.meter(NOW) == 80 > HOURS
    assert ledger.cost_of([machine.pk], now=NOW) == Decimal("0.43") * 80
    assert_books_balance()


def test_a_clock_that_jumps_back_takes_nothing_away():
    machine = factories.metered_machine("1", since=NOW)
    ledger.meter(NOW + 3 * H)
    seen = [ledger.cost_of([machine.pk], now=NOW + 3 * H)]
    for now in (NOW + H, NOW + 2 * H, NOW + 3 * H, NOW + 4 * H):
        ledger.meter(now)
        seen.append(ledger.cost_of([machine.pk], now=now))
        assert ledger.spent(NOW, now, now=now) == seen[-1]
    assert seen == [3, 3, 3, 3, 4]
    assert_books_balance()


def test_a_closed_hour_is_never_recomputed_but_adjusted():
    machine = factories.metered_machine("1", since=NOW - 5 * H)
    ledger.close_period(NOW - 2 * H, now=NOW)
    frozen = list(LedgerEntry.objects.filter(hour__lt=NOW - 2 * H).values_list("hour", "usd"))
    ledger.set_price(machine.pk, COMPUTE, Decimal(3), at=NOW - 4 * H, reason="the provider's invoice")
    assert list(LedgerEntry.objects.filter(hour__lt=NOW - 2 * H).values_list("hour", "usd")) == frozen
    adjusted = Adjustment.objects.order_by("hour").values_list("hour", "usd", "reason")
    assert list(adjusted) == [
        (NOW - 4 * H, Decimal(2), "compute: the provider's invoice"),
        (NOW - 3 * H, Decimal(2), "compute: the provider's invoice"),
    ]
    assert ledger.cost_of([machine.pk], now=NOW) == Decimal(13)
    assert_books_balance()


def test_an_hour_metered_after_its_period_was_closed_becomes_an_adjustment_once():
    machine = factories.metered_machine("1", since=NOW - 5 * H)
    ClosedPeriod.objects.create(until=NOW - 2 * H, closed_at=NOW)
    for _ in range(2):
        ledger.meter(NOW)
    assert (total(Adjustment), total(LedgerEntry)) == (3, 2)
    assert ledger.cost_of([machine.pk], now=NOW) == Decimal(5)
    assert_books_balance()


def test_backdating_stops_at_the_closed_period():
    machine = factories.metered_machine("1", since=NOW)
    ledger.close_period(NOW - 2 * H, now=NOW)
    ledger.backdate(machine.pk, COMPUTE, to=NOW - 9 * H)
    assert ledger.cost_of([machine.pk], now=NOW) == Decimal(2)
    ledger.backdate(machine.pk, COMPUTE, to=NOW - 9 * H)
    assert not Adjustment.objects.exists()


@pytest.mark.parametrize(
    ("until", "sentence"),
    [(NOW - 90 * MIN, "whole hour"), (NOW + H, "when it is over"), (NOW - 2 * H, "closed to .* already")],
)
def test_a_period_cannot_be_closed_wrongly(until, sentence):
    ledger.close_period(NOW - H, now=NOW)
    with pytest.raises(ValueError, match=sentence):
        ledger.close_period(until, now=NOW)


def test_an_adjustment_counts_at_once_and_is_never_edited():
    machine = factories.metered_machine("1", since=NOW)
    added = ledger.adjust(machine.pk, Decimal("-0.25"), hour=NOW + 5 * MIN, reason="a credit", now=NOW)
    assert ledger.cost_of([machine.pk], now=NOW + H) == Decimal("0.75")
    assert ledger.by_hour(None, NOW, NOW + H, now=NOW + H) == [(NOW, Decimal("0.75"))]
    with pytest.raises(TypeError, match="never edited"):
        added.save()
    with pytest.raises(BadAmount, match="needs a reason"):
        ledger.adjust(machine.pk, Decimal(1), hour=NOW, reason=" ", now=NOW)


def test_an_unknown_machine_has_no_price():
    for act in (
        lambda: ledger.set_price(uuid4(), COMPUTE, Decimal(1), at=NOW),
        lambda: ledger.close(uuid4(), at=NOW),
        lambda: ledger.backdate(uuid4(), COMPUTE, to=NOW),
    ):
        with pytest.raises(Subject.DoesNotExist):
            act()


def test_what_is_not_charged_by_the_hour_has_no_hourly_price():
    with pytest.raises(ValueError, match="by the hour"):
        ledger.set_price(factories.subject().pk, Component.REQUESTS, Decimal(1), at=NOW)


@pytest.mark.parametrize("price", ["-1", "1e12", "NaN"])
def test_an_impossible_price_changes_nothing(price):
    machine = factories.metered_machine("1", since=NOW)
    with pytest.raises(BadAmount):
        ledger.set_price(machine.pk, COMPUTE, Decimal(price), at=NOW + H)
    assert ledger.burn(now=NOW) == Decimal(1)


def test_opening_a_subject_again_keeps_the_first_snapshot():
    first = factories.subject(label="first")
    second = ledger.Snapshot(label="second", scope=uuid4(), scope_label="x", provider="vast")
    again = ledger.open_subject(first.pk, second, now=NOW)
    assert (again.pk, again.label) == (first.pk, "first")


def test_a_scope_costs_what_its_machines_cost():
    scope = uuid4()
    first, second = (factories.metered_machine("1", since=NOW, scope=scope) for _ in range(2))
    factories.metered_machine("9", since=NOW)
    ledger.meter(NOW + H)
    assert ledger.cost_of(scope, now=NOW + 90 * MIN) == Decimal(3)
    assert ledger.cost_of([first.pk, second.pk], now=NOW + 90 * MIN) == Decimal(3)
    assert ledger.cost_of(scope, now=NOW + 90 * MIN, since=NOW + H) == Decimal(1)
    assert ledger.cost_of([], now=NOW) == 0


def test_costs_by_scope_name_the_dearest_first_with_what_it_burns():
    scope = uuid4()
    cheap = factories.metered_machine("1", since=NOW)
    dear = factories.subject(scope=scope, provider="vast")
    also = factories.subject(scope=scope, provider="runpod")
    ledger.set_price(dear.pk, COMPUTE, Decimal(5), at=NOW)
    ledger.set_price(also.pk, DISK, Decimal("0.5"), at=NOW)
    ledger.meter(NOW + 30 * MIN)
    ledger.close(dear.pk, at=NOW + H)
    first, second = ledger.by_scope(NOW, NOW + 2 * H, now=NOW + 2 * H)
    assert (first.scope, first.provider) == (scope, "runpod, vast")
    assert (first.usd, first.usd_per_hour) == (Decimal(6), Decimal("0.5"))
    assert (second.scope, second.label) == (cheap.scope, cheap.scope_label)
    assert (second.usd, second.usd_per_hour) == (Decimal(2), Decimal(1))


def test_days_and_hours_without_cost_are_listed_as_zero():
    factories.metered_machine("1", since=NOW - 26 * H)
    ledger.meter(NOW - H)
    days = ledger.by_day(date(2026, 11, 22), date(2026, 11, 26), now=NOW)
    assert days == [
        (date(2026, 11, 22), 0), (date(2026, 11, 23), 14), (date(2026, 11, 24), 12), (date(2026, 11, 25), 0)
    ]  # fmt: skip
    hours = ledger.by_hour(None, NOW - 2 * H, NOW + 2 * H, now=NOW)
    assert [usd for _, usd in hours] == [1, 1, 0, 0]


def test_a_window_takes_the_hours_it_touches():
    factories.metered_machine("1", since=NOW - 48 * H)
    ledger.meter(NOW)
    later = NOW + 30 * H
    assert ledger.spent(NOW - 30 * H, NOW - 3 * H, now=later) == Decimal(27)
    assert ledger.spent(NOW - 5 * H, NOW - 3 * H, now=later) == Decimal(2)
    assert ledger.spent(NOW - 5 * H - MIN, NOW - 3 * H + MIN, now=later) == Decimal(4)
    assert ledger.spent(NOW + 2 * H, NOW + 40 * H, now=later) == Decimal(28)


def test_a_window_that_ends_now_reaches_to_this_second():
    factories.metered_machine("3.6", since=NOW)
    ledger.meter(NOW + 10 * MIN)
    now = NOW + 10 * MIN + timedelta(seconds=7)
    assert ledger.spent(NOW, now, now=now) == Decimal("0.607")


def test_any_zone_names_the_same_hours():
    """02:30 comes twice in Berlin on 25 October 2026; in the ledger it is two hours."""
    berlin = ZoneInfo("Europe/Berlin")
    start = datetime(2026, 10, 25, 1, 0, tzinfo=berlin)
    end = datetime(2026, 10, 25, 4, 0, tzinfo=berlin)
    machine = factories.metered_machine("1", since=start)
    ledger.meter(datetime(2026, 10, 25, 2, 30, tzinfo=berlin, fold=1))
    ledger.close(machine.pk, at=end)
    assert ledger.cost_of([machine.pk], now=end) == Decimal(4)
    assert ledger.spent(start, end, now=end) == Decimal(4)
    assert len(ledger.by_hour(None, start, end, now=end)) == 4
    assert_books_balance()


def test_a_segment_that_lost_its_mark_is_recomputed_whole():
    machine = factories.metered_machine("1", since=NOW)
    ledger.meter(NOW + 3 * H)
    PriceSegment.objects.update(metered_to=None)
    ledger.meter(NOW + 3 * H)
    assert ledger.cost_of([machine.pk], now=NOW + 3 * H) == integral(
        PriceSegment.objects.get(), to=NOW + 3 * H
    )
    assert_books_balance()


def test_each_question_is_one_query(django_assert_num_queries):
    machine = factories.metered_machine("1", since=NOW - 40 * H)
    ledger.meter(NOW - 2 * H)
    today = NOW.date()
    for ask in (
        lambda: ledger.burn(now=NOW),
        lambda: ledger.spent(NOW - 35 * H, NOW, now=NOW),
        lambda: ledger.by_scope(NOW - 35 * H, NOW - 3 * H, now=NOW),
        lambda: ledger.by_day(today - timedelta(days=13), today + timedelta(days=1), now=NOW),
        lambda: ledger.by_hour(machine.scope, NOW - 24 * H, NOW, now=NOW),
        lambda: ledger.cost_of(machine.scope, now=NOW),
        lambda: ledger.cost_of([machine.pk], now=NOW, since=NOW - 30 * H),
    ):
        with django_assert_num_queries(1):
            ask()


def test_metering_takes_as_many_queries_for_a_hundred_machines_as_for_one(django_assert_max_num_queries):
    for n in range(100):
        factories.metered_machine("1", since=NOW + n * timedelta(seconds=1))
    with django_assert_max_num_queries(16):
        assert ledger.meter(NOW + H) == 100


@pytest.mark.skipif(connection.vendor != "sqlite", reason="PostgreSQL plans by what it counted")
def test_a_minute_of_metering_reads_its_day_and_not_all_that_was_before():
    factories.metered_machine("1", since=NOW)
    ledger.meter(NOW + timedelta(hours=1))
    with CaptureQueriesContext(connection) as queries:
        ledger.meter(NOW + timedelta(hours=1, minutes=1))
    read = [q["sql"] for q in queries if q["sql"].startswith("SELECT") and '."hour"' in q["sql"]]
    assert any("billing_ledgerentry" in sql for sql in read)
    with connection.cursor() as cursor:
        for sql in (sql for sql in read if "billing_ledgerentry" in sql):
            cursor.execute(f"EXPLAIN QUERY PLAN {sql}")
            plan = " ".join(str(row) for row in cursor.fetchall())
            assert "hour>? AND hour<?" in plan, plan
