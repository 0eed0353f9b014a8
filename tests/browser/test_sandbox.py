"""The sandbox in a browser: both providers' emulators and real engines, everything else as an operator has it.

One panel serves all journeys, in any order; when it ends, nothing of what was planted may show anywhere.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode
from uuid import uuid4

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser import leaks, pages, real
from tests.browser.real import PATIENCE, Panel, Visitor
from tests.command.engines import rows
from tests.command.running import until

pytestmark = [
    pytest.mark.browser,
    pytest.mark.engine,
    pytest.mark.enable_socket,
    pytest.mark.skipif(pages.CHROMIUM is None, reason="Chromium is not installed; set CHROMIUM to its path"),
]


class Desk:
    """An operator before the panel: one page, and what its console said."""

    def __init__(self, page: Page, panel: Panel) -> None:
        self.page, self.panel = page, panel
        self.said: list[str] = []
        page.on("console", lambda m: self.said.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda e: self.said.append(str(e)))

    def open(self, path: str) -> None:
        self.page.goto(self.panel.address + path)

    def launch(self, name: str, **query: str) -> str:
        """Launch the best offer that the query leaves; the new deployment's path."""
        self.open("/launch/?" + urlencode({"model": "qwen3-4b-awq", "name": name, **query}))
        self.page.get_by_role("button", name=re.compile(r"^Launch · \$")).click()
        expect(self.page.get_by_role("heading", name=name)).to_be_visible()
        return self.page.url.removeprefix(self.panel.address)

    def becomes(self, word: str) -> None:
        expect(self.page.locator("#status .d-title .badge")).to_have_text(word)

    def terminate(self, name: str) -> None:
        self.page.locator("#a-terminate").click()
        self.page.get_by_role("dialog").get_by_role("button", name=f"Terminate {name}").click()
        self.becomes("Terminated (confirmed)")

    def is_clean(self) -> None:
        assert not pages.axe(self.page)
        assert not self.said


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Panel]:
    with real.panel(tmp_path_factory.mktemp("sandbox"), "--sandbox") as panel:
        until(
            lambda: rows(panel.folder, "select count(distinct account_id) from deployments_offer") == [(3,)],
            message="not every account has offers",
            patience=PATIENCE,
        )
        yield panel
        assert leaks.scan(panel, Visitor(panel.fresh_link())) == []


@pytest.fixture(scope="module")
def context(sandbox: Panel) -> Iterator[Any]:
    expect.set_options(timeout=PATIENCE * 1000)
    with pages.chromium() as browser:
        yield signed_in(browser, sandbox)


def signed_in(browser: Browser, panel: Panel) -> Any:
    context = browser.new_context(reduced_motion="reduce", viewport={"width": 1440, "height": 900})
    context.set_default_timeout(PATIENCE * 1000)
    page = context.new_page()
    page.goto(panel.fresh_link())
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("heading", name="Overview")).to_be_visible()
    page.close()
    return context


@pytest.fixture
def desk(context: Any, sandbox: Panel) -> Iterator[Desk]:
    page = context.new_page()
    yield Desk(page, sandbox)
    page.close()


LABELS = """
select i.label from deployments_instance i join deployments_deployment d on d.id = i.deployment_id
where d.name = '{}' order by i.attempt
"""


def labels(panel: Panel, name: str) -> list[str]:
    """The labels of the deployment's attempts, oldest first."""
    return [label for (label,) in rows(panel.folder, LABELS.format(name))]


def standing(panel: Panel, provider: str) -> list[str]:
    """The labels of what really stands there."""
    return [machine["label"] for machine in panel.emulator(provider).machines()]


def test_a_pod_in_the_eu_is_launched_chatted_with_and_proved_gone(desk: Desk, sandbox: Panel) -> None:
    desk.launch("secure pod", provider="runpod", tier="secure", country="RO")
    expect(desk.page.get_by_text("Sandbox: no real machine, no real money")).to_be_visible()
    desk.becomes("Ready")
    expect(desk.page.get_by_text("RO is in the EU.")).to_be_visible()
    desk.is_clean()

    desk.page.locator("#a-chat").click()
    desk.page.wait_for_url("**/playground/**")
    box = desk.page.get_by_role("textbox", name=re.compile("message", re.IGNORECASE))
    box.fill("Say hello in one short sentence.")
    desk.page.keyboard.press("Enter")
    expect(desk.page.get_by_text(re.compile(r"tok/s"))).to_be_visible()

    desk.page.go_back()
    desk.terminate("secure pod")
    assert not set(labels(sandbox, "secure pod")) & set(standing(sandbox, "runpod"))
    desk.is_clean()


def test_an_outbid_machine_moves_to_one_that_nobody_can_outbid(desk: Desk, sandbox: Panel) -> None:
    desk.launch("bidder", provider="vast", tier="interruptible", purpose="development", country="EEA")
    desk.becomes("Ready")
    (first,) = labels(sandbox, "bidder")
    sandbox.emulator("vast").outbid(id=first)
    expect(desk.page.get_by_text("attempt 2").first).to_be_visible()
    desk.becomes("Ready")
    second = labels(sandbox, "bidder")[-1]
    assert second != first
    until(lambda: first not in standing(sandbox, "vast"), message="the outbid machine was not given back")
    assert second in [*standing(sandbox, "vast"), *standing(sandbox, "runpod")]
    tiers = "select json_extract(quote, '$.tier') from deployments_instance where label = "
    assert rows(sandbox.folder, f"{tiers}'{first}'") == [("interruptible",)]
    assert rows(sandbox.folder, f"{tiers}'{second}'") != [("interruptible",)]
    desk.terminate("bidder")
    assert second not in [*standing(sandbox, "vast"), *standing(sandbox, "runpod")]
    desk.is_clean()


def test_a_machine_in_the_us_is_neither_offered_nor_kept(desk: Desk, sandbox: Panel) -> None:
    desk.open("/launch/?" + urlencode({"model": "qwen3-4b-awq", "provider": "runpod", "country": "US"}))
    expect(desk.page.get_by_text("US is outside the EEA.").first).to_be_visible()
    expect(desk.page.locator(".offer.no input").first).to_be_disabled()
    desk.is_clean()

    desk.launch("strayed", provider="runpod", tier="secure", country="CZ")
    desk.becomes("Ready")
    (label,) = labels(sandbox, "strayed")
    sandbox.emulator("runpod").move(id=label, where="US-TX-3")
    until(
        lambda: label not in standing(sandbox, "runpod"), message="it was left in the US", patience=PATIENCE
    )
    expect(desk.page.get_by_text("US is outside the EEA.").first).to_be_visible()
    evidence = "select allowed from deployments_residencyevidence e join deployments_instance i on i.id = e.instance_id"
    assert rows(sandbox.folder, f"{evidence} where i.label = '{label}' order by e.id") == [(1,), (0,)]
    desk.is_clean()


def test_a_machine_under_our_label_that_nobody_knows_is_found_and_ended(desk: Desk, sandbox: Panel) -> None:
    ((key,),) = rows(sandbox.folder, "select key from deployments_installation")
    label = f"{key}-{uuid4().hex}-1"
    sandbox.emulator("vast").place(label=label)
    sandbox.emulator("vast").place(label="somebody-elses")
    desk.open("/radar/")
    found = desk.page.get_by_role("region", name=re.compile("unknown", re.IGNORECASE))
    expect(found.get_by_text(label)).to_be_visible()
    foreign = desk.page.get_by_role("region", name=re.compile("foreign|else", re.IGNORECASE))
    expect(foreign.get_by_text("somebody-elses").first).to_be_visible()
    desk.is_clean()

    found.get_by_role("link", name=re.compile("Terminate")).click()
    desk.page.get_by_role("button", name=re.compile("^Terminate")).click()
    until(lambda: label not in standing(sandbox, "vast"), message="it was not ended", patience=PATIENCE)
    assert "somebody-elses" in standing(sandbox, "vast")
    sandbox.emulator("vast").destroy(id="somebody-elses")
