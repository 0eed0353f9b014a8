"""How long the ledger's questions take over 1,000,000 entries. Run: python -m tests.bench.bench_ledger

It fills a database of its own (SQLite in a temporary folder, or the PostgreSQL of DATABASE_URL, in a scratch
database that is dropped afterwards) with SUBJECTS machines of as many deployments, all running and metered for
enough hours to make ENTRIES entries, and prints for each question the queries, the least time, the median and
the p95. On a machine that does other work the least says most.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from billing.models import Subject

ENTRIES = int(os.environ.get("BENCH_ENTRIES", "1000000"))
SUBJECTS = int(os.environ.get("BENCH_SUBJECTS", "1000"))
ROUNDS = 40
NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
PRICE = Decimal("0.43")


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="regia-bench-") as folder:
        os.environ["REGIA_DATA_DIR"] = folder
        os.environ["DJANGO_SETTINGS_MODULE"] = "panel.settings"
        import django

        django.setup()
        from django.db import connection

        connection.creation.create_test_db(verbosity=0, autoclobber=True)
        if connection.vendor == "sqlite":
            # A test database in memory would be faster than the truth.
            use_a_file(folder)
        try:
            measure()
        finally:
            if connection.vendor == "sqlite":
                connection.close()
            else:
                connection.creation.destroy_test_db(os.environ["DATABASE_URL"].rsplit("/", 1)[1], verbosity=0)


def use_a_file(folder: str) -> None:
    from django.core.management import call_command
    from django.db import connection

    connection.close()
    connection.settings_dict["NAME"] = connection.settings_dict["TEST"]["NAME"] = f"{folder}/bench.sqlite3"
    # The connection in memory cannot be closed; it is left behind with the wrapper that held it.
    connection.connection = None
    call_command("migrate", verbosity=0)


def measure() -> None:
    from django.db import connection

    from billing import budgets, ledger
    from billing.models import DayTotal, LedgerEntry, Subject

    began = time.perf_counter()
    build()
    analyse()
    print(f"{connection.vendor}: {LedgerEntry.objects.count():,} entries, {DayTotal.objects.count():,} day totals, "
          f"{SUBJECTS:,} open segments, filled in {time.perf_counter() - began:.1f} s")  # fmt: skip
    now = NOW + timedelta(seconds=10)
    month, day = NOW.replace(day=1, hour=0), NOW.replace(hour=0)
    subject = Subject.objects.order_by("pk")[SUBJECTS // 2]
    in_14_days = (day - timedelta(days=13)).date(), (day + timedelta(days=1)).date()
    questions: dict[str, Callable[[], object]] = {
        "burn": lambda: ledger.burn(now=now),
        "spent, today": lambda: ledger.spent(day, now, now=now),
        "spent, month": lambda: ledger.spent(month, now, now=now),
        "by_scope, month": lambda: ledger.by_scope(month, now, now=now),
        "by_day, 14 days": lambda: ledger.by_day(*in_14_days, now=now),
        "by_hour, 24 h, all": lambda: ledger.by_hour(None, now - timedelta(hours=24), now, now=now),
        "by_hour, 24 h, one": lambda: ledger.by_hour(subject.scope, now - timedelta(hours=24), now, now=now),
        "cost_of, one scope": lambda: ledger.cost_of(subject.scope, now=now),
        "cost_of, one subject": lambda: ledger.cost_of([subject.pk], now=now),
        "status": lambda: budgets.status(now=now),
        "verdict": lambda: budgets.verdict(now=now),
        "can_spend": lambda: budgets.can_spend(PRICE, until=None, now=now),
    }
    for name, ask in questions.items():
        report(name, ask)
    more_budgets(now, subject)
    metering(now)


def report(name: str, ask: Callable[[], object]) -> None:
    from django.db import connection
    from django.test.utils import CaptureQueriesContext

    with CaptureQueriesContext(connection) as queries:
        ask()
    times = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        ask()
        times.append((time.perf_counter() - began) * 1000)
    times.sort()
    print(f"  {name:22} {len(queries)} queries  least {times[0]:6.2f} ms  "
          f"median {statistics.median(times):6.2f} ms  p95 {times[int(ROUNDS * 0.95) - 1]:6.2f} ms")  # fmt: skip


def more_budgets(now: datetime, subject: Subject) -> None:
    """Nineteen more: of days and months, of each provider, of an account and of deployments."""
    from django.contrib.auth.models import Group
    from django.test import Client

    from billing import budgets
    from billing.models import Budget, Subject
    from panel.accounts.models import User
    from panel.accounts.roles import ADMINISTRATOR

    amount, scopes = Decimal(1_000_000), Subject.objects.order_by("pk").values_list("scope", flat=True)[:10]
    Subject.objects.filter(provider="vast").update(account=(account := uuid.uuid4()))
    for n, scope in enumerate([*scopes, subject.scope]):
        Budget.objects.create(
            name=f"deployment {n}", scope=scope, amount_usd=amount, period=("day", "month")[n % 2]
        )
    for provider in ("runpod", "vast", "local"):
        for period in ("day", "month"):
            Budget.objects.create(
                name=f"{provider} a {period}", provider=provider, amount_usd=amount, period=period
            )
    Budget.objects.create(name="account", account=account, amount_usd=amount)
    Budget.objects.create(name="a day", amount_usd=amount, period="day")
    whom = budgets.Whom.of(subject)
    report("verdict, 20 budgets", lambda: budgets.verdict(now=now, whom=[whom]))
    report("statuses, 20 budgets", lambda: budgets.statuses(now=now))
    report("watch, 20 budgets", lambda: budgets.watch(now=now))
    user = User.objects.create_user("bench@example.com")
    user.groups.add(Group.objects.get(name=ADMINISTRATOR))
    client = Client()
    client.force_login(user)
    report("Budgets page", lambda: client.get("/spend/budgets/"))


def metering(now: datetime) -> None:
    from billing import ledger

    for name, at in (
        ("meter, 15 s later", now + timedelta(seconds=15)),
        ("meter, the same again", now + timedelta(seconds=15)),
        ("meter, an hour later", now + timedelta(hours=1)),
        ("meter, 3 days later", now + timedelta(days=3)),
    ):
        began = time.perf_counter()
        hours = ledger.meter(at)
        print(f"  {name:22} {hours:,} hours in {(time.perf_counter() - began) * 1000:,.0f} ms")


def build() -> None:
    """Entries exactly as metering would write them: one open segment for each subject, metered to NOW."""
    from django.db import transaction

    from billing.models import Budget, DayTotal, LedgerEntry, PriceSegment, Reservation, Subject

    hours = -(-ENTRIES // SUBJECTS)
    start = NOW - timedelta(hours=hours)
    subjects = [
        Subject(
            id=uuid.uuid4(), label=f"machine-{n}", scope=uuid.uuid4(), scope_label=f"deployment-{n}",
            provider=("runpod", "vast", "local")[n % 3], created_at=start,
        )
        for n in range(SUBJECTS)
    ]  # fmt: skip
    with transaction.atomic():
        Budget.objects.create(amount_usd=Decimal(1_000_000))
        Subject.objects.bulk_create(subjects)
        PriceSegment.objects.bulk_create(
            PriceSegment(
                subject=s, component="compute", usd_per_unit_hour=PRICE, started_at=start, metered_to=NOW
            )
            for s in subjects
        )
        Reservation.objects.bulk_create(
            Reservation(subject=s, usd_per_hour=PRICE, held_at=start) for s in subjects
        )
        days: dict[object, int] = {}
        for n in range(hours):
            hour = start + timedelta(hours=n)
            days[hour.date()] = days.get(hour.date(), 0) + 1
            LedgerEntry.objects.bulk_create(
                [LedgerEntry(subject=s, component="compute", hour=hour, seconds=3600, usd=PRICE) for s in subjects],
                batch_size=5_000,
            )  # fmt: skip
        for day, count in days.items():
            DayTotal.objects.bulk_create(DayTotal(subject=s, day=day, usd=PRICE * count) for s in subjects)


def analyse() -> None:
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute("ANALYZE" if connection.vendor == "sqlite" else "VACUUM ANALYZE")


if __name__ == "__main__":
    sys.exit(main())
