"""Rows that a chat needs: a deployment whose engine answers at a given address."""

from __future__ import annotations

import itertools
from datetime import datetime, timedelta
from decimal import Decimal

from deployments.lifecycle import Desired, State
from deployments.models import Deployment, Instance, ProviderAccount
from deployments.models.offer import freeze_quote
from deployments.providers.base import Quote

_count = itertools.count(1)


def own_machine() -> Quote:
    return Quote(
        key="this-computer", tier="local", gpu_name="", gpu_count=0, vram_mb=0, cpu_count=2, memory_mb=4096,
        country=None, data_center="", usd_per_hour=Decimal("0.36"), compute_usd_per_hour=Decimal("0.36"),
        own_machine=True,
    )  # fmt: skip


def chatting_deployment(
    url: str, *, now: datetime, key: str = "engine-key", model_key: str = "qwen3-4b-bf16",
    state: State = State.READY, quote: Quote | None = None, name: str = "",
) -> Deployment:  # fmt: skip
    """A deployment with one instance in `state` whose engine is said to answer at `url`."""
    n = next(_count)
    account, _made = ProviderAccount.objects.get_or_create(
        name="This computer", defaults={"backend": ProviderAccount.Backend.LOCAL}
    )
    deployment = Deployment.objects.create(
        name=name or f"chat{n}", model_key=model_key, context=8192, desired=Desired.RUNNING,
        created_at=now, launch_key=f"chat-{n}-{now.timestamp()}",
    )  # fmt: skip
    attempt(deployment, url, now=now, key=key, state=state, quote=quote, account=account)
    return deployment


def attempt(
    deployment: Deployment, url: str, *, now: datetime, key: str = "engine-key", state: State = State.READY,
    quote: Quote | None = None, account: ProviderAccount | None = None,
) -> Instance:  # fmt: skip
    """One more attempt of the deployment."""
    quote = quote or own_machine()
    number = deployment.instances.count() + 1
    return Instance.objects.create(
        deployment=deployment, account=account or ProviderAccount.objects.get(name="This computer"),
        attempt=number, label=f"test-{deployment.id}-{number}", quote=freeze_quote(quote),
        usd_per_hour=quote.usd_per_hour, state=state.value, state_since=now - timedelta(minutes=1),
        created_at=now - timedelta(minutes=2), endpoint_url=url, api_key=key,
    )  # fmt: skip
