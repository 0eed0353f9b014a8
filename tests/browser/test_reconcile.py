"""A planted gap is found on the Reconciliation page, explained, booked and closed."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from django.utils import timezone
from playwright.sync_api import Browser

from billing.models import Discrepancy
from deployments.models import ProviderAccount
from panel.accounts.roles import ADMINISTRATOR
from tests import factories
from tests.browser import pages, scene, scene_bills
from tests.browser.test_pages import sign_in

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


def test_a_planted_gap_is_found_explained_booked_and_closed(browser, live_server):
    factories.user(ADMINISTRATOR, email="admin@example.com", password=scene.PASSWORD)
    account = ProviderAccount.objects.create(name="RunPod", backend="runpod", credentials="key")
    gap = scene_bills.build(account, now=timezone.now())
    context = browser.new_context()
    page = context.new_page()
    sign_in(page, live_server.url)
    page.get_by_role("link", name="Spend").first.click()
    page.get_by_role("link", name="Reconciliation").click()
    page.get_by_text("1 unexplained").wait_for()
    page.get_by_role("link", name=scene_bills.STRANGER).click()
    page.get_by_text("because no machine of ours has this id").wait_for()
    page.get_by_label("Who finds it out").select_option(label="admin@example.com")
    page.get_by_role("button", name="Assign").click()
    page.get_by_text("Assigned to admin@example.com.").wait_for()
    page.get_by_label("Why the two figures differ").fill("A colleague tried a GPU from the console.")
    page.get_by_role("button", name="Explain").click()
    page.get_by_role("button", name="Book $2.64 and close").click()
    page.get_by_text("+$2.64 is booked, and the gap is closed.").wait_for()
    assert not pages.axe(page)
    page.get_by_role("link", name="Reconciliation").last.click()
    page.get_by_role("heading", name="Nothing is unexplained").wait_for()
    page.get_by_role("link", name="Closed", exact=True).click()
    page.get_by_role("link", name=scene_bills.STRANGER).wait_for()
    context.close()
    assert Discrepancy.objects.get(pk=gap.pk).state == "closed"
