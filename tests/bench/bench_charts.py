"""How long the charts take: `python -m tests.bench.bench_charts [machines]`.

The numbers of one deployment and of the whole fleet for every time range, and the pages that hold them, through
Django's client (no network, no browser), with 100 machines that have told for three months. Goal: p95 100 ms of a
processor, which is what is measured: the database is in the same process.
"""

from __future__ import annotations

import tests.environment  # noqa: F401  isort: skip  (first: it gives the settings a data folder of their own)

import os
import random
import statistics
import sys
import time
from datetime import timedelta
from typing import Any

import django

ROUNDS = 20


def main(machines: int) -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "panel.settings")
    django.setup()
    from django.core.management import call_command
    from django.test import Client
    from django.utils import timezone

    call_command("migrate", verbosity=0)
    call_command("collectstatic", verbosity=0, interactive=False)
    now = timezone.now()
    from tests.bench.bench_pages import _grow

    _grow(machines, 0, now=now)
    rows = _tell(now)
    print(f"{machines} machines, {rows:,} rows of samples")
    from deployments.models import Deployment
    from panel.accounts.models import User

    client = Client(HTTP_HOST="127.0.0.1")
    client.force_login(User.objects.get())
    one = f"/deployments/{Deployment.objects.order_by('pk').values_list('pk', flat=True)[0]}"
    print(f"{'':34}{'median':>9}{'p95':>9}{'bytes':>12}")
    for title, path in (("one deployment", f"{one}/series/"), ("the fleet", "/series/")):
        for key in ("1h", "6h", "24h", "7d", "30d"):
            _measure(f"{title}, {key}", client, f"{path}?range={key}")
        quarter = f"from={now - timedelta(days=90):%Y-%m-%dT%H:%M:%SZ}&to={now:%Y-%m-%dT%H:%M:%SZ}"
        _measure(f"{title}, 90d", client, f"{path}?{quarter}")
    _measure("the Metrics tab", client, f"{one}/metrics/")
    _measure("the Overview, whole", client, "/")
    _measure("the Overview, its poll", client, "/", {"HX-Request": "true", "HX-Target": "fleet"})
    _measure("the list", client, "/deployments/")


def _tell(now: Any) -> int:
    """Samples of the first machine as far back as they are kept (90 days of hours), of the others what is read."""
    from django.db import connection

    from deployments.models import Instance, Monitor, Sample
    from deployments.monitoring import samples
    from tests.browser.scene_samples import values

    chance = random.Random(1)
    some = [values(now - timedelta(minutes=n), chance, n) for n in range(60)]
    Instance.objects.update(created_at=now - timedelta(days=100))
    Monitor.objects.bulk_create(
        [Monitor(instance_id=pk) for pk in Instance.objects.values_list("pk", flat=True)]
    )
    end = int(now.timestamp())
    first = Instance.objects.order_by("deployment").values_list("monitor", flat=True)[0]
    for size, days in ((samples.RAW, 1), (samples.MINUTE, 30), (samples.HOUR, 90), (samples.QUARTER, 90)):
        begin = end - days * 86_400
        buckets = range(begin - begin % size, end, size)
        made = (Sample(monitor_id=first, resolution=size, bucket=b, **some[b // size % 60]) for b in buckets)
        Sample.objects.bulk_create(made, batch_size=1000)
    columns = ", ".join(f.column for f in Sample._meta.concrete_fields if f.name != "monitor")
    with connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO {Sample._meta.db_table} (monitor_id, {columns}) SELECT m.id, {columns} "  # noqa: S608
            f"FROM {Monitor._meta.db_table} m JOIN {Sample._meta.db_table} s ON s.monitor_id = %s "
            "WHERE m.id <> %s AND (resolution >= 3600 OR bucket >= (CASE resolution WHEN 15 THEN %s ELSE %s END))",
            [first, first, end - 6 * 3600, end - 86_400],
        )
    return Sample.objects.count()


def _measure(title: str, client: Any, path: str, headers: dict[str, str] | None = None) -> None:
    began = time.process_time()
    client.get(path, headers=headers)
    first = (time.process_time() - began) * 1000
    took, size = [], 0
    for _ in range(ROUNDS):
        began = time.process_time()
        response = client.get(path, headers=headers)
        took.append((time.process_time() - began) * 1000)
        assert response.status_code == 200, path
        size = len(response.content)
    took.sort()
    p95 = took[min(len(took) - 1, round(len(took) * 0.95))]
    print(f"{title:34}{statistics.median(took):6.0f} ms{p95:6.0f} ms{size:12,}   the first {first:.0f} ms")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100)
