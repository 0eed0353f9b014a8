"""How long one look for incidents takes, calm and in an outage: `python -m tests.bench.bench_incidents [deployments]`.

It fills a data folder of its own; the figures stand in docs/benchmarks.md.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import django


def main(count: int) -> None:
    os.environ["REGIA_DATA_DIR"] = tempfile.mkdtemp(prefix="regia-bench-")
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "panel.settings")
    django.setup()
    from django.core.management import call_command
    from django.db import connection
    from django.test.utils import CaptureQueriesContext

    from billing.periods import calendar_month
    from deployments.models import Breaker, Deployment, Event, Incident, Instance, ProviderAccount
    from deployments.models.offer import freeze_quote
    from deployments.monitoring import incidents, reliability
    from tests.providers.fakecloud import fake_quote

    call_command("migrate", verbosity=0)
    now = datetime.now(UTC)
    born = now - timedelta(days=20)
    account = ProviderAccount.objects.create(name="Cloud", backend="runpod", credentials="k")
    quote = freeze_quote(fake_quote())
    made = Deployment.objects.bulk_create(
        Deployment(
            name=f"d{n}", model_key="m", context=1, desired="running", created_at=born, launch_key=f"k{n}"
        )
        for n in range(count)
    )
    rows = Instance.objects.bulk_create(
        Instance(
            deployment=d, account=account, attempt=1, label=f"l{n}", quote=quote, usd_per_hour=Decimal(1), state="ready",
            state_since=born, created_at=born, ready_at=born + timedelta(minutes=3), api_key="x",
        )
        for n, d in enumerate(made)
    )  # fmt: skip
    Event.objects.bulk_create(
        Event(
            deployment_id=i.deployment_id, instance=i, at=born + timedelta(hours=h), kind="state", to_state=to
        )
        for i in rows
        for h, to in [
            (0, "ready"),
            *((24 * n + k, ("degraded", "ready")[k]) for n in range(1, 19) for k in (0, 1)),
        ]
    )

    def timed(name: str, work) -> None:
        with CaptureQueriesContext(connection) as asked:
            began = time.process_time()
            work()
            took = time.process_time() - began
        sys.stdout.write(f"{name}: {took * 1000:.0f} ms of a processor, {len(asked)} queries\n")

    timed("a calm look", lambda: incidents.watch(now=now))
    timed("a calm look again", lambda: incidents.watch(now=now))
    Instance.objects.update(state="degraded", state_since=now)
    Event.objects.bulk_create(
        Event(deployment_id=i.deployment_id, instance=i, at=now, kind="state", to_state="degraded")
        for i in rows
    )
    Breaker.objects.create(account=account, call="list", failures=5, failed_at=now, error="503")
    later = now + timedelta(seconds=30)
    timed("the first look into an outage", lambda: incidents.watch(now=later))
    timed("each further look", lambda: incidents.watch(now=later + timedelta(seconds=3)))
    sys.stdout.write(f"{Incident.objects.count()} incident\n")
    timed(
        "the month's report",
        lambda: reliability.report(Deployment.objects.all(), calendar_month(now), now=later),
    )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)
