"""The whole way once, with everything real: `./regia up`, the engine, a browser."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from playwright.sync_api import expect

from tests.browser import pages, real
from tests.browser.real import PATIENCE, Panel

pytestmark = [
    pytest.mark.browser,
    pytest.mark.engine,
    pytest.mark.enable_socket,
    pytest.mark.skipif(pages.CHROMIUM is None, reason="Chromium is not installed; set CHROMIUM to its path"),
]


@pytest.fixture
def panel(tmp_path: Path) -> Iterator[Panel]:
    with real.panel(tmp_path) as running:
        yield running


def engines(folder: Path) -> list[psutil.Process]:
    """The engine processes of this panel alone: those that name its data folder."""
    found = []
    for process in psutil.process_iter(["pid", "cmdline"]):
        words = " ".join(process.info["cmdline"] or [])
        if str(folder / "engines") in words or (str(folder) in words and "llama" in words):
            found.append(process)
    return found


def test_from_the_link_to_a_chatting_endpoint_and_back_to_nothing(panel: Panel) -> None:
    expect.set_options(timeout=PATIENCE * 1000)
    with pages.chromium() as browser:
        page = browser.new_page(reduced_motion="reduce")
        said: list[str] = []
        page.on("console", lambda m: said.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda e: said.append(str(e)))

        page.goto(panel.link)
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_role("heading", name="Overview")).to_be_visible()

        page.get_by_role("link", name="Launch", exact=True).first.click()
        page.get_by_label("Name").fill("first light")
        page.get_by_role("button", name="Launch · $0.05/h").click()
        expect(page.get_by_role("heading", name="first light")).to_be_visible()
        expect(page.locator("#status .badge")).to_have_text("Ready")
        assert engines(panel.folder)
        assert not pages.axe(page)

        page.locator("#a-chat").click()
        page.wait_for_url("**/playground/**")
        page.get_by_role("textbox", name=re.compile("message", re.IGNORECASE)).fill(
            "Say hello in one short sentence."
        )
        page.keyboard.press("Enter")
        expect(page.get_by_text(re.compile(r"tok/s"))).to_be_visible()
        assert not pages.axe(page)

        page.get_by_role("link", name="Deployments", exact=True).first.click()
        page.get_by_role("link", name="first light").first.click()
        expect(page.locator("#to-cost")).not_to_have_text("$0.0000")

        # Its engine dies: the page that is open says so within 30 s, and then that it is back, without a reload.
        for engine in engines(panel.folder):
            engine.kill()
        incident = page.locator("#status a[id^=incident-]")
        expect(incident).to_contain_text("first light", timeout=30_000)
        expect(page.locator("#status .badge")).to_have_text("Ready")
        incident.click()
        expect(page.get_by_text("What probably caused it.")).to_be_visible()
        expect(page.locator(".story")).to_contain_text("is now Degraded")
        page.get_by_role("button", name="Acknowledge").click()
        expect(page.locator("#a-acknowledge")).to_have_count(0)
        page.locator(".touched a").click()

        page.locator("#a-stop").click()
        page.get_by_role("dialog").get_by_role("button", name="Stop first light").click()
        expect(page.locator("#status .badge")).to_have_text("Stopped")

        page.locator("#a-terminate").click()
        page.get_by_role("dialog").get_by_role("button", name="Terminate first light").click()
        expect(page.locator("#status .badge")).to_have_text("Terminated (confirmed)")
        assert not engines(panel.folder)
        assert not said
