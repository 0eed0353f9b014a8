"""The Spend page and a machine's bill: what is asked for is shown, and what cannot be read is told."""

import csv
import io
import re
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from uuid import uuid4

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from billing import ledger
from billing.models import Bill, Component, ExchangeRate, ProviderStatement, Subject
from billing.views.asked import preset
from deployments.models import ProviderAccount
from panel.accounts.models import User
from tests import factories
from tests.browser import scene
from tests.ui.test_doors import INLINE

NOW = datetime(2026, 11, 28, 12, 0, tzinfo=UTC)


pytestmark = pytest.mark.django_db


@pytest.fixture
def viewer(client):
    scene.build(now=timezone.now())
    client.force_login(factories.viewer())
    return client


def text(response) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", response.content.decode()))


def test_it_shows_the_figures_the_bar_and_each_deployment(viewer):
    page = viewer.get("/spend/")
    words = text(page)
    for said in (
        "to date",
        "Burn",
        "held for what runs",
        "may be spent beyond the budget",
        "support-assistant",
        "at best",
    ):
        assert said in words
    assert not INLINE.search(page.content.decode())
    assert "The parts" not in words


VIEWS = [
    ("", "By deployment"),
    ("group=provider&range=30d", "By provider"),
    ("group=tier&range=today", "By hour"),
    ("group=owner&range=12m", "By month"),
    ("group=component&range=90d", "Compute"),
    ("group=tag:team", "no team"),
    ("group=gpu&by=month", "NVIDIA RTX 4090"),
    ("provider=vast&group=machine", "Provider: Vast.ai"),
    ("tag=team=mail", "team: mail"),
    ("owner=0", "Owner: former member"),
    ("range=custom&from=2026-01-01&to=2026-01-31", "1 to 31 Jan 2026"),
    ("provider=nobody", "Take a filter away"),
]


def test_any_view_of_it_has_an_address(viewer):
    for query, heading in VIEWS:
        response = viewer.get(f"/spend/?{query}")
        assert response.status_code == 200, query
        assert heading in text(response).replace(" :", ":"), query


ODD = [
    ("range=custom&from=x&to=2026-01-01", "“x” is no day"),
    ("range=custom&from=2026-02-01&to=2026-01-01", "ends before it begins"),
    ("range=custom&from=2999-02-01&to=2999-03-01", "lies ahead"),
    ("range=custom&from=1999-02-01&to=2020-03-01", "before 2015"),
    ("range=custom&from=2015-01-01", "longer than 10 years"),
    ("range=custom", "no first day"),
    ("deployment=7", "no such deployment"),
    ("owner=me", "no such owner"),
    ("tag=Nope", "no tag"),
    ("group=colour", "nothing to group by"),
    ("group=tag:1", "nothing to group by"),
    ("page=%00&sort=';--&by=year&gpu=%3Cscript%3E&account=%00", "no such account"),
]


def test_what_cannot_be_read_is_left_out_and_told(client):
    client.force_login(factories.viewer())
    for query, sentence in ODD:
        response = client.get(f"/spend/?{query}")
        assert response.status_code == 200, query
        assert sentence in text(response), query
        assert "<script>" not in response.content.decode(), query


def test_the_table_is_sorted_by_what_is_asked_and_the_unknown_comes_last(viewer):
    columns = {
        "name": "name", "-hours": "hours", "idle": "idle_share", "-unit": "usd_per_1m_tokens", "rate": "usd_per_hour_now",
        "usd": "total_usd",
    }  # fmt: skip
    for sort, column in columns.items():
        told = [row[column] for row in csv_rows(viewer.get(f"/spend/spend.csv?sort={sort}"))]
        known = [value if column == "name" else Decimal(value) for value in told if value != ""]
        assert known == sorted(known, reverse=sort.startswith("-")), sort
        assert told[len(known) :] == [""] * (len(told) - len(known)), sort


def csv_rows(response) -> list[dict]:
    return list(csv.DictReader(io.StringIO(b"".join(response).decode())))


def test_the_file_holds_what_the_page_shows(viewer):
    rows = csv_rows(viewer.get("/spend/spend.csv?range=12m"))
    page = text(viewer.get("/spend/?range=12m"))
    assert {"support-assistant", "load-test"} <= {row["name"] for row in rows}
    for row in rows:
        assert row["name"] in page
        parts = ("compute_usd", "disk_usd", "volume_usd", "traffic_usd", "other_usd", "adjustments_usd")
        assert sum(Decimal(row[part]) for part in parts) == Decimal(row["total_usd"])
    assert sum(Decimal(row["share"]) for row in rows) == pytest.approx(Decimal(1), abs=Decimal("0.0001"))


def test_each_part_is_polled_alone_and_news_is_told_once(viewer):
    for name, has, has_not in (("money", "to date", "spend-chart"), ("breakdown", "spend-chart", "to date")):
        headers = {"HX-Request": "true", "HX-Target": name}
        first = viewer.get("/spend/?group=provider&range=last-month", headers=headers)
        page = first.content.decode()
        assert has in page
        assert has_not not in page
        assert "group=provider" in page
    again = viewer.get(
        "/spend/?group=provider&range=last-month", headers={**headers, "If-None-Match": first["ETag"]}
    )
    assert again.status_code == 304


def test_the_number_of_queries_is_constant_and_small(viewer):
    def count(path, **headers) -> int:
        with CaptureQueriesContext(connection) as queries:
            assert viewer.get(path, headers=headers).status_code == 200
        return len(queries)

    paths = ("/spend/", "/spend/?group=owner&range=12m", "/spend/?tag=team=mail&group=machine")
    count(paths[0])
    before = [count(p) for p in paths]
    for n in range(8):
        made = factories.subject(provider="vast")
        Subject.objects.filter(pk=made.pk).update(tags={"team": "mail"}, owner=factories.operator())
        ledger.set_price(made.pk, Component.COMPUTE, Decimal(1 + n), at=timezone.now() - timedelta(hours=1))
    assert [count(p) for p in paths] == before
    assert max(before) <= 22
    polled = {"HX-Request": "true", "HX-Target": "breakdown"}
    assert count(paths[0], **polled) <= 10


def test_a_row_leads_to_its_machines_and_from_there_to_the_bill(viewer):
    page = viewer.get("/spend/").content.decode()
    href = re.search(r'href="([^"]*)"[^>]*>mail-triage', page)[1].replace("&amp;", "&").partition("#")[0]
    machines = viewer.get(f"/spend/{href}").content.decode()
    bill = re.search(r'href="(/spend/machine/[^"]+)"', machines)[1]
    words = text(viewer.get(bill))
    for said in (
        "mail-triage: one machine",
        "Prices",
        "Compute",
        "Hours",
        "team=mail",
        "Held for it",
        "booked to",
    ):
        assert said in words


def test_more_rows_than_fit_have_pages(viewer):
    for n in range(30):
        made = factories.metered_machine("0.001", since=timezone.now() - timedelta(hours=1))
        Subject.objects.filter(pk=made.pk).update(scope_label=f"many-{n}")
    page = viewer.get("/spend/?sort=name")
    assert "1 to 25 of" in text(page)
    second = text(viewer.get("/spend/?sort=name&page=2"))
    assert "support-assistant" in second
    assert "many-0" not in second


def test_a_machine_that_is_gone_and_whose_owner_left_stays(client):
    owner = factories.operator()
    snapshot = ledger.Snapshot(
        label="regia-1", scope=uuid4(), scope_label="=cmd", provider="vast",
        owner_id=owner.pk, tags={"team": "a"},
    )  # fmt: skip
    made = ledger.open_subject(uuid4(), snapshot, now=timezone.now() - timedelta(days=70))
    began = timezone.now() - timedelta(days=70)
    ledger.set_price(made.pk, Component.COMPUTE, Decimal("0.5"), at=began, reason="Requested to Ready")
    ledger.close(made.pk, at=began + timedelta(hours=100))
    ledger.adjust(made.pk, Decimal("-2"), hour=began, reason="a credit", now=timezone.now())
    User.objects.filter(pk=owner.pk).delete()
    client.force_login(factories.viewer())
    words = text(client.get(f"/spend/machine/{made.pk}/"))
    for said in ("former member", "Requested to Ready", "a credit", "$48.00", "1 to 48 of", "team=a"):
        assert said in words
    assert "Older" in text(client.get(f"/spend/machine/{made.pk}/?page=2"))
    rows = csv_rows(client.get("/spend/spend.csv?range=12m"))
    assert (rows[0]["name"], rows[0]["total_usd"]) == ("'=cmd", "48")
    assert csv_rows(client.get("/spend/spend.csv?range=12m&group=owner"))[0]["name"] == "former member"


def test_prepaid_money_what_is_unexplained_and_the_providers_lines_are_shown(client):
    client.force_login(factories.viewer())
    before = text(client.get("/spend/"))
    assert "Unexplained" not in before
    assert "no account tells its balance" in before
    account = ProviderAccount.objects.create(
        backend="vast", name="Vast 1", balance_usd=Decimal(31), balance_at=timezone.now()
    )
    made = factories.metered_machine("1", since=timezone.now() - timedelta(hours=2))
    Subject.objects.filter(pk=made.pk).update(account=account.pk)
    at = timezone.now().replace(minute=0, second=0, microsecond=0) - timedelta(days=1)
    Bill.objects.create(
        account=account.pk, account_label="Vast 1", provider="vast", step_seconds=86_400, lag_seconds=0, since=at,
        told_until=at, matched_at=at,
    )  # fmt: skip
    ProviderStatement.objects.create(
        account=account.pk, remote_id="1", component="compute", start=at, end=at + timedelta(hours=1),
        usd=Decimal("0.77"), subject=made, first_seen_at=at, fetched_at=at,
    )  # fmt: skip
    words = text(client.get("/spend/"))
    assert "Vast 1 until" in words
    assert "Unexplained $0.00" in words
    assert "$0.77" in text(client.get(f"/spend/machine/{made.pk}/"))


def test_the_month_is_told_in_the_other_currency_each_day_at_its_rate(client):
    client.force_login(factories.viewer())
    factories.metered_machine("1", since=timezone.now() - timedelta(minutes=30))
    assert "€" not in text(client.get("/spend/"))
    ExchangeRate.objects.create(
        currency="EUR", day=timezone.now().date() - timedelta(days=40), units=1, per_usd_units=Decimal("2"),
        source="ecb", recorded_at=timezone.now(),
    )  # fmt: skip
    assert re.search(r"€0\.\d\d , each day at its rate", text(client.get("/spend/")))


def test_without_a_budget_it_says_that_spending_is_unlimited(client):
    client.force_login(factories.administrator())
    words = text(client.get("/spend/"))
    assert "spending is unlimited" in words
    assert "Nothing was spent in these days" in words


@pytest.mark.parametrize(
    ("name", "days"),
    [
        ("today", (date(2026, 3, 1), date(2026, 3, 2))),
        ("month", (date(2026, 3, 1), date(2026, 3, 2))),
        ("last-month", (date(2026, 2, 1), date(2026, 3, 1))),
        ("12m", (date(2025, 4, 1), date(2026, 3, 2))),
        ("30d", (date(2026, 1, 31), date(2026, 3, 2))),
    ],
)
def test_a_range_is_of_whole_days_and_ends_today(name, days):
    found = preset(name, now=datetime(2026, 3, 1, 0, 30, tzinfo=UTC))
    assert (found.start, found.end) == days
