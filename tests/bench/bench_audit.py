"""The audit with 1,000,000 events: verified, listed, filtered, exported. Run: python -m tests.bench.bench_audit

It fills a database of its own (SQLite in a temporary folder, or the PostgreSQL of DATABASE_URL, in a scratch
database that is dropped afterwards) with EVENTS events as `chain.record` would have left them, and prints the
processor's time of this process for each question, with the time by the clock and the most memory that it took.
"""

from __future__ import annotations

import os
import resource
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import batched
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from panel.audit.models import AuditEvent

EVENTS = int(os.environ.get("BENCH_EVENTS", "1000000"))
PEOPLE, TARGETS = 20, 2000
NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
ACTIONS = (
    "instance.create", "instance.terminate", "deployment.launch", "deployment.stop", "deployment.start",
    "deployment.settings", "account.sign_in", "account.sign_out", "notice.acknowledge", "export.focus",
)  # fmt: skip
ROUNDS = 5
LIST = "/admin/audit/auditevent/"


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="regia-bench-") as folder:
        os.environ["REGIA_DATA_DIR"] = folder
        os.environ["DJANGO_SETTINGS_MODULE"] = "panel.settings"
        import django

        django.setup()
        from django.conf import settings
        from django.db import connection
        from django.test.utils import setup_test_environment

        from tests.bench.bench_ledger import use_a_file

        setup_test_environment()
        settings.STORAGES["staticfiles"]["BACKEND"] = "django.contrib.staticfiles.storage.StaticFilesStorage"
        connection.creation.create_test_db(verbosity=0, autoclobber=True)
        if connection.vendor == "sqlite":
            use_a_file(folder)
        try:
            measure(Path(folder))
        finally:
            if connection.vendor == "sqlite":
                connection.close()
            else:
                connection.creation.destroy_test_db(os.environ["DATABASE_URL"].rsplit("/", 1)[1], verbosity=0)


def fill() -> list[str]:
    """The chain, written in bulk: as many inserts one by one would measure the disk. Its actors' pseudonyms."""
    from django.db import connection
    from django.db.models import QuerySet

    from panel.audit import chain
    from panel.audit.models import AuditEvent, Head
    from tests import factories

    actors = [chain.pseudonym_of(factories.operator()) for _ in range(PEOPLE)]
    last = None
    for some in batched(_events(actors), 5000):
        # The guarded queryset refuses this on purpose.
        QuerySet(AuditEvent).bulk_create(some)
        last = some[-1]
    if last:
        Head.objects.update_or_create(pk=1, defaults={"sequence": last.sequence, "hash": last.hash})
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE")
    return actors


def _events(actors: list[str]) -> Iterator[AuditEvent]:
    from panel.audit.link import GENESIS, digest
    from panel.audit.models import AuditEvent

    before = GENESIS
    for n in range(1, EVENTS + 1):
        event = AuditEvent(
            sequence=n, at=NOW - timedelta(seconds=60 * (EVENTS - n)), action=ACTIONS[n * 7 % len(ACTIONS)],
            # The last of the people did one thing in a thousand.
            actor=actors[-1] if n % 1000 == 0 else actors[n * n % (PEOPLE - 1)],
            target_type="deployments.deployment" if n % 3 else "deployments.instance",
            target_id=str(uuid.UUID(int=n % TARGETS)), before={"desired": "running"},
            after={"desired": "stopped", "usd_per_hour": "0.43", "n": n}, reason=f"because of {n % 97}",
            request_id=f"request-{n:08d}", previous=before,
        )  # fmt: skip
        before = event.hash = digest(event)
        yield event


def measure(folder: Path) -> None:
    from django.db import connection
    from django.test import Client

    from panel.audit import keeping
    from panel.audit.verification import last_verified
    from tests import factories

    began = time.perf_counter()
    actors = fill()
    print(f"{connection.vendor}: {EVENTS:,} events, filled in {time.perf_counter() - began:.0f} s\n")
    print("| | CPU of the panel | by the clock | most memory so far, MB |\n|---|---|---|---|")
    keep = lambda at: keeping.keep(now=at)  # noqa: E731
    ask("verify the whole chain, nightly", lambda: keep(NOW))
    assert last_verified().found.ok  # type: ignore[union-attr]
    ask("verify what is new, hourly (nothing is)", lambda: keep(NOW + timedelta(hours=1)))
    client = Client()
    client.force_login(factories.administrator())
    day = f"{NOW - timedelta(days=100):%Y-%m-%d}"
    pages = {
        "list, first page": "",
        "list, last page": f"?p={EVENTS // 50}",
        "one actor of twenty": f"?actor={actors[0]}",
        "an actor of one act in a thousand": f"?actor={actors[-1]}",
        "one action of ten": "?action=deployment.stop",
        "one kind of target": "?target_type=deployments.instance",
        "one target": f"?q={uuid.UUID(int=7)}",
        "a day": f"?from={day}&to={day}",
        "since 300 days": f"?from={NOW - timedelta(days=300):%Y-%m-%d}",
        "a day, an action": f"?from={day}&to={day}&action=deployment.stop",
        "a rare actor in a period": f"?from={day}&actor={actors[-1]}",
        "a word of the reason": "?q=because of 96",
        "a word that is nowhere": "?q=nowhere-at-all",
    }  # fmt: skip
    for name, query in pages.items():
        ask(name, lambda q=query: read(client, q), rounds=ROUNDS)
    for ending in ("csv", "jsonl"):
        ask(f"export of all as {ending.upper()}", lambda e=ending: export(client, e))
    ask("evidence pack of all", lambda: pack(folder))


def read(client: Any, query: str) -> None:
    answer = client.get(LIST + query)
    assert answer.status_code == 200, answer.status_code


def export(client: Any, ending: str) -> None:
    size = sum(len(piece) for piece in client.get(f"{LIST}export/{ending}/").streaming_content)
    assert size > EVENTS * 200


def pack(folder: Path) -> None:
    from panel.evidence import pack

    pack.write(NOW - timedelta(days=3650), NOW, folder / "pack.zip", told=lambda section, rows: None)


def ask(name: str, question: Callable[[], object], *, rounds: int = 1) -> None:
    spent, took = [], []
    for _ in range(rounds):
        cpu, clock = time.process_time(), time.perf_counter()
        question()
        spent.append(time.process_time() - cpu)
        took.append(time.perf_counter() - clock)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(f"| {name} | {words(sorted(spent)[rounds // 2])} | {words(sorted(took)[rounds // 2])} | {most} |")
    sys.stdout.flush()


def words(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds * 1000:.0f} ms"


if __name__ == "__main__":
    main()
