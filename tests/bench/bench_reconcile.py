"""How soon one reconcile worker looks at every instance. Run: python -m tests.bench.bench_reconcile

It seeds INSTANCES ready instances (default 1,000) of as many deployments over ACCOUNTS accounts (default 4) of a
provider whose every call takes LATENCY seconds (default 0.2) and which may be listed every 5 s, each with an endpoint
that answers, starts one real Celery worker with beat on the one-machine broker, lets it settle, and then watches for
WATCH seconds how old the oldest look is and how often each account was listed. Half-way one machine ends by itself, and
the time until its row says so is taken.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

ACCOUNTS = int(os.environ.get("BENCH_ACCOUNTS", "4"))
INSTANCES = int(os.environ.get("BENCH_INSTANCES", "1000"))
LATENCY = float(os.environ.get("BENCH_LATENCY", "0.2"))
SETTLE = int(os.environ.get("BENCH_SETTLE", "45"))
WATCH = int(os.environ.get("BENCH_WATCH", "90"))


def setup(folder: str, url: str) -> None:
    """Django on the bench's own data folder, with the slow cloud behind the backend `runpod`."""
    os.environ.update(
        REGIA_DATA_DIR=folder, DJANGO_SETTINGS_MODULE="panel.settings", ALLOW_INSECURE_ENDPOINTS="1",
        REGIA_LOG_LEVEL="WARNING",
    )  # fmt: skip
    import django

    django.setup()
    from deployments.models.account import ADAPTERS
    from tests.providers.fakecloud import TRAITS, FakeCloud

    traits = replace(TRAITS, list_interval=5.0)
    clouds = {
        f"Slow cloud {n}": FakeCloud(
            path=Path(folder) / f"cloud-{n}.json", latency=LATENCY, endpoint=lambda label: url, traits=traits
        )
        for n in range(ACCOUNTS)
    }
    ADAPTERS["runpod"] = lambda account: clouds[account.name]


def seed() -> None:
    from django.utils import timezone

    from billing import ledger
    from deployments import money
    from deployments.lifecycle import Desired, State
    from deployments.models import Deployment, Installation, Instance, ProviderAccount
    from deployments.models.account import ADAPTERS
    from deployments.models.offer import freeze_quote
    from tests.providers.fakecloud import fake_quote

    now, key = timezone.now(), Installation.own_key()
    accounts = [
        ProviderAccount.objects.create(name=f"Slow cloud {n}", backend="runpod", credentials="bench")
        for n in range(ACCOUNTS)
    ]
    quote = fake_quote()
    deployments = Deployment.objects.bulk_create(
        Deployment(
            name=f"d{n}", model_key="qwen3-4b-awq", context=4096, desired=Desired.RUNNING, created_at=now,
            launch_key=f"k{n}", next_look_at=now, allowed_countries=["DE"],
        )
        for n in range(INSTANCES)
    )  # fmt: skip
    placed = []
    for n, account in enumerate(accounts):
        cloud = ADAPTERS["runpod"](account)
        with cloud._machines() as machines:
            for d in deployments[n::ACCOUNTS]:
                label = f"{key}-{d.id.hex}-1"
                remote = cloud._place(machines, label, usd_per_hour=quote.usd_per_hour, country=quote.country)
                placed.append((d, account, remote))
    for d, account, remote_id in placed:
        i = Instance.objects.create(
            deployment=d, account=account, attempt=1, label=f"{key}-{d.id.hex}-1", quote=freeze_quote(quote),
            usd_per_hour=quote.usd_per_hour, state=State.READY, state_since=now, created_at=now,
            create_sent_at=now, remote_id=remote_id, observed="running", country="DE", api_key="sk-bench",
            probe_ok_at=now,
        )  # fmt: skip
        money.open_subject(i, now=now)
        ledger.set_price(i.id, "compute", quote.usd_per_hour, at=now)


def worker() -> None:
    from panel.celery import app

    app.worker_main(
        [
            "worker",
            "-B",
            "-P",
            "threads",
            "-c",
            "8",
            "-Q",
            "regia",
            "--without-gossip",
            "--without-mingle",
            "--without-heartbeat",
        ]
    )


def watch(process: subprocess.Popen[bytes]) -> None:
    import psutil
    from django.db.models import Max, Min
    from django.utils import timezone

    from deployments.models import Deployment, Instance, ProviderAccount
    from deployments.models.account import ADAPTERS
    from deployments.providers.base import MachineStatus

    tree = psutil.Process(process.pid)

    def cpu() -> float:
        return sum(sum(p.cpu_times()[:2]) for p in [tree, *tree.children(recursive=True)])

    before, started, ages, lists = cpu(), time.monotonic(), [], []
    times: dict[str, set[object]] = {}
    dead: Instance | None = None
    died = noticed = 0.0
    while time.monotonic() - started < WATCH or (dead and not noticed and time.monotonic() - died < WATCH):
        time.sleep(1)
        now = timezone.now()
        oldest = Deployment.objects.aggregate(a=Min("looked_at"), n=Max("next_look_at"))
        ages.append((now - oldest["a"]) / timedelta(seconds=1) if oldest["a"] else float("inf"))
        for account in ProviderAccount.objects.filter(backend="runpod"):
            times.setdefault(account.name, set()).add(account.listed_at)
            age = (now - account.listed_at) / timedelta(seconds=1) if account.listed_at else float("inf")
            lists.append(age)
        if dead is None and time.monotonic() - started > WATCH / 2:
            dead, died = Instance.objects.select_related("account").order_by("pk")[0], time.monotonic()
            ADAPTERS["runpod"](dead.account).set_status(dead.label, MachineStatus.EXITED)
        if dead and not noticed and Instance.objects.get(pk=dead.pk).state != "ready":
            noticed = time.monotonic() - died
    share = (cpu() - before) / (time.monotonic() - started)
    each = [len(seen) for seen in times.values()]
    print(f"instances {INSTANCES} over {ACCOUNTS} accounts, provider {LATENCY} s a call, watched {WATCH} s")
    print(f"oldest look: worst {max(ages):.1f} s, median {sorted(ages)[len(ages) // 2]:.1f} s")
    seen = f"seen after {noticed:.1f} s" if noticed else f"not seen within {WATCH} s"
    print(f"lists of each account: {min(each)} to {max(each)}; a dead machine {seen}")
    print(f"age of the last list: worst {max(lists):.1f} s; worker's CPU: {share:.2f} cores")


def main() -> None:
    if len(sys.argv) > 2:
        setup(sys.argv[1], sys.argv[2])
        worker()
        return
    from tests.deployments.endpoint import Endpoint

    with tempfile.TemporaryDirectory(prefix="regia-bench-") as folder:
        endpoint = Endpoint()
        setup(folder, endpoint.url)
        from django.core.management import call_command

        call_command("migrate", verbosity=0)
        seed()
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.bench.bench_reconcile", folder, endpoint.url]
        )
        try:
            time.sleep(SETTLE)
            watch(process)
        finally:
            process.terminate()
            process.wait(30)
            endpoint.close()


if __name__ == "__main__":
    main()
