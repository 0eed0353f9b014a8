"""How the browser tests open Chromium and which pages they look at."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from axe_playwright_python.base import AXE_SCRIPT
from django.utils import timezone
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from tests.browser.scene import Scene

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium")
ARGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SIZES = {"wide": (1440, 900), "phone": (390, 844)}


@contextmanager
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGS)
        try:
            yield browser
        finally:
            browser.close()


def context_of(browser: Browser, size: str, theme: str) -> BrowserContext:
    width, height = SIZES[size]
    return browser.new_context(
        viewport={"width": width, "height": height}, color_scheme=theme, reduced_motion="reduce",  # type: ignore[arg-type]
        has_touch=size == "phone",
    )  # fmt: skip


def paths(scene: Scene) -> dict[str, str]:
    """Every page of the panel for somebody who is signed in, by a short name."""
    one, up, down = (f"/deployments/{d.pk}/" for d in (scene.ready, scene.starting, scene.failed))
    return {
        "overview": "/",
        "launch": "/launch/?model=qwen3-4b-fp8",
        "launch-local": "/launch/",
        "compare": "/compare/?where=eu",
        "compare-january": "/compare/?prices=2026-01&where=eu&budget=150&context=4096",
        "deployments": "/deployments/",
        "deployments-none": "/deployments/?q=nothing-has-this-name",
        "deployment": one,
        "deployment-starting": up,
        "deployment-failed": down,
        "deployment-metrics": f"{one}metrics/",
        "deployment-metrics-day": f"{one}metrics/?range=24h",
        "deployment-events": f"{one}?tab=events",
        "deployment-cost": f"{one}?tab=cost",
        "deployment-settings": f"{one}?tab=settings",
        "deployment-logs": f"{one}logs/",
        "deployment-outbid": f"/deployments/{scene.outbid.pk}/",
        "deployment-replaced": f"{one}?tab=settings&{scene.replacing}",
        "terminate": f"{one}terminate/",
        "incidents": "/incidents/",
        "incidents-none": "/incidents/?show=closed",
        "incident": f"/incidents/{scene.incident.pk}/",
        "reliability": "/reliability/",
        "drill": f"{one}drill/",
        "drill-refused": f"{up}drill/",
        "radar": "/radar/",
        "radar-hidden": "/radar/?hidden=1",
        "radar-terminate": f"/radar/{scene.found.pk}/terminate/",
        "accounts": "/accounts/providers/",
        "account-add": "/accounts/providers/add/",
        "account-rotate": f"/accounts/providers/{scene.account.pk}/rotate/",
        "account-disable": f"/accounts/providers/{scene.account.pk}/disable/",
        "alerts": "/alerts/",
        "alerts-channels": "/alerts/?tab=channels",
        "alerts-rules": "/alerts/?tab=rules",
        "alerts-windows": "/alerts/?tab=windows",
        "alerts-log": "/alerts/?tab=log",
        "alert-mail": "/alerts/channels/add/mail/",
        "alert-webhook": f"/alerts/channels/{scene.channel.pk}/",
        "alert-channel-delete": f"/alerts/channels/{scene.channel.pk}/delete/",
        "alert-rule": f"/alerts/rules/{scene.rule.pk}/",
        "alert-rule-delete": f"/alerts/rules/{scene.rule.pk}/delete/",
        "alert-window": "/alerts/windows/add/",
        "spend": "/spend/",
        "reconciliation": "/spend/reconciliation/",
        "reconciliation-all": "/spend/reconciliation/?show=all&reason=fee",
        "gap": f"/spend/reconciliation/{scene.gap.pk}/",
        "spend-today": "/spend/?range=today&group=component",
        "spend-filtered": "/spend/?range=90d&group=machine&provider=vast&tag=team=mail",
        "spend-none": "/spend/?range=last-month&gpu=none&from=x",
        "spend-machine": f"/spend/machine/{scene.machine.pk}/",
        "advice": "/spend/advice/",
        "statements": "/spend/statements/",
        "statement": f"/spend/statements/{timezone.now():%Y-%m}/",
        "budgets": "/spend/budgets/",
        "budget-add": "/spend/budgets/add/",
        "budget-lift": f"/spend/budgets/{scene.budget.pk}/lift/",
        "budget-remove": f"/spend/budgets/{scene.budget.pk}/remove/",
        "evidence": "/evidence/",
        "privacy": "/privacy/",
        "your-data": "/account/privacy/",
        "retention": "/privacy/retention/?look=1",
        "person-export": f"/privacy/people/{scene.administrator.pk}/export/",
        "person-erase": f"/privacy/people/{scene.administrator.pk}/erase/",
        "compliance": "/compliance/",
        "breach-add": "/compliance/breaches/add/",
        "breach": f"/compliance/breaches/{scene.breach.pk}/",
        "breach-authority": f"/compliance/breaches/{scene.breach.pk}/?part=authority",
        "request-add": "/compliance/requests/add/",
        "request": f"/compliance/requests/{scene.request.pk}/",
        "playground": "/playground/",
        "password": "/accounts/password/change/",
        "logout": "/accounts/logout/",
        "not-found": "/nothing/here/",
        "admin": "/admin/",
        "audit": "/admin/audit/auditevent/",
        "audit-event": "/admin/audit/auditevent/1/change/",
        "admin-list": "/admin/accounts/user/",
        "admin-registers": "/admin/registers/",
        "admin-processors": "/admin/registers/processor/",
        "admin-processor": f"/admin/registers/processor/{scene.processor.pk}/change/",
        "admin-versions": f"/admin/registers/processor/{scene.processor.pk}/history/",
        "admin-activity": f"/admin/registers/processingactivity/{scene.activity.pk}/change/",
        "admin-breaches": "/admin/registers/breach/",
        "admin-breach": f"/admin/registers/breach/{scene.breach.pk}/change/",
        "admin-requests": "/admin/registers/subjectrequest/",
        "admin-request": f"/admin/registers/subjectrequest/{scene.request.pk}/change/",
        "admin-form": f"/admin/accounts/user/{scene.administrator.pk}/change/",
    }


DOORS = {
    "login": "/accounts/login/",
    "reset": "/accounts/password/reset/",
    "bad-link": "/sign-in/not-a-link/",
    "privacy-open": "/privacy/",
}
"""Pages for somebody who is not signed in."""


def axe(page: Page) -> list[str]:
    """What axe finds, one line each. Evaluated, not added as a script: the policy stays in force."""
    page.evaluate(AXE_SCRIPT)
    found = page.evaluate("() => axe.run({resultTypes: ['violations']}).then((r) => r.violations)")
    return [f"{v['id']}: {v['help']} at {[n['target'] for n in v['nodes']][:4]}" for v in found]


def overflow(page: Page) -> int:
    """By how many pixels the page is wider than its window."""
    return int(
        page.evaluate("() => document.documentElement.scrollWidth - document.documentElement.clientWidth")
    )
