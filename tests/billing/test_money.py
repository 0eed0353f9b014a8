"""Amounts are exact, in Python and in the database, and nonsense is refused with a sentence."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise

import pytest
from django.core.exceptions import ValidationError
from django.db.models import Sum
from hypothesis import given
from hypothesis import strategies as st

from billing.fields import UsdField
from billing.models import Adjustment, Budget
from billing.money import (
    MAX_USD,
    BadAmount,
    accrued,
    accrued_between,
    dollars,
    from_nano,
    positive,
    quantize,
    to_nano,
)
from billing.periods import calendar_day, calendar_month, hour_of, utc
from tests import factories
from tests.billing.conftest import PROFILE
from tests.conftest import NOW

prices = st.decimals(0, 1000, places=9)
moments = st.datetimes(datetime(2020, 1, 1), datetime(2030, 1, 1), timezones=st.timezones())  # noqa: DTZ001


@PROFILE
@given(price=prices, start=moments, cuts=st.lists(st.integers(0, 10**13), min_size=2, max_size=12))
def test_any_split_of_a_span_adds_up_to_the_whole(price, start, cuts):
    start = utc(start)
    times = [start + timedelta(microseconds=us) for us in sorted(cuts)]
    parts = [accrued_between(price, start, a, b) for a, b in pairwise(times)]
    assert sum(parts) == accrued_between(price, start, times[0], times[-1])
    assert all(part >= 0 for part in parts)


@PROFILE
@given(price=prices, us=st.integers(0, 10**13))
def test_an_accrual_is_the_price_times_the_time_to_half_a_nano_dollar(price, us):
    exact = price * us / Decimal(3_600_000_000)
    assert abs(accrued(price, timedelta(microseconds=us)) - exact) <= Decimal("0.5e-9") + Decimal("1e-18")


@PROFILE
@given(at=moments)
def test_an_hour_is_an_hour_of_utc_whatever_the_zone(at):
    hour = hour_of(at)
    assert hour <= at < hour + timedelta(hours=1) or at.utcoffset() != at.astimezone(UTC).utcoffset()
    assert hour.tzinfo is UTC
    assert timedelta(0) <= utc(at) - hour < timedelta(hours=1)


@PROFILE
@given(at=moments)
def test_a_moment_lies_in_its_calendar_period(at):
    for period in (calendar_day(at), calendar_month(at)):
        assert period.start <= utc(at) < period.end
    assert calendar_month(at).end == calendar_month(calendar_month(at).end).start


def test_a_time_without_a_zone_is_refused():
    with pytest.raises(ValueError, match="no time zone"):
        utc(datetime(2026, 11, 24))  # noqa: DTZ001


@PROFILE
@given(nano=st.integers(-(2**63), 2**63 - 1))
def test_nano_dollars_survive_the_way_to_decimal_and_back(nano):
    usd = from_nano(nano)
    if abs(usd) <= MAX_USD * 9:
        assert to_nano(usd) == nano
        assert quantize(usd) == usd


@pytest.mark.parametrize(
    ("usd", "down", "up"),
    [("0", "$0.00", "$0.00"), ("1234.561", "$1,234.56", "$1,234.57"), ("0.0001", "$0.00", "$0.01"), ("-2.5", "-$2.50", "-$2.50"), ("-0.001", "-$0.01", "$0.00")],
)  # fmt: skip
def test_dollars_are_never_rounded_in_the_wrong_direction(usd, down, up):
    assert dollars(Decimal(usd)) == down
    assert dollars(Decimal(usd), up=True) == up


@pytest.mark.parametrize("usd", ["-0.01", "1e9", "NaN", "Infinity"])
def test_an_impossible_price_is_refused_with_a_sentence(usd):
    with pytest.raises(BadAmount, match=r"^A price .*\.$"):
        positive(Decimal(usd), what="A price")


@pytest.mark.parametrize("usd", ["1e10", "-1e10", "1e40", "NaN", "Infinity"])
def test_what_would_overflow_the_database_is_refused_before_it_gets_there(usd):
    with pytest.raises(BadAmount):
        to_nano(Decimal(usd))


@pytest.mark.django_db
def test_a_sum_in_the_database_is_exact_usd():
    subject = factories.subject()
    amounts = ["0.000000001", "123456789.123456789", "-0.1", "0.2"]
    for usd in amounts:
        Adjustment.objects.create(subject=subject, hour=NOW, usd=Decimal(usd), reason="test")
    total = Adjustment.objects.aggregate(usd=Sum("usd"))["usd"]
    assert isinstance(total, Decimal)
    assert total == sum(map(Decimal, amounts))
    grouped = Adjustment.objects.values("subject").annotate(usd_sum=Sum("usd")).get()
    assert grouped["usd_sum"] == total
    assert Adjustment.objects.get(usd=Decimal("0.2")).usd == Decimal("0.2")
    assert Adjustment.objects.filter(usd__lt=Decimal("-0.0999")).count() == 1
    assert Adjustment.objects.filter(hour__gt=NOW).aggregate(usd=Sum("usd"))["usd"] is None


@pytest.mark.django_db
def test_the_largest_amounts_still_add_up():
    subject = factories.subject()
    Adjustment.objects.bulk_create(
        Adjustment(subject=subject, hour=NOW, usd=MAX_USD, reason="test") for _ in range(9)
    )
    assert Adjustment.objects.aggregate(usd=Sum("usd"))["usd"] == MAX_USD * 9


@pytest.mark.parametrize(
    ("typed", "sentence"),
    [
        ("-1", "An amount of money cannot be negative."),
        ("1000000000", "An amount of money cannot be more than $999,999,999."),
        ("1e400", "An amount of money cannot be more than $999,999,999."),
        ("0.1234567891", "Ensure that there are no more than 9 decimal places."),
        ("a lot", "Enter a number."),
        ("NaN", "Enter a number."),
        ("", "This field is required."),
    ],
)
def test_a_form_refuses_what_is_not_money(typed, sentence):
    field = Budget._meta.get_field("amount_usd").formfield()
    with pytest.raises(ValidationError) as refused:
        field.clean(typed)
    assert sentence in refused.value.messages


@pytest.mark.parametrize("typed", ["0", "10", "0.000000001", "999999999"])
def test_a_form_takes_money(typed):
    field = Budget._meta.get_field("amount_usd")
    assert field.clean(field.formfield().clean(typed), None) == Decimal(typed)


@pytest.mark.parametrize("usd", ["-1", "1e10", "1e40", "NaN", "words", "1000000000"])
def test_a_model_refuses_what_is_not_money(usd):
    with pytest.raises(ValidationError, match="An amount of money"):
        Budget(amount_usd=usd).full_clean(exclude=["name"], validate_unique=False)


def test_a_signed_amount_may_be_negative_and_keeps_that_in_migrations():
    field = Adjustment._meta.get_field("usd")
    assert field.clean("-1.5", None) == Decimal("-1.5")
    _, _, args, kwargs = field.deconstruct()
    assert UsdField(*args, **kwargs).signed
