"""A provider's account, and this installation's own name."""

from __future__ import annotations

import secrets
import uuid
from decimal import Decimal
from typing import TYPE_CHECKING

from django.conf import settings
from django.db import models

from billing.fields import UsdField
from deployments.providers.base import Secret
from panel.fields import EncryptedTextField

if TYPE_CHECKING:
    from collections.abc import Callable

    from deployments.providers.base import Provider


def _new_installation_id() -> str:
    return f"regia{secrets.token_hex(4)}"


class Installation(models.Model):
    """This installation: one row. Its id begins every label, so that machines of others are never touched."""

    id = models.PositiveSmallIntegerField(primary_key=True, default=1)
    key = models.CharField(max_length=20, default=_new_installation_id, unique=True)

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        return self.key

    @classmethod
    def own_key(cls) -> str:
        return cls.objects.get_or_create(id=1)[0].key


class ProviderAccount(models.Model):
    class Backend(models.TextChoices):
        LOCAL = "local", "This computer"
        RUNPOD = "runpod", "RunPod"
        VAST = "vast", "Vast.ai"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    name = models.CharField(max_length=80, unique=True)
    backend = models.CharField(max_length=20, choices=Backend.choices)
    credentials = EncryptedTextField(blank=True, default="", editable=False)
    enabled = models.BooleanField(default=True)
    local_usd_per_hour = UsdField(
        "rate of this computer",
        default=Decimal("0.05"),
        help_text="USD per hour, for the local provider only",
    )
    company_country = models.CharField(max_length=2, blank=True)
    dpa_reference = models.CharField(
        "processing agreement", max_length=200, blank=True, help_text="where the signed one is kept"
    )
    created_at = models.DateTimeField(auto_now_add=True)

    # What the last list call told; `observe` owns these.
    next_list_at = models.DateTimeField(null=True, blank=True, editable=False)
    listed_at = models.DateTimeField(null=True, blank=True, editable=False)
    complete_lists = models.PositiveBigIntegerField(default=0, editable=False)
    list_error = models.CharField(max_length=300, blank=True, editable=False)
    creates_blocked = models.CharField(
        max_length=300, blank=True, editable=False, help_text="why nothing is rented here now; empty: it may"
    )
    key_unproved = models.BooleanField(
        "new key is unproved",
        default=False,
        help_text="no list under the new key has shown a machine of this account yet: it may be another team's, so "
        "what it does not show does not count as gone. Switch it off only when those machines are gone for certain.",
    )
    offers_at = models.DateTimeField(null=True, blank=True, editable=False)
    offers_error = models.CharField(max_length=300, blank=True, editable=False)

    # The volumes that stand by themselves; `volumes` owns these.
    volumes_at = models.DateTimeField(null=True, blank=True, editable=False)
    volumes_tried_at = models.DateTimeField(null=True, blank=True, editable=False)

    # What the key may do, as last tried, and the prepaid money as last read.
    rights = models.JSONField(default=list, blank=True, editable=False)
    rights_at = models.DateTimeField(null=True, blank=True, editable=False)
    balance_usd = UsdField("prepaid money", null=True, blank=True, editable=False)
    balance_at = models.DateTimeField(null=True, blank=True, editable=False)
    create_refused = models.CharField(
        max_length=300, blank=True, editable=False,
        help_text="the key may read but not rent: a good list does not clear this, a new key or a test does",
    )  # fmt: skip

    def __str__(self) -> str:
        return self.name

    @property
    def public_only(self) -> bool:
        """Without a key: its prices are public ones, and nothing can be rented."""
        return self.backend != self.Backend.LOCAL and not self.credentials

    @property
    def blocked(self) -> str:
        """Why nothing is rented here now, in a sentence; empty: it may."""
        if self.public_only:
            return "These are public prices. Give this account a key to rent here."
        return self.creates_blocked or self.create_refused

    def adapter(self) -> Provider:
        """The adapter that speaks for this account. Raises LookupError for a backend without one."""
        return ADAPTERS[self.backend](self)


def _local(account: ProviderAccount) -> Provider:
    from deployments.providers.local import LocalProvider

    return LocalProvider(settings.LOCAL_ENGINES_DIR, usd_per_hour=account.local_usd_per_hour)


def _runpod(account: ProviderAccount) -> Provider:
    from deployments.providers.runpod import Addresses, RunPodProvider

    return RunPodProvider(
        _key(account),
        addresses=Addresses(
            api=settings.RUNPOD_API_BASE_URL,
            runtime=settings.RUNPOD_RUNTIME_BASE_URL,
            proxy=settings.RUNPOD_PROXY_URL_TEMPLATE,
            balancer=settings.RUNPOD_BALANCER_URL_TEMPLATE,
        ),
        worker_image=settings.RUNPOD_WORKER_IMAGE,
        active_discount=Decimal(settings.RUNPOD_ACTIVE_DISCOUNT),
        load_balancer=settings.RUNPOD_LOAD_BALANCER,
        disk_gb=settings.INFERENCE_DISK_GB,
        port=settings.INFERENCE_PORT,
    )


def _vast(account: ProviderAccount) -> Provider:
    from deployments.providers.vast import VastProvider

    return VastProvider(
        _key(account),
        address=settings.VAST_API_BASE_URL,
        disk_gb=settings.INFERENCE_DISK_GB,
        port=settings.INFERENCE_PORT,
        traffic_gb=settings.EXPECTED_TRAFFIC_GB,
    )


def _key(account: ProviderAccount) -> Secret | None:
    return Secret(account.credentials) if account.credentials else None


ADAPTERS: dict[str, Callable[[ProviderAccount], Provider]] = {
    ProviderAccount.Backend.LOCAL: _local,
    ProviderAccount.Backend.RUNPOD: _runpod,
    ProviderAccount.Backend.VAST: _vast,
}
"""backend -> builder. Tests put their fault-injecting wrapper here."""
