"""The samples of the scene: what its machines would have told, with one short trouble of the first."""

from __future__ import annotations

import math
import random
from datetime import datetime, timedelta

from deployments.lifecycle import SERVING, State
from deployments.models import Deployment, Event, Instance
from deployments.monitoring import samples

TROUBLE = (timedelta(minutes=38), timedelta(minutes=34))
"""How long ago the first machine was in trouble: no sample was told meanwhile."""


def tell(ready: Deployment, *, now: datetime, hours: float = 1.2) -> None:
    """Every serving machine's samples of the last `hours`; `ready` was Degraded for four minutes of them."""
    machine = ready.instances.get()
    for state, before, ago, reason in (
        (State.DEGRADED, State.READY, TROUBLE[0], "Three probes in a row were not answered."),
        (State.READY, State.DEGRADED, TROUBLE[1], ""),
    ):
        Event.objects.create(
            deployment=ready, instance=machine, at=now - ago, kind="state", from_state=before, to_state=state, reason=reason
        )  # fmt: skip
    rows = []
    for number, instance in enumerate(
        Instance.objects.filter(state__in=SERVING).order_by("created_at", "pk")
    ):
        chance = random.Random(number)
        for n in range(int(hours * 240)):
            at = now - timedelta(seconds=15 * n)
            if instance.pk == machine.pk and TROUBLE[1] < now - at < TROUBLE[0]:
                rows.append((instance.pk, at, {"up": 0.0}))
            else:
                rows.append((instance.pk, at, values(at, chance, n)))
    samples.record_many(rows)
    samples.roll_up(now)


def values(at: datetime, chance: random.Random, n: int) -> dict[str, float | None]:
    """A plausible moment of a machine that is asked more and less."""
    load = 0.5 + 0.45 * math.sin(at.timestamp() / 900) + chance.uniform(-0.05, 0.05)
    ttft = 0.16 + 0.3 * load**2 + chance.uniform(0, 0.03)
    found: dict[str, float | None] = {
        "up": 1.0, "running": round(load * 9), "waiting": round(max(0.0, load - 0.85) * 20),
        "ttft_p50": ttft, "ttft_p95": ttft * 1.9, "ttft_p99": ttft * 2.6,
        "itl_p50": 0.011, "itl_p95": 0.014 + 0.01 * load, "itl_p99": 0.021 + 0.02 * load,
        "tokens_in_rate": 900 * load, "tokens_out_rate": 410 * load, "kv_use": 0.08 + 0.6 * load,
        "finished_stop": 22 * load, "finished_length": 2 * load, "finished_abort": 0.0, "finished_error": 0.0,
    }  # fmt: skip
    if n % 20 == 3:
        found |= {"canary_ttft": ttft + 0.05, "canary_rate": 96 - 30 * load}
    return found
