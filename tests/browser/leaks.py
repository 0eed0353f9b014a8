"""Looks for secrets in whatever a panel left behind: its files, a dump of its database, its pages."""

from __future__ import annotations

import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from panel import sandbox
from tests.browser.real import ROOT, Panel, Visitor

NOT_OURS = {"sandbox", "static", "secret_key", "field_keys"}
"""The emulators' own folder stands for the providers; the keys' files are where keys belong."""
PAGES = (
    "/", "/launch/?model=qwen3-4b-awq", "/compare/", "/deployments/?show=all", "/radar/", "/accounts/providers/", "/spend/",
    "/playground/", "/admin/", "/admin/audit/auditevent/", "/admin/deployments/instance/", "/admin/deployments/event/",
    "/admin/deployments/provideraccount/", "/admin/deployments/residencyevidence/", "/admin/notices/notice/",
)  # fmt: skip
KEYS = """
import django
django.setup()
from deployments.models import Instance
print("\\n".join(Instance.objects.values_list("api_key", flat=True)))
"""


def planted(panel: Panel) -> dict[str, str]:
    """What must show nowhere, by what it is: the accounts' key, every machine's key, what rows of Vast hold."""
    made = subprocess.run(
        [sys.executable, "-c", KEYS], cwd=ROOT, text=True, capture_output=True, check=True,
        env={**os.environ, "REGIA_DATA_DIR": str(panel.folder), "DJANGO_SETTINGS_MODULE": "panel.settings", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    keys = [k for k in made.stdout.split() if k]
    assert keys, "nothing was launched, so nothing was planted"
    secrets = {sandbox.KEY: "the accounts' key", **dict.fromkeys(keys, "a machine's key")}
    for row in panel.emulator("vast").machines():
        secrets |= {str(v): k for k, v in row.items() if k in {"jupyter_token", "instance_api_key"} and v}
    return secrets


def scan(panel: Panel, visitor: Visitor) -> list[str]:
    """Where a planted secret was found, in words without the secret."""
    secrets = planted(panel)
    found = []
    for place, text in [*_files(panel.folder), *_dump(panel.folder), *_pages(panel.folder, visitor)]:
        found += [f"{what} in {place}" for secret, what in secrets.items() if secret in text]
    return found


def _files(folder: Path) -> Iterator[tuple[str, str]]:
    for path in folder.rglob("*"):
        if path.is_file() and path.relative_to(folder).parts[0] not in NOT_OURS:
            yield str(path.relative_to(folder)), path.read_bytes().decode(errors="replace")


def _dump(folder: Path) -> Iterator[tuple[str, str]]:
    with sqlite3.connect(folder / "regia.sqlite3", timeout=20) as db:
        yield "the database's dump", "\n".join(db.iterdump())


def _pages(folder: Path, visitor: Visitor) -> Iterator[tuple[str, str]]:
    with sqlite3.connect(folder / "regia.sqlite3", timeout=20) as db:
        ids = [re.sub(r"(.{8})(.{4})(.{4})(.{4})(.{12})", r"\1-\2-\3-\4-\5", i) for (i,) in db.execute("select id from deployments_deployment")]  # fmt: skip
    tabs = ("?tab=overview", "?tab=events", "?tab=cost", "?tab=settings", "logs/")
    for path in [*PAGES, *(f"/deployments/{i}/{tab}" for i in ids for tab in tabs)]:
        page = visitor.get(path)
        assert "</html>" in page, path
        yield path, page
