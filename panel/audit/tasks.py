"""What keeps the audit whole while nobody looks."""

from __future__ import annotations

from celery import shared_task
from django.utils import timezone

from panel.audit import keeping


@shared_task(name="panel.audit.tasks.keep")
def keep() -> None:
    keeping.keep(now=timezone.now())
