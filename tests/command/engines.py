"""A real engine under a real panel: launch one as an operator would, and see what stands."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil

from tests.command.running import ROOT, environment

LAUNCH = """
import django
django.setup()
from django.utils import timezone
from deployments import services
from deployments.models import Offer
from panel.accounts.models import User
services.launch(
    services.LaunchRequest(
        name="chat", model_key="smollm2-135m", context=1024, offer_id=Offer.objects.get(account__backend="local").pk, launch_key="one"
    ),
    actor=User.objects.get(), now=timezone.now(),
)
"""


def states(data: Path) -> list[str]:
    return [row[0] for row in rows(data, "select state from deployments_instance order by attempt")]


def engines(data: Path) -> list[psutil.Process]:
    """Processes whose command line names this data folder's engines."""
    found = []
    for process in psutil.process_iter():
        try:
            if (
                str(data / "engines") in " ".join(process.cmdline())
                and process.status() != psutil.STATUS_ZOMBIE
            ):
                found.append(process)
        except psutil.Error:
            continue
    return found


def rows(data: Path, query: str) -> list[tuple[Any, ...]]:
    """What the panel's database says; read beside the running panel."""
    with sqlite3.connect(f"file:{data / 'regia.sqlite3'}?mode=ro", uri=True, timeout=20) as db:
        return db.execute(query).fetchall()


def launch(data: Path) -> None:
    """One deployment of the small model on this computer."""
    subprocess.run(
        [sys.executable, "-c", LAUNCH], cwd=ROOT, check=True, timeout=60,
        env=environment(REGIA_DATA_DIR=str(data), DJANGO_SETTINGS_MODULE="panel.settings"),
    )  # fmt: skip
