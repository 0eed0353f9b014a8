from celery import shared_task
from django.utils import timezone

from billing import ledger


@shared_task(name="billing.tasks.meter")
def meter() -> int:
    return ledger.meter(timezone.now())
