from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from panel.ui import format


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "n/a"), ("0", "$0.00"), ("0.00001", "<$0.0001"), ("0.0034", "$0.0034"), ("0.43", "$0.43"),
        ("1234.565", "$1,234.57"), ("-1.2", "−$1.20"),
    ],
)  # fmt: skip
def test_money_is_exact_and_unknown_is_never_zero(value, text):
    assert format.usd(None if value is None else Decimal(value)) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "n/a"), ("0.05", "$0.05"), ("0.055", "$0.055"), ("1", "$1.00"), ("0.00002", "<$0.0001")],
)
def test_a_price_shows_as_many_places_as_it_has(value, text):
    assert format.price(None if value is None else Decimal(value)) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-3, "0 s"), (14, "14 s"), (60, "1 min"), (3599, "59 min"), (7200, "2 h"), (172_800, "2 d")],
)
def test_an_age_has_one_unit(seconds, text):
    assert format.age(timedelta(seconds=seconds)) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (4.23, "4.2 s"),
        (14, "14 s"),
        (192, "3 min 12 s"),
        (7500, "2 h 5 min"),
        (3600, "1 h"),
        (273_600, "3 d 4 h"),
    ],
)
def test_a_duration_has_two_units(seconds, text):
    assert format.duration(timedelta(seconds=seconds)) == text


def test_unknown_times_say_so():
    assert (
        format.duration(None)
        == format.moment(None)
        == format.short_moment(None)
        == format.memory(None)
        == "n/a"
    )


def test_a_moment_is_said_in_utc():
    assert format.moment(datetime(2026, 11, 24, 12, 5, 3, tzinfo=UTC)) == "24 Nov 2026, 12:05:03 UTC"
