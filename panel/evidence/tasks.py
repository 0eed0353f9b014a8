"""The bells of the evidence packs. Each is one line; the truth is in rows."""

from __future__ import annotations

from uuid import UUID

from celery import shared_task
from django.utils import timezone

from panel.evidence import services


@shared_task(name="panel.evidence.tasks.tick")
def tick() -> None:
    services.tick(clock=timezone.now)


@shared_task(name="panel.evidence.tasks.build")
def build(pack: str) -> None:
    services.build(UUID(pack), clock=timezone.now)
