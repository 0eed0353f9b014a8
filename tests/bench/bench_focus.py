"""How long the FOCUS export of three years of 200 deployments takes, and in what memory. Run: python -m tests.bench.bench_focus

Each machine has compute, a disk and a charge of traffic every day: some 10.8 million entries, of which the export by
day makes 657,000 rows. A process of its own sends the file as the view does, so its memory is that of the export:
by day the whole time, by hour one month. SQLite in a temporary folder.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
import uuid
from datetime import UTC, datetime, timedelta
from decimal import Decimal

MACHINES = int(os.environ.get("BENCH_SUBJECTS", "200"))
DAYS = int(os.environ.get("BENCH_DAYS", "1095"))
START = datetime(2023, 1, 1, tzinfo=UTC)
COMPUTE, DISK, GB = 430_000_000, 5_500_000, 1_953_125
"""Nano-dollars: an hour of each, and a GB."""
_FILL = """
    INSERT INTO billing_ledgerentry (subject_id, component, hour, seconds, usd)
    WITH RECURSIVE h(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM h WHERE n < %s)
    SELECT s.id, %s, strftime('%%Y-%%m-%%d %%H:%%M:%%S', %s, '+' || (h.n * %s) || ' hours'), %s, %s
    FROM h CROSS JOIN billing_subject s
"""


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="regia-bench-") as folder:
        os.environ["REGIA_DATA_DIR"] = folder
        began = time.perf_counter()
        begin()
        fill()
        print(f"filled in {time.perf_counter() - began:,.0f} s", flush=True)
        last = (START + timedelta(days=DAYS - 1)).date()
        month = last.replace(day=1)
        for by, first in (("day", START.date()), ("hour", month)):
            subprocess.run(
                [sys.executable, "-m", "tests.bench.bench_focus", by, str(first), str(last)], check=True
            )


def begin() -> None:
    os.environ["DJANGO_SETTINGS_MODULE"] = "panel.settings"
    import django

    django.setup()


def fill() -> None:
    from django.core.management import call_command
    from django.db import connection, transaction

    from billing.models import PriceSegment, Subject, UsageCharge

    call_command("migrate", verbosity=0)
    subjects = [
        Subject(
            id=uuid.uuid4(), label=f"machine-{n}", scope=uuid.uuid4(), scope_label=f"deployment-{n}", tier="secure",
            provider=("runpod", "vast", "local")[n % 3], gpu="NVIDIA L4", country="RO", created_at=START,
            tags={"team": "search"},
        )
        for n in range(MACHINES)
    ]  # fmt: skip
    with transaction.atomic(), connection.cursor() as cursor:
        Subject.objects.bulk_create(subjects)
        for component, nano in (("compute", COMPUTE), ("disk", DISK)):
            PriceSegment.objects.bulk_create(
                PriceSegment(
                    subject=s, component=component, usd_per_unit_hour=Decimal(nano).scaleb(-9), started_at=START,
                    metered_to=START + timedelta(days=DAYS),
                )
                for s in subjects
            )  # fmt: skip
            cursor.execute(_FILL, [DAYS * 24 - 1, component, f"{START:%Y-%m-%d}", 1, 3600, nano])
        cursor.execute(_FILL, [DAYS - 1, "traffic-in", f"{START:%Y-%m-%d}", 24, 0, 3 * GB])
        price = Decimal(GB).scaleb(-9)
        for n in range(DAYS):
            UsageCharge.objects.bulk_create(
                UsageCharge(
                    subject=s, component="traffic-in", quantity=Decimal(3), unit="GB", usd_per_unit=price, usd=3 * price,
                    at=START + timedelta(days=n), external_id=f"day:{n}",
                )
                for s in subjects
            )  # fmt: skip


def export(by: str, first: str, last: str) -> None:
    begin()
    from datetime import date

    from billing.exports import focus
    from billing.exports.lines import Selection
    from panel.ui.csvfile import csv_response

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    cpu = time.process_time()
    selection = Selection(date.fromisoformat(first), date.fromisoformat(last), by == "hour")
    response = csv_response("focus.csv", focus.HEADER, focus.Export(selection).rows())
    rows = size = 0
    for piece in response.streaming_content:  # type: ignore[attr-defined]
        rows, size = rows + piece.count(b"\r\n"), size + len(piece)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"by {by}, {first} to {last}: {rows - 1:,} rows, {size / 1e6:,.0f} MB in {time.process_time() - cpu:,.0f} s of a "
          f"processor, at most {peak:,.0f} MB of memory, {before:,.0f} MB before it", flush=True)  # fmt: skip


if __name__ == "__main__":
    export(*sys.argv[1:]) if len(sys.argv) > 1 else main()
