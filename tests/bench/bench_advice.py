"""How long the Advice page takes: `python -m tests.bench.bench_advice [deployments] [offers]`.

200 deployments with 28 days of hours each (134,400 samples), four different wishes, 3,000 offers and 2,000 launches,
through Django's client: the page, and the line on a deployment's Cost tab. Goal: p95 300 ms, 15 queries.
"""

from __future__ import annotations

import tests.environment  # noqa: F401  isort: skip  (first: it gives the settings a data folder of their own)

import os
import random
import statistics
import sys
import time
import uuid
from datetime import datetime, timedelta
from decimal import Decimal

import django

ROUNDS = 20


def main(count: int, offered: int) -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "panel.settings")
    django.setup()
    from django.core.management import call_command
    from django.utils import timezone

    call_command("migrate", verbosity=0)
    call_command("collectstatic", verbosity=0, interactive=False)
    _grow(count, offered, now=timezone.now())
    _measure(count, offered)


def _grow(count: int, offered: int, *, now: datetime) -> None:
    from deployments.models import Deployment, Instance, Launch, Monitor, Offer, ProviderAccount, Sample
    from deployments.models.offer import freeze_quote, quote_values
    from tests import factories
    from tests.browser.scene import quote

    chance, owner = random.Random(1), factories.administrator()
    account = ProviderAccount.objects.create(name="RunPod", backend="runpod", credentials="k", offers_at=now)
    quotes = [
        quote(f"o{n}", f"GPU {n % 40}", chance.choice(["CZ", "FR", "NL", "US"]), f"{chance.uniform(0.3, 3):.3f}", sla=n % 2 == 0, reliability=round(chance.uniform(0.95, 1), 4), vram_mb=chance.choice([16, 24, 48, 80]) * 1024)
        for n in range(offered)
    ]  # fmt: skip
    Offer.objects.bulk_create(
        (Offer(account=account, key=q.key, fetched_at=now, **quote_values(q)) for q in quotes), batch_size=500
    )
    born = now - timedelta(days=40)
    wishes = [(8192, ["CZ"]), (4096, ["CZ", "FR"]), (8192, ["CZ", "FR", "NL"]), (16384, ["NL"])]
    made = Deployment.objects.bulk_create(
        Deployment(name=f"deployment-{n}", model_key="qwen3-4b-awq", context=wishes[n % 4][0], allowed_countries=wishes[n % 4][1], desired="running", owner=owner, created_at=born, launch_key=uuid.uuid4().hex)
        for n in range(count)
    )  # fmt: skip
    rows = Instance.objects.bulk_create(
        Instance(deployment=d, account=account, attempt=1, label=uuid.uuid4().hex, quote=freeze_quote(quotes[n % 97]), usd_per_hour=quotes[n % 97].usd_per_hour, state="ready", state_since=born, created_at=born, ready_at=born, api_key="sk-x", country="CZ")
        for n, d in enumerate(made)
    )  # fmt: skip
    Launch.objects.bulk_create(
        Launch(instance=i, provider="runpod", tier="secure", model_key="m", began_at=born, total=200 + n)
        for n, i in enumerate(rows)
    )
    monitors = Monitor.objects.bulk_create(Monitor(instance=i) for i in rows)
    last = int(now.timestamp()) // 3600
    for n, monitor in enumerate(monitors):
        Sample.objects.bulk_create(
            Sample(monitor=monitor, resolution=3600, bucket=hour * 3600, running=2.0 if _busy(n, hour) else 0.0, waiting=0.0, kv_use=0.3 if _busy(n, hour) else 0.0, finished_stop=3.0 if _busy(n, hour) else 0.2, tokens_in_rate=9.0, tokens_out_rate=5.0)
            for hour in range(last - 28 * 24, last)
        )  # fmt: skip


def _busy(n: int, hour: int) -> bool:
    day, of_day = (hour // 24 + 3) % 7, hour % 24
    return n % 3 == 0 or (n % 3 == 1 and day < 5 and 8 <= of_day < 18) or (n % 3 == 2 and of_day in (9, 15))


def _measure(count: int, offered: int) -> None:
    from django.db import connection
    from django.test import Client

    from deployments.models import Deployment
    from panel.accounts.models import User

    client = Client(SERVER_NAME="127.0.0.1")
    user = User.objects.filter(groups__name="administrator").first()
    assert user is not None
    client.force_login(user)
    one = Deployment.objects.order_by("name").first()
    assert one is not None
    for name, path in (("advice", "/spend/advice/"), ("cost tab", f"/deployments/{one.pk}/?tab=cost")):
        asked: list[str] = []

        def count_one(execute, sql, params, many, context, asked=asked):
            asked.append(sql)
            return execute(sql, params, many, context)

        began = time.process_time()
        response = client.get(path)
        first = time.process_time() - began
        with connection.execute_wrapper(count_one):
            client.get(path)
        assert response.status_code == 200
        took: list[tuple[float, float]] = []
        for _ in range(ROUNDS):
            began_at = time.perf_counter(), time.process_time()
            assert client.get(path).status_code == 200
            took.append((time.perf_counter() - began_at[0], time.process_time() - began_at[1]))
        wall, cpu = sorted(w for w, _ in took), sorted(c for _, c in took)
        p95 = ROUNDS * 95 // 100 - 1
        sys.stdout.write(
            f"{name:9} {count} deployments, {offered} offers: {len(asked)} queries, first {first * 1e3:.0f} ms of a processor; "
            f"median {statistics.median(wall) * 1e3:.0f} ms, p95 {wall[p95] * 1e3:.0f} ms, "
            f"CPU median {statistics.median(cpu) * 1e3:.0f} ms, p95 {cpu[p95] * 1e3:.0f} ms\n"
        )
    sys.stdout.write(f"saves {Decimal(_saves()):,.2f}\n")


def _saves() -> Decimal:
    from django.utils import timezone

    from deployments.advising import gather
    from deployments.models import Deployment

    return gather.board(Deployment.objects.all(), now=timezone.now()).saves


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200, int(sys.argv[2]) if len(sys.argv) > 2 else 3000)
