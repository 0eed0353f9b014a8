"""From the Launch click to the first chat token, in a browser. Run: python -m tests.bench.bench_launch

A panel of its own (`./regia up`), the real engine, headless Chromium; ROUNDS launches (default 5) one after
another, each terminated before the next. The browser clicks as soon as it can; goal: 5 s.
"""

from __future__ import annotations

import os
import re
import shutil
import statistics
import tempfile
import time
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from tests.command.running import Panel, command

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
ROUNDS = int(os.environ.get("BENCH_ROUNDS", "5"))


def once(page: Page, base: str) -> tuple[float, float]:
    """Seconds from the click to a shown Ready, and to the first token of an answer."""
    page.goto(f"{base}/launch/")
    began = time.monotonic()
    page.get_by_role("button", name="Launch ·").click()
    page.locator("#status .badge", has_text="Ready").wait_for(timeout=120_000)
    ready = time.monotonic() - began
    page.locator("#a-chat").click()
    page.get_by_role("textbox", name=re.compile("message", re.IGNORECASE)).fill("Say hello.")
    page.keyboard.press("Enter")
    page.locator(".turn.answer .text", has_text=re.compile(r"\S")).first.wait_for(timeout=120_000)
    first = time.monotonic() - began
    page.get_by_text(re.compile("tok/s")).first.wait_for(timeout=120_000)
    page.go_back()
    page.locator("#a-terminate").click()
    page.get_by_role("dialog").get_by_role("button", name=re.compile("^Terminate")).click()
    page.locator("#status .badge", has_text="Terminated").wait_for(timeout=120_000)
    return ready, first


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="regia-bench-") as folder:
        panel = Panel(Path(folder) / "data")
        try:
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(
                    executable_path=os.environ.get("CHROMIUM") or shutil.which("chromium"), args=FLAGS
                )
                page = browser.new_page()
                page.goto(panel.link)
                page.get_by_role("button", name="Sign in").click()
                took = [once(page, f"http://127.0.0.1:{panel.port}") for _ in range(ROUNDS)]
        finally:
            command("down", "--data-dir", str(panel.data))
            panel.close()
    for name, values in (("ready shown", [t[0] for t in took]), ("first token", [t[1] for t in took])):
        print(
            f"{name}: median {statistics.median(values):.2f} s, worst {max(values):.2f} s, {ROUNDS} launches"
        )


if __name__ == "__main__":
    main()
