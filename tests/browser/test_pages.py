"""Every page, at both sizes and in both themes, in a real browser."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from django.utils import timezone
from playwright.sync_api import Browser, Page

from tests.browser import pages, scene

pytestmark = [
    pytest.mark.browser,
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("browser"),
    pytest.mark.skipif(pages.CHROMIUM is None, reason="Chromium is not installed; set CHROMIUM to its path"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with pytest.MonkeyPatch.context() as patch, pages.chromium() as launched:
        # Playwright's loop runs in this thread; the tests' own few queries do not stand in its way.
        patch.setitem(os.environ, "DJANGO_ALLOW_ASYNC_UNSAFE", "1")
        yield launched


@pytest.fixture
def made() -> scene.Scene:
    return scene.build(now=timezone.now())


def sign_in(page: Page, address: str) -> None:
    page.goto(f"{address}/accounts/login/")
    page.get_by_label("Email").fill("admin@example.com")
    page.get_by_label("Password", exact=True).fill(scene.PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url(f"{address}/")


def listen(page: Page) -> list[str]:
    """What the console says: errors, violations of the policy, exceptions."""
    said: list[str] = []
    page.on("console", lambda m: said.append(m.text) if m.type in ("error", "warning") else None)
    page.on("pageerror", lambda e: said.append(str(e)))
    return said


EXPECTED = ("Failed to load resource: the server responded with a status of 4",)
"""A page that answers 404 says so in the console; that is the browser's own line."""


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("size", list(pages.SIZES))
def test_every_page_is_accessible_quiet_and_no_wider_than_its_window(browser, live_server, made, size, theme):
    context = pages.context_of(browser, size, theme)
    page = context.new_page()
    said = listen(page)
    problems: list[str] = []

    def look(name: str, path: str) -> None:
        page.goto(live_server.url + path)
        problems.extend(f"{name}: {line}" for line in pages.axe(page))
        if pages.overflow(page) > 0:
            problems.append(f"{name}: {pages.overflow(page)} px too wide")
        problems.extend(f"{name}: console: {line}" for line in said if not line.startswith(EXPECTED))
        said.clear()

    for name, path in pages.DOORS.items():
        look(name, path)
    sign_in(page, live_server.url)
    for name, path in pages.paths(made).items():
        look(name, path)
    context.close()
    assert not problems, "\n".join(problems)


def test_the_pages_work_without_javascript(browser, live_server, made, rung):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    sign_in(page, live_server.url)
    page.get_by_role("link", name="Launch", exact=True).first.click()
    page.get_by_label("Name").fill("without scripts")
    page.get_by_role("button", name="Launch ·").click()
    assert page.get_by_role("heading", name="without scripts").is_visible()
    page.get_by_role("button", name="Terminate").click()
    page.get_by_role("button", name="Terminate without scripts").click()
    assert page.get_by_text("is being terminated").is_visible()
    context.close()


def test_a_poll_shows_news_and_keeps_the_focus(browser, live_server, made):
    page = browser.new_page()
    sign_in(page, live_server.url)
    link = page.get_by_role("link", name="mail-triage", exact=True).first
    link.focus()
    from deployments.models import Deployment

    Deployment.objects.filter(name="evaluation").update(name="renamed meanwhile")
    page.get_by_role("link", name="renamed meanwhile").first.wait_for(timeout=20_000)
    assert page.evaluate("document.activeElement.textContent") == "mail-triage"
    page.close()


def test_choosing_another_model_changes_the_offers_and_the_price(browser, live_server, made):
    page = browser.new_page()
    sign_in(page, live_server.url)
    page.goto(f"{live_server.url}/launch/")
    assert page.get_by_role("button", name="Launch · $0.05/h").is_visible()
    page.get_by_label("Qwen3-4B FP8").check()
    page.get_by_role("button", name="Launch · $0.25/h").wait_for()
    page.get_by_label("NVIDIA L4 × 1").check()
    page.get_by_role("button", name="Launch · $0.43/h").wait_for()
    assert page.evaluate("document.activeElement.name") == "offer"
    page.close()


def test_the_theme_is_kept_and_a_dialog_asks_before_it_ends_a_machine(browser, live_server, made, rung):
    page = browser.new_page(color_scheme="light")
    sign_in(page, live_server.url)
    page.locator(".sidebar summary").click()
    toggle = page.locator(".sidebar [data-theme-toggle]")
    toggle.click()
    toggle.click()
    page.goto(f"{live_server.url}/deployments/{made.ready.pk}/")
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    page.get_by_role("button", name="Terminate").first.click()
    dialog = page.get_by_role("dialog", name="Terminate support-assistant?")
    assert dialog.is_visible()
    assert not pages.axe(page)
    page.keyboard.press("Escape")
    assert not dialog.is_visible()
    page.get_by_role("button", name="Terminate").first.click()
    dialog.get_by_role("button", name="Terminate support-assistant").click()
    assert page.get_by_text("is being terminated").is_visible()
    page.close()


def test_the_slash_key_leads_to_the_search(browser, live_server, made):
    page = browser.new_page()
    sign_in(page, live_server.url)
    page.goto(f"{live_server.url}/deployments/")
    page.keyboard.press("/")
    page.keyboard.type("mail")
    page.keyboard.press("Enter")
    page.wait_for_url("**/deployments/?**q=mail**")
    assert page.get_by_role("link", name="mail-triage").first.is_visible()
    page.close()


def test_what_saving_would_do_is_told_while_it_is_typed(browser, live_server, made, rung):
    page = browser.new_page()
    sign_in(page, live_server.url)
    page.goto(f"{live_server.url}/deployments/{made.ready.pk}/?tab=settings")
    page.get_by_label("Name").fill("renamed")
    page.get_by_label("Context length").fill("4096")
    page.get_by_label("Purpose").focus()
    page.get_by_role("button", name="Save and replace the machine").wait_for()
    page.get_by_label("Context length").fill("8192")
    page.get_by_label("Purpose").focus()
    page.get_by_role("button", name="Save", exact=True).wait_for()
    page.get_by_role("button", name="Save", exact=True).click()
    assert page.get_by_text("Saved.").is_visible()
    assert page.get_by_role("heading", name="renamed").is_visible()
    page.close()


def test_the_answer_of_a_keys_test_appears_by_itself(browser, live_server, made, rung):
    page = browser.new_page()
    sign_in(page, live_server.url)
    page.goto(f"{live_server.url}/accounts/providers/")
    card = page.get_by_role("region", name="RunPod", exact=True)
    card.get_by_role("button", name="Test").click()
    card.get_by_text("Being tested").wait_for()
    from deployments.models import ProviderAccount

    ProviderAccount.objects.filter(pk=made.account.pk).update(
        rights=[{"name": "instances", "ok": False, "detail": "The key lacks a right."}],
        rights_at=timezone.now(),
    )
    card.get_by_text("The key lacks a right.").wait_for(timeout=20_000)
    page.close()


def test_an_open_page_tells_that_the_clock_has_stopped_and_that_it_goes_again(browser, live_server, made):
    from datetime import timedelta

    from deployments.models import Heartbeat

    page = browser.new_page()
    sign_in(page, live_server.url)
    page.goto(f"{live_server.url}/deployments/{made.ready.pk}/")
    Heartbeat.beat("beat", timezone.now() - timedelta(minutes=4))
    page.evaluate("htmx.trigger('#panel-health', 'wake')")
    page.get_by_text("The clock was last seen 4 min ago.").wait_for()
    assert not pages.axe(page)
    Heartbeat.beat("beat", timezone.now())
    page.evaluate("htmx.trigger('#panel-health', 'wake')")
    page.get_by_text("The clock was last seen").wait_for(state="detached")
    page.close()


def test_a_drill_is_begun_without_a_mouse(browser, live_server, made, rung):
    page = browser.new_page()
    sign_in(page, live_server.url)
    page.goto(f"{live_server.url}/deployments/{made.ready.pk}/")
    page.get_by_role("link", name="Run a drill").focus()
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="Kill the machine of support-assistant?").wait_for()
    page.get_by_role("button", name="Kill it and measure").focus()
    page.keyboard.press("Enter")
    page.get_by_text("A drill is under way.").wait_for()
    assert not pages.axe(page)
    page.close()
