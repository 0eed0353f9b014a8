"""Rows that advice is made of: a machine that runs, its hours, and offers."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from deployments.models import Deployment, Instance, Launch, Monitor, Offer, Sample
from deployments.models.offer import freeze_quote, quote_values
from tests.browser.scene import quote

IDLE = {"running": 0.01, "waiting": 0.0, "kv_use": 0.02, "finished_stop": 0.2, "finished_length": 0.0}
"""An hour with nothing but the panel's own chats, one in five minutes."""
BUSY = IDLE | {"running": 1.5, "kv_use": 0.6, "finished_stop": 4.0}


def secure(key="l4", price="0.43", **more):
    return quote(key, "NVIDIA L4", "CZ", price, sla=True, data_center="EU-CZ-1", **more)


def running(account, name="assistant", *, now, days=40, standing=None, **more) -> Instance:
    made = standing or secure()
    born = now - timedelta(days=days)
    state = more.pop("state", "ready")
    d = Deployment.objects.create(
        **{
            "name": name, "model_key": "qwen3-4b-awq", "context": 8192, "allowed_countries": ["CZ", "FR"], "desired": "running",
            "created_at": born, "launch_key": name, "owner": None,
        } | more
    )  # fmt: skip
    i = Instance.objects.create(
        deployment=d, account=account, attempt=1, label=f"l-{name}", quote=freeze_quote(made), usd_per_hour=made.usd_per_hour,
        state=state, state_since=born, created_at=born, ready_at=born, api_key="k", country="CZ", remote_id=f"r-{name}",
    )  # fmt: skip
    Launch.objects.create(
        instance=i, provider="runpod", tier="secure", model_key="m", began_at=born, total=240
    )
    return i


def tell(instance, values, *, now, days=28) -> None:
    """Hours of the last `days`; `values(moment)` gives each its own."""
    monitor, _ = Monitor.objects.get_or_create(instance=instance)
    last = int(now.timestamp()) // 3600
    Sample.objects.bulk_create(
        Sample(monitor=monitor, resolution=3600, bucket=n * 3600, **values(datetime.fromtimestamp(n * 3600, UTC)))
        for n in range(last - 24 * days, last)
    )  # fmt: skip


def office(moment):
    return BUSY if moment.isoweekday() < 6 and 8 <= moment.hour < 18 else IDLE


def offer(account, made, now):
    return Offer.objects.create(account=account, key=made.key, fetched_at=now, **quote_values(made))
