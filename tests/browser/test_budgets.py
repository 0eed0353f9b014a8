"""A budget from its form to the machine that is gone: a real panel, a real engine, a browser."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.browser import pages, real
from tests.browser.real import PATIENCE, Panel
from tests.browser.test_journey import engines

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


def test_a_budget_is_set_and_crossed_and_the_machine_is_gone(panel: Panel) -> None:
    expect.set_options(timeout=PATIENCE * 1000)
    with pages.chromium() as browser:
        page = browser.new_page(reduced_motion="reduce")
        said: list[str] = []
        page.on("console", lambda m: said.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda e: said.append(str(e)))

        page.goto(panel.link)
        page.get_by_role("button", name="Sign in").click()
        page.goto(f"{panel.address}/launch/")
        page.get_by_label("Name").fill("short of money")
        page.get_by_role("button", name="Launch · $0.05/h").click()
        expect(page.locator("#status .badge")).to_have_text("Ready")
        deployment = page.url
        assert engines(panel.folder)

        page.goto(f"{panel.address}/spend/")
        page.locator("#tab-budgets").click()
        page.locator("#add-budget").click()
        page.get_by_label("Name").fill("Nothing left")
        page.get_by_label("What it is about").select_option(label="short of money")
        page.get_by_label("Amount").fill("0")
        page.get_by_role("button", name="Add the budget").click()

        # Told on the open page, without a reload, and on the overview.
        card = page.locator("section.card", has=page.get_by_role("heading", name="Nothing left"))
        expect(card).to_contain_text("may be spent beyond the budget")
        for rung in ("50 %", "80 %", "100 %"):
            expect(card.locator(".rungs")).to_contain_text(f"{rung} told")
        assert not pages.axe(page)

        page.goto(deployment)
        expect(page.locator("#status .badge").first).to_have_text("Stopped")
        assert not engines(panel.folder)
        page.goto(panel.address)
        expect(page.get_by_text("100 % of the budget Nothing left is spent").first).to_be_visible()

        page.goto(f"{deployment}start/")
        page.get_by_role("button", name="Start").first.click()
        expect(page.get_by_text("in the budget Nothing left").first).to_be_visible()
        assert not engines(panel.folder)
        assert not said
