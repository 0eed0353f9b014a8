"""A believable team's panel: machines in many states, a month of spend, notices. Rows only, nothing runs."""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal
from typing import NamedTuple

from billing import budgets, ledger
from billing.models import Budget, Component, Discrepancy
from deployments import money
from deployments.lifecycle import Desired, State
from deployments.models import (
    Deployment,
    Event,
    Heartbeat,
    Incident,
    Installation,
    Instance,
    ListedMachine,
    Offer,
    ProviderAccount,
)
from deployments.models.offer import freeze_quote, quote_values
from deployments.monitoring import incidents, launches
from deployments.providers.base import Quote
from panel.accounts.models import User
from panel.accounts.roles import ADMINISTRATOR
from panel.alerts.models import Channel, Delivery, Rule, Window
from panel.notices.models import Notice
from panel.notices.notify import raise_notice
from panel.registers.models import Breach, ProcessingActivity, Processor, SubjectRequest
from tests import factories, photograph
from tests.browser import (
    scene_alerts,
    scene_audit,
    scene_bills,
    scene_money,
    scene_providers,
    scene_registers,
)

PASSWORD = "a long enough password"


class Scene(NamedTuple):
    administrator: User
    ready: Deployment
    starting: Deployment
    failed: Deployment
    outbid: Deployment
    account: ProviderAccount
    found: ListedMachine
    foreign: ListedMachine
    replacing: str
    """A query string: settings of `ready` that would replace its machine."""
    budget: Budget
    incident: Incident
    machine: Instance
    """The one of `outbid`."""
    notice: Notice
    channel: Channel
    rule: Rule
    window: Window
    message: Delivery
    """One that does not arrive."""
    gap: Discrepancy
    """Yesterday, a machine that nobody knows was charged at RunPod."""
    breach: Breach
    """Filed, its clock runs."""
    request: SubjectRequest
    processor: Processor
    activity: ProcessingActivity


def quote(key: str, gpu: str, country: str | None, price: str, **more: object) -> Quote:
    values: dict[str, object] = {
        "tier": "secure", "gpu_count": 1, "vram_mb": 24 * 1024, "cpu_count": 8, "memory_mb": 64 * 1024,
        "data_center": "", "disk_usd_per_hour": Decimal("0.006"), "reliability": 0.997, "usual_seconds_to_ready": 190,
        "stock": "high", **more,
    }  # fmt: skip
    usd = Decimal(price)
    disk = Decimal(str(values["disk_usd_per_hour"]))
    return Quote(
        key=key, gpu_name=gpu, country=country, usd_per_hour=usd, compute_usd_per_hour=usd - disk, **values
    )  # type: ignore[arg-type]


QUOTES: dict[str, list[Quote]] = {
    "local": [
        quote("cpu", "CPU", None, "0.05", tier="local", gpu_count=0, vram_mb=0, cpu_count=8, memory_mb=32 * 1024, disk_usd_per_hour=Decimal(0), reliability=None, stock="", own_machine=True, usual_seconds_to_ready=4),
    ],
    "runpod": [
        quote("cz-4090", "NVIDIA RTX 4090", "CZ", "0.69", data_center="EU-CZ-1"),
        quote("nl-a4000", "NVIDIA RTX A4000", "NL", "0.25", data_center="EU-NL-1", vram_mb=16 * 1024),
        quote("is-l4", "NVIDIA L4", "IS", "0.43", data_center="EUR-IS-1"),
        quote("us-3090", "NVIDIA RTX 3090", "US", "0.46", data_center="US-DE-1"),
    ],
    "vast": [
        quote("fr-3090", "NVIDIA RTX 3090", "FR", "0.22", tier="datacenter", reliability=0.991, stock="", max_hours=1440.0),
        quote("xx-3060", "NVIDIA RTX 3060", None, "0.09", tier="community", vram_mb=12 * 1024, reliability=0.962, stock=""),
    ],
}  # fmt: skip

TAGS = {
    "support-assistant": {"team": "support", "env": "prod"},
    "contract-search": {"team": "legal", "env": "prod"},
    "mail-triage": {"team": "mail"},
    "translation-tests": {"env": "test"},
}

WAY = (State.REQUESTED, State.PROVISIONING, State.PULLING, State.LOADING, State.WARMING, State.READY)
PACE = (1.2, 38, 74, 52, 9)
"""Seconds that each phase takes."""


def build(*, now: datetime, history: float = 0.03) -> Scene:
    """The whole scene; `now` is the moment the pages are looked at, or was a few seconds ago.

    `history` scales how long ago things began: 1 for a month of spend, less where a test does not need it.
    """
    return photograph.once(("scene", history), lambda: _build(now, history), now=now)


def _build(now: datetime, history: float) -> Scene:
    administrator = factories.user(ADMINISTRATOR, email="admin@example.com", password=PASSWORD)
    accounts = {
        backend: ProviderAccount.objects.create(
            name=name,
            backend=backend,
            offers_at=now,
            credentials="" if backend == "local" else "key-of-a-scene",
        )
        for backend, name in (("local", "This computer"), ("runpod", "RunPod"), ("vast", "Vast.ai"))
    }
    offers = {
        q.key: Offer.objects.create(
            account=accounts[backend], key=q.key, fetched_at=now - timedelta(seconds=14), **quote_values(q)
        )
        for backend, quotes in QUOTES.items()
        for q in quotes
    }
    budget = budgets.set_budget(Decimal(1200), Budget.Period.MONTH, True, actor=administrator, now=now)
    runpod = budgets.Whom(provider="runpod")
    narrow = budgets.Wish("RunPod", Decimal(900), whom=runpod, target_label="RunPod", hard_stop=False)
    lifted = budgets.add(narrow, actor=administrator, now=now)
    budgets.lift(
        lifted.pk, until=now + timedelta(hours=6), reason="The load test.", actor=administrator, now=now
    )
    maker = _Maker(administrator, offers, now, history)
    ready = maker.deployment("support-assistant", "qwen3-4b-fp8", "cz-4090", days=29)
    maker.deployment(
        "contract-search",
        "qwen3-4b-bf16",
        "is-l4",
        days=11,
        state=State.DEGRADED,
        reason="Three probes in a row took longer than 10 s.",
    )
    outbid = maker.deployment("mail-triage", "qwen3-4b-awq", "fr-3090", days=16)
    maker.deployment(
        "translation-tests", "qwen3-4b-awq", "nl-a4000", days=6, state=State.STOPPED, desired=Desired.STOPPED
    )
    starting = maker.deployment("evaluation", "qwen3-4b-bf16", "cz-4090", days=0.0011, state=State.LOADING)
    failed = maker.deployment(
        "nightly-summaries",
        "qwen3-4b-fp8",
        "is-l4",
        days=0.02,
        state=State.FAILED,
        reason="No capacity: the data centre has no such GPU free now.",
    )
    maker.deployment("first-try", "smollm2-135m", "cpu", days=0.04, state=State.READY)
    maker.deployment(
        "load-test",
        "qwen3-4b-awq",
        "fr-3090",
        days=20,
        lasted=2.5,
        state=State.TERMINATED,
        desired=Desired.TERMINATED,
    )
    scene_providers.tell(accounts, now=now)
    scene_providers.interrupt(outbid, now=now)
    scene_providers.drill(outbid, now=now)
    scene_providers.read(ready, now=now)
    found, foreign = scene_providers.see(accounts["runpod"], now=now)
    ledger.meter(now)
    scene_money.tell(now=now)
    launches.begin(now=now)
    launches.follow(launches.claim(now=now), {}, now=now)
    notice = raise_notice(
        "probe:contract-search",
        "warning",
        "contract-search answers slowly",
        now=now - timedelta(minutes=4),
        detail="Three probes in a row took longer than 10 s.",
    )
    alerts = scene_alerts.build(administrator, notice, ready, now=now)
    Heartbeat.beat("reconcile", now)
    incidents.watch(now=now - timedelta(minutes=5))
    incident = Incident.objects.get(deployment__name="contract-search")
    incidents.comment(
        incident, "Its host is overheating: moved the nightly jobs away.", actor=administrator, now=now
    )
    scene_audit.build(administrator, ready, now=now)
    replacing = scene_providers.typed(ready, context=4096, price_ceiling="0.8")
    return Scene(
        administrator, ready, starting, failed, outbid, accounts["runpod"], found, foreign, replacing, budget,
        incident, outbid.instances.earliest("attempt"), notice, *alerts, scene_bills.build(accounts["runpod"], now=now),
        *scene_registers.build(administrator, now=now),
    )  # fmt: skip


class _Maker:
    def __init__(self, owner: User, offers: dict[str, Offer], now: datetime, history: float) -> None:
        self.owner, self.offers, self.now, self.history = owner, offers, now, history

    def deployment(
        self, name: str, model: str, offer_key: str, *, days: float, state: State = State.READY,
        desired: Desired = Desired.RUNNING, reason: str = "", lasted: float | None = None,
    ) -> Deployment:  # fmt: skip
        """One deployment that began `days` ago, with its instance, events, reservation and price segments."""
        if days > 1:
            days, lasted = days * self.history, lasted and lasted * self.history
        born = self.now - timedelta(days=days)
        offer = self.offers[offer_key]
        made = Deployment.objects.create(
            name=name, model_key=model, context=8192, allowed_countries=["CZ", "FR", "IS", "NL"], desired=desired,
            owner=self.owner, created_at=born, launch_key=name, tags=TAGS.get(name, {}),
        )  # fmt: skip
        Event.objects.create(
            deployment=made, at=born, kind="launch", reason=made.model.title if made.model else ""
        )
        instance = self._instance(made, offer, born, state, reason)
        end = born + timedelta(days=lasted) if lasted else None
        self._money(instance, offer, born, end)
        return made

    def _instance(
        self, made: Deployment, offer: Offer, born: datetime, state: State, reason: str
    ) -> Instance:
        way = WAY[: WAY.index(state) + 1] if state in WAY else WAY
        if state is State.FAILED:
            way = WAY[:2]
        moments, at = [], born
        for i, _ in enumerate(way):
            moments.append(at)
            at += timedelta(seconds=PACE[i] if i < len(PACE) else 0)
        since = moments[-1] if state in way else max(self.now - timedelta(minutes=6), moments[-1])
        quote = offer.quote()
        instance = Instance.objects.create(
            deployment=made, account=offer.account, attempt=1, label=f"{Installation.own_key()}-{made.id.hex}-1", quote=freeze_quote(quote),
            usd_per_hour=quote.usd_per_hour, state=state, state_since=since, reason=reason, created_at=born,
            country=quote.country, data_center=quote.data_center, api_key="sk-test", remote_id=f"m{made.id.hex[:10]}",
            ready_at=moments[-1] if State.READY in way else None, observed="running", observed_at=self.now - timedelta(seconds=9),
            endpoint_url=f"https://m{made.id.hex[:10]}-8000.proxy.example.com" if State.READY in way else "",
            probe_ok_at=self.now - timedelta(seconds=3), probe_detail=reason if state is State.DEGRADED else "",
            probe_failures=3 if state is State.DEGRADED else 0,
        )  # fmt: skip
        Instance.objects.filter(pk=instance.pk).update(create_sent_at=born)
        before = ""
        for step, moment in zip(way, moments, strict=True):
            Event.objects.create(
                deployment=made, instance=instance, at=moment, kind="state", from_state=before, to_state=step
            )
            before = step
        if state not in way:
            Event.objects.create(
                deployment=made,
                instance=instance,
                at=since,
                kind="state",
                from_state=before,
                to_state=state,
                reason=reason,
            )
        return instance

    def _money(self, instance: Instance, offer: Offer, born: datetime, end: datetime | None) -> None:
        ledger.open_subject(instance.id, money.snapshot(instance), now=born)
        if instance.status is State.FAILED:
            return
        ledger.set_price(instance.id, Component.COMPUTE, offer.compute_usd_per_hour, at=born)
        ledger.set_price(instance.id, Component.DISK, offer.disk_usd_per_hour, at=born)
        if instance.status is State.STOPPED:
            ledger.set_price(instance.id, Component.COMPUTE, Decimal(0), at=instance.state_since)
        if end:
            ledger.close(instance.id, at=end)
            Instance.objects.filter(pk=instance.pk).update(ended_at=end, state_since=end)
        else:
            budgets.reserve(instance.id, instance.usd_per_hour, until=None, now=self.now)
