"""How long the Spend page takes with 3 years of 200 deployments: `python -m tests.bench.bench_spend`.

Each deployment always runs and takes a new machine every 60 days, so there are 3,800 machines: a day total of each
running one for every day, its months, its entries of the last ENTRY_DAYS days by component, and 200 open prices. SQLite
in a temporary folder, or the PostgreSQL of DATABASE_URL (a scratch database beside it, dropped afterwards).
Goal: p95 100 ms on one core, a constant number of queries. Wall time and processor time of this process are told; on
PostgreSQL the server's own time is in the wall time alone.
"""

from __future__ import annotations

import tests.environment  # noqa: F401  isort: skip  (first: it gives the settings a data folder of their own)

import os
import statistics
import sys
import tempfile
import time
import uuid
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

from tests.bench.bench_ledger import analyse, use_a_file

DEPLOYMENTS = int(os.environ.get("BENCH_DEPLOYMENTS", "200"))
YEARS = 3
ENTRY_DAYS = int(os.environ.get("BENCH_ENTRY_DAYS", "90"))
LIFE = timedelta(days=60)
ROUNDS = 30
PAGES = {
    "this month": "",
    "today, by hour": "?range=today",
    "30 days": "?range=30d",
    "90 days by day": "?range=90d&by=day",
    "90 days, providers": "?range=90d&by=day&group=provider",
    "90 days, components": "?range=90d&by=day&group=component",
    "90 days, a tag": "?range=90d&by=day&group=tag:team",
    "90 days, filtered": "?range=90d&by=day&provider=vast&tag=env=prod",
    "12 months": "?range=12m",
    "12 months, machines": "?range=12m&group=machine",
    "3 years, by owner": "?range=custom&from=2023-11-29&to=2026-11-28&group=owner",
    "3 years, filtered": "?range=custom&from=2023-11-29&to=2026-11-28&group=gpu&tag=team=search",
}


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="regia-bench-") as folder:
        os.environ["DJANGO_SETTINGS_MODULE"] = "panel.settings"
        import django

        django.setup()
        from django.conf import settings
        from django.db import connection

        settings.ALLOWED_HOSTS = ["testserver"]
        settings.STORAGES = {
            **settings.STORAGES,
            "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"},
        }
        connection.creation.create_test_db(verbosity=0, autoclobber=True)
        if connection.vendor == "sqlite":
            use_a_file(folder)
        try:
            measure()
        finally:
            if connection.vendor == "sqlite":
                connection.close()
            else:
                connection.creation.destroy_test_db(os.environ["DATABASE_URL"].rsplit("/", 1)[1], verbosity=0)


def measure() -> None:
    from unittest import mock

    from django.db import connection
    from django.test import Client
    from django.utils import timezone

    from billing.models import DayTotal, LedgerEntry, MonthTotal, Subject
    from tests import factories

    now = datetime(2026, 11, 28, 12, 0, 7, tzinfo=UTC)
    began = time.perf_counter()
    build(now)
    analyse()
    print(f"{connection.vendor}: {Subject.objects.count():,} machines, {DayTotal.objects.count():,} day totals, "
          f"{MonthTotal.objects.count():,} month totals, {LedgerEntry.objects.count():,} entries, "
          f"filled in {time.perf_counter() - began:.0f} s")  # fmt: skip
    client = Client()
    client.force_login(factories.administrator())
    with mock.patch.object(timezone, "now", return_value=now):
        machine = f"/spend/machine/{Subject.objects.order_by('-created_at').first().pk}/"
        for name, path in {**{k: f"/spend/{v}" for k, v in PAGES.items()}, "a machine": machine}.items():
            queries: list[str] = []

            def counted(execute, sql, *rest, queries=queries):
                queries.append(sql)
                return execute(sql, *rest)

            with connection.execute_wrapper(counted):
                answer = client.get(path)
            assert answer.status_code == 200, (path, answer.status_code)
            wall, cpu = [], []
            for _ in range(ROUNDS):
                at, used = time.perf_counter(), time.process_time()
                client.get(path)
                wall.append((time.perf_counter() - at) * 1000)
                cpu.append((time.process_time() - used) * 1000)
            wall.sort()
            cpu.sort()
            p95 = ROUNDS * 95 // 100
            print(f"  {name:22} {len(queries):2} queries  wall: least {wall[0]:6.1f}  median {statistics.median(wall):6.1f}  "
                  f"p95 {wall[p95]:6.1f} ms   CPU: median {statistics.median(cpu):6.1f}  p95 {cpu[p95]:6.1f} ms")  # fmt: skip


def build(now: datetime) -> None:
    from django.db import transaction

    from billing.models import Budget, DayTotal, LedgerEntry, PriceSegment, Reservation, Subject
    from billing.rollup import month_after, total_month
    from tests import factories

    owners = [factories.operator() for _ in range(8)]
    today = now.date()
    first = date(today.year - YEARS, today.month, today.day)
    born = datetime(first.year, first.month, first.day, tzinfo=UTC)
    hour = now.replace(minute=0, second=0)
    accounts = [uuid.uuid4() for _ in range(5)]
    gpus = ("NVIDIA RTX 4090", "NVIDIA L4", "NVIDIA RTX 3090", "NVIDIA A100")
    with transaction.atomic():
        Budget.objects.create(amount_usd=Decimal(1_000_000))
        for n in range(DEPLOYMENTS):
            scope = uuid.uuid4()
            tags = {"team": ("search", "mail", "legal")[n % 3], "env": ("prod", "test")[n % 2]}
            price, disk = Decimal("0.4") + Decimal(n) / 1000, Decimal("0.006")
            subjects, days, entries, segments = [], [], [], []
            start = born
            while start < now:
                end = min(start + LIFE, now)
                s = Subject(
                    id=uuid.uuid4(), label=f"regia-{n}-{len(subjects)}", scope=scope, scope_label=f"deployment-{n}",
                    provider=("runpod", "vast", "local")[n % 3], tier=("secure", "datacenter", "local")[n % 3],
                    gpu=gpus[(n + len(subjects)) % 4], account=accounts[n % 5], account_label=f"account {n % 5}",
                    country="NL", owner=owners[n % 8], tags=tags, created_at=start,
                )  # fmt: skip
                subjects.append(s)
                day = start.date()
                while datetime(day.year, day.month, day.day, tzinfo=UTC) < end:
                    hours = now.hour if day == today else 24
                    days.append(DayTotal(
                        subject=s, day=day, usd=(price + disk) * hours, compute_usd=price * hours, disk_usd=disk * hours,
                        seconds=3600 * hours, tokens_in=9_000_000, tokens_out=1_000_000, busy_seconds=30_000,
                        watched_seconds=86_000, best_hour=2_000_000,
                    ))  # fmt: skip
                    day += timedelta(days=1)
                at = max(start, hour - timedelta(days=ENTRY_DAYS))
                while at < min(end, hour):
                    entries += [
                        LedgerEntry(subject=s, component="compute", hour=at, seconds=3600, usd=price),
                        LedgerEntry(subject=s, component="disk", hour=at, seconds=3600, usd=disk),
                    ]
                    at += timedelta(hours=1)
                open_ = end == now
                for component, usd in (("compute", price), ("disk", disk)):
                    segments.append(PriceSegment(
                        subject=s, component=component, usd_per_unit_hour=usd, started_at=start,
                        metered_to=hour if open_ else end, ended_at=None if open_ else end, reason="Ready",
                    ))  # fmt: skip
                start = end
            Subject.objects.bulk_create(subjects)
            DayTotal.objects.bulk_create(days, batch_size=2_000)
            LedgerEntry.objects.bulk_create(entries, batch_size=5_000)
            PriceSegment.objects.bulk_create(segments)
            Reservation.objects.create(subject=subjects[-1], usd_per_hour=price + disk, held_at=born)
        ids = list(Subject.objects.values_list("pk", flat=True))
        month = first.replace(day=1)
        while month <= today:
            for i in range(0, len(ids), 900):
                total_month(month, ids[i : i + 900])
            month = month_after(month)


if __name__ == "__main__":
    sys.exit(main())
