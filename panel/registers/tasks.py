"""The bells of the registers. Each is one line; the truth is in rows."""

from __future__ import annotations

from celery import shared_task
from django.utils import timezone

from panel.registers import clocks, drafts


@shared_task(name="panel.registers.tasks.clocks")
def watch_clocks() -> None:
    clocks.watch(now=timezone.now())


@shared_task(name="panel.registers.tasks.drafts")
def draft() -> None:
    drafts.draft(actor=None, now=timezone.now())
