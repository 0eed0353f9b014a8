"""What the cold-start waterfall costs: `python -m tests.bench.bench_waterfall [past launches]`.

A deployment's first page, whole and as it polls, and the waterfall alone, with 500 past launches at the same provider
and tier to take the medians of; through Django's client (no network, no browser), SQLite in the same process.
"""

from __future__ import annotations

import tests.environment  # noqa: F401  isort: skip  (first: it gives the settings a data folder of their own)

import os
import random
import statistics
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import django

ROUNDS = 40


def main(past: int) -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "panel.settings")
    django.setup()
    from django.core.management import call_command
    from django.test import Client
    from django.utils import timezone

    call_command("migrate", verbosity=0)
    call_command("collectstatic", verbosity=0, interactive=False)
    from deployments.views import reads
    from panel.accounts.models import User
    from tests.bench.bench_pages import _grow

    now = timezone.now()
    _grow(past + 1, 0, now=now)
    user, pk = User.objects.get(), _launch(now)

    def waterfall() -> None:
        d = reads.get_deployment_or_404(user, pk)
        reads.waterfall(d.current, _moves(now), now=now)

    client = Client(SERVER_NAME="127.0.0.1")
    client.force_login(user)
    path, part = f"/deployments/{pk}/", {"HX-Request": "true", "HX-Target": "panel"}
    print(f"{past} past launches")
    _measure("the waterfall, its deployment read first", waterfall)
    _measure("the page", lambda: client.get(path))
    _measure("the part that polls", lambda: client.get(path, headers=part))


def _launch(now: Any) -> Any:
    """Every deployment but the newest came up in the last 90 days; the newest is loading its weights."""
    from deployments.models import Event, Instance, Launch

    chance = random.Random(1)
    newest, *others = Instance.objects.order_by("-deployment__created_at").select_related("deployment")
    tier = newest.quote.get("tier", "")
    lengths = {"queue": 20, "pull": 90, "download": 60, "load": 45, "warm": 12, "first_token": 1}

    def seconds() -> dict[str, float]:
        told = {phase: usual * chance.uniform(0.5, 2) for phase, usual in lengths.items()}
        return told | {"total": sum(told.values()) - told["first_token"]}

    alike = {"provider": "runpod", "tier": tier, "model_key": newest.deployment.model_key}
    Launch.objects.bulk_create(
        Launch(instance=i, began_at=now - timedelta(hours=4 * n + 1), **alike, **seconds())
        for n, i in enumerate(others)
    )
    Launch.objects.create(instance=newest, began_at=now - timedelta(seconds=200), **alike)
    Instance.objects.filter(pk=newest.pk).update(state="loading", state_since=now - timedelta(seconds=60))
    Event.objects.bulk_create(
        Event(deployment=newest.deployment, instance=newest, at=at, kind="state", to_state=state)
        for state, at in _moves(now)
    )
    return newest.deployment_id


def _moves(now: Any) -> list[tuple[Any, Any]]:
    from deployments.lifecycle import State

    ago = {State.REQUESTED: 200, State.PROVISIONING: 195, State.PULLING: 170, State.LOADING: 60}
    return [(state, now - timedelta(seconds=s)) for state, s in ago.items()]


def _measure(title: str, work: Callable[[], Any]) -> None:
    from django.db import connection

    asked: list[str] = []

    def count(execute: Callable[..., Any], sql: str, *rest: Any) -> Any:
        asked.append(sql)
        return execute(sql, *rest)

    work()
    with connection.execute_wrapper(count):
        work()
    wall, cpu = [], []
    for _ in range(ROUNDS):
        began = time.perf_counter(), time.process_time()
        work()
        cpu.append((time.process_time() - began[1]) * 1000)
        wall.append((time.perf_counter() - began[0]) * 1000)
    p95 = [statistics.quantiles(some, n=20)[-1] for some in (wall, cpu)]
    print(
        f"{title:42} {len(asked):2} queries, processor {statistics.median(cpu):5.1f} / {p95[1]:5.1f} ms, "
        f"clock {statistics.median(wall):5.1f} / {p95[0]:5.1f} ms"
    )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 500)
