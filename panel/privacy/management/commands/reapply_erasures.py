"""After a backup was restored: erase again whom it brought back."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import DatabaseError
from django.utils import timezone

from panel.failures import database_sentence
from panel.privacy import erasing


class Command(BaseCommand):
    help = (
        "Erase again everybody whom erasures.jsonl says was erased. Safe to repeat; `./regia up` does it too."
    )
    requires_system_checks = []

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            again = erasing.reapply(now=timezone.now())
        except DatabaseError as e:
            raise CommandError(database_sentence(e)) from e
        for receipt in again:
            self.stdout.write(f"Erased again, as receipt {receipt.pk} says.")
        self.stdout.write(f"{len(again)} erased again.")
