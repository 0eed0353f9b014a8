"""The bells. Each is one line and carries ids; the truth is in rows."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from celery import shared_task
from django.utils import timezone

from deployments import accounts, drills, reconcile, runway, statements, unit_cost
from deployments.models import Heartbeat
from deployments.monitoring import canary, incidents, launches, lease, probe, samples, scrape


@shared_task(name="deployments.tasks.due")
def due() -> None:
    Heartbeat.beat("beat", timezone.now())
    reconcile.due(timezone.now())


@shared_task(name="deployments.tasks.look")
def look(deployment_id: str, claim: str = "") -> None:
    claimed = datetime.fromisoformat(claim) if claim else None
    reconcile.look(UUID(deployment_id), clock=timezone.now, claim=claimed)


@shared_task(name="deployments.tasks.terminate_instance")
def terminate_instance(instance_id: str) -> None:
    reconcile.terminate(UUID(instance_id), clock=timezone.now)


@shared_task(name="deployments.tasks.observe_due")
def observe_due() -> None:
    reconcile.observe_due(clock=timezone.now)


@shared_task(name="deployments.tasks.probe_due")
def probe_due() -> None:
    probe.probe_due(clock=timezone.now)


@shared_task(name="deployments.tasks.canary_due")
def canary_due() -> None:
    canary.canary_due(clock=timezone.now)


@shared_task(name="deployments.tasks.scrape_due")
def scrape_due() -> None:
    scrape.scrape_due(clock=timezone.now)


@shared_task(name="deployments.tasks.roll_up_samples")
def roll_up_samples() -> None:
    samples.roll_up(timezone.now())


@shared_task(name="deployments.tasks.purge_samples")
def purge_samples() -> None:
    samples.purge(timezone.now())


@shared_task(name="deployments.tasks.tell_unit_cost")
def tell_unit_cost() -> None:
    unit_cost.tell(timezone.now())


@shared_task(name="deployments.tasks.lease_due")
def lease_due() -> None:
    lease.renew_due(clock=timezone.now)


@shared_task(name="deployments.tasks.launches_due")
def launches_due() -> None:
    launches.follow_due(clock=timezone.now)


@shared_task(name="deployments.tasks.offers_due")
def offers_due() -> None:
    reconcile.refresh_offers(clock=timezone.now)


@shared_task(name="deployments.tasks.check_account")
def check_account(account_id: str) -> None:
    accounts.check(UUID(account_id), now=timezone.now())


@shared_task(name="deployments.tasks.balances_due")
def balances_due() -> None:
    accounts.balances_due(now=timezone.now())
    runway.watch(now=timezone.now())


@shared_task(name="deployments.tasks.incidents_due")
def incidents_due() -> None:
    incidents.watch(now=timezone.now())


@shared_task(name="deployments.tasks.drills_due")
def drills_due() -> None:
    drills.due(clock=timezone.now)


@shared_task(name="deployments.tasks.statements_due")
def statements_due() -> None:
    statements.fetch_due(clock=timezone.now)
