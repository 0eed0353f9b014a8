"""Where machines really stand: the evidence of it, and what serverless endpoints tell beyond the list.

Facts only are written here; `refused` says in words why a place may not be, and `decide` draws the consequence.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta
from typing import Any

from django.db import transaction

from deployments import calls, money, residency, services
from deployments.calls import Call
from deployments.lifecycle import SERVING, State
from deployments.models import Deployment, Instance, ProviderAccount, ResidencyEvidence
from deployments.providers.base import Inspection, MachineStatus, Provider, ProviderError

SOURCES = {
    "runpod": "RunPod REST v2, GET /v2/pods: the data centre of the pod",
    "vast": "Vast.ai, GET /api/v1/instances: the geolocation of the machine",
}
SERVERLESS_SOURCES = {
    "runpod": "RunPod REST v2, GET /v2/serverless/{id}/workers: the data centre of each worker"
}
MISSED = 3
"""So many inspections that did not come are a gap: what the workers did meanwhile nobody saw."""
_INSPECTED = [
    s.value for s in (State.PROVISIONING, State.PULLING, State.LOADING, State.WARMING, State.READY, State.DEGRADED)
]  # fmt: skip


def refused(i: Instance) -> str:
    """The residency guard's third look: why the machine may not stand where it was found; empty: it may.

    A place that is not known fails closed once the machine runs, or once a worker serves.
    """
    if i.offer.own_machine:
        return ""
    for country in _countries(i):
        verdict = residency.verdict(country, i.deployment.allowed_countries)
        if not verdict.allowed and (country or _answers(i)):
            return f"Residency guard: {verdict.reason}"
    return ""


def _countries(i: Instance) -> list[str | None]:
    if not i.offer.serverless:
        return [i.country]
    # The endpoint's own country is where its workers may come to stand; several have none in common.
    return [*(country for _, country in i.places), *([i.country] if i.country else [])]


def _answers(i: Instance) -> bool:
    """Whether prompts may be on it already."""
    if i.offer.serverless:
        return i.status in SERVING or bool(i.probe_ok_at)
    return i.observed == MachineStatus.RUNNING


def note(i: Instance, *, now: datetime) -> ResidencyEvidence | None:
    """Write down where the machine stands when that is new; None when it is not, or nothing was told yet."""
    found = _found(i)
    if i.offer.own_machine or not found:
        return None
    asked = list(i.deployment.allowed_countries)
    last = i.evidence.order_by("-at", "-pk").first()
    if last and last.found == found and last.asked == asked:
        return None
    verdicts = [residency.verdict(country, asked) for _, country in found]
    bad = [v for v in verdicts if not v.allowed]
    reasons = dict.fromkeys(v.reason for v in bad or verdicts)
    return ResidencyEvidence.objects.create(
        instance=i, at=now, asked=asked, promised=_promised(i), found=found, source=_source(i),
        allowed=not bad, reason=" ".join(reasons)[:300],
    )  # fmt: skip


def _found(i: Instance) -> list[list[str | None]]:
    if i.offer.serverless:
        return [list(place) for place in i.places]
    if i.country or i.observed == MachineStatus.RUNNING:
        return [[i.data_center, i.country]]
    return []


def _promised(i: Instance) -> str:
    return " ".join(filter(None, [i.offer.country or "no country", i.offer.data_center]))[:120]


def _source(i: Instance) -> str:
    known = SERVERLESS_SOURCES if i.offer.serverless else SOURCES
    return known.get(i.account.backend, "the provider's answer")


# -- serverless endpoints -----------------------------------------------------------------------------


def inspect_due(account: ProviderAccount, adapter: Provider, *, now: datetime) -> int:
    """Inspect every serverless endpoint of the account whose time has come; returns how many were read.

    It asks the provider's control plane: a request to the endpoint would wake a worker, which bills.
    """
    rows = account.instances.filter(state__in=_INSPECTED).exclude(remote_id="").select_related("deployment")
    apart = timedelta(seconds=adapter.traits.inspect_interval)
    due = [i for i in rows if i.quote.get("serverless") and _is_due(i, apart, now=now)]
    return sum(_inspect(i, account, adapter, now=now) for i in due)


def _is_due(i: Instance, apart: timedelta, *, now: datetime) -> bool:
    return i.inspected_at is None or not timedelta() <= now - i.inspected_at < apart


def _inspect(i: Instance, account: ProviderAccount, adapter: Provider, *, now: datetime) -> bool:
    i.account = account
    try:
        told = calls.ask(account, Call.READ, lambda: adapter.inspect(i.remote_id), now=now)
    except calls.Held:
        return False
    except Exception as e:
        detail = (
            str(e) if isinstance(e, ProviderError) else f"an answer that cannot be read ({type(e).__name__})"
        )
        Instance.objects.filter(pk=i.pk).update(probe_detail=f"It cannot be inspected: {detail}"[:300])
        return False
    gap = MISSED * timedelta(seconds=adapter.traits.inspect_interval)
    _write(i, told, gap=gap, now=now)
    return True


def _write(i: Instance, told: Inspection, *, gap: timedelta, now: datetime) -> None:
    before = (i.places, bool(i.probe_ok_at) and not i.probe_failures)
    columns: dict[str, Any] = {
        "places": _places(told.data_centers, told.countries),
        "inspected_at": now,
        "probe_detail": told.detail[:300],
        **_probe_facts(i, told, now=now),
    }
    with transaction.atomic():
        # One order for everybody who writes both: the deployment's row, then its instance's, then the money.
        list(Deployment.objects.filter(pk=i.deployment_id).select_for_update().values_list("pk"))
        rows = Instance.objects.filter(pk=i.pk, state=i.state, inspected_at=i.inspected_at)
        columns["usd_per_hour"] = told.billed_workers * i.offer.usd_per_hour
        if not rows.update(**columns):
            return  # it moved meanwhile, or another worker was quicker
        money.workers(
            i, told.billed_workers, before=i.usd_per_hour, last_seen=i.inspected_at, gap=gap, now=now
        )
        for name, value in columns.items():
            setattr(i, name, value)
        note(i, now=now)
        if (i.places, bool(i.probe_ok_at) and not i.probe_failures) != before:
            services.ring(i.deployment, now=now)


def _places(data_centers: Collection[str], countries: Collection[str | None]) -> list[list[str | None]]:
    return sorted(
        ([dc[:80], country[:2] if country else None] for dc, country in zip(data_centers, countries, strict=True)),
        key=lambda place: (place[0] or "", place[1] or ""),
    )  # fmt: skip


def _probe_facts(i: Instance, told: Inspection, *, now: datetime) -> dict[str, Any]:
    if told.serves:
        return {"probe_ok_at": now, "probe_seen_at": now, "probe_failures": 0}
    if i.status in SERVING:
        return {"probe_failures": i.probe_failures + 1}
    # Before it is ready that it does not serve is no news.
    return {}
