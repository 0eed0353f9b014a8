"""The bells of the alerts. Each is one line; the truth is in rows."""

from __future__ import annotations

from celery import shared_task
from django.utils import timezone

from panel.alerts import delivering


@shared_task(name="panel.alerts.tasks.tick")
def tick() -> None:
    delivering.tick(clock=timezone.now)


@shared_task(name="panel.alerts.tasks.send")
def send(channel: int) -> None:
    delivering.send(channel, clock=timezone.now)
