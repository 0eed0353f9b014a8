"""The currency that money is also shown in: the rate of the day, exact sums, and the bank's file however it comes."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction

import pytest
from django.template import Context, Template
from hypothesis import given, settings
from hypothesis import strategies as st

from billing import ecb, fx, ledger
from billing.models import DisplayCurrency, ExchangeRate
from billing.views import figures
from panel.audit.models import AuditEvent
from tests import factories
from tests.billing.conftest import PROFILE

NOW = datetime(2026, 11, 24, 12, 30, tzinfo=UTC)
DAY = timedelta(days=1)
DAILY = b"""<?xml version="1.0" encoding="UTF-8"?>
<gesmes:Envelope xmlns:gesmes="http://www.gesmes.org/xml/2002-08-01" xmlns="http://www.ecb.int/vocabulary/2002-08-01/eurofxref">
<gesmes:subject>Reference rates</gesmes:subject><gesmes:Sender><gesmes:name>European Central Bank</gesmes:name></gesmes:Sender>
<Cube><Cube time='2026-11-23'><Cube currency='USD' rate='1.0850'/><Cube currency='CZK' rate='24.31'/><Cube currency='JPY' rate='163.4'/></Cube></Cube>
</gesmes:Envelope>"""
HISTORY = DAILY.replace(
    b"</Cube></Cube>",
    b"</Cube><Cube time='2026-11-20'><Cube currency='USD' rate='1.0800'/></Cube></Cube>",
)


# -- the bank's file ------------------------------------------------------------------------------------


def test_the_daily_file_and_that_of_90_days_are_read():
    assert ecb.parse(DAILY) == [
        (date(2026, 11, 23), {"USD": Decimal("1.0850"), "CZK": Decimal("24.31"), "JPY": Decimal("163.4")})
    ]
    assert [day for day, _ in ecb.parse(HISTORY)] == [date(2026, 11, 23), date(2026, 11, 20)]


BOMB = b'<!DOCTYPE b [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;">]>' + DAILY.partition(b"?>")[2].replace(b"Reference", b"&b;")  # fmt: skip
BAD = {
    "cut": DAILY[:-40], "cut early": DAILY[:300], "empty": b"", "not xml": b"<html><p>busy", "no rates": b"<a/>",
    "a bomb": BOMB, "outside": b'<!DOCTYPE a SYSTEM "file:///etc/passwd"><a/>', "huge": b"<a>" + b" " * ecb.LARGEST + b"</a>",
    "no dollar": DAILY.replace(b"USD", b"GBP"), "zero": DAILY.replace(b"1.0850", b"0"), "negative": DAILY.replace(b"1.0850", b"-1"),
    "words": DAILY.replace(b"1.0850", b"NaN"), "exponent": DAILY.replace(b"1.0850", b"1e9"), "long": DAILY.replace(b"1.0850", b"1" * 400),
    "no day": DAILY.replace(b"2026-11-23", b"2026-13-45"), "old": DAILY.replace(b"2026-11-23", b"0001-01-01"),
    "rate first": DAILY.replace(b"<Cube time='2026-11-23'>", b"<Cube>"), "name": DAILY.replace(b"CZK", b"=cmd"),
    "many days": DAILY.replace(b"<Cube><Cube", b"<Cube>" + b"<Cube time='2026-01-05'/>" * 101 + b"<Cube"),
    "encoding": DAILY.replace(b"UTF-8", b"utf-99"),
}  # fmt: skip


@pytest.mark.parametrize("document", BAD.values(), ids=BAD)
def test_a_file_that_is_cut_huge_or_made_to_harm_is_refused_whole(document):
    with pytest.raises(ecb.BadRates, match=r"^The bank's file .*\.$"):
        ecb.parse(document)


@pytest.mark.django_db
def test_the_last_known_rates_stand_when_a_fetch_fails_and_the_failure_is_kept(settings, monkeypatch):
    settings.ECB_RATES_URL = "https://rates.example.com/eurofxref-daily.xml"
    asked = []
    answers = [HISTORY, DAILY[:-40], DAILY.replace(b"1.0850", b"1.2")]
    monkeypatch.setattr(ecb, "fetch", lambda url: asked.append(url) or answers[len(asked) - 1])
    assert ecb.follow(now=NOW) == 3
    assert asked == ["https://rates.example.com/eurofxref-hist-90d.xml"]
    assert ecb.follow(now=NOW + timedelta(hours=5)) == 0
    assert len(asked) == 1, "it was asked too early"
    assert ecb.follow(now=NOW + timedelta(hours=6)) == 0
    assert asked[1] == settings.ECB_RATES_URL
    row = DisplayCurrency.objects.get()
    assert "is cut" in row.fetch_error
    assert row.fetched_at == NOW
    assert ecb.follow(now=NOW + timedelta(hours=7)) == 0, "a rate that is known never changes"
    assert fx.Rates("EUR").last.per_usd_units == Decimal("1.0850")
    assert DisplayCurrency.objects.get().fetch_error == ""


@pytest.mark.django_db
@pytest.mark.parametrize(
    "url", ["http://rates.example.com/", "https://10.0.0.1/", "https://169.254.169.254/x", "https://127.0.0.1/", "file:///etc/passwd", "https://[::1", "https://2130706433/"]
)  # fmt: skip
def test_rates_are_fetched_from_nowhere_private(settings, url):
    settings.ECB_RATES_URL = url
    assert ecb.follow(now=NOW) == 0
    assert "REGIA_ECB_RATES_URL" in DisplayCurrency.objects.get().fetch_error


@pytest.mark.django_db
def test_without_an_address_nothing_is_asked(settings):
    assert settings.ECB_RATES_URL == ""
    assert ecb.follow(now=NOW) == 0
    assert not DisplayCurrency.objects.exists()


# -- which rate ------------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_a_figure_has_the_rate_of_its_day_and_says_it():
    fx.record_ecb(ecb.parse(HISTORY), now=NOW)
    euro, koruna = fx.Rates("EUR"), fx.Rates("CZK")
    assert euro.on(date(2026, 11, 19)) is None
    sunday = euro.convert(Decimal(108), date(2026, 11, 22))
    assert (sunday.text, sunday.rate.words) == ("€100.00", "1 EUR = 1.08 USD, ECB, 20 Nov 2026")
    assert euro.convert(Decimal("108.5"), date(2026, 11, 25)).text == "€100.00"
    assert koruna.convert(Decimal("1.085"), date(2026, 11, 23)).text == "CZK 24.31"
    assert fx.Rates("USD").convert(Decimal("1.005"), NOW.date()).text == "$1.00"
    assert fx.written(None, "EUR") == "n/a"
    assert fx.written(Decimal("-0.4"), "EUR") == "−€0.40"


@pytest.mark.django_db
def test_a_closed_day_keeps_the_rate_that_was_known_when_it_was_closed():
    fx.enter("EUR", date(2026, 10, 1), Decimal("0.90"), note="", actor=None, now=NOW - 30 * DAY)
    ledger.close_period(datetime(2026, 11, 1, tzinfo=UTC), now=NOW - DAY)
    fx.record_ecb([(date(2026, 10, 15), {"USD": Decimal("1.25")}), (date(2026, 9, 1), {"USD": Decimal(1)})], now=NOW)  # fmt: skip
    rates = fx.Rates("EUR")
    assert rates.on(date(2026, 10, 20)).per_usd == Decimal("0.9")
    assert rates.on(date(2026, 11, 2)).per_usd == Decimal("0.8")
    assert rates.on(date(2026, 9, 15)).per_usd == Decimal(1), "a late rate is better than none"


@pytest.mark.django_db
def test_the_bank_counts_before_a_hand_and_the_later_hand_before_the_earlier():
    for i, per_usd in enumerate(("0.90", "0.91")):
        fx.enter("EUR", date(2026, 11, 23), Decimal(per_usd), note="", actor=None, now=NOW + i * DAY)
    assert fx.Rates("EUR").last.per_usd == Decimal("0.91")
    fx.record_ecb(ecb.parse(DAILY), now=NOW)
    assert fx.Rates("EUR").last.source == "ecb"


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("currency", "day", "per_usd", "words"),
    [
        ("EUR", NOW.date(), "1.2", "more than a tenth away"),
        ("EUR", NOW.date() + DAY, "0.92", "to today"),
        ("EUR", NOW.date(), "0", "between"),
        ("EUR", NOW.date(), "NaN", "between"),
        ("USD", NOW.date(), "1", "the dollar"),
        ("XZZ", NOW.date(), "1", "currencies listed"),
    ],
)
def test_a_rate_that_cannot_be_right_is_refused_with_a_sentence(currency, day, per_usd, words):
    fx.record_ecb(ecb.parse(DAILY), now=NOW)
    with pytest.raises(fx.BadRate, match=words):
        fx.enter(currency, day, Decimal(per_usd), note="", actor=None, now=NOW)
    assert not ExchangeRate.objects.filter(source="hand").exists()


@pytest.mark.django_db
def test_a_rate_far_from_the_last_one_is_kept_when_it_is_confirmed_and_audited():
    fx.record_ecb(ecb.parse(DAILY), now=NOW)
    fx.enter("EUR", NOW.date(), Decimal("1.2"), note="our bank", actor=factories.administrator(), now=NOW, sure=True)  # fmt: skip
    assert fx.Rates("EUR").last.words == "1 USD = 1.2 EUR, by hand, 24 Nov 2026"
    assert AuditEvent.objects.get(action="rate.entered").after["per_usd"] == "1.2"


@pytest.mark.django_db
def test_an_administrator_sets_the_currency_and_enters_a_rate(client):
    client.force_login(factories.administrator())
    assert "No rate of EUR is known" in client.get("/spend/statements/").text
    page = client.post("/spend/currency/", {"show-currency": "CZK"}, follow=True).text
    assert "Money is shown in USD and CZK." in page
    form = {
        "rate-currency": "CZK",
        "rate-day": "2026-11-20",
        "rate-per_usd": "22.4",
        "rate-note": "<our bank>",
    }
    page = client.post("/spend/rates/", form, follow=True).text
    assert "1 USD = 22.4 CZK, by hand, 20 Nov 2026" in page
    assert "&lt;our bank&gt;" in page
    page = client.post("/spend/rates/", form | {"rate-per_usd": "2.24"})
    assert page.status_code == 422
    assert "more than a tenth away" in page.text
    assert client.post("/spend/currency/", {"show-currency": "DOGE"}).status_code == 422
    assert fx.setting().currency == "CZK"


@pytest.mark.django_db
def test_a_page_says_a_figure_with_its_rate(django_assert_num_queries):
    fx.record_ecb(ecb.parse(DAILY), now=NOW)
    template = Template("{% load money %}{% money usd at %}|{% money usd %}")
    with django_assert_num_queries(1):
        text = template.render(Context({"usd": Decimal("10.85"), "at": NOW, "now": NOW}))
    assert text.split("|")[0] == '<span class="nowrap">€10.00</span> at 1 EUR = 1.085 USD, ECB, 23 Nov 2026'
    assert text.split("|")[0] == text.split("|")[1]
    fx.show_in("USD", actor=None, now=NOW)
    assert template.render(Context({"usd": Decimal(1), "at": NOW})) == "|"


@pytest.mark.django_db
def test_a_sum_is_said_beside_usd_only_where_a_rate_is_known():
    assert figures.also(fx.shown(), {}) == ""
    fx.record_ecb(ecb.parse(HISTORY), now=NOW)
    days = {date(2026, 11, 20): Decimal(108), date(2026, 11, 23): Decimal("108.5")}
    assert figures.also(fx.shown(), days) == "€200.00"
    assert figures.also(fx.shown(), days | {date(2020, 1, 1): Decimal(1)}) == "", "that day has no rate"


# -- sums --------------------------------------------------------------------------------------------------

amounts = st.integers(-(10**15), 10**15).map(lambda nano: Decimal(nano).scaleb(-9))
per_euro = st.integers(5_000, 20_000).map(lambda n: Decimal(n).scaleb(-4))


@settings(PROFILE, max_examples=100)
@given(
    parts=st.lists(st.tuples(st.integers(0, 40), amounts), max_size=30), rates=st.lists(per_euro, min_size=1, max_size=41),
    cut=st.integers(0, 30),
)  # fmt: skip
def test_a_sum_is_the_same_however_it_is_split_and_is_rounded_once(parts, rates, cut):
    known = fx.Rates.__new__(fx.Rates)
    known.currency, known._closings, known._of = "EUR", [], {}
    first = date(2026, 10, 1)
    known._rates = [
        fx.Rate("EUR", first + i * DAY, Decimal(1), usd, "ecb", NOW) for i, usd in enumerate(rates)
    ]
    dated = [(first + i * DAY, usd) for i, usd in parts]
    whole = known.exact_total(dated)
    assert whole == known.exact_total(dated[:cut]) + known.exact_total(dated[cut:])
    assert whole == sum((Fraction(usd) / Fraction(rates[min(i, len(rates) - 1)]) for i, usd in parts), Fraction(0))  # fmt: skip
    assert abs(Fraction(known.total(dated)) - whole) <= Fraction(1, 200)
    assert known.total(dated).as_tuple().exponent == -2
