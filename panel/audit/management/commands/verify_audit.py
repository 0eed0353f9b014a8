"""Check the audit's chain from its first event to its head. Exit code 1 with the first problem."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import DatabaseError
from django.utils import timezone

from panel.audit import spool
from panel.audit.verification import verify_and_keep
from panel.failures import database_sentence


class Command(BaseCommand):
    help = "Check the audit's hash chain against the database's head and the anchor file."
    requires_system_checks = []

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            found = verify_and_keep(now=timezone.now())
        except DatabaseError as e:
            raise CommandError(database_sentence(e)) from e
        if not found.ok:
            raise CommandError(
                f"The audit has been tampered with: {found.problem} {found.checked} events before it are whole."
            )
        self.stdout.write(f"The audit is whole: {found.checked} events, each follows the one before it.")
        if waiting := spool.pending():
            self.stdout.write(f"{waiting} more wait in the spool and are appended within a minute.")
