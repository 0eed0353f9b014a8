"""Say how many machines still run and what they bill, so that nobody leaves them behind unawares."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import DatabaseError
from django.utils import timezone

from billing import ledger
from deployments.lifecycle import State
from deployments.models import Instance
from panel.failures import database_sentence


class Command(BaseCommand):
    help = "Print how many machines still run and what they bill per hour."
    requires_system_checks = []

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            states = list(Instance.objects.may_exist().values_list("state", flat=True))
            burn = ledger.burn(now=timezone.now())
        except DatabaseError as e:
            raise CommandError(database_sentence(e)) from e
        self.stdout.write(sentence(states, f"{burn.normalize():f}"))


def sentence(states: list[str], usd_per_hour: str) -> str:
    """What still stands at the providers, from the states of all instances that may exist there."""
    stopped = states.count(State.STOPPED)
    running = len(states) - stopped
    if not states:
        return "No machine runs, and nothing bills."
    parts = [f"{count(running, 'machine')} still {'runs' if running == 1 else 'run'}"] if running else []
    if stopped:
        parts.append(f"{count(stopped, 'machine')} {'is' if stopped == 1 else 'are'} kept stopped")
    return (
        f"{' and '.join(parts)}, and ${usd_per_hour} an hour is billed; ./regia down gives everything back."
    )


def count(n: int, noun: str) -> str:
    """`n` of the noun, in the right number."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"
