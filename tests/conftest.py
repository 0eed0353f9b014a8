"""Fixtures that every test may stand on."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

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


_MINUTES = ("test_state_machine.py", "test_kill.py", "test_down.py", "test_sandbox.py")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files whose tests take minutes go first, so that no worker is alone with one at the end."""
    items.sort(key=lambda item: item.path.name not in _MINUTES)


LASTING = {
    "django_content_type",
    "auth_permission",
    "auth_group",
    "auth_group_permissions",
    "registers_deadline",
    "registers_adequacydecision",
}
"""Tables that the migrations fill and nothing changes: emptied, they would have to be filled again for every test."""


@pytest.fixture(scope="session", autouse=True)
def _flush_quickly_and_past_the_audit_triggers() -> Iterator[None]:
    """Between transactional tests the tables are emptied; the audit's triggers refuse that, so they step aside.

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
