"""How long the pages take with many rows: `python -m tests.bench.bench_pages`.

Overview, the list, one deployment, Spend, the health in the header and /metrics through Django's client (no network, no browser), with 10 and with
1,000 deployments, the latter with 1,000,000 ledger entries and 1,000,000 events. Goal: p95 60 ms on one core.
"""

from __future__ import annotations

import tests.environment  # noqa: F401  isort: skip  (first: it gives the settings a data folder of their own)

import os
import statistics
import sys
import time
import uuid
from datetime import datetime, timedelta
from decimal import Decimal

import django

ROWS = 1_000_000
HOURS = 500
ROUNDS = 40


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "panel.settings")
    django.setup()
    from django.core.management import call_command
    from django.utils import timezone

    call_command("migrate", verbosity=0)
    call_command("collectstatic", verbosity=0, interactive=False)
    now = timezone.now()
    for wanted, rows in ((10, 0), (1000, ROWS)):
        _grow(wanted, rows, now=now)
        _measure(wanted, rows)


def _grow(wanted: int, rows: int, *, now: datetime) -> None:
    """Bring the number of running deployments to `wanted`; `rows` entries and events are spread over them."""
    from billing import budgets
    from billing.models import Budget, DayTotal, LedgerEntry, PriceSegment, Reservation, Subject
    from deployments.models import Deployment, Event, Instance, ProviderAccount
    from deployments.models.offer import freeze_quote
    from tests import factories
    from tests.browser.scene import quote

    owner = factories.administrator()
    budgets.set_budget(Decimal(100_000), Budget.Period.MONTH, hard_stop=True, actor=owner, now=now)
    account, _ = ProviderAccount.objects.get_or_create(name="RunPod", backend="runpod")
    frozen = freeze_quote(quote("x", "NVIDIA L4", "CZ", "0.43"))
    count = wanted - Deployment.objects.count()
    made = [
        Deployment(name=f"deployment-{i}", model_key="qwen3-4b-fp8", context=8192, desired="running", owner=owner, created_at=now - timedelta(minutes=i), launch_key=uuid.uuid4().hex)
        for i in range(count)
    ]  # fmt: skip
    Deployment.objects.bulk_create(made)
    instances = [
        Instance(deployment=d, account=account, attempt=1, label=uuid.uuid4().hex, quote=frozen, usd_per_hour=Decimal("0.43"), state="ready", state_since=now, created_at=now, api_key="sk-x", country="CZ")
        for d in made
    ]  # fmt: skip
    Instance.objects.bulk_create(instances)
    Subject.objects.bulk_create(
        Subject(id=i.id, label=i.label, scope=i.deployment_id, scope_label=i.deployment.name, provider="runpod", created_at=now)
        for i in instances
    )  # fmt: skip
    hour = now.replace(minute=0, second=0, microsecond=0)
    born = hour - timedelta(hours=HOURS)
    PriceSegment.objects.bulk_create(
        PriceSegment(subject_id=i.id, component="compute", usd_per_unit_hour=Decimal("0.43"), started_at=born, metered_to=hour)
        for i in instances
    )  # fmt: skip
    Reservation.objects.bulk_create(
        Reservation(subject_id=i.id, usd_per_hour=Decimal("0.43"), held_at=now) for i in instances
    )
    days = HOURS // 24
    DayTotal.objects.bulk_create(
        (DayTotal(subject_id=i.id, day=(hour - timedelta(days=n)).date(), usd=Decimal("10.32")) for i in instances for n in range(days)),
        batch_size=5000,
    )  # fmt: skip
    each = rows // max(1, len(instances))
    for i in instances if rows else ():
        LedgerEntry.objects.bulk_create(
            LedgerEntry(subject_id=i.id, component=("compute", "disk")[n % 2], hour=hour - timedelta(hours=n // 2), seconds=3600, usd=Decimal("0.2"))
            for n in range(each)
        )  # fmt: skip
        Event.objects.bulk_create(
            Event(deployment_id=i.deployment_id, instance=i, at=now - timedelta(seconds=n * 60), kind="state", from_state="ready", to_state="degraded")
            for n in range(each)
        )  # fmt: skip


def _measure(wanted: int, rows: int) -> None:
    from django.test import Client

    from deployments.models import Deployment
    from panel.accounts.models import User

    client = Client(SERVER_NAME="127.0.0.1")
    user = User.objects.filter(groups__name="administrator").first()
    assert user is not None
    client.force_login(user)
    one = Deployment.objects.order_by("created_at").first()
    assert one is not None
    from django.conf import settings

    token = {"Authorization": f"Bearer {settings.METRICS_TOKEN}"}
    for name, path in (
        ("overview", "/"), ("deployments", "/deployments/"), ("deployment", f"/deployments/{one.pk}/"), ("spend", "/spend/"),
        ("header alone", "/health/"), ("/metrics", "/metrics"),
    ):  # fmt: skip
        client.get(path, headers=token)
        took = []
        for _ in range(ROUNDS):
            began = time.process_time(), time.perf_counter()
            assert client.get(path, headers=token).status_code == 200
            took.append((time.perf_counter() - began[1], time.process_time() - began[0]))
        wall, cpu = sorted(w for w, _ in took), sorted(c for _, c in took)
        p95 = ROUNDS * 95 // 100 - 1
        sys.stdout.write(
            f"{name:12} {wanted:5} deployments {rows:9,} rows: "
            f"median {statistics.median(wall) * 1e3:6.1f} ms, p95 {wall[p95] * 1e3:6.1f} ms, CPU p95 {cpu[p95] * 1e3:6.1f} ms\n"
        )
        sys.stdout.flush()


if __name__ == "__main__":
    main()
