"""`manage.py rotate_field_keys [--new-key | --finish]`: stored secrets under a new key."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from panel import rotation


class Command(BaseCommand):
    help = (
        "Writes every stored secret with the first field key. --new-key makes one first; --finish afterwards takes the"
        " older keys away. May be stopped anywhere and run again."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        one = parser.add_mutually_exclusive_group()
        one.add_argument("--new-key", action="store_true", help="make a new first key, then write with it")
        one.add_argument(
            "--finish", action="store_true", help="remove the older keys when nothing needs them"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            if options["finish"]:
                return self._finish()
            if options["new_key"]:
                rotation.add_key(now=timezone.now())
                self.stdout.write("A new key stands first. The panel need not be restarted.")
            self._rewrite()
        except rotation.Refused as e:
            raise CommandError(str(e)) from None

    def _rewrite(self) -> None:
        report = rotation.rewrite(now=timezone.now())
        for where, count in sorted(report.rewritten.items()):
            self.stdout.write(f"{count:>7}  {where}")
        self.stdout.write(
            f"{sum(report.rewritten.values())} written again, {report.current} were the first key's already."
        )
        if report.overtaken:
            self.stdout.write(f"{report.overtaken} changed meanwhile: run this once more.")
        if report.unreadable:
            lost = ", ".join(f"{where} ({count})" for where, count in sorted(report.unreadable.items()))
            raise CommandError(
                f"No key opens some of {lost}: add the key from the backup, or enter them anew."
            )

    def _finish(self) -> None:
        gone = rotation.finish(now=timezone.now())
        if not gone:
            self.stdout.write("There is no older key.")
            return
        self.stdout.write(
            f"{gone} older key(s) moved to field_keys.retired. Backups from before need them: keep that file where"
            " those backups are, and delete it here."
        )
