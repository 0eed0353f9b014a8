"""Pull the evidence pack: an administrator chooses a period, watches, fetches the file, and its hashes hold."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.core.management import call_command
from django.utils import timezone
from playwright.sync_api import Browser, expect

from panel.accounts.roles import ADMINISTRATOR
from panel.audit.models import AuditEvent
from panel.evidence import services
from panel.evidence.models import Pack
from tests import factories
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


def test_pull_the_pack_and_verify_its_hashes(
    browser: Browser, live_server, tmp_path: Path, settings, capsys
) -> None:
    settings.DATA_DIR = tmp_path
    factories.user(ADMINISTRATOR, email="admin@example.com", password=scene.PASSWORD)
    page = browser.new_context(accept_downloads=True).new_page()
    sign_in(page, live_server.url)
    page.goto(f"{live_server.url}/evidence/")
    assert not pages.axe(page)

    today = timezone.now().date().isoformat()
    page.get_by_label("First day").fill(today)
    page.get_by_label("Last day").fill(today)
    page.get_by_role("button", name="Write the pack").click()
    expect(page.locator("#packs")).to_contain_text("Waiting")
    # What a worker does at the bell; the page polls.
    services.build(Pack.objects.get().pk)
    with page.expect_download() as asked:
        page.get_by_role("link", name="Download").click()
    file = tmp_path / asked.value.suggested_filename
    asked.value.save_as(file)
    assert not pages.axe(page)

    call_command("verify_evidence", file, audit=True)
    said = capsys.readouterr().out
    assert "The pack is whole" in said
    assert "This panel wrote it" in said
    acts = ["evidence.export", "evidence.ready", "evidence.download"]
    told = AuditEvent.objects.filter(action__startswith="evidence.").order_by("sequence")
    assert list(told.values_list("action", flat=True)) == acts

    # Its report is a page of its own, to be printed.
    zipfile.ZipFile(file).extract("report.html", tmp_path)
    page.goto(f"file://{tmp_path}/report.html")
    expect(page.get_by_role("heading", name="Evidence of a period")).to_be_visible()
    assert not pages.axe(page)
