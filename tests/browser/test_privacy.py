"""An operator takes their data with them; an administrator erases a member, from the plan to the receipt."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, BrowserContext, Page

from panel.accounts.models import User
from panel.accounts.roles import ADMINISTRATOR, OPERATOR
from tests import factories
from tests.browser import pages, scene

pytestmark = [
    pytest.mark.browser,
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif(pages.CHROMIUM is None, reason="Chromium is not installed; set CHROMIUM to its path"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with pytest.MonkeyPatch.context() as patch, pages.chromium() as launched:
        patch.setitem(os.environ, "DJANGO_ALLOW_ASYNC_UNSAFE", "1")
        yield launched


def signed_in(context: BrowserContext, address: str, email: str) -> Page:
    page = context.new_page()
    page.goto(f"{address}/accounts/login/")
    page.get_by_label("Email").fill(email)
    page.get_by_label("Password", exact=True).fill(scene.PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url(f"{address}/")
    return page


def clean(page: Page) -> None:
    assert not pages.axe(page)
    assert pages.overflow(page) <= 0


def test_an_operator_exports_their_own_data(browser, live_server):
    factories.user(OPERATOR, email="ada@example.com", password=scene.PASSWORD)
    context = pages.context_of(browser, "phone", "dark")
    page = signed_in(context, live_server.url, "ada@example.com")
    page.goto(f"{live_server.url}/account/privacy/")
    clean(page)
    page.get_by_role("link", name="Export it").click()
    clean(page)
    with page.expect_download() as loading:
        page.get_by_role("button", name="Download the file").click()
    with zipfile.ZipFile(loading.value.path()) as archive:
        assert json.loads(archive.read("manifest.json"))["email"] == "ada@example.com"
    context.close()


def test_an_administrator_erases_a_member_and_gets_a_receipt(browser, live_server, settings, tmp_path):
    settings.DATA_DIR = tmp_path
    factories.user(ADMINISTRATOR, email="admin@example.com", password=scene.PASSWORD)
    ada = factories.user(OPERATOR, email="ada@example.com", password=scene.PASSWORD)
    context = pages.context_of(browser, "wide", "light")
    page = signed_in(context, live_server.url, "admin@example.com")
    page.goto(f"{live_server.url}/privacy/retention/")
    clean(page)
    page.get_by_role("link", name="Erase ada@example.com").click()
    page.get_by_role("heading", name="What goes").wait_for()
    clean(page)
    page.get_by_label("Type ada@example.com to confirm").fill("ada@example.com")
    page.get_by_label("Why").fill("asked for it by letter")
    page.get_by_role("button", name="Erase ada@example.com").click()
    page.get_by_text("It is done.").wait_for()
    page.get_by_role("heading", name="What is kept, and why").wait_for()
    clean(page)
    assert not User.objects.filter(pk=ada.pk).exists()
    context.close()
