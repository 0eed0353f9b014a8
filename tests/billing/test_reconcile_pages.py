"""The Reconciliation page, one gap, and the monthly close: what they show, refuse and do."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

import pytest
import time_machine
from django.urls import reverse

from billing import statements
from billing.models import Bill, Discrepancy, MonthClose
from tests import factories
from tests.billing.test_reconcile import ACCOUNT, DAY, HOUR, a_bill, a_line, a_machine, compared, told

pytestmark = pytest.mark.django_db

START = datetime(2026, 10, 30, tzinfo=UTC)
NOW = datetime(2026, 11, 3, 12, tzinfo=UTC)
PAGE = "/spend/reconciliation/"
OCTOBER = f"{PAGE}?month=2026-10"


@pytest.fixture(autouse=True)
def _november():
    with time_machine.travel(NOW, tick=False):
        yield


@pytest.fixture
def gap() -> Discrepancy:
    """Two days of October: $12 metered and charged, and then $12 metered and $14 charged."""
    a_bill(since=START)
    machine = a_machine(since=START, until=START + 2 * DAY)
    told(a_line(machine, "12", day=START), a_line(machine, "14", day=START + DAY), since=START, now=NOW)
    return compared(NOW)[0]


@pytest.fixture
def as_admin(client):
    client.force_login(factories.administrator())
    return client


def test_without_a_bill_it_says_na_and_what_will_stand_there(as_admin):
    text = as_admin.get(PAGE).text
    assert "n/a: no bill was compared yet" in text
    assert "No account has a bill in November 2026" in text


def test_three_figures_with_their_gap_state_and_age(as_admin, gap):
    statements.record_balance(ACCOUNT, Decimal(100), now=START - HOUR)
    text = as_admin.get(OCTOBER).text
    for words in ("$24.00", "$26.00", "$2.00 unexplained", "1 unexplained", "n/a", "read", "told to 3 Nov"):
        assert words in text


def test_a_bill_that_stands_still_says_why(as_admin, gap):
    statements.stand_still(ACCOUNT, "The key was refused.", now=NOW)
    text = as_admin.get(OCTOBER).text
    assert "Stands still" in text
    assert "The key was refused." in text


@pytest.mark.parametrize(
    ("query", "shown"),
    [
        ("", True), ("?show=closed&month=2026-10", False), ("?show=all&month=2026-10", True), ("?reason=fee", False),
        ("?reason=price", True), (f"?account={ACCOUNT}", True), ("?account=00000000-0000-0000-0000-000000000009", False),
        ("?account=x&reason=y&month=9999-99&show=z&page=-4", True), ("?month=9999-12", True),
    ],
)  # fmt: skip
def test_the_list_is_filtered_and_odd_values_are_left_out(as_admin, gap, query, shown):
    assert (f"g-{gap.pk}" in as_admin.get(PAGE + query).text) is shown


def test_the_fragment_polls_and_answers_304_without_news(as_admin, gap):
    headers = {"HX-Request": "true", "HX-Target": "accounts"}
    first = as_admin.get(OCTOBER, headers=headers)
    assert "<html" not in first.text
    again = as_admin.get(OCTOBER, headers={**headers, "If-None-Match": first["ETag"]})
    assert again.status_code == 304


def test_the_csv_holds_what_the_page_lists_with_its_cells_defused(as_admin, gap):
    Discrepancy.objects.update(label="=cmd()")
    lines = b"".join(as_admin.get(f"{PAGE}gaps.csv")).decode().splitlines()
    assert lines[0].startswith("day,account,provider")
    assert lines[1].startswith("2026-10-31,Vast,vast,'=cmd(),")
    assert ",12.000000000,14.000000000,2.000000000,open," in lines[1]


def test_one_gap_shows_our_entries_beside_the_providers_lines(as_admin, gap):
    text = as_admin.get(gap.get_absolute_url()).text
    assert text.count("<td>compute</td>") == 24 + 1
    for words in ("charged more than we counted", "The price differs", "$14.00"):
        assert words in text


def test_explained_with_a_word_booked_and_closed(as_admin, gap):
    url = gap.get_absolute_url()
    refused = as_admin.post(f"{url}explain/", {"reason": "price", "text": " "})
    assert refused.status_code == 422
    assert "The explanation is empty" in refused.text
    as_admin.post(f"{url}explain/", {"reason": "price", "text": "They raised it."})
    assert "Book $2.00 and close" in as_admin.get(url).text
    as_admin.post(f"{url}book/")
    gap.refresh_from_db()
    assert (gap.state, gap.usd) == ("closed", 0)
    assert "Booked +$2.00 and closed." in as_admin.get(url).text


def test_an_operator_explains_and_does_not_book(client, gap):
    client.force_login(factories.operator())
    url = gap.get_absolute_url()
    assert client.post(f"{url}explain/", {"reason": "price", "text": "So it is."}).status_code == 302
    assert client.post(f"{url}book/").status_code == 403
    assert client.post(f"{url}nothing/").status_code == 404
    assert "a-book" not in client.get(url).text


def test_a_bill_is_read_again_from_the_months_first_day(as_admin, gap):
    Bill.objects.update(next_at=NOW + HOUR)
    as_admin.post(f"{reverse('bill_again', args=[ACCOUNT])}?month=2026-10")
    bill = Bill.objects.get()
    assert (bill.told_until, bill.next_at) == (START, None)


def test_closing_names_its_consequences_asks_why_and_cannot_be_repeated(as_admin, gap):
    url = reverse("month_close")
    page = as_admin.get(url).text
    for words in ("This cannot be undone", "1 gap of it is not explained", "cannot", "Close October 2026"):
        assert words in page
    refused = as_admin.post(url, {"month": "2026-10"})
    assert refused.status_code == 422
    assert "Say why it is closed all the same" in refused.text
    assert "Another month comes first" in as_admin.post(url, {"month": "2026-09"}).text
    as_admin.post(url, {"month": "2026-10", f"why-{ACCOUNT}": "They are asked."})
    assert MonthClose.objects.get().accounts[0]["reason"] == "They are asked."
    text = as_admin.get(PAGE).text
    assert "not reconciled: They are asked." in text
    assert "No month waits to be closed" in text
    assert as_admin.get(url).status_code == 302
