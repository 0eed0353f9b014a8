"""Fixtures that every test may stand on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from tests.photograph import LASTING

NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _plain_static_files(settings) -> None:
    """No manifest is needed to render a page in a test."""
    settings.STORAGES = {
        **settings.STORAGES,
        "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"},
    }


@pytest.fixture(autouse=True)
def _quick_passwords(settings) -> None:
    """The real hasher takes a second of a processor for each password, by design."""
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher", *settings.PASSWORD_HASHERS]


@pytest.fixture(autouse=True)
def rung(monkeypatch) -> Iterator[list[tuple[str, tuple]]]:
    """The bells that were rung: (task name, arguments). No broker is needed, and none is asked."""
    from panel.celery import app

    bells: list[tuple[str, tuple]] = []

    def ring(name, args=(), kwargs=None, **options):
        bells.append((name, tuple(args)))

    monkeypatch.setattr(app, "send_task", ring)
    return bells


SLOW = (
    "test_state_machine.py", "test_kill.py", "test_sandbox.py", "test_urls_by_role.py", "test_install.py", "test_down.py",
)  # fmt: skip
"""Files with tests of more than ten seconds of a processor."""


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    slow = sorted((i for i in items if i.path.name in SLOW), key=lambda i: SLOW.index(i.path.name))
    rest = [i for i in items if i.path.name not in SLOW]
    items[:] = dealt(slow, rest, int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))


def dealt[T](slow: list[T], rest: list[T], workers: int) -> list[T]:
    """In an order that has some of the slow first in each worker's share, so that none is alone with one at the end.

    xdist deals shares of one length, one after the other, before it lets a worker steal.
    """
    order: list[T] = []
    left = len(slow) + len(rest)
    for n in range(workers):
        size = left // (workers - n)
        mine = slow[n::workers]
        quick = max(0, size - len(mine))
        order += [*mine, *rest[:quick]]
        rest, left = rest[quick:], left - size
    return [*order, *rest]


@pytest.fixture(scope="session", autouse=True)
def _flush_quickly_and_past_the_audit_triggers() -> Iterator[None]:
    """Between transactional tests the tables are emptied; the audit's triggers refuse that, so they step aside.

    What the migrations made stays: it would have to be made again for every test.
    By DELETE: nearly all are empty, and PostgreSQL makes a new file of every table that it truncates.
    """
    from django.core.management.commands import flush
    from django.db import connection

    from panel.audit import triggers

    operations = type(connection.ops)

    def sql_flush(self, style, tables, **options):
        deletes = [f"DELETE FROM {self.quote_name(t)}" for t in sorted(set(tables) - LASTING)]  # noqa: S608
        if "audit_auditevent" not in tables:
            return deletes
        return [*triggers.remove(connection.vendor), *deletes, *triggers.install(connection.vendor)]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(operations, "sql_flush", sql_flush)
        patch.setattr(flush, "emit_post_migrate_signal", lambda *args, **options: None)
        yield
