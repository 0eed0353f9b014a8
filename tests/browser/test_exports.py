"""Export and validate: an operator downloads FOCUS in the browser, and each of its rows is as FOCUS asks."""

from __future__ import annotations

import os
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest
from django.utils import timezone
from playwright.sync_api import Browser, expect

from billing import ledger
from billing.models import LedgerEntry
from panel.accounts.roles import ADMINISTRATOR
from panel.audit.models import AuditEvent
from tests import factories
from tests.billing import books, focus_rows
from tests.browser import pages, scene
from tests.browser.test_pages import sign_in

pytestmark = [
    pytest.mark.browser,
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif(pages.CHROMIUM is None, reason="Chromium is not installed; set CHROMIUM to its path"),
]


@pytest.fixture
def browser() -> Iterator[Browser]:
    with pytest.MonkeyPatch.context() as patch, pages.chromium() as launched:
        patch.setitem(os.environ, "DJANGO_ALLOW_ASYNC_UNSAFE", "1")
        yield launched


def test_export_and_validate(browser: Browser, live_server, tmp_path: Path) -> None:
    factories.user(ADMINISTRATOR, email="admin@example.com", password=scene.PASSWORD)
    books.rates(now=timezone.now())
    books.build()
    page = browser.new_context(accept_downloads=True).new_page()
    sign_in(page, live_server.url)
    page.goto(f"{live_server.url}/spend/statements/")
    assert not pages.axe(page)

    page.get_by_label("First day").fill("2026-11-01")
    page.get_by_label("Last day").fill("2026-11-30")
    page.get_by_label("Lines by").select_option("hour")
    with page.expect_download() as asked:
        page.get_by_role("button", name="FOCUS 1.2").click()
    assert asked.value.suggested_filename == "regia-focus-2026-11-01-2026-11-30.csv"
    file = tmp_path / "focus.csv"
    asked.value.save_as(file)
    rows = focus_rows.read(file.read_text(newline=""))
    assert focus_rows.wrong(rows) == []
    assert len(rows) == LedgerEntry.objects.filter(hour__gte=books.NOVEMBER).count()
    spent = ledger.spent(books.NOVEMBER, books.NOW, now=books.NOW)
    assert sum(Decimal(row["BilledCost"]) for row in rows) == spent
    assert AuditEvent.objects.filter(action="export.focus").count() == 1

    # The month's statement says the same total, and prints with nothing but itself.
    page.locator("#m-2026-11").click()
    expect(page.get_by_role("heading", name="Statement November 2026")).to_be_visible()
    expect(page.locator(".statement-head .sum dd").first).to_have_text(f"${spent:,.2f}")
    assert not pages.axe(page)
    page.emulate_media(media="print")
    expect(page.locator(".sidebar")).to_be_hidden()
    expect(page.locator("[data-print]")).to_be_hidden()
    assert page.pdf(prefer_css_page_size=True).startswith(b"%PDF")
