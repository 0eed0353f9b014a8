"""The clock's part in privacy."""

from __future__ import annotations

from celery import shared_task
from django.utils import timezone

from panel.accounts.models import User
from panel.privacy import purging, receipts


@shared_task(name="panel.privacy.tasks.daily")
def daily() -> None:
    receipts.keep_outside()
    purging.due(now=timezone.now())


@shared_task(name="panel.privacy.tasks.purge")
def purge(user_id: int) -> None:
    purging.run(now=timezone.now(), actor=User.objects.filter(pk=user_id).first())
