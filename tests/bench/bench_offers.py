"""How long the offers take to change with the filters: `python -m tests.bench.bench_offers`.

The fragment of the Launch page through Django's client (no network, no browser) with 5,000 offers of four accounts,
on SQLite. Goal: p95 80 ms on one core. `first` is the request after an account's offers were fetched again, which
reads that account's rows anew.
"""

from __future__ import annotations

import tests.environment  # noqa: F401  isort: skip  (first: it gives the settings a data folder of their own)

import os
import random
import statistics
import sys
import time
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from typing import Any

import django

OFFERS = 5_000
ROUNDS = int(os.environ.get("ROUNDS", "60"))
GOAL_MS = 80
PLACES = ("CZ", "FR", "NL", "DE", "SE", "RO", "US", "GB", "PL", "ES", "IT", None)
GPUS = (("RTX 3060", 12, 8.6), ("RTX A4000", 16, 8.6), ("RTX 3090", 24, 8.6), ("RTX 4090", 24, 8.9), ("L40S", 48, 8.9), ("H100 SXM", 80, 9.0))  # fmt: skip
ASKS = {
    "all": "model=qwen3-4b-fp8",
    "filtered": "model=qwen3-4b-awq&gpu=RTX+3090&country=FR&max_price=0.4",
    "sorted": "model=qwen3-4b-bf16&policy=cheapest&sort=reliability&suitable=1",
    "more": "model=qwen3-4b-awq&purpose=development&show=200",
}


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "panel.settings")
    django.setup()
    from django.core.management import call_command
    from django.utils import timezone

    call_command("migrate", verbosity=0)
    call_command("collectstatic", verbosity=0, interactive=False)
    accounts = build(now=timezone.now())
    _measure(accounts)


def build(*, now: datetime, offers: int = OFFERS) -> list[Any]:
    """Four accounts with a believable market; returns them with their quotes."""
    from billing import budgets
    from billing.models import Budget
    from deployments.models import ProviderAccount
    from deployments.offers import store
    from tests import factories

    dice = random.Random(7)
    owner = factories.administrator()
    budgets.set_budget(Decimal(1200), Budget.Period.MONTH, hard_stop=True, actor=owner, now=now)
    made = []
    for n in range(4):
        backend = ("vast", "runpod")[n % 2]
        account = ProviderAccount.objects.create(name=f"{backend} {n}", backend=backend, credentials="key")
        quotes = [_quote(dice, backend, i) for i in range(offers // 4)]
        store(account, quotes, now=now)
        made.append((account, quotes))
    return made


def _quote(dice: random.Random, backend: str, i: int) -> Any:
    from deployments.providers.base import Quote

    gpu, vram, capability = dice.choice(GPUS)
    tier = dice.choice(
        ("community", "datacenter", "interruptible") if backend == "vast" else ("secure", "community")
    )
    compute = Decimal(dice.randint(80, 900)) / 1000
    disk = Decimal("0.0075")
    vast = backend == "vast"
    return Quote(
        key=f"{backend}-{i}", tier=tier, gpu_name=gpu, gpu_count=dice.choice((1, 1, 1, 2)), vram_mb=vram * 1024, cpu_count=16,
        memory_mb=65_536, country=dice.choice(PLACES), data_center="" if vast else f"EU-{i % 7}", usd_per_hour=compute + disk,
        compute_usd_per_hour=compute, disk_usd_per_hour=disk, traffic_usd_per_gb=Decimal("0.002") if vast else Decimal(0),
        reliability=round(dice.uniform(0.93, 0.9999), 4) if vast else None, stock="" if vast else dice.choice(("high", "low")),
        max_hours=dice.uniform(10, 3000) if vast else None, usual_seconds_to_ready=dice.randint(100, 400),
        interruptible=tier == "interruptible", host=f"vast-host-{i % 300}" if vast else f"EU-{i % 7}", site=str(i),
        cuda_max=dice.choice((12.4, 12.8, 13.0)) if vast else None, compute_capability=capability,
        certification="ISO 27001 (the host)" if tier == "datacenter" else "", sla=tier == "secure",
    )  # fmt: skip


def _measure(accounts: list[Any]) -> None:
    from django.db import connection
    from django.test import Client
    from django.test.utils import CaptureQueriesContext
    from django.utils import timezone

    from deployments.offers import store
    from panel.accounts.models import User

    client = Client(SERVER_NAME="127.0.0.1", headers={"HX-Request": "true", "HX-Target": "choice"})
    user = User.objects.filter(groups__name="administrator").first()
    assert user is not None
    client.force_login(user)
    for name, ask in ASKS.items():
        client.get(f"/launch/?{ask}")
        with CaptureQueriesContext(connection) as queries:
            client.get(f"/launch/?{ask}")
            count = len(queries)
        _report(name, [_once(client, ask) for _ in range(ROUNDS)], f"{count} queries")
    first = []
    for n in range(ROUNDS // 3):
        account, quotes = accounts[n % len(accounts)]
        store(account, _moved(quotes), now=timezone.now())
        first.append(_once(client, ASKS["all"]))
    _report("first", first, "after an account was fetched anew and 60 of its offers changed")


def _moved(quotes: list[Any]) -> list[Any]:
    """The market a minute later: some prices are others."""
    few = {id(q) for q in random.sample(quotes, 60)}
    return [replace(q, reliability=random.random()) if id(q) in few else q for q in quotes]


def _once(client: Any, ask: str) -> tuple[float, float]:
    """Seconds by the clock, and of the processor: with others at work beside it only the latter tells."""
    began = time.perf_counter(), time.process_time()
    response = client.get(f"/launch/?{ask}")
    took = time.perf_counter() - began[0], time.process_time() - began[1]
    assert response.status_code == 200
    return took


def _report(name: str, took: list[tuple[float, float]], more: str) -> None:
    wall, cpu = sorted(w for w, _ in took), sorted(c for _, c in took)
    nth = max(0, len(took) * 95 // 100 - 1)
    sys.stdout.write(
        f"{name:9} {OFFERS:6,} offers: median {statistics.median(wall) * 1e3:6.1f} ms, p95 {wall[nth] * 1e3:6.1f} ms; "
        f"CPU median {statistics.median(cpu) * 1e3:6.1f} ms, p95 {cpu[nth] * 1e3:6.1f} ms "
        f"(goal {GOAL_MS} ms); {more}\n"
    )
    sys.stdout.flush()


if __name__ == "__main__":
    main()
