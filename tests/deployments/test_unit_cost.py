"""What machines gave is told to the ledger by the day, from their samples, and telling it again changes nothing."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from billing.models import DayTotal, MonthTotal
from deployments import money, unit_cost
from deployments.models import Heartbeat, Instance, Monitor
from deployments.monitoring import samples
from tests.conftest import NOW
from tests.playground.rows import chatting_deployment

pytestmark = pytest.mark.django_db
DAY, MINUTE = timedelta(days=1), timedelta(minutes=1)
BEGAN = NOW.replace(hour=0) - DAY


@pytest.fixture
def machine() -> Instance:
    i: Instance = chatting_deployment("http://127.0.0.1:9", now=NOW).instances.get()
    money.open_subject(i, now=BEGAN)
    return i


def serve(i: Instance, at: datetime, *, minutes: int, out: float, running: float = 0.0) -> None:
    """Minutes in which it read three tokens for each that it wrote, `out` a second."""
    for n in range(minutes):
        told = {"tokens_in_rate": 3 * out, "tokens_out_rate": out, "running": running, "waiting": 0.0}
        samples.record(i.pk, at + n * MINUTE, told)
    samples.roll_up(at + minutes * MINUTE)
    Monitor.objects.filter(instance=i).update(scraped_at=at + minutes * MINUTE)


def today(i: Instance) -> DayTotal:
    return DayTotal.objects.get(subject=i.pk, day=NOW.date())


def test_tokens_busy_time_and_the_best_hour_are_counted(machine):
    start = NOW.replace(hour=8, minute=0)
    serve(machine, start, minutes=10, out=5)
    serve(machine, start + 60 * MINUTE, minutes=5, out=0)
    serve(machine, start + 65 * MINUTE, minutes=1, out=0, running=1)
    serve(machine, start + 120 * MINUTE, minutes=2, out=100)
    assert unit_cost.tell(NOW) == 1
    row = today(machine)
    assert (row.tokens_in, row.tokens_out) == (3 * 60 * (50 + 200), 60 * (50 + 200))
    assert (row.busy_seconds, row.watched_seconds) == (13 * 60, 18 * 60)
    assert row.best_hour == 4 * 200 * 60
    assert row.usd == 0
    assert MonthTotal.objects.get(subject=machine.pk).tokens_out == row.tokens_out


def test_telling_it_again_or_late_changes_nothing(machine):
    serve(machine, NOW - DAY, minutes=3, out=2)
    serve(machine, NOW - 10 * MINUTE, minutes=3, out=1)
    unit_cost.tell(NOW)
    before = list(DayTotal.objects.order_by("day").values())
    assert [row["tokens_out"] for row in before] == [360, 180]
    unit_cost.tell(NOW)
    Heartbeat.objects.all().delete()
    unit_cost.tell(NOW)
    assert list(DayTotal.objects.order_by("day").values()) == before


def test_what_came_late_on_the_day_before_is_told_after_midnight(machine):
    midnight = NOW.replace(hour=0, minute=0)
    serve(machine, midnight - 5 * MINUTE, minutes=1, out=1)
    unit_cost.tell(midnight - 3 * MINUTE)
    serve(machine, midnight - 2 * MINUTE, minutes=1, out=1)
    unit_cost.tell(midnight + 4 * MINUTE)
    assert DayTotal.objects.get(subject=machine.pk, day=(midnight - DAY).date()).tokens_out == 120


def test_a_machine_that_nobody_watched_is_not_idle_but_unknown(machine):
    samples.record(machine.pk, NOW - 5 * MINUTE, {"up": 1})
    samples.roll_up(NOW)
    Monitor.objects.filter(instance=machine).update(scraped_at=NOW)
    assert unit_cost.tell(NOW) == 0
    assert not DayTotal.objects.exists()


def test_a_machine_that_the_ledger_does_not_know_is_left_out():
    stranger = chatting_deployment("http://127.0.0.1:9", now=NOW).instances.get()
    serve(stranger, NOW - 5 * MINUTE, minutes=1, out=1)
    unit_cost.tell(NOW)
    assert not DayTotal.objects.exists()


def test_after_a_long_pause_it_goes_back_as_far_as_minutes_are_kept(machine):
    Heartbeat.beat(unit_cost.NAME, NOW - 90 * DAY)
    serve(machine, NOW - 28 * DAY, minutes=1, out=1)
    Monitor.objects.filter(instance=machine).update(scraped_at=NOW)
    unit_cost.tell(NOW)
    assert DayTotal.objects.get().day == (NOW - 28 * DAY).date()
    assert Heartbeat.objects.get(name=unit_cost.NAME).at == NOW
