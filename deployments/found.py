"""Machines under our label that no row knows: taken in, metered, told to the operators, and ended unless adopted."""

from __future__ import annotations

import uuid
from datetime import datetime, timedelta
from decimal import Decimal

from django.db import transaction
from django.db.models import Max, Min, Q

from deployments import listed, money, services
from deployments.lifecycle import Desired, State
from deployments.models import Cause, Deployment, Installation, Instance, ProviderAccount
from deployments.models.offer import freeze_quote
from deployments.providers.base import Listing, Machine, Quote
from panel.audit import chain
from panel.notices.models import Notice
from panel.notices.notify import raise_notice

SPARE = timedelta(minutes=10)
"""A machine under our label that nobody knows is shown for this long before it is ended."""


def sweep(account: ProviderAccount, listing: Listing, *, now: datetime) -> list[Instance]:
    """Machines that carry our label and that no row knows: each becomes known, accrues, and is to be ended.

    It is told to the operators at once and ended after `SPARE`, so that they can look at it first.
    Machines of others are never touched.
    """
    mine = ours(listing)
    known = set(
        Instance.objects.filter(label__in=[label_of(m) for m in mine]).values_list("label", flat=True)
    )
    # Renamed in the provider's console, to another label that begins like ours: it stays the machine it was.
    ids = set(
        account.instances.filter(remote_id__in=[m.remote_id for m in mine if m.remote_id]).values_list(
            "remote_id", flat=True
        )
    )
    adopted = []
    for machine in mine:
        if label_of(machine) not in known and machine.remote_id not in ids:
            known.add(label_of(machine))
            adopted.append(_take_in(account, machine, now=now))
    return adopted


def label_of(machine: Machine) -> str:
    """As a row holds it: none of ours is that long, but a console takes what is typed."""
    return listed.clean(machine.label, most=120)


def ours(listing: Listing) -> list[Machine]:
    """What stands there under this installation's label, known or not."""
    prefix = f"{Installation.own_key()}-"
    return [m for m in listing.machines if m.label.startswith(prefix)]


def _take_in(account: ProviderAccount, machine: Machine, *, now: datetime) -> Instance:
    with transaction.atomic():
        deployment = Deployment.objects.create(
            name="Found machine", model_key="unknown", context=0, desired=Desired.TERMINATED, created_at=now,
            desired_reason="found under our label, and nobody knows it", launch_key=f"{services.ADOPTABLE}{uuid.uuid4()}",
            next_look_at=now,
        )  # fmt: skip
        quote = _assumed(account, machine)
        instance = Instance.objects.create(
            deployment=deployment, account=account, attempt=1, label=label_of(machine), quote=freeze_quote(quote),
            usd_per_hour=quote.usd_per_hour, state=State.UNKNOWN, state_since=now, created_at=now,
            remote_id=machine.remote_id, remote_created_at=machine.created_at, observed=machine.status.value,
            observed_at=now, country=machine.country, data_center=machine.data_center[:80], spared_until=now + SPARE, locked=machine.locked,
            kept_usd_per_hour=machine.kept_usd_per_hour,
        )  # fmt: skip
        money.open_subject(instance, now=now)
        services.note(deployment, "found", now=now, reason=f"{instance.label} at {account.name}")
        raise_notice(
            f"found:{instance.label}", Notice.Severity.CRITICAL, "A machine that nobody knows runs under our label",
            now=now, url=deployment.get_absolute_url(), subject=deployment.pk, cause=Cause.ORPHAN.of(account.pk),
            detail=f"{instance.label} at {account.name}. It is ended in {SPARE.seconds // 60} minutes.",
        )  # fmt: skip
        services.ring(deployment, now=now)
        chain.record(
            "instance.found", actor=None, target=instance, now=now, may_spool=True,
            after={"label": instance.label, "account": str(account.pk)},
        )  # fmt: skip
    return instance


def _assumed(account: ProviderAccount, machine: Machine) -> Quote:
    """The price that it is metered by: what the list says, else what the account's offers say of its like."""
    rate = _likely(account, machine) if machine.usd_per_hour is None else machine.usd_per_hour
    disk = rate if machine.status in money.QUIET else Decimal(0)  # at rest nothing else bills
    return Quote(
        key="", tier="unknown", gpu_name="unknown", gpu_count=0, vram_mb=0, cpu_count=0, memory_mb=0,
        country=machine.country, data_center=machine.data_center, usd_per_hour=rate, compute_usd_per_hour=rate - disk,
        disk_usd_per_hour=disk, serverless=machine.serverless,
    )  # fmt: skip


def _likely(account: ProviderAccount, machine: Machine) -> Decimal:
    """USD per hour: the dearest offer with its GPU, else the cheapest of its kind; 0 when nothing is on offer."""
    alike = account.offers.filter(serverless=machine.serverless)
    names = machine.gpu_name.split(",")
    same = alike.filter(Q(gpu_pool__in=names) if machine.serverless else Q(gpu_name__in=names))
    dearest = same.aggregate(at=Max("usd_per_hour"))["at"]
    return dearest or alike.aggregate(at=Min("usd_per_hour"))["at"] or Decimal(0)
