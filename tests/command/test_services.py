"""The whole stack on PostgreSQL and Redis."""

from __future__ import annotations

import json
import os
import re
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql

from tests.command.running import Panel, command, gone, until

pytestmark = pytest.mark.services

SERVER = "postgres://postgres@127.0.0.1:5432/postgres"
BROKER = "redis://127.0.0.1:6379/15"


@pytest.fixture
def database() -> Iterator[str]:
    """The URL of a fresh database on the server that the suite was given."""
    server = os.environ.get("DATABASE_URL") or SERVER
    name = sql.Identifier(f"regia_command_{uuid4().hex[:12]}")
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(sql.SQL("create database {}").format(name))
        yield re.sub(r"/[^/?]*(\?|$)", rf"/{name.as_string().strip(chr(34))}\1", server, count=0)
        connection.execute(sql.SQL("drop database {} with (force)").format(name))


def ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=30) as answer:
            return bool(json.loads(answer.read()))
    except OSError:
        return False


def test_the_panel_runs_on_postgresql_and_redis(database: str, tmp_path: Path) -> None:
    broker = os.environ.get("CELERY_BROKER_URL") or BROKER
    panel = Panel(tmp_path / "data", DATABASE_URL=database, CELERY_BROKER_URL=broker)
    try:
        panel.wait_for("leaves machines running")
        until(lambda: ready(panel.port), message="/readyz did not answer 200")
        assert not (panel.data / "regia.sqlite3").exists()
        assert not (panel.data / "regia.host").exists(), "any number of hosts may share PostgreSQL"
        children = panel.children()
        down = command("down", "--data-dir", str(panel.data), DATABASE_URL=database, CELERY_BROKER_URL=broker)
        assert down.returncode == 0, down.stdout + down.stderr
        assert panel.process.wait(60) == 0
        assert gone(children)
    finally:
        panel.close()
