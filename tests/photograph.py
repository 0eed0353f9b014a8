"""Rows that took long to build are put back as they were, as long as they are fresh.

On SQLite and into empty tables alone; elsewhere they are built. What building does besides rows (a rung bell)
happens only when it is done.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from typing import Any

from django.db import connection, transaction

FRESH = timedelta(seconds=15)
"""As old as what is built by a busy machine may be as well."""
LASTING = {
    "django_content_type", "auth_permission", "auth_group", "auth_group_permissions", "registers_deadline",
    "registers_adequacydecision",
}  # fmt: skip
"""Tables that the migrations fill and nothing changes."""


@dataclass(frozen=True)
class Photograph:
    now: datetime
    rows: dict[str, list[tuple[Any, ...]]]
    """By table."""
    made: bytes
    """What the builder returned."""


_taken: dict[object, Photograph] = {}


def once[T](key: object, build: Callable[[], T], *, now: datetime) -> T:
    """What `build` returns, and its rows. The newest photograph of each `key` is kept."""
    if connection.vendor != "sqlite" or not _is_blank():
        return build()
    photograph = _taken.get(key)
    if photograph and timedelta() <= now - photograph.now <= FRESH:
        _put_back(photograph)
        return pickle.loads(photograph.made)  # type: ignore[no-any-return]  # noqa: S301 - our own, a moment ago
    made = build()
    _taken[key] = Photograph(now, {table: _rows(table) for table in _tables()}, pickle.dumps(made))
    return made


@cache
def _tables() -> dict[str, str]:
    """Tables that tests fill, and their columns as they are quoted."""
    names = (
        set(connection.introspection.django_table_names(only_existing=True, include_views=False)) - LASTING
    )
    with connection.cursor() as cursor:
        found = {n: connection.introspection.get_table_description(cursor, n) for n in sorted(names)}
    quote = connection.ops.quote_name
    return {name: ", ".join(quote(column.name) for column in columns) for name, columns in found.items()}


def _is_blank() -> bool:
    rows = " OR ".join(f"EXISTS (SELECT 1 FROM {connection.ops.quote_name(t)})" for t in _tables())  # noqa: S608
    with connection.cursor() as cursor:
        return not cursor.execute(f"SELECT {rows}").fetchone()[0]


def _rows(table: str) -> list[tuple[Any, ...]]:
    # The plus keeps SQLite's adapter from turning text into dates.
    plain = ", ".join(f"+{column}" for column in _tables()[table].split(", "))
    with connection.cursor() as cursor:
        return list(cursor.execute(f"SELECT {plain} FROM {connection.ops.quote_name(table)}").fetchall())  # noqa: S608


def _put_back(photograph: Photograph) -> None:
    with transaction.atomic(), connection.cursor() as cursor:
        for table, rows in photograph.rows.items():
            if rows:
                marks = ", ".join(["%s"] * len(rows[0]))
                into = f"{connection.ops.quote_name(table)} ({_tables()[table]})"
                cursor.executemany(f"INSERT INTO {into} VALUES ({marks})", rows)  # noqa: S608
