"""A simulated year that is put down and taken up again: the database's file and the world's books, of one moment.

Both lie in the folder as `year-<day>.sqlite3` and `year-<day>.pickle`; the second is written last, so a day counts
when it is there. The folder also holds the panel's keys, without which nothing of the database could be read.
"""

from __future__ import annotations

import itertools
import logging
import pickle
import shutil
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.bench.bench_year import Year

_YEAR = ("day", "down_until", "machines", "traffic", "did", "took", "unseen", "key", "spent")
_VAST = ("started_at", "market", "_balances", "_credit_checked", "_last_calls", "_logs")
_FLEET = ("all", "_alive", "_by_offer", "_mark", "_next")
_RUNPOD = ("accounts", "sold_out", "catalogue", "_used", "_balance_read")


def begin(folder: Path) -> Path | None:
    """The panel over the folder's database; where the year that lies in it was put down, if it was."""
    import django

    found = last(folder)
    django.setup()
    logging.disable(logging.CRITICAL)
    from django.core.management import call_command
    from django.db import connection

    # What is to be measured is not the disk, and a bench that is lost is run again.
    connection.settings_dict["OPTIONS"]["init_command"] = (
        "PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF; PRAGMA cache_size=-200000;"
    )
    call_command("migrate", verbosity=0)
    return found


def save(year: Year, folder: Path) -> None:
    """Put it down as it is at the end of a day, and remove what was put down before."""
    from django.db import connection

    before = list(folder.glob("year-*"))
    database, world = (folder / f"year-{year.day:04}.{ending}" for ending in ("sqlite3", "pickle"))
    with sqlite3.connect(database) as copy:
        connection.connection.backup(copy)
    copy.close()
    fresh = world.with_suffix(".part")
    fresh.write_bytes(pickle.dumps(_of(year)))
    fresh.rename(world)
    for old in before:
        old.unlink()


def last(folder: Path) -> Path | None:
    """The newest day that was put down, with its database in place; None: there is none."""
    found = max(folder.glob("year-*.pickle"), default=None)
    if found:
        for name in ("regia.sqlite3-wal", "regia.sqlite3-shm"):
            (folder / name).unlink(missing_ok=True)
        shutil.copy(found.with_suffix(".sqlite3"), folder / "regia.sqlite3")
    return found


def load(year: Year, world: Path) -> None:
    """Take up what was put down. The emulators are those of this process."""
    from deployments.models import ProviderAccount
    from panel.accounts.models import User

    state = pickle.loads(world.read_bytes())  # noqa: S301 - our own file
    vast, runpod = year.emulators["vast"], year.emulators["runpod"]
    for owner, name in ((year, "year"), (vast, "vast"), (vast.fleet, "fleet"), (runpod, "runpod")):
        for attribute, value in state[name].items():
            setattr(owner, attribute, value)
    vast._numbers = itertools.count(state["number"])
    year.random.setstate(state["random"])
    year.held.hold(state["now"])
    year.accounts = {a.backend: a for a in ProviderAccount.objects.all()}
    year.admin = User.objects.get(pk=state["admin"])


def _of(year: Year) -> dict[str, Any]:
    vast, runpod = year.emulators["vast"], year.emulators["runpod"]
    number = next(vast._numbers)
    vast._numbers = itertools.count(number)
    return {
        "year": {name: getattr(year, name) for name in _YEAR},
        "vast": {name: getattr(vast, name) for name in _VAST},
        "fleet": {name: getattr(vast.fleet, name) for name in _FLEET},
        "runpod": {name: getattr(runpod, name) for name in _RUNPOD},
        "number": number,
        "random": year.random.getstate(),
        "now": year.now(),
        "admin": year.admin.pk,
    }
