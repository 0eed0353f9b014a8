"""What the samples of machines that answer say is wrong: slow, failing, or out of KV cache.

Each machine is compared with itself: the median of its hours in the last week.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from datetime import datetime, timedelta
from statistics import fmean, median
from uuid import UUID

from deployments.lifecycle import State
from deployments.models import Incident, Instance
from deployments.monitoring import samples
from deployments.monitoring.causes import Touched, Trouble
from panel.notices.models import Notice

WINDOW = timedelta(minutes=5)
"""What is judged: its mean, so that one odd minute is no incident."""
BASELINE = timedelta(days=7)
BASELINE_HOURS = 3
"""Fewer hours are no baseline."""
LEAST = 4
"""Buckets of the window in which something was observed."""
SLOW_FACTOR, SLOW_LEAST = 3.0, 1.0
"""So many times its own median, and so many seconds more than it, until the first token."""
SLOW_RATE = 30.0
"""Tokens a second: what is quicker is not asked whether it was quicker still."""
ERROR_SHARE, ERROR_RATE = 0.05, 0.5
"""Of all answers, and a minute: one failed request of two at night is no incident."""
KV_FULL, KV_WAITING = 0.95, 1.0
FINISHED = ("finished_stop", "finished_length", "finished_abort", "finished_error")
KEYS = ("ttft_p95", "canary_ttft", "canary_rate", "kv_use", "waiting", *FINISHED)
KINDS = (Incident.Kind.SLOW, Incident.Kind.ERRORS, Incident.Kind.KV_FULL)
WARNING = Notice.Severity.WARNING


def find(*, now: datetime) -> list[Trouble]:
    """The troubles of every machine that is Ready."""
    ready = (
        Instance.objects.filter(state=State.READY)
        .select_related("deployment")
        .without_secrets()
        .order_by("deployment_id")
    )
    rows = {i.pk: i for i in ready}
    recent = _means(rows, KEYS, now - WINDOW, now)
    found = [t for pk, values in recent.items() for t in _troubles(rows[pk], values, now=now)]
    suspects = [pk for pk, values in recent.items() if _may_be_slow(values)]
    usual = _usual(suspects, now=now)
    return found + [t for pk in suspects for t in _slow(rows[pk], recent[pk], usual.get(pk, {}), now=now)]


def _means(
    instances: Collection[UUID], keys: Sequence[str], since: datetime, until: datetime
) -> dict[UUID, dict[str, float]]:
    """Each instance's means of what was observed often enough."""
    seen: dict[UUID, dict[str, list[float]]] = {}
    for point in samples.read(instances, keys, since, until, now=until):
        mine = seen.setdefault(point.instance_id, {})
        for key, value in point.values.items():
            if value is not None:
                mine.setdefault(key, []).append(value)
    return {
        pk: {key: fmean(v) for key, v in mine.items() if len(v) >= (1 if key.startswith("canary") else LEAST)}
        for pk, mine in seen.items()
    }


def _usual(instances: Sequence[UUID], *, now: datetime) -> dict[UUID, dict[str, float]]:
    """Each instance's median hour of the last week, without the window that is judged."""
    keys, hours = ("ttft_p95", "canary_ttft", "canary_rate"), int(BASELINE.total_seconds() // 3600)
    seen: dict[UUID, dict[str, list[float]]] = {}
    until = now - WINDOW
    for point in samples.read(instances, keys, until - BASELINE, until, points=hours, now=now):
        mine = seen.setdefault(point.instance_id, {})
        for key, value in point.values.items():
            if value is not None:
                mine.setdefault(key, []).append(value)
    return {
        pk: {key: median(v) for key, v in mine.items() if len(v) >= BASELINE_HOURS}
        for pk, mine in seen.items()
    }


def _may_be_slow(values: dict[str, float]) -> bool:
    ttft = max(values.get("ttft_p95", 0.0), values.get("canary_ttft", 0.0))
    return ttft > SLOW_LEAST or values.get("canary_rate", SLOW_RATE) < SLOW_RATE


def _slow(
    i: Instance, recent: dict[str, float], usual: dict[str, float], *, now: datetime
) -> Iterator[Trouble]:
    for key, who in (("ttft_p95", "Requests"), ("canary_ttft", "The canary")):
        if key in recent and key in usual and _is_slow(recent[key], usual[key]):
            queue = f" {recent['waiting']:.0f} requests wait." if recent.get("waiting", 0) >= 1 else ""
            guess = (
                f"{who} wait {recent[key]:.1f} s for the first token; this machine's usual is {usual[key]:.1f} s.{queue}"
                f" {'More load than it takes' if queue else 'A busy neighbour, heat, or a slow line'}, probably."
            )
            yield _trouble(i, Incident.Kind.SLOW, f"{i.deployment.name} is slow", guess, now=now)
            return
    rate, normal = recent.get("canary_rate"), usual.get("canary_rate")
    if rate is not None and normal and rate * SLOW_FACTOR < normal:
        guess = f"The canary gets {rate:.0f} tokens/s; this machine's usual is {normal:.0f}. A throttled or shared GPU, or load."
        yield _trouble(i, Incident.Kind.SLOW, f"{i.deployment.name} is slow", guess, now=now)


def _is_slow(value: float, normal: float) -> bool:
    return value > SLOW_FACTOR * normal and value > normal + SLOW_LEAST


def _troubles(i: Instance, values: dict[str, float], *, now: datetime) -> Iterator[Trouble]:
    failed, finished = values.get("finished_error", 0.0), sum(values.get(key, 0.0) for key in FINISHED)
    if failed >= ERROR_RATE and failed > ERROR_SHARE * finished:
        guess = f"{failed:.1f} of {finished:.1f} requests a minute fail in the engine. Its log says why."
        yield _trouble(i, Incident.Kind.ERRORS, f"{i.deployment.name} fails requests", guess, now=now)
    if values.get("kv_use", 0.0) >= KV_FULL and values.get("waiting", 0.0) >= KV_WAITING:
        guess = (
            f"{values['kv_use'] * 100:.0f} % of its KV cache is in use and {values['waiting']:.0f} requests wait: longer or "
            "more conversations than its memory takes. A shorter context, a smaller quantisation or a second machine helps."
        )
        title = f"{i.deployment.name} is out of KV cache"
        yield _trouble(i, Incident.Kind.KV_FULL, title, guess, now=now)


def _trouble(i: Instance, kind: Incident.Kind, title: str, guess: str, *, now: datetime) -> Trouble:
    return Trouble(
        f"{kind.value}:{i.deployment_id}", kind, WARNING, title, guess, now - WINDOW, i.deployment_id, i.account_id,
        (Touched(i.deployment_id, i.pk),),
    )  # fmt: skip
