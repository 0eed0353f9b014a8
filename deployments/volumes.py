"""Volumes that stand by themselves at a provider: metered as long as a complete list shows them."""

from __future__ import annotations

import logging
from datetime import datetime, timedelta
from uuid import UUID, uuid5

from django.db import transaction
from django.db.models import Q

from billing import ledger
from billing.models import Component, PriceSegment
from deployments import calls
from deployments.calls import Call
from deployments.models import ProviderAccount
from deployments.providers.base import Provider, Volume

logger = logging.getLogger(__name__)

EVERY = timedelta(hours=1)
TIER = "network-volume"


def look(account: ProviderAccount, adapter: Provider, *, now: datetime) -> bool:
    """Read the account's volumes once an hour, where it may have any; whether they were read."""
    if not adapter.traits.has_volumes or not _claim(account, now=now):
        return False
    try:
        told = calls.ask(account, Call.READ, adapter.volumes, now=now)
    except calls.Held:
        return False
    except Exception as e:
        # Not told is not gone: what was metered goes on. A key without this right is no reason to alarm anybody.
        logger.info("%s: its volumes cannot be read (%s)", account, type(e).__name__)
        return False
    _write(account, told, now=now)
    return True


def subject_id(account_id: UUID, remote_id: str) -> UUID:
    """The ledger's subject of a volume."""
    return uuid5(account_id, f"volume {remote_id}")


def _claim(account: ProviderAccount, *, now: datetime) -> bool:
    tried = account.volumes_tried_at
    if tried and timedelta() <= now - tried < EVERY:
        return False
    mine = ProviderAccount.objects.filter(pk=account.pk, volumes_tried_at=tried)
    return bool(mine.update(volumes_tried_at=now))


@transaction.atomic
def _write(account: ProviderAccount, told: tuple[Volume, ...], *, now: datetime) -> None:
    """Nobody tells when a volume came: it costs from the list that did not show it yet."""
    before = min(account.volumes_at or now, now)
    standing = {subject_id(account.pk, v.remote_id): v for v in told}
    for subject, volume in sorted(standing.items()):
        ledger.open_subject(subject, _snapshot(account, subject, volume), now=now)
        costs = PriceSegment.objects.filter(subject_id=subject).exists()
        ledger.set_price(
            subject, Component.VOLUME, volume.usd_per_hour, at=now if costs else before, reason=f"{volume.gb} GB"
        )  # fmt: skip
    open_ones = PriceSegment.objects.filter(
        ~Q(subject_id__in=standing), subject__account=account.pk, subject__tier=TIER, ended_at=None
    )
    for subject in open_ones.order_by("subject_id").values_list("subject_id", flat=True):
        ledger.close(subject, at=max(now, ledger.booked_until(subject) or now))
    ProviderAccount.objects.filter(pk=account.pk).update(volumes_at=now)
    account.volumes_at = now


def _snapshot(account: ProviderAccount, subject: UUID, volume: Volume) -> ledger.Snapshot:
    return ledger.Snapshot(
        label=volume.name, scope=subject, scope_label=f"Volume {volume.name}"[:120], provider=account.backend,
        tier=TIER, account=account.pk, account_label=account.name, country=volume.country or "",
        data_center=volume.data_center[:80],
    )  # fmt: skip
