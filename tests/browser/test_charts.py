"""Charts that zoom: by mouse, by keyboard, by finger, all over one range that stands in the address."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from datetime import timedelta

import pytest
from django.utils import timezone
from playwright.sync_api import Browser, Page, expect

from tests.browser import pages, scene, scene_samples
from tests.browser.test_pages import listen, sign_in

pytestmark = [
    pytest.mark.browser,
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("browser"),
    pytest.mark.skipif(pages.CHROMIUM is None, reason="Chromium is not installed; set CHROMIUM to its path"),
]
ZOOMED = re.compile(r"/metrics/\?from=[^&]+Z&to=[^&]+Z$")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with pytest.MonkeyPatch.context() as patch, pages.chromium() as launched:
        patch.setitem(os.environ, "DJANGO_ALLOW_ASYNC_UNSAFE", "1")
        yield launched


@pytest.fixture
def made() -> scene.Scene:
    now = timezone.now()
    built = scene.build(now=now)
    scene_samples.tell(built.ready, now=now)
    return built


def opened(page: Page, address: str, made: scene.Scene, query: str = "") -> None:
    sign_in(page, address)
    page.goto(f"{address}/deployments/{made.ready.pk}/metrics/{query}")
    expect(page.locator(".stage")).to_have_count(9)


def span(page: Page) -> float:
    """Minutes of the range that the address names."""
    return float(
        page.evaluate(
            "() => { const p = new URLSearchParams(location.search);"
            " return (Date.parse(p.get('to')) - Date.parse(p.get('from'))) / 60000; }"
        )
    )


def test_a_drag_with_the_mouse_zooms_every_chart_and_the_way_back_leads_out(browser, live_server, made):
    page = browser.new_page(reduced_motion="reduce")
    said = listen(page)
    opened(page, live_server.url, made)
    plot = page.locator('[data-chart="tokens"] .u-over')
    plot.evaluate("e => e.scrollIntoView({ block: 'center' })")
    box = plot.bounding_box()
    assert box
    page.mouse.move(box["x"] + box["width"] * 0.25, box["y"] + 40)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + 50, steps=4)
    page.mouse.move(box["x"] + box["width"] * 0.75, box["y"] + 60, steps=4)
    page.mouse.up()
    expect(page).to_have_url(ZOOMED)
    assert 29 <= span(page) <= 31
    expect(page.locator('[aria-label="Time range"] [aria-current]')).to_have_count(0)
    # What another chart shows has followed: its table begins within the new range.
    labels = page.locator(".stage").evaluate_all(
        "all => all.map((s) => s.getAttribute('aria-label').split(', ').slice(1).join())"
    )
    assert len(set(labels)) == 1

    page.go_back()
    expect(page.locator("#range-1h")).to_have_attribute("aria-current", "page")
    assert not pages.axe(page)
    assert not said


def test_the_keyboard_reads_selects_and_zooms(browser, live_server, made):
    page = browser.new_page(reduced_motion="reduce")
    said = listen(page)
    opened(page, live_server.url, made)
    stage = page.locator('[data-chart="ttft"] .stage')
    stage.focus()
    page.keyboard.press("End")
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#board-said")).to_have_text(
        re.compile(r"^\d\d:\d\d:\d\d: median \d+ ms, p95 \d+ ms, p99 ")
    )
    expect(page.locator("#legend-ttft [data-at]")).to_be_visible()
    # The others' cursors stand at the same moment.
    expect(page.locator("#legend-tokens [data-at]")).to_be_visible()
    for _ in range(12):
        page.keyboard.press("Shift+ArrowLeft")
    expect(page.locator("#board-said")).to_have_text(re.compile(r"^Selected: "))
    page.keyboard.press("Enter")
    expect(page).to_have_url(ZOOMED)
    selected = span(page)
    assert 1 <= selected < 40
    expect(page.locator("#board-said")).to_have_text(re.compile(r"^Shown is "))
    assert page.evaluate("document.activeElement.className") == "stage"
    page.keyboard.press("-")
    page.wait_for_function(
        "(was) => { const p = new URLSearchParams(location.search);"
        " return (Date.parse(p.get('to')) - Date.parse(p.get('from'))) / 60000 > was * 1.5; }",
        arg=selected,
    )
    page.keyboard.press("Escape")
    expect(page.locator("#range-1h")).to_have_attribute("aria-current", "page")
    page.locator("#range-in").focus()
    page.keyboard.press("Enter")
    expect(page).to_have_url(ZOOMED)
    assert page.evaluate("document.activeElement.id") == "range-in"
    assert not said


def test_a_finger_zooms_on_a_phone_and_the_range_outlives_a_reload(browser, live_server, made):
    context = pages.context_of(browser, "phone", "dark")
    page = context.new_page()
    said = listen(page)
    opened(page, live_server.url, made)
    plot = page.locator('[data-chart="requests"] .u-over')
    plot.scroll_into_view_if_needed()
    box = plot.bounding_box()
    assert box
    y = box["y"] + box["height"] / 2
    touch = page.context.new_cdp_session(page)
    for kind, share in (("touchStart", 0.3), ("touchMove", 0.5), ("touchMove", 0.7), ("touchEnd", None)):
        points = [] if share is None else [{"x": box["x"] + box["width"] * share, "y": y}]
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    expect(page).to_have_url(ZOOMED)
    assert 20 <= span(page) <= 28
    words = page.locator(".range-words strong").inner_text()
    page.reload()
    expect(page.locator(".stage")).to_have_count(9)
    assert page.locator(".range-words strong").inner_text() == words
    assert pages.overflow(page) == 0
    assert not said
    assert not pages.axe(page)
    context.close()


def test_new_samples_and_incidents_appear_without_a_reload_and_a_lost_panel_is_said(
    browser, live_server, made
):
    page = browser.new_page(reduced_motion="reduce")
    page.clock.install()
    opened(page, live_server.url, made)
    expect(page.locator("#legend-canary_rate [data-value]")).not_to_have_text("n/a")
    from deployments.lifecycle import State
    from deployments.models import Event
    from deployments.monitoring import samples

    now = timezone.now()
    machine = made.ready.instances.get()
    samples.record(machine.pk, now, {"running": 4321.0})
    Event.objects.create(
        deployment=made.ready, instance=machine, at=now - timedelta(seconds=1), kind="state", from_state=State.READY,
        to_state=State.FAILED, reason="It is gone.",
    )  # fmt: skip
    page.clock.run_for(16_000)
    expect(page.locator('#legend-requests [data-key="running"] [data-value]')).to_have_text("4,321")
    expect(page.locator("#board-marks summary")).to_have_text(re.compile("3 events"))

    page.route("**/series/**", lambda route: route.abort())
    page.clock.run_for(16_000)
    expect(page.locator("#board-problem")).to_contain_text("does not answer")
    page.close()


def test_without_scripts_pictures_tables_and_links_do_the_same(browser, live_server, made):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    sign_in(page, live_server.url)
    page.goto(f"{live_server.url}/deployments/{made.ready.pk}/metrics/")
    assert page.locator("svg.lines").count() == 9
    assert page.locator('[data-chart="ttft"] svg.lines path').first.get_attribute("d").count("L") > 40
    page.locator('[data-chart="ttft"] summary').click()
    assert re.search(r"\d+ ms", page.locator("#table-ttft tbody tr").first.inner_text())
    page.locator("#range-in").click()
    expect(page).to_have_url(ZOOMED)
    assert page.locator("svg.lines").count() == 9
    page.locator("#range-earlier").click()
    page.locator("#range-24h").click()
    expect(page.locator("#range-24h")).to_have_attribute("aria-current", "page")
    page.locator("#own-range summary").click()
    page.get_by_role("button", name="Show").click()
    expect(page.locator(".range-words strong")).to_have_text(re.compile(" to "))
    context.close()


def test_the_overviews_charts_zoom_too_while_its_table_polls(browser, live_server, made):
    page = browser.new_page(reduced_motion="reduce")
    said = listen(page)
    sign_in(page, live_server.url)
    expect(page.locator(".stage")).to_have_count(4)
    page.locator("#range-out").click()
    expect(page).to_have_url(re.compile(r"/\?from="))
    from deployments.models import Deployment

    Deployment.objects.filter(name="evaluation").update(name="renamed meanwhile")
    page.get_by_role("link", name="renamed meanwhile").first.wait_for(timeout=20_000)
    expect(page.locator(".stage")).to_have_count(4)
    assert page.url.count("from=") == 1
    assert not said
    page.close()
