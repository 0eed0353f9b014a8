from celery import shared_task
from django.utils import timezone

from billing import ecb, ledger


@shared_task(name="billing.tasks.meter")
def meter() -> int:
    return ledger.meter(timezone.now())


@shared_task(name="billing.tasks.rates")
def rates() -> int:
    return ecb.follow(now=timezone.now())
