"""A breach is filed against the clock and a request is answered, in a real browser."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import timedelta
from zoneinfo import ZoneInfo

import pytest
from django.utils import timezone
from playwright.sync_api import Browser

from panel.accounts.roles import ADMINISTRATOR
from panel.registers.models import Breach, SubjectRequest
from tests import factories
from tests.browser import pages, scene
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


def test_a_breach_is_filed_and_a_request_is_answered(browser, live_server):
    factories.user(ADMINISTRATOR, email="admin@example.com", password=scene.PASSWORD)
    context = pages.context_of(browser, "phone", "light")
    page = context.new_page()
    sign_in(page, live_server.url)
    page.goto(f"{live_server.url}/compliance/")
    page.get_by_role("link", name="Report a breach").click()
    page.get_by_label("What happened").fill("A key stood in a public repository.")
    page.get_by_role("button", name="Save, the clock runs").click()
    page.get_by_text("Tell the authority by").wait_for()
    page.goto(f"{page.url.partition('?')[0]}?part=authority")
    told = timezone.now().astimezone(ZoneInfo("Europe/Brussels")) + timedelta(seconds=-1)
    Breach.objects.update(aware_at=timezone.now() - timedelta(hours=1))
    page.get_by_label("Supervisory authority").fill("The authority")
    page.get_by_label("Told the authority at").fill(f"{told:%Y-%m-%dT%H:%M}")
    page.get_by_role("button", name="Save this part").click()
    page.get_by_text("Told the authority", exact=True).first.wait_for()
    assert not Breach.objects.get().is_running
    assert not pages.axe(page)

    page.goto(f"{live_server.url}/compliance/requests/add/")
    page.get_by_label("What is asked").select_option("access")
    page.get_by_label("Who asks").fill("A customer")
    page.get_by_role("button", name="Record the request").click()
    page.get_by_text("To be answered by").first.wait_for()
    page.get_by_label("Outcome").select_option("done")
    page.get_by_label("Answered on").fill(f"{told:%Y-%m-%d}")
    page.get_by_role("button", name="Save", exact=True).click()
    page.get_by_text("Done as asked").first.wait_for()
    assert not SubjectRequest.objects.get().is_running
    assert not pages.axe(page)
    context.close()
