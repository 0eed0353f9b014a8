"""What the samples of 100 instances over 90 days weigh, and how long a chart's query takes.

    python -m tests.bench.bench_samples             SQLite; with DATABASE_URL, in a database of that server's own

A scrape every 15 seconds: raw rows of 48 hours, minutes of 30 days, hours and quarters of days of 90 days, as
`roll_up` leaves them. They
are generated in that form. Goal: p95 100 ms for each chart, at most 2,000 points.
"""

from __future__ import annotations

import tests.environment  # noqa: F401  isort: skip  (first: it gives the settings a data folder of their own)

import os
import statistics
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from uuid import UUID, uuid4

import django

INSTANCES = int(os.environ.get("BENCH_INSTANCES", "100"))
ROUNDS = 30
CHARTS = {
    "latency": ("ttft_p50", "ttft_p95", "ttft_p99"),
    "throughput": ("tokens_in_rate", "tokens_out_rate"),
    "load": ("running", "waiting", "kv_use", "gpu_use"),
    "finished": ("finished_stop", "finished_length", "finished_abort", "finished_error"),
}
RANGES = {"1 h": 1, "6 h": 6, "24 h": 24, "7 d": 168, "30 d": 720, "90 d": 2160}


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "panel.settings")
    django.setup()
    from django.db import connection
    from django.utils import timezone

    connection.creation.create_test_db(verbosity=0, autoclobber=True, serialize=False)
    try:
        now = timezone.now().replace(microsecond=0)
        ids = _machines(now)
        before = _bytes()
        rows = _fill(ids, now)
        print(
            f"{connection.vendor}: {rows:,} rows of {INSTANCES} instances, {(_bytes() - before) / 1e6:,.0f} MB"
        )
        _work(ids, now)
        _charts(ids, now)
    finally:
        connection.creation.destroy_test_db(connection.settings_dict["NAME"], verbosity=0)


def _machines(now: datetime) -> list[UUID]:
    from deployments.models import Deployment, Instance, ProviderAccount
    from deployments.models.offer import freeze_quote
    from tests.playground.rows import own_machine

    account = ProviderAccount.objects.create(name="Bench", backend="local")
    deployment = Deployment.objects.create(
        name="bench", model_key="qwen3-4b-awq", context=8192, created_at=now, launch_key="bench"
    )
    made = Instance.objects.bulk_create(
        Instance(
            deployment=deployment, account=account, attempt=n, label=uuid4().hex, state="ready", state_since=now,
            quote=freeze_quote(own_machine()), usd_per_hour=0, created_at=now, api_key="sk",
        )
        for n in range(1, INSTANCES + 1)
    )  # fmt: skip
    return [i.pk for i in made]


def _fill(ids: list[UUID], now: datetime) -> int:
    """By time, as they came: the rows of all instances lie beside each other."""
    from django.db import connection

    from deployments.models import Sample
    from deployments.monitoring import samples

    samples.monitors(ids)
    chance = "abs(random() % 1000000) / 1000000.0" if connection.vendor == "sqlite" else "random()"
    values = {c: f"{chance} * {n + 1}" for n, c in enumerate(samples.COLUMNS)}
    # One canary in five minutes is in every twentieth row of 15 seconds.
    for c in ("canary_ttft", "canary_rate"):
        values[c] = f"CASE WHEN at.bucket % 300 = 0 THEN {values[c]} END"
    long = timedelta(days=90)
    for resolution, kept in (
        (15, timedelta(hours=48)), (60, timedelta(days=30)), (3600, long), (21_600, long),
    ):  # fmt: skip
        end = samples._bucket(now, resolution)
        begin = samples._bucket(now - kept, resolution) + resolution
        with connection.cursor() as cursor:
            cursor.execute(
                f"INSERT INTO {Sample._meta.db_table} (monitor_id, resolution, bucket, {', '.join(values)}) "  # noqa: S608
                f"WITH RECURSIVE at(bucket) AS (SELECT CAST({begin} AS bigint) UNION ALL "
                f"SELECT bucket + {resolution} FROM at WHERE bucket + {resolution} <= {end}) "
                f"SELECT m.id, {resolution}, at.bucket, {', '.join(values.values())} "
                f"FROM at CROSS JOIN deployments_monitor m ORDER BY at.bucket, m.id"
            )
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE")
    return Sample.objects.count()


def _bytes() -> int:
    from django.db import connection

    with connection.cursor() as cursor:
        if connection.vendor == "sqlite":
            cursor.execute("SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()")
        else:
            cursor.execute("SELECT pg_total_relation_size('deployments_sample')")
        return int(cursor.fetchone()[0])


def _timed(do: Callable[[], object], rounds: int = ROUNDS) -> list[float]:
    """Milliseconds of each round: by the clock, or with BENCH_CPU=1 of this process's own processor time.

    The latter says what a free core takes when others are busy on this one; SQLite works within this process.
    """
    watch = time.process_time if os.environ.get("BENCH_CPU") else time.perf_counter
    times = []
    for _ in range(rounds):
        begun = watch()
        do()
        times.append((watch() - begun) * 1000)
    return times


def _told(name: str, times: list[float], more: str = "") -> None:
    p95 = statistics.quantiles(times, n=20)[-1] if len(times) > 1 else times[0]
    print(f"  {name:42} median {statistics.median(times):7.1f} ms   p95 {p95:7.1f} ms   {more}")


def _work(ids: list[UUID], now: datetime) -> None:
    from deployments.monitoring import samples

    ticks = iter(range(1, 10_000))
    values = dict.fromkeys(samples.COLUMNS, 0.5)

    def tick() -> None:
        at = now + timedelta(seconds=15 * next(ticks))
        samples.record_many((pk, at, values) for pk in ids)

    _told(f"record {len(ids)} instances", _timed(tick))
    minutes = iter(range(1, 10_000))
    samples.Heartbeat.beat("samples-60", now)
    samples.Heartbeat.beat("samples-3600", now)
    samples.Heartbeat.beat("samples-21600", now)
    _told("roll_up, each minute", _timed(lambda: samples.roll_up(now + timedelta(minutes=next(minutes))), 8))
    later = iter(range(1, 10_000))
    _told(
        "purge, each ten minutes", _timed(lambda: samples.purge(now + timedelta(minutes=10 * next(later))), 8)
    )


def _charts(ids: list[UUID], now: datetime) -> None:
    for name, hours in RANGES.items():
        since = now - timedelta(hours=hours)
        for chart, keys in CHARTS.items():
            _chart(f"{name}, {chart}", ids, 1, keys, since, now)
        _chart(f"{name}, latency, 4 replicas", ids, 4, CHARTS["latency"], since, now)
        for some in (4, len(ids)):
            _together(f"{name}, latency, {some} in one line", ids[:some], CHARTS["latency"], since, now)
        _chart(f"{name}, sparklines of {len(ids)}", ids, len(ids), ("running",), since, now, points=60)


def _chart(
    name: str,
    ids: list[UUID],
    some: int,
    keys: tuple[str, ...],
    since: datetime,
    now: datetime,
    points: int = 2000,
) -> None:
    """One chart, each round of other instances, so that nothing comes from the round before."""
    from deployments.monitoring import samples

    turns = iter(range(10_000))

    def read() -> int:
        n = next(turns) * some % len(ids)
        return len(samples.read((ids * 2)[n : n + some], keys, since, now, points=points, now=now))

    found = read()
    _told(name, _timed(read), f"{found} points")


def _together(name: str, ids: list[UUID], keys: tuple[str, ...], since: datetime, now: datetime) -> None:
    """One chart of several instances as the pages draw it."""
    from deployments.monitoring import samples
    from deployments.views.boards import POINTS

    folds = dict.fromkeys(keys, "max")

    def read() -> int:
        return len(samples.read_together(ids, folds, since, now, points=POINTS, now=now).at)

    found = read()
    _told(name, _timed(read), f"{found} points")


if __name__ == "__main__":
    main()
