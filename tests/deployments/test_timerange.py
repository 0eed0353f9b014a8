"""The time range of the charts, as the address says it."""

from datetime import UTC, datetime, timedelta

import pytest
from django.http import QueryDict
from hypothesis import given
from hypothesis import strategies as st

from deployments.views import timerange

NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)


def read(query):
    return timerange.read(QueryDict(query).dict(), now=NOW)


@pytest.mark.parametrize(
    ("query", "hours"), [("", 1), ("range=6h", 6), ("range=7d", 168), ("range=nonsense", 1)]
)
def test_a_preset_ends_now(query, hours):
    shown, problem = read(query)
    assert (shown.since, shown.until) == (NOW - timedelta(hours=hours), NOW)
    assert shown.preset
    assert not problem


def test_a_range_of_its_own_is_in_utc_whatever_zone_it_names():
    shown, problem = read("from=2026-11-24T08:00:00%2B02:00&to=2026-11-24T07:30")
    assert (shown.since, shown.until) == (NOW.replace(hour=6), NOW.replace(hour=7, minute=30))
    assert not shown.preset
    assert not problem
    assert shown.words == "24 Nov, 06:00 to 24 Nov, 07:30 UTC"


@pytest.mark.parametrize(
    "query",
    [
        "from=2026-11-24T08:00", "to=2026-11-24T08:00", "from=x&to=y", "from=%00&to=%00", "from=0001-01-01&to=9999-12-31",
        "from=2026-11-24T08:00&to=2026-11-24T08:00", "from=2026-11-24T09:00&to=2026-11-24T08:00",
        "from=2026-11-24T13:00&to=2026-11-24T14:00", f"from={'9' * 5000}&to=2026-11-24T08:00",
    ],
)  # fmt: skip
def test_what_cannot_be_shown_is_said_and_the_last_hour_is_shown(query):
    shown, problem = read(query)
    assert shown.preset == "1h"
    assert "cannot be read" in problem


def test_the_future_is_cut_off_and_the_span_kept():
    shown, _ = read("from=2026-11-24T11:00&to=2026-11-24T13:00")
    assert (shown.since, shown.until) == (NOW.replace(hour=10), NOW)


moments = st.datetimes(datetime(2000, 1, 2), datetime(2026, 11, 24, 11), timezones=st.just(UTC))  # noqa: DTZ001


@given(moments, st.timedeltas(timedelta(seconds=1), timedelta(days=2000)))
def test_every_move_stays_within_what_can_be_shown_and_its_address_says_the_same(since, span):
    shown, _ = timerange.read({"from": since.isoformat(), "to": (since + span).isoformat()}, now=NOW)
    for moved in (shown, shown.nearer(), shown.wider(), shown.earlier(), shown.later()):
        if moved is None:
            continue
        assert moved.until <= NOW
        assert timerange.SHORTEST <= moved.span <= timerange.LONGEST + timedelta(seconds=1)
        again, problem = read(moved.query.removeprefix("?"))
        assert (again.since, again.until, problem) == (moved.since, moved.until, "")


def test_zooming_halves_and_doubles_around_the_middle():
    shown, _ = read("from=2026-11-24T06:00&to=2026-11-24T10:00")
    assert shown.nearer().query == "?from=2026-11-24T07:00:00Z&to=2026-11-24T09:00:00Z"
    assert shown.wider().query == "?from=2026-11-24T04:00:00Z&to=2026-11-24T12:00:00Z"
    assert shown.earlier().query == "?from=2026-11-24T04:00:00Z&to=2026-11-24T08:00:00Z"
    assert shown.wider().later() is None
