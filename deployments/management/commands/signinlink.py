"""Print the path of a fresh one-time sign-in link. Its reader prints it for the operator and keeps it nowhere."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DatabaseError, transaction
from django.urls import reverse
from django.utils import timezone

from panel.accounts.models import SignInLink, User
from panel.audit import chain
from panel.failures import database_sentence


class Command(BaseCommand):
    help = "Print the path of a one-time sign-in link for an administrator."
    # The pages are checked by `manage.py check`; here they would only cost a second.
    requires_system_checks = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--email", default="", help="for whom; default: the first active administrator")

    def handle(self, *args: Any, **options: Any) -> None:
        now = timezone.now()
        try:
            user = _user(options["email"])
            with transaction.atomic():
                token = SignInLink.issue(user, now=now)
                chain.record("sign_in_link.issue", actor=None, target=user, now=now)
        except DatabaseError as e:
            raise CommandError(database_sentence(e)) from e
        self.stdout.write(reverse("sign_in_link", args=[token]))


def _user(email: str) -> User:
    people = User.objects.filter(is_active=True).order_by("pk")
    user = (people.filter(email__iexact=email) if email else people.filter(is_superuser=True)).first()
    if user is None:
        raise CommandError(
            f"There is no active user {email}." if email else "There is no active administrator."
        )
    return user
