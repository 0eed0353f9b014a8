"""From the Launch click to the create request at the provider. Run: python -m tests.bench.bench_create

A panel of its own (`./regia up`), the RunPod emulator in another process with machines that run nothing, ROUNDS
launches (default 30) posted one after another as a browser posts the form; each is terminated before the next.
What is timed: from before the POST is sent to the moment at which the emulator has the create request. Once with the
one-machine broker, once with Redis where one answers at BENCH_REDIS. Goal: p95 300 ms.
"""

from __future__ import annotations

import os
import re
import statistics
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from tests.browser.real import Visitor
from tests.command.running import Panel, command
from tests.emulators.common.server import DEFAULT_KEY
from tests.emulators.runpod import RunPodEmulator

ROUNDS = int(os.environ.get("BENCH_ROUNDS", "30"))
REDIS = os.environ.get("BENCH_REDIS", "redis://127.0.0.1:6379/14")
ACCOUNT = """
import django
django.setup()
from django.utils import timezone
from deployments import offers
from deployments.models import ProviderAccount
account = ProviderAccount.objects.create(name="Bench", backend="runpod", credentials={key!r})
offers.refresh(account, now=timezone.now())
offer = account.offers.filter(tier="secure", country="RO", vram_mb__gte=20000).order_by("usd_per_hour")[0]
print(offer.pk)
"""


def once(browser: Visitor, emulator: RunPodEmulator, offer: str) -> float:
    """Seconds from the click to the create request; the machine is given back afterwards."""
    query = f"/launch/?model=qwen3-4b-awq&offer={offer}"
    page = browser.get(query)
    key = re.findall(r'name="launch_key" value="([^"]+)"', page)[0]
    already = len(emulator.seen("create"))
    clicked = datetime.now(UTC)
    place, shown = browser.post(
        "/launch/", page, name="bench", model="qwen3-4b-awq", context=4096, policy="reliability", countries=["RO"],
        offer=offer, launch_key=key, purpose="production", plan_b=3, bid_policy="move", time_zone="UTC",
    )  # fmt: skip
    if "/deployments/" not in place:
        raise SystemExit(re.findall(r'class="error"[^>]*>(.*?)</p>', shown, re.DOTALL) or place)
    seen = emulator.wait_for("create", already + 1, timeout=60)[-1]
    took = (seen.at - clicked).total_seconds()
    browser.post(f"{place}terminate/", browser.get(f"{place}terminate/"))
    give_up = time.monotonic() + 60
    while emulator.machines() and time.monotonic() < give_up:
        time.sleep(0.1)
    return took


def measure(name: str, **extra: str) -> None:
    import subprocess
    import sys

    from tests.command.running import ROOT, environment

    with (
        tempfile.TemporaryDirectory(prefix="regia-bench-") as folder,
        RunPodEmulator(keys=(DEFAULT_KEY,)) as emulator,
    ):
        addresses = {
            "RUNPOD_API_BASE_URL": emulator.url,
            "RUNPOD_RUNTIME_BASE_URL": f"{emulator.url}/runtime",
            "RUNPOD_PROXY_URL_TEMPLATE": emulator.url + "/proxy/{pod_id}-{port}",
            "ALLOW_INSECURE_ENDPOINTS": "1",
            "INFERENCE_IMAGE": "regia/inference:bench",
            **extra,
        }
        data = Path(folder) / "data"
        panel = Panel(data, **addresses)
        try:
            browser = Visitor(panel.link)
            made = subprocess.run(
                [sys.executable, "-c", ACCOUNT.format(key=DEFAULT_KEY)], cwd=ROOT, text=True, capture_output=True, check=True,
                env=environment(REGIA_DATA_DIR=str(data), DJANGO_SETTINGS_MODULE="panel.settings", **addresses),
            )  # fmt: skip
            offer = made.stdout.split()[-1]
            took = sorted(once(browser, emulator, offer) for _ in range(ROUNDS))
        finally:
            command("down", "--data-dir", str(data), **addresses)
            panel.close()
    p95 = took[min(len(took) - 1, int(len(took) * 0.95))]
    print(
        f"{name}: median {statistics.median(took) * 1000:.0f} ms, p95 {p95 * 1000:.0f} ms, worst {took[-1] * 1000:.0f} ms"
    )


def main() -> None:
    print(f"{ROUNDS} launches, from the click to the create request at the provider")
    measure("filesystem broker")
    measure("Redis", CELERY_BROKER_URL=REDIS)


if __name__ == "__main__":
    main()
