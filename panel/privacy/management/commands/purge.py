"""Take the rows whose time is over, or say which they are."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DatabaseError
from django.utils import timezone

from panel.failures import database_sentence
from panel.privacy import purging


class Command(BaseCommand):
    help = "Delete what is older than panel/privacy/policy.toml keeps it. Legal holds are respected."
    requires_system_checks = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--dry-run", action="store_true", help="only say what would go")

    def handle(self, *args: Any, **options: Any) -> None:
        now = timezone.now()
        try:
            found = purging.dry_run(now=now) if options["dry_run"] else purging.run(now=now)
        except DatabaseError as e:
            raise CommandError(database_sentence(e)) from e
        for label, count in sorted(found.by_model.items()):
            if count:
                self.stdout.write(f"{label}: {count}")
        for label, count in sorted(found.held.items()):
            if count:
                self.stdout.write(f"{label}: {count} kept by a legal hold")
        self.stdout.write(f"{found.rows} rows {'would go' if options['dry_run'] else 'went'}.")
        if found.errors:
            raise CommandError(f"Not purged: {', '.join(sorted(found.errors))}. The log says why.")
