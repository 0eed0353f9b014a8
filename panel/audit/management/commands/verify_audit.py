"""Check the audit's chain from its first event to its head. Exit code 1 with the first problem."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DatabaseError
from django.utils import timezone

from panel.audit import spool
from panel.audit.verification import verify_and_keep
from panel.failures import database_sentence


class Command(BaseCommand):
    help = "Check the audit's hash chain against the database's head and the anchor file."
    requires_system_checks = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--anchors", action="append", default=[], type=Path, metavar="FILE",
            help="a copy of the anchor file, or what the receiver of the anchors has kept: one JSON object a line",
        )  # fmt: skip

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            found = verify_and_keep(now=timezone.now(), more=options["anchors"])
        except DatabaseError as e:
            raise CommandError(database_sentence(e)) from e
        except OSError as e:
            raise CommandError(f"The anchors in {e.filename} cannot be read: {e.strerror}.") from e
        if not found.ok:
            raise CommandError(
                f"The audit has been tampered with: {found.problem} {found.checked} events before it are whole."
            )
        self.stdout.write(f"The audit is whole: {found.checked} events, each follows the one before it.")
        self.stdout.write(
            f"{found.anchors} anchors agree with it."
            if found.anchors
            else "No anchor was compared: a chain that somebody rebuilt would not be noticed."
        )
        if waiting := spool.pending():
            self.stdout.write(f"{waiting} more wait in the spool and are appended within a minute.")
