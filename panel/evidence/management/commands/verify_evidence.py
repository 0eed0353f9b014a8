"""Check an evidence pack against its own manifest. Exit code 1 with everything that was found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DatabaseError

from panel.audit.models import AuditEvent
from panel.evidence.proof import Proof, check
from panel.failures import database_sentence


class Command(BaseCommand):
    help = "Check that every file of an evidence pack has the SHA-256 that its manifest tells."
    requires_system_checks = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("file", type=Path)
        parser.add_argument(
            "--audit", action="store_true",
            help="also ask this panel's audit whether it wrote this pack: who can change a file can change its manifest",
        )  # fmt: skip

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            proof = check(options["file"])
        except OSError as e:
            raise CommandError(f"{options['file']} cannot be read: {e.strerror}.") from e
        if proof.problems:
            raise CommandError("The pack is NOT what was written:\n" + "\n".join(proof.problems))
        self.stdout.write(f"The pack is whole: {proof.files} files, {proof.start} to {proof.end}.")
        self.stdout.write(f"SHA-256 of the whole: {proof.whole}")
        self.stdout.write(f"It stands on audit event {proof.head_sequence}, {proof.head_hash}.")
        if options["audit"]:
            self._ask_the_audit(proof)

    def _ask_the_audit(self, proof: Proof) -> None:
        try:
            known = AuditEvent.objects.filter(action="evidence.ready", after__whole=proof.whole).first()
            head = AuditEvent.objects.filter(sequence=proof.head_sequence, hash=proof.head_hash).exists()
        except DatabaseError as e:
            raise CommandError(database_sentence(e)) from e
        if known is None:
            raise CommandError("This panel's audit knows no pack with these contents.")
        if not head and proof.head_sequence:
            raise CommandError("The audit event that the pack stands on is not in this panel's audit.")
        self.stdout.write(
            f"This panel wrote it: audit event {known.sequence}, {known.at:%Y-%m-%d %H:%M} UTC."
        )
