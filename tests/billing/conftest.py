"""What the ledger's and the budget's tests share."""

from __future__ import annotations

import os
import signal
import sqlite3
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.db import connection, connections
from hypothesis import HealthCheck, settings

from billing import budgets

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


ADMITTED, REFUSED, BROKEN = 0, 3, 4


def apart(*acts: Callable[[], object]) -> list[int]:
    """How each act ended, each in a process of its own; all begin once the last one is there."""
    connections.close_all()
    ready, go = os.pipe()
    children = []
    for act in acts:
        if (pid := os.fork()) == 0:
            code = BROKEN
            try:
                os.close(go)
                os.read(ready, 1)  # until the parent closes its end
                act()
                code = ADMITTED
            except budgets.OverBudget:
                code = REFUSED
            except Exception:
                traceback.print_exc()
            finally:
                os._exit(code)
        children.append(pid)
    os.close(go)
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
    os.close(ready)
    return codes


def killed_at(statement: int, act: Callable[[], object]) -> bool:
    """Run `act` in a process of its own that is killed (SIGKILL) before its SQL statement of this number.

    False: it had no more statements, and ended well.
    """
    connections.close_all()
    if (pid := os.fork()) == 0:
        code, left = BROKEN, statement

        def count(execute: Callable[..., Any], *args: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return execute(*args)

        try:
            with connection.execute_wrapper(count):
                act()
            code = ADMITTED
        except Exception:
            traceback.print_exc()
        finally:
            os._exit(code)
    ended = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert ended in {ADMITTED, -signal.SIGKILL}, f"it ended with {ended}"
    return ended != ADMITTED
