"""What the ledger's and the budget's tests share."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.db import connection
from hypothesis import HealthCheck, settings

LONG = os.environ.get("REGIA_LONG") == "1"

settings.register_profile(
    "billing",
    deadline=None,
    max_examples=2_000 if LONG else 40,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
PROFILE = settings.get_profile("billing")


@pytest.fixture
def shared_database(transactional_db: None, tmp_path: Path) -> Iterator[str]:
    """The URL of a database that several threads and processes may use at once, as in production.

    PostgreSQL: the test database, emptied afterwards. SQLite: a file, copied from the test database in
    memory, because one in memory has no locks to wait for.
    """
    if connection.vendor != "sqlite":
        s = connection.settings_dict
        yield f"postgres://{s['USER']}:{s['PASSWORD']}@{s['HOST']}:{s['PORT']}/{s['NAME']}"
        return
    connection.ensure_connection()
    memory, name = connection.connection, connection.settings_dict["NAME"]
    path = tmp_path / "shared.sqlite3"
    file = sqlite3.connect(path)
    memory.backup(file)
    file.close()
    connection.settings_dict["NAME"], connection.connection = str(path), None
    try:
        yield f"sqlite:///{path}"
    finally:
        if connection.connection:
            connection.connection.close()
        connection.settings_dict["NAME"], connection.connection = name, memory


def together(*acts: Callable[[], Any]) -> list[Any]:
    """What each act gave or raised, all begun in the same instant, each in a thread and connection of its own."""
    start, results = threading.Barrier(len(acts)), [None] * len(acts)

    def run(i: int, act: Callable[[], Any]) -> None:
        try:
            start.wait(timeout=30)
            results[i] = act()
        except Exception as error:
            results[i] = error
        finally:
            connection.close()

    threads = [threading.Thread(target=run, args=pair) for pair in enumerate(acts)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert not any(thread.is_alive() for thread in threads), "somebody waits for ever"
    return results
