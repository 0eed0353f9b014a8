"""An alert arrives at a real webhook receiver, set up in the browser, with a signature that verifies."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from django.db import connection
from django.utils import timezone
from playwright.sync_api import Browser
from standardwebhooks import Webhook

from panel.accounts.roles import ADMINISTRATOR
from panel.alerts import delivering
from panel.notices.notify import clear_notice, raise_notice
from tests import factories
from tests.alerts import made
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


def work(rung: list[tuple[str, tuple]]) -> None:
    """What the clock and a worker do, in a thread as theirs: a round, and every bell that it rang."""

    def hands() -> int:
        try:
            delivering.tick()
            return sum(delivering.send(*arguments) for task, arguments in rung if task == delivering.SEND)
        finally:
            rung.clear()
            connection.close()

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(hands).result(timeout=60) == 1


def test_an_alert_arrives_signed_is_acknowledged_and_told_to_be_over(browser, live_server, settings, rung):
    settings.ALERTS_ALLOW_PRIVATE = True
    factories.user(ADMINISTRATOR, email="admin@example.com", password=scene.PASSWORD)
    context = browser.new_context()
    page = context.new_page()
    sign_in(page, live_server.url)
    with made.receiver() as receiver:
        page.get_by_role("link", name="Alerts").first.click()
        page.get_by_role("link", name="Channels").first.click()
        page.get_by_role("link", name="Webhook").click()
        page.get_by_label("Name").fill("Paging service")
        page.get_by_label("Address").fill(receiver.url)
        page.get_by_role("button", name="Add the channel").click()
        key = page.locator("#signing-key").inner_text()
        page.get_by_role("link", name="I have it").click()
        channel = page.get_by_role("region", name="Paging service")
        channel.get_by_role("button", name="Test").click()
        page.get_by_text("A test message is on its way").wait_for()
        work(rung)
        # Nobody reloads: the page hears of it by itself.
        channel.get_by_text("Arrives").wait_for(timeout=20_000)

        page.get_by_role("link", name="Rules", exact=True).click()
        page.get_by_role("link", name="Add a rule").first.click()
        page.get_by_label("Name").fill("Everything")
        page.get_by_label("Paging service").check()
        page.get_by_role("button", name="Add the rule").click()
        page.get_by_role("link", name="Everything", exact=True).wait_for()

        raise_notice("k", "critical", "chat is down", now=timezone.now(), detail="No answer.")
        work(rung)
        page.get_by_role("link", name="Open", exact=True).click()
        page.get_by_role("button", name="Acknowledge chat is down").click()
        page.get_by_text("sees to it since").wait_for()
        clear_notice("k", now=timezone.now())
        work(rung)
        page.get_by_text("Nothing is wrong").wait_for(timeout=20_000)
    told = [Webhook(key).verify(body, headers) for headers, body in receiver.got]
    assert [t["type"] for t in told] == ["notice.test", "notice.raised", "notice.resolved"]
    assert told[1]["data"]["title"] == "chat is down"
    page.get_by_role("link", name="Delivery log").click()
    assert page.get_by_text("Delivered").count() >= 3
    assert not pages.axe(page)
    context.close()
