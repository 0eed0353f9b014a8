"""The playground in a real browser, against a small real engine."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from tests.playground import fake_engine, served
from tests.playground.fake_engine import FakeEngine, capture, token

pytestmark = pytest.mark.browser
FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
    "--disable-sync",
)  # fmt: skip


def said(*texts: str, field: str = "content", tail: str = "") -> bytes:
    usage = (
        b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
        b'data: {"choices":[],"usage":{"prompt_tokens":1204,"completion_tokens":356,'
        b'"completion_tokens_details":{"reasoning_tokens":210}}}\n\ndata: [DONE]\n\n'
    )
    return b"".join(token(json.dumps(t)[1:-1], field=field) for t in texts) + tail.encode() + usage


@pytest.fixture(scope="module")
def fake() -> Iterator[FakeEngine]:
    with fake_engine.running() as engine:
        yield engine


@pytest.fixture(scope="module")
def panel(fake: FakeEngine, tmp_path_factory) -> Iterator[served.Panel]:
    engines = [{"url": fake.url, "name": "qwen"}, {"url": fake.url, "model_key": "smollm2-135m"}]
    with served.panel(engines, tmp_path_factory.mktemp("panel"), REGIA_DEBUG="1") as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    path = os.environ.get("CHROMIUM") or shutil.which("chromium")
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        yield launched
        launched.close()


@pytest.fixture
def page(browser, panel: served.Panel, fake: FakeEngine) -> Iterator[Any]:
    fake.answer, fake.asked, fake.left_at = fake.replay(said("Hello")), [], []
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    context.add_cookies([{"name": n, "value": v, "url": panel.url} for n, v in (panel.session, panel.csrf)])
    page = context.new_page()
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda m: wrong.append(m.text) if "Content Security Policy" in m.text else None)
    page.goto(f"{panel.url}/playground/{panel.deployments[0]}/")
    page.wait_for_selector("#playground.live")
    yield page
    context.close()
    assert wrong == []


def ask(page, text: str = "Hi") -> None:
    page.fill("#prompt", text)
    page.keyboard.press("Enter")


def over(page) -> None:
    page.wait_for_selector(".turn.answer")
    page.wait_for_selector(".streaming", state="detached")


def test_an_answer_has_its_figures_under_it(page) -> None:
    ask(page)
    over(page)
    line = page.inner_text(".stats")
    assert line.startswith("TTFT 0.")
    assert "1 204 in / 356 out (210 thinking)" in line.replace("\u202f", " ")
    assert " · $0.0" in line
    assert line.endswith(" · stop")
    assert "$" in page.get_attribute(".stats", "title")


def test_tokens_appear_as_they_come_and_stop_closes_the_engines_side(page, fake: FakeEngine) -> None:
    fake.answer = fake.talk_for_ever()
    ask(page)
    page.wait_for_selector(".turn.answer .text:has-text('word word')")
    page.keyboard.press("Escape")
    over(page)
    assert page.inner_text(".stats").endswith(
        "n/a in / n/a out · " + page.inner_text(".stats").split(" · ")[3] + " · stopped"
    )
    assert "word word" in page.inner_text(".turn.answer .text")
    page.wait_for_timeout(1000)
    assert fake.open == 0
    assert page.is_visible("#send")


@pytest.mark.parametrize(
    ("stream", "thought", "text"),
    [
        (said("so", " so", field="reasoning", tail=token("Yes").decode()), "so so", "Yes"),
        (said("so", " so", field="reasoning_content", tail=token("Yes").decode()), "so so", "Yes"),
        (said("<th", "ink>so", " so</thi", "nk>\n\nYes"), "so so", "Yes"),
        (said("<think>so so</think>Yes"), "so so", "Yes"),
    ],
)
def test_thinking_is_folded_in_all_three_spellings(page, fake: FakeEngine, stream, thought, text) -> None:
    fake.answer = fake.replay(stream, size=9)
    ask(page)
    over(page)
    assert page.text_content(".thought-text") == thought
    assert page.inner_text(".turn.answer .text").strip() == text
    assert page.inner_text(".thought-word").startswith("thought for ")
    assert not page.evaluate("() => document.querySelector('.thought').open")


def test_a_thought_is_open_while_it_streams(page, fake: FakeEngine) -> None:
    async def answer(request):
        response = await fake_engine.begin(request)
        await response.write(token("so so", field="reasoning"))
        await asyncio.sleep(3600)

    fake.answer = answer
    ask(page)
    page.wait_for_selector(".thought[open] .thought-text:has-text('so so')")
    page.click("#stop")
    over(page)


def test_an_error_keeps_the_transcript_and_offers_a_retry(page, fake: FakeEngine) -> None:
    ask(page, "First")
    over(page)
    fake.answer = fake.replay(token("so far") + b'data: {"error":{"message":"EngineCore died"}}\n\n')
    ask(page, "Second")
    page.wait_for_selector(".failure:visible")
    assert "EngineCore died" in page.inner_text(".failure:visible")
    assert [t.strip() for t in page.locator(".turn .text").all_inner_texts()] == [
        "First",
        "Hello",
        "Second",
        "so far",
    ]
    fake.answer = fake.replay(said("Better"))
    page.click("[data-do=retry]:visible")
    page.wait_for_selector(".turn.answer .text:has-text('Better')")
    over(page)
    assert [t.strip() for t in page.locator(".turn .text").all_inner_texts()] == [
        "First",
        "Hello",
        "Second",
        "Better",
    ]
    assert [m["content"] for m in fake.asked[-1]["messages"]] == ["First", "Hello", "Second"]


def test_a_reload_loses_nothing_and_clear_forgets(page) -> None:
    page.fill("#system", "Be brief.")
    ask(page, "Remember me")
    over(page)
    page.fill("#prompt", "half a draft")
    page.reload()
    page.wait_for_selector("#playground.live")
    assert [t.strip() for t in page.locator(".turn .text").all_inner_texts()] == ["Remember me", "Hello"]
    assert page.input_value("#prompt") == "half a draft"
    assert page.input_value("#system") == "Be brief."
    page.click("#clear")
    page.reload()
    page.wait_for_selector("#playground.live")
    assert page.locator(".turn").count() == 0


def test_the_last_prompt_can_be_edited_and_the_answer_made_again(page, fake: FakeEngine) -> None:
    ask(page, "Helo")
    over(page)
    page.click("[data-do=edit]")
    assert page.input_value("#prompt") == "Helo"
    ask(page, "Hello?")
    over(page)
    page.click("[data-do=again]:visible")
    over(page)
    assert [m["content"] for m in fake.asked[-1]["messages"]] == ["Hello?"]
    assert page.locator(".turn").count() == 2


def test_a_models_html_is_shown_and_not_obeyed(page, fake: FakeEngine) -> None:
    fake.answer = fake.replay(
        said(
            "<img src=x onerror=\"document.title='owned'\">",
            "\n\n[x](javascript:alert(1)) **bold**\n\n```js\nlet a;\n```",
        )
    )
    ask(page, "<img src=x onerror=\"document.title='owned'\">")
    over(page)
    page.wait_for_selector(".text.drawn strong:has-text('bold')")
    assert page.locator("#transcript img, #transcript a").count() == 0
    assert page.title() == "Playground · Regia"
    assert page.locator(".code-block button").inner_text() == "Copy code"


def test_the_code_has_the_request_and_a_masked_key(page) -> None:
    ask(page, "It's 5 o'clock")
    over(page)
    for language, part in (
        ("curl", "It'\\''s 5"),
        ("python", "stream=True"),
        ("javascript", '"stream": true'),
    ):
        page.click("#view-code") if not page.is_visible("#code") else None
        page.click(f"[data-language={language}]")
        code = page.inner_text("#code-text")
        assert part in code
        assert "••••••••" in code
        assert "engine-key" not in code
        assert "top_k" in code


def test_the_advice_follows_the_thinking_switch(page, fake: FakeEngine) -> None:
    page.uncheck("#thinking")
    assert (page.input_value("#temperature"), page.input_value("#top_p")) == ("0.7", "0.8")
    ask(page)
    over(page)
    sent = fake.asked[-1]
    assert (sent["temperature"], sent["top_p"], sent["top_k"]) == (0.7, 0.8, 20)
    assert sent["chat_template_kwargs"] == {"enable_thinking": False}


def test_shift_enter_is_a_new_line_and_a_wrong_parameter_is_not_sent(page, fake: FakeEngine) -> None:
    page.fill("#prompt", "one")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("two")
    assert page.input_value("#prompt") == "one\ntwo"
    page.fill("#temperature", "9")
    page.keyboard.press("Tab")
    page.focus("#prompt")
    page.keyboard.press("Enter")
    assert fake.asked == []
    assert page.input_value("#prompt") == "one\ntwo"


def test_on_a_phone_the_composer_stays_and_the_parameters_are_a_sheet(page, panel) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    page.reload()
    page.wait_for_selector("#playground.live")
    assert not page.is_visible("#temperature")
    page.click("#open-params")
    assert page.is_visible("#temperature")
    page.click("#done")
    assert not page.is_visible("#temperature")
    box = page.locator("#composer").bounding_box()
    assert round(box["y"] + box["height"]) == 844
    assert page.evaluate("() => document.documentElement.scrollWidth") == 390


def test_events_are_read_whole_however_the_bytes_are_split(page) -> None:
    stream = (
        capture("vllm-stream-usage").decode()
        + "event: regia\r\ndata: {}\r\n\r\n: note\n\ndata: a\ndata: b\n\n"
    )
    script = """async (stream) => {
      const { EventParser } = await import(document.getElementById("playground").dataset.module);
      const read = (size) => {
        const parser = new EventParser();
        const events = [];
        for (let i = 0; i < stream.length; i += size) events.push(...parser.push(stream.slice(i, i + size)));
        return JSON.stringify(events);
      };
      return [1, 2, 3, 7, 50, 1e6].map(read);
    }"""
    results = page.evaluate(script, stream)
    assert len(set(results)) == 1
    events = json.loads(results[0])
    assert [e["name"] for e in events[-2:]] == ["regia", "message"]
    assert events[-1]["data"] == "a\nb"
    assert events[-3]["data"] == "[DONE]"


def test_costs_and_unknowns_are_written_as_they_are(page) -> None:
    script = """async () => {
      const { money, statsLine } = await import(document.getElementById("playground").dataset.module);
      return [money("0.0003"), money("0.0000312"), money("0"), money(null), money(""), money("12.5"), statsLine({}, { thought: true })];
    }"""
    assert page.evaluate(script) == [
        "$0.0003", "$0.000031", "$0", "n/a", "n/a", "$12.5000",
        "TTFT n/a · n/a tok/s · n/a in / n/a out (n/a thinking) · n/a · n/a",
    ]  # fmt: skip


def test_axe_finds_nothing(page, panel) -> None:
    from axe_playwright_python.sync_playwright import Axe

    ask(page, "Hi")
    over(page)
    page.click("#view-code")
    for scheme in ("light", "dark"):
        # Without the fade between the schemes, in whose middle no contrast holds.
        page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        found = Axe().run(page).response["violations"]
        assert [(v["id"], [n["html"] for n in v["nodes"]]) for v in found] == []
    page.click("#code [data-close]")
    found = Axe().run(page).response["violations"]
    assert [(v["id"], [n["html"] for n in v["nodes"]]) for v in found] == []
