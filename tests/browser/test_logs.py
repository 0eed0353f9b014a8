"""The log followed in a real browser: new lines come without a reload, and nothing disturbs who reads."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from django.utils import timezone
from playwright.sync_api import Browser, Page, expect

from deployments.models.account import ADAPTERS
from deployments.monitoring import logs
from deployments.monitoring.logs import Library
from deployments.providers.base import LogLine
from tests.browser import pages, scene
from tests.browser.test_pages import listen, sign_in
from tests.deployments.test_logs import Teller

pytestmark = [
    pytest.mark.browser,
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("browser"),
    pytest.mark.skipif(pages.CHROMIUM is None, reason="Chromium is not installed; set CHROMIUM to its path"),
]
T0 = datetime(2026, 11, 24, 12, tzinfo=UTC)
NEWS = 'document.querySelector("#log-more").dispatchEvent(new Event("wake"))'
"""The page's own poll, without the wait for its five seconds."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with pytest.MonkeyPatch.context() as patch, pages.chromium() as launched:
        patch.setitem(os.environ, "DJANGO_ALLOW_ASYNC_UNSAFE", "1")
        yield launched


@pytest.fixture
def teller(monkeypatch) -> Teller:
    made = Teller()
    monkeypatch.setitem(ADAPTERS, "runpod", lambda account: made)
    monkeypatch.setattr(logs, "LIBRARY", Library(clock=iter(range(0, 10**6, 100)).__next__))
    return made


@pytest.fixture
def path() -> str:
    return f"/deployments/{scene.build(now=timezone.now()).ready.pk}/logs/"


def say(teller: Teller, *texts: str) -> None:
    start = len(teller.said)
    teller.said += [LogLine(T0 + timedelta(seconds=start + i), "container", t) for i, t in enumerate(texts)]


def lines(page: Page) -> list[str]:
    return page.locator("#log-lines p").all_inner_texts()


def await_news(page: Page, text: str) -> None:
    """A poll that is asked for before the last swap has settled is lost: then the page's own brings it."""
    page.evaluate(NEWS)
    expect(page.locator("#log-lines p").last).to_contain_text(text, timeout=30_000)


@pytest.mark.parametrize("size", list(pages.SIZES))
def test_a_log_is_followed_searched_and_read_in_local_time(browser, live_server, teller, path, size) -> None:
    width, height = pages.SIZES[size]
    context = browser.new_context(
        viewport={"width": width, "height": height}, timezone_id="Asia/Tokyo", reduced_motion="reduce"
    )
    page = context.new_page()
    said = listen(page)
    say(teller, *(f"line {i}" for i in range(200)), "Traceback (most recent call last):", "ValueError: odd")
    sign_in(page, live_server.url)
    page.goto(live_server.url + path)
    expect(page.locator("#log-lines p").last).to_contain_text("ValueError: odd")
    end = "() => { const b = document.querySelector('#log-lines'); return b.scrollHeight - b.scrollTop - b.clientHeight < 24 }"
    page.wait_for_function(end)
    assert not pages.axe(page)
    assert pages.overflow(page) <= 0

    # At the end it follows; once scrolled up it stays where it is read.
    say(teller, "news 1")
    await_news(page, "news 1")
    page.wait_for_function(end)
    page.evaluate("document.querySelector('#log-lines').scrollTop = 0")
    say(teller, "news 2")
    await_news(page, "news 2")
    assert page.evaluate("document.querySelector('#log-lines').scrollTop") == 0
    assert len(lines(page)) == 204
    assert len(set(lines(page))) == 204, "nothing came twice"

    # By keyboard: the slash leads to the search, Enter shows what fits.
    page.keyboard.press("/")
    page.keyboard.type("NEWS")
    page.keyboard.press("Enter")
    expect(page.locator("#log-lines p")).to_have_count(2)
    expect(page.locator("#log-lines mark").first).to_have_text("news")

    page.locator("#log-time").select_option("local")
    expect(page.locator("#log-zone")).to_contain_text("Asia/Tokyo")
    expect(page.locator("#log-lines time").first).to_have_text("24 Nov 21:03:22")
    page.locator("#log-level").select_option("error")
    expect(page.locator("#log-h")).to_be_visible()
    expect(page.get_by_text("None of the 204 lines fits.")).to_be_visible()

    page.goto(live_server.url + path)
    with page.expect_download() as coming:
        page.get_by_role("link", name="Download").click()
    assert "container error ValueError: odd" in coming.value.path().read_text()
    assert not said
    context.close()


def test_without_a_script_it_is_read_searched_and_reloaded(browser, live_server, teller, path) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    say(teller, "one", "two")
    sign_in(page, live_server.url)
    page.goto(live_server.url + path)
    assert len(lines(page)) == 2
    say(teller, "three")
    page.get_by_role("link", name="Reload").click()
    assert len(lines(page)) == 3
    page.locator("#log-q").fill("three")
    page.get_by_role("button", name="Show").click()
    assert len(lines(page)) == 1
    context.close()
