from celery import shared_task
from django.utils import timezone

from billing import budgets, ecb, ledger, reconcile


@shared_task(name="billing.tasks.meter")
def meter() -> int:
    return ledger.meter(timezone.now())


@shared_task(name="billing.tasks.reconcile")
def compare_bills() -> int:
    return reconcile.match_due(now=timezone.now())


@shared_task(name="billing.tasks.rates")
def rates() -> int:
    return ecb.follow(now=timezone.now())


@shared_task(name="billing.tasks.watch_budgets")
def watch_budgets() -> int:
    return budgets.watch(now=timezone.now())
