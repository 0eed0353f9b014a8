"""The clocks of the GDPR: when they end, who is told in time, and what stops them."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest

from panel.notices.notify import open_notices
from panel.registers import clocks, periods, services
from panel.registers.models import Breach, Deadline, Holiday
from tests import factories

pytestmark = pytest.mark.django_db
FRIDAY = datetime(2026, 11, 27, 15, 0, tzinfo=UTC)


def breach(aware: datetime = FRIDAY, **values) -> Breach:
    wish = {"facts": "A key was published.", "aware_at": aware, **values}
    return services.file_breach(wish, actor=factories.administrator(), now=aware)


def keys() -> set[str]:
    return {notice.key.rpartition(":")[2] for notice in open_notices().filter(key__startswith="clock:")}


def test_the_72_hours_count_the_weekend():
    assert clocks.breach_due(breach()) == datetime(2026, 11, 30, 15, 0, tzinfo=UTC)


def test_the_period_is_a_row_and_not_a_constant():
    Deadline.objects.filter(key=Deadline.BREACH).update(amount=48)
    assert clocks.breach_due(breach()) == FRIDAY + timedelta(hours=48)


@pytest.mark.parametrize(
    ("received", "due"),
    [
        (date(2026, 3, 5), date(2026, 4, 6)),  # 5 April is a Sunday: the Monday after
        (date(2026, 8, 31), date(2026, 9, 30)),  # September has no 31st
        (date(2028, 1, 31), date(2028, 2, 29)),  # nor has February, in a leap year
        (date(2026, 12, 15), date(2027, 1, 15)),  # over the year's end
        (date(2026, 11, 25), date(2026, 12, 28)),  # Christmas, then a weekend
    ],
)
def test_a_month_ends_on_the_same_day_or_the_next_working_day(received, due):
    Holiday.objects.create(day=date(2026, 12, 25), name="Christmas Day")
    assert clocks.answer_due(received) == due


def test_an_extension_counts_from_receipt():
    assert clocks.answer_due(date(2026, 3, 5), extended=True) == date(2026, 6, 5)


def test_a_day_ends_where_the_team_works(settings):
    settings.OFFICE_TIME_ZONE = "Europe/Berlin"
    assert periods.end_of(date(2026, 7, 1)) == datetime(2026, 7, 1, 22, 0, tzinfo=UTC)


def test_each_threshold_is_told_by_a_notice_of_its_own_until_it_is_done(django_capture_on_commit_callbacks):
    made = breach()
    told = []
    for hours in (0, 23, 24, 47, 48, 66, 72, 80):
        clocks.watch(now=FRIDAY + timedelta(hours=hours))
        told.append(keys())
    assert told == [{"filed"}, {"filed"}, {"48"}, {"48"}, {"24"}, {"6"}, {"0"}, {"0"}]
    severities = {notice.severity for notice in open_notices()}
    assert severities == {"critical"}
    now = FRIDAY + timedelta(hours=81)
    wish = {"notified_at": now, "delay_reason": "It was found on a weekend."}
    with django_capture_on_commit_callbacks(execute=True):
        services.change_breach(made, wish, actor=factories.administrator(), now=now)
    assert keys() == set()


def test_a_notice_names_no_person_and_leads_to_the_page():
    made = services.file_request(
        {"kind": "access", "requester": "Maria Novak", "received_on": date(2026, 11, 2)},
        actor=factories.administrator(),
        now=FRIDAY,
    )
    clocks.watch(now=FRIDAY)
    notice = open_notices().get()
    assert notice.title == f"Access request #{made.pk}: less than 7 days to answer"
    assert "Novak" not in notice.title + notice.detail
    assert notice.url == made.get_absolute_url()


def test_the_clock_stops_only_for_a_risk_that_is_unlikely_with_its_reason():
    made = breach()
    with pytest.raises(services.Refused, match="Write down why"):
        services.change_breach(made, {"risk": "unlikely"}, actor=factories.administrator(), now=FRIDAY)
    assert len(clocks.running(now=FRIDAY)) == 1
    wish = {"risk": "unlikely", "risk_reason": "The file was encrypted."}
    services.change_breach(made, wish, actor=factories.administrator(), now=FRIDAY)
    assert clocks.running(now=FRIDAY) == []


def test_after_the_72_hours_the_reason_for_the_delay_is_asked():
    made = breach()
    late = {"notified_at": FRIDAY + timedelta(hours=73)}
    with pytest.raises(services.Refused, match="given the reason"):
        services.change_breach(made, late, actor=factories.administrator(), now=FRIDAY)
    services.change_breach(
        made, {"notified_at": FRIDAY + timedelta(hours=71)}, actor=factories.administrator(), now=FRIDAY
    )
    made.refresh_from_db()
    assert "the reason for the delay" not in made.missing
