"""Exports: FOCUS row by row, the panel's own tables, and cells that no spreadsheet runs."""

from __future__ import annotations

import csv
import io
import json
from datetime import date, timedelta
from decimal import Decimal

import pytest
from django.db.models import Sum

from billing.exports import focus, lines, tables
from billing.models import Adjustment, LedgerEntry, PriceSegment
from panel.audit.models import AuditEvent
from panel.ui import csvfile
from tests import factories
from tests.billing import books, focus_rows

pytestmark = pytest.mark.django_db
ALL = {"from": "2026-10-01", "to": "2026-11-24"}


@pytest.fixture
def made():
    books.rates()
    return books.build()


def download(client, path: str, **query: str) -> str:
    response = client.get(path, {**ALL, **query})
    assert response.status_code == 200, response
    return b"".join(response.streaming_content).decode()


@pytest.fixture
def signed_in(client):
    client.force_login(factories.viewer())
    return client


def ledger_total() -> Decimal:
    return sum((m.objects.aggregate(usd=Sum("usd"))["usd"] for m in (LedgerEntry, Adjustment)), Decimal(0))


@pytest.mark.parametrize("by", ["day", "hour"])
def test_every_row_of_focus_is_as_the_specification_asks_and_they_add_up(made, signed_in, by):
    rows = focus_rows.read(download(signed_in, "/spend/export/focus.csv", by=by))
    assert focus_rows.wrong(rows) == []
    assert sum(Decimal(row["BilledCost"]) for row in rows) == ledger_total()
    lengths = {
        (int(r["ChargePeriodEnd"][8:10]) - int(r["ChargePeriodStart"][8:10])) % 29
        for r in rows
        if r["ChargeCategory"] == "Usage"
    }
    assert lengths == ({1} if by == "day" else {0, 1})


def test_focus_names_tiers_places_prices_and_corrections(made, signed_in):
    rows = focus_rows.read(download(signed_in, "/spend/export/focus.csv", by="hour"))
    of = {(r["ResourceId"], r["SkuMeter"]): r for r in rows}
    pod, bid = of[made[0].label, "GPU Hours"], of[made[1].label, "GPU Hours"]
    assert (pod["PricingCategory"], pod["RegionId"], pod["RegionName"]) == ("Standard", "EU-RO-1", "Romania")
    assert pod["ListUnitPrice"] == "0.43"
    assert json.loads(pod["Tags"])["team"] == "search"
    assert (bid["PricingCategory"], bid["ServiceSubcategory"]) == ("Dynamic", "Virtual Machines")
    assert of[made[4].label, "Worker Hours"]["ServiceSubcategory"] == "Serverless Compute"
    traffic = of[made[0].label, "Data Out"]
    assert (traffic["PricingUnit"], traffic["ServiceCategory"]) == ("GB", "Networking")
    assert (traffic["ConsumedQuantity"], traffic["ListUnitPrice"]) == ("0.333333", "0.02")
    corrections = {r["ChargeDescription"]: r for r in rows if r["ChargeCategory"] == "Adjustment"}
    assert {text: r["ChargeClass"] for text, r in corrections.items()} == {
        "found at once": "", "'=1+1 credit": "Correction", "volume: metered late": "Correction",
    }  # fmt: skip
    assert corrections["'=1+1 credit"]["BilledCost"] == "-0.123456789"
    assert corrections["volume: metered late"]["ServiceCategory"] == "Storage"


def test_the_check_of_rows_finds_what_is_wrong(made):
    """The check is as good as what it refuses."""
    row = dict(
        zip(focus.HEADER, next(focus.Export(lines.read(ALL, today=books.NOW.date())).rows()), strict=True)
    )
    assert focus_rows.wrong([row]) == []
    for name, value in (
        ("PricingCategory", "Spot"), ("ListUnitPrice", "0.9"), ("RegionName", ""), ("BilledCost", "1e3"), ("InvoiceId", "x"),
        ("ServiceSubcategory", "File System"), ("ChargePeriodStart", "2026-11-20 10:00"), ("SkuId", ""),
        ("BillingPeriodEnd", "2026-10-01T00:00:00Z"), ("ChargeClass", "Correction"),
    ):  # fmt: skip
        assert focus_rows.wrong([{**row, name: value}]), name


@pytest.mark.parametrize("path", ["focus.csv", "entries.csv", "deployments.csv", "days.csv"])
def test_no_cell_is_a_formula_and_every_name_survives(made, signed_in, path):
    rows = list(csv.reader(io.StringIO(download(signed_in, f"/spend/export/{path}"), newline="")))
    assert len({len(row) for row in rows}) == 1
    for cell in (cell for row in rows for cell in row):
        number = cell.lstrip("-").replace(".", "", 1).isdecimal()
        assert number or not cell.lstrip().startswith(("=", "+", "-", "@")), cell
    if path != "days.csv":
        cells = {cell for row in rows for cell in row}
        assert {csvfile.defused(text) for text in books.HOSTILE} <= cells


def test_json_is_what_csv_is_but_for_the_apostrophes(made, signed_in):
    found = json.loads(download(signed_in, "/spend/export/entries.json"))
    rows = list(csv.DictReader(io.StringIO(download(signed_in, "/spend/export/entries.csv"), newline="")))
    assert [{k: csvfile.defused(v) if k not in ("usd", "converted") else v for k, v in row.items()} for row in found] == rows  # fmt: skip
    assert any(row["deployment"] == books.HOSTILE[0] for row in found)
    assert json.loads(download(signed_in, "/spend/export/days.json", **{"from": "2031-01-01", "to": "2031-01-02"})) == []  # fmt: skip


def test_days_and_deployments_add_up_to_the_ledger_and_say_their_rates(made, signed_in):
    days = list(csv.DictReader(io.StringIO(download(signed_in, "/spend/export/days.csv"))))
    deployments = list(csv.DictReader(io.StringIO(download(signed_in, "/spend/export/deployments.csv"), newline="")))  # fmt: skip
    assert sum(Decimal(r["usd"]) for r in days) == sum(Decimal(r["usd"]) for r in deployments) == ledger_total()  # fmt: skip
    late = next(r for r in days if r["day"] == "2026-11-21")
    assert (late["rate_date"], late["rate_source"], late["currency"]) == ("2026-11-20", "ecb", "EUR")
    assert abs(Decimal(late["converted"]) - Decimal(late["usd"]) / Decimal("1.0850")) < Decimal("1e-8")
    assert next(r for r in days if r["day"] == "2026-10-01")["converted"] == ""


@pytest.mark.parametrize(
    ("query", "expected"),
    [({"provider": "vast"}, {"vast"}), ({"tag": "team=search"}, {"runpod"}), ({"tag": "team=none"}, set())],
)
def test_filters_narrow_what_is_exported(made, signed_in, query, expected):
    rows = csv.DictReader(io.StringIO(download(signed_in, "/spend/export/entries.csv", **query)))
    assert {row["provider"] for row in rows} == expected


def test_one_deployment_alone(made, signed_in):
    text = download(signed_in, "/spend/export/entries.csv", deployment=str(made[1].scope))
    assert {row["machine"] for row in csv.DictReader(io.StringIO(text))} == {made[1].label}


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ({"from": "yesterday"}, "The first day is written like 2026-11-28."),
        ({"from": "2026-11-02", "to": "2026-11-01"}, "swap them"),
        ({"from": "2000-01-01", "to": "2026-01-01"}, "more than ten years"),
        ({"deployment": "x"}, "named by its id"),
        ({"tag": "team"}, "key=value"),
        ({"by": "minute"}, "by hour or by day"),
        ({"from": "0001-01-01"}, "between 2000 and 2200"),
    ],
)  # fmt: skip
def test_what_cannot_be_exported_is_said(signed_in, query, words):
    page = signed_in.get("/spend/export/focus.csv", query, follow=True)
    assert page.redirect_chain == [("/spend/statements/", 302)]
    assert words in page.text
    assert not AuditEvent.objects.filter(action="export.focus")


def test_each_export_stands_in_the_audit_and_an_unknown_one_is_none(made, signed_in):
    download(signed_in, "/spend/export/focus.csv", provider="vast")
    event = AuditEvent.objects.get(action="export.focus")
    assert event.after["provider"] == "vast"
    assert event.after["from"] == "2026-10-01"
    assert signed_in.get("/spend/export/secrets.csv").status_code == 404
    assert AuditEvent.objects.filter(action__startswith="export.").count() == 1


@pytest.mark.parametrize("by_hour", [False, True])
def test_memory_does_not_grow_with_the_time_exported(made, django_assert_max_num_queries, by_hour):
    """It reads window by window: what was read before the first row is one window's."""
    selection = lines.Selection(date(2026, 10, 1), date(2026, 11, 24), by_hour=by_hour)
    with django_assert_max_num_queries(14):
        next(focus.Export(selection).rows())
    windows = list(lines.Reader(selection).windows())
    longest = timedelta(days=1) if by_hour else timedelta(days=31)
    assert max(end - start for start, end in windows) <= longest


def test_a_price_in_the_middle_of_an_hour_is_blended_and_the_product_is_the_cost(made):
    rows = focus_rows.read("".join(csvfile.lines([focus.HEADER, *focus.Export(lines.read({**ALL, "by": "hour"}, today=books.NOW.date())).rows()])))  # fmt: skip
    [blended] = [r for r in rows if r["SkuMeter"] == "Volume Hours" and r["ResourceId"] == made[1].label]
    assert Decimal("0.1") <= Decimal(blended["ListUnitPrice"]) < Decimal("0.17")
    assert PriceSegment.objects.filter(subject=made[1], component="volume").count() == 2


def test_tables_have_a_cell_for_each_column(made):
    selection = lines.read(ALL, today=books.NOW.date())
    for table in tables.TABLES.values():
        assert {len(row) for row in table.rows(selection)} == {len(table.header)}
