"""One worker, 1,000 endpoints: what a round of probes and one of scrapes take: `python -m tests.bench.bench_probe`.

The endpoints are one server in a process of its own that answers as vLLM does, its capture of /metrics included. Then
a hundred of them hang, and it is told when the answers of the others stand in their rows. Goal: an endpoint that dies
is Degraded within 30 s, of which the probes' intervals take up to 14.
"""

from __future__ import annotations

import tests.environment  # noqa: F401  isort: skip  (first: it gives the settings a data folder of their own)

import asyncio
import multiprocessing
import os
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from multiprocessing.connection import Connection
from uuid import uuid4

import django
from aiohttp import web

INSTANCES, HANGING, ROUNDS = 1000, 100, 3


def serve(told: Connection) -> None:
    from tests.deployments.engine import VLLM

    async def answer(request: web.Request) -> web.Response:
        if request.path.startswith("/hang"):
            await asyncio.sleep(60)
        if request.path.endswith("/metrics"):
            return web.Response(text=VLLM, content_type="text/plain")
        return web.json_response({"data": []})

    async def run() -> None:
        app = web.Application()
        app.router.add_get("/{path:.*}", answer)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, backlog=2048)
        await site.start()
        told.send(runner.addresses[0][1])
        await asyncio.Event().wait()

    asyncio.run(run())


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "panel.settings")
    django.setup()
    from django.db import connection
    from django.utils import timezone

    here, there = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(there,), daemon=True)
    server.start()
    url = f"http://127.0.0.1:{here.recv()}"
    connection.creation.create_test_db(verbosity=0, autoclobber=True, serialize=False)
    try:
        now = timezone.now()
        _machines(url, now)
        _rounds(now)
        _hanging(url, now)
    finally:
        connection.creation.destroy_test_db(connection.settings_dict["NAME"], verbosity=0)
        server.kill()


def _machines(url: str, now: datetime) -> None:
    from deployments.models import Deployment, Instance, ProviderAccount
    from deployments.models.offer import freeze_quote
    from tests.playground.rows import own_machine

    account = ProviderAccount.objects.create(name="Bench", backend="local")
    deployments = Deployment.objects.bulk_create(
        Deployment(name=f"d{n}", model_key="qwen3-4b-awq", context=8192, created_at=now, launch_key=f"k{n}")
        for n in range(INSTANCES)
    )
    quote = freeze_quote(own_machine())
    Instance.objects.bulk_create(
        Instance(
            deployment=d, account=account, attempt=1, label=uuid4().hex, state="ready", state_since=now, quote=quote,
            usd_per_hour=0, created_at=now, api_key="sk", endpoint_url=f"{url}/{n}",
        )
        for n, d in enumerate(deployments)
    )  # fmt: skip


def _rounds(now: datetime) -> None:
    from deployments.monitoring import probe, scrape

    for name, due, apart in (("probe", probe.probe_due, 10), ("scrape", scrape.scrape_due, 15)):
        wall, cpu = [], []
        for n in range(ROUNDS):
            at = now + timedelta(seconds=(apart + 1) * n)
            begun, used = time.perf_counter(), time.process_time()
            assert due(clock=_at(at)) == INSTANCES
            wall.append(time.perf_counter() - begun)
            cpu.append(time.process_time() - used)
        share = sorted(cpu)[ROUNDS // 2] / apart
        print(
            f"{name}: a round of {INSTANCES} takes {min(wall):.2f} to {max(wall):.2f} s, "
            f"{sorted(cpu)[ROUNDS // 2]:.2f} s of a processor: {share:.0%} of a core at one in {apart} s"
        )


def _hanging(url: str, now: datetime) -> None:
    from deployments.models import Instance
    from deployments.monitoring import probe

    some = Instance.objects.order_by("pk").values_list("pk", flat=True)[:HANGING]
    Instance.objects.filter(pk__in=list(some)).update(endpoint_url=f"{url}/hang")
    stood: list[tuple[float, int]] = []
    note, begun = probe._note, time.perf_counter()

    def noted(found: list[object], *, now: datetime) -> None:
        note(found, now=now)  # type: ignore[arg-type]
        stood.append((time.perf_counter() - begun, len(found)))

    probe._note = noted  # type: ignore[assignment]
    probe.probe_due(clock=_at(now + timedelta(hours=1)))
    good, last = 0, 0.0
    for at, count in stood:
        if good < INSTANCES - HANGING:
            good, last = good + count, at
    print(
        f"{HANGING} of them hang: the answers of the others stand after {last:.2f} s, theirs after {stood[-1][0]:.2f} s"
    )


def _at(now: datetime) -> Callable[[], datetime]:
    return lambda: now


if __name__ == "__main__":
    main()
