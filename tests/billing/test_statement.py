"""A month's statement: its lines add up to its total, to the cent, in both currencies."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

import pytest

from billing import fx, ledger, statement
from billing.models import Component
from billing.periods import calendar_month
from tests import factories
from tests.billing import books

pytestmark = pytest.mark.django_db
ZERO = Decimal(0)


@pytest.fixture
def november():
    books.rates()
    fx.enter("EUR", books.NOVEMBER.date(), Decimal("0.91"), note="", actor=None, now=books.NOW)
    books.build()
    # Thirds of a cent, and a month of them.
    for price in ("0.003333333", "0.004999999", "0.000001"):
        machine = factories.metered_machine(price, since=books.NOVEMBER)
        ledger.close(machine.pk, at=books.NOW)
    return statement.of_month(calendar_month(books.NOVEMBER), now=books.NOW)


def test_every_table_adds_up_to_the_total_of_the_ledger(november):
    spent = ledger.spent(books.NOVEMBER, books.NOW, now=books.NOW)
    assert november.total == statement.cents(spent)
    assert november.amount is not None
    for rows in (november.deployments, november.providers, november.components):
        assert sum((r.usd for r in rows), ZERO) + november.rounding[0] == november.total
        assert sum((r.amount for r in rows), ZERO) + november.rounding[1] == november.amount
    assert sum((r.usd for r in november.days), ZERO) + november.day_rounding[0] == november.total
    assert sum((r.amount for r in november.days), ZERO) + november.day_rounding[1] == november.amount
    for row in november.deployments:
        assert sum(row.columns, ZERO) == row.usd
        assert all(usd == usd.quantize(Decimal("0.01")) for usd in row.columns)
    columns = [sum(column, ZERO) for column in zip(*(r.columns for r in november.deployments), strict=True)]
    assert columns == november.lines.columns


def test_each_converted_line_says_its_rate_and_each_day_its_day_and_source(november):
    assert all(row.rate for row in november.deployments if row.usd)
    by_day = {row.label: row.sub for row in november.days}
    assert by_day["19 Nov 2026"] == "1 USD = 0.91 EUR, by hand, 1 Nov 2026"
    assert by_day["21 Nov 2026"] == "1 EUR = 1.085 USD, ECB, 20 Nov 2026"


def test_corrections_of_one_deployment_with_one_reason_are_one_line():
    pod, *_ = books.build(hostile=False)
    for day in range(20):
        hour = books.OCTOBER + timedelta(days=day)
        ledger.adjust(pod.pk, Decimal("0.004"), hour=hour, reason="trued up", now=books.NOW)
    october = statement.of_month(calendar_month(books.OCTOBER), now=books.NOW)
    (row,) = [r for r in october.corrections if r.sub.startswith("trued up")]
    assert (row.sub, row.usd, row.at) == ("trued up (20 times)", Decimal("0.08"), books.OCTOBER)


def test_a_closed_month_lists_its_corrections_with_their_reasons():
    books.rates()
    books.build(hostile=False)
    october = statement.of_month(calendar_month(books.OCTOBER), now=books.NOW)
    assert october.closing.is_closed
    assert [row.sub for row in october.corrections] == ["found at once", "=1+1 credit", "volume: metered late"]  # fmt: skip
    assert october.total == Decimal("1.64")
    assert october.amount is None, "there is no rate on the 1st: it is n/a, not 0"
    assert [m.usd for m in statement.months(now=books.NOW)][-1] == october.total


def test_the_list_and_the_statement_agree_and_months_without_cost_are_there(november):
    listed = {m.start: m for m in statement.months(now=books.NOW + timedelta(days=70))}
    assert len(listed) == 5
    assert (listed[books.NOVEMBER].usd, listed[books.NOVEMBER].amount) == (november.total, november.amount)
    assert [m.closing.word for m in listed.values()] == ["Running", "Open", "Open", "Open", "Closed"]


def test_the_page_shows_hostile_names_as_text_and_no_other_month_exists(client, november):
    client.force_login(factories.viewer())
    page = client.get("/spend/statements/2026-11/")
    assert page.status_code == 200
    assert "=cmd|&#x27; /C calc&#x27;!A0" in page.text
    for month in ("2026-13", "1999-01", "2026-1", "9999-12", "x"):
        assert client.get(f"/spend/statements/{month}/").status_code == 404


def test_dollars_alone_have_no_rate(client, november):
    fx.show_in("USD", actor=None, now=books.NOW)
    shown = statement.of_month(calendar_month(books.NOVEMBER), now=books.NOW)
    assert not shown.converts
    assert shown.amount == shown.total
    client.force_login(factories.viewer())
    page = client.get("/spend/statements/2026-11/").text
    assert "Rate, day and source" not in page


def test_the_statement_reads_the_ledger_in_few_queries_whatever_it_holds(django_assert_max_num_queries):
    books.build()
    subject = factories.metered_machine("0.5", since=books.NOVEMBER)
    ledger.set_price(subject.pk, Component.DISK, Decimal("0.1"), at=books.NOVEMBER)
    with django_assert_max_num_queries(8):
        statement.of_month(calendar_month(books.NOVEMBER), now=books.NOW)
