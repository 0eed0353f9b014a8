from celery import shared_task
from django.utils import timezone

from billing import budgets, ledger


@shared_task(name="billing.tasks.meter")
def meter() -> int:
    return ledger.meter(timezone.now())


@shared_task(name="billing.tasks.watch_budgets")
def watch_budgets() -> int:
    return budgets.watch(now=timezone.now())
