"""An audit table that takes no row: the trigger stands for a full disk or a lost tablespace."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from django.db import connection

_REFUSE = {
    "sqlite": "CREATE TRIGGER broken BEFORE INSERT ON audit_auditevent BEGIN SELECT RAISE(ABORT, 'no'); END",
    "postgresql": "CREATE TRIGGER broken BEFORE INSERT ON audit_auditevent FOR EACH STATEMENT"
    " EXECUTE FUNCTION audit_append_only()",
}


@contextmanager
def unwritable() -> Iterator[None]:
    with connection.cursor() as cursor:
        cursor.execute(_REFUSE[connection.vendor])
    try:
        yield
    finally:
        on = " ON audit_auditevent" if connection.vendor == "postgresql" else ""
        with connection.cursor() as cursor:
            cursor.execute(f"DROP TRIGGER broken{on}")
