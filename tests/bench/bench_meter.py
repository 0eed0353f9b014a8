"""How long metering a year of 200 deployments takes, and catching up after a week. Run: python -m tests.bench.bench_meter

Each machine has compute and a disk, a new price every 30 days and a charge of traffic every day. The clock goes in
steps of BENCH_STEP hours (24: as far as one batch of the task catches up). At the end the books are compared with the integral of all prices, to the
nano-dollar. Then 1,000 machines are caught up after seven days. SQLite in a temporary folder, or the PostgreSQL of
DATABASE_URL in a scratch database. Time is of this process's processor and by the clock; memory is the peak.
"""

from __future__ import annotations

import os
import random
import resource
import sys
import tempfile
import time
import uuid
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from tests.bench.bench_ledger import use_a_file

MACHINES = int(os.environ.get("BENCH_SUBJECTS", "200"))
DAYS = int(os.environ.get("BENCH_DAYS", "365"))
STEP = timedelta(hours=int(os.environ.get("BENCH_STEP", "24")))
START = datetime(2026, 1, 1, tzinfo=UTC)
WEEK, MONTH = timedelta(days=7), timedelta(days=30)


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="regia-bench-") as folder:
        os.environ["REGIA_DATA_DIR"] = folder
        os.environ["DJANGO_SETTINGS_MODULE"] = "panel.settings"
        import django

        django.setup()
        from django.db import connection

        connection.creation.create_test_db(verbosity=0, autoclobber=True, serialize=False)
        if connection.vendor == "sqlite":
            use_a_file(folder)
        try:
            a_year()
            a_week_of_downtime(1_000)
        finally:
            if connection.vendor == "sqlite":
                connection.close()
            else:
                connection.creation.destroy_test_db(os.environ["DATABASE_URL"].rsplit("/", 1)[1], verbosity=0)


def a_year() -> None:
    from django.db import connection

    from billing import ledger
    from billing.models import DayTotal, LedgerEntry

    ids, dice = subjects(MACHINES, START), random.Random(1)
    watch = Watch()
    now = START
    for id in ids:
        reprice(id, dice, at=now)
    for step in range(int(timedelta(days=DAYS) / STEP)):
        before, now = now, now + STEP
        ledger.meter(now)
        if before.date() != now.date():
            ledger.charge_all(traffic(ids, now - timedelta(seconds=1)))
        if (now - START) // MONTH != (before - START) // MONTH:
            for id in ids:
                reprice(id, dice, at=now)
        if step * STEP % timedelta(days=30) == timedelta(0):
            print(f"  {now:%Y-%m-%d}  {watch}", flush=True)
    print(
        f"{connection.vendor}: {MACHINES} deployments, {DAYS} days in steps of {STEP // timedelta(hours=1)} h: {watch}"
    )
    print(f"  {LedgerEntry.objects.count():,} entries, {DayTotal.objects.count():,} day totals")
    check(now)


def subjects(count: int, now: datetime) -> list[uuid.UUID]:
    from billing.models import Subject

    rows = [
        Subject(
            id=uuid.uuid4(), label=f"machine-{n}", scope=uuid.uuid4(), scope_label=f"deployment-{n}",
            provider=("runpod", "vast", "local")[n % 3], created_at=now,
        )
        for n in range(count)
    ]  # fmt: skip
    Subject.objects.bulk_create(rows)
    return [row.pk for row in rows]


def reprice(id: uuid.UUID, dice: random.Random, *, at: datetime) -> None:
    from billing import ledger

    ledger.set_price(id, "compute", Decimal(dice.randrange(100_000, 900_000)).scaleb(-6), at=at)
    ledger.set_price(id, "disk", Decimal(dice.randrange(1_000, 9_000)).scaleb(-6), at=at)


def traffic(ids: list[uuid.UUID], now: datetime) -> list[object]:
    from billing import ledger

    price = Decimal("0.001953125")
    return [ledger.Usage(i, "traffic-in", Decimal(3), "GB", price, now, f"day:{now:%Y-%m-%d}") for i in ids]


def check(now: datetime) -> None:
    from django.db.models import Sum

    from billing import ledger
    from billing.models import LedgerEntry, PriceSegment, UsageCharge
    from tests.billing.laws import integral, total

    held = sum((integral(s, to=now) for s in PriceSegment.objects.all()), total(UsageCharge))
    booked = LedgerEntry.objects.aggregate(usd=Sum("usd"))["usd"]
    spent = ledger.spent(START, now, now=now)
    print(f"  entries ${booked:,}, by the prices ${held:,}, as pages add up ${spent:,}")
    if not held == booked == spent:
        sys.exit("The books do not balance.")


def a_week_of_downtime(count: int) -> None:
    from billing import ledger

    start = START + timedelta(days=DAYS)
    for id in subjects(count, start):
        ledger.set_price(id, "compute", Decimal("0.43"), at=start)
        ledger.set_price(id, "disk", Decimal("0.01"), at=start)
    ledger.meter(start)
    watch = Watch()
    hours = ledger.meter(start + WEEK)
    print(f"{count:,} machines beside those of the year, a week down: {hours:,} hours in {watch}")


class Watch:
    def __init__(self) -> None:
        self.wall, self.cpu = time.perf_counter(), time.process_time()

    def __str__(self) -> str:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        wall, cpu = time.perf_counter() - self.wall, time.process_time() - self.cpu
        return f"{cpu:,.1f} s of a core ({wall:,.1f} s by the clock), at most {peak:,.0f} MB"


if __name__ == "__main__":
    main()
