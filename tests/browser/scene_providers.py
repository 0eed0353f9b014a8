"""The providers' side of the scene: what accounts may do and hold, what their lists show, where machines stood."""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal
from urllib.parse import urlencode

from deployments.lifecycle import Desired, State
from deployments.models import (
    Breaker,
    Deployment,
    Drill,
    Installation,
    Instance,
    ListedMachine,
    ProviderAccount,
    ResidencyEvidence,
)
from deployments.views.settings_form import SettingsForm

GOOD = [
    {"name": "catalogue", "ok": True, "detail": ""},
    {"name": "balance", "ok": True, "detail": ""},
    {"name": "instances", "ok": True, "detail": ""},
]
LACKING = [
    *GOOD[:1],
    {"name": "balance", "ok": False, "detail": "The key lacks the right user_read."},
    {"name": "instances", "ok": False, "detail": "The key lacks the right instance_read. Give it in the console under Keys."},
]  # fmt: skip


def tell(accounts: dict[str, ProviderAccount], *, now: datetime) -> None:
    """What lists and tests told of the accounts, and two more: one blocked, one of public prices."""
    fresh = {"listed_at": now - timedelta(seconds=9), "complete_lists": 412}
    ProviderAccount.objects.filter(pk=accounts["local"].pk).update(**fresh)
    for backend, balance in (("runpod", "118.42"), ("vast", "34.07")):
        account = accounts[backend]
        account.credentials = f"key-of-{backend}"
        account.company_country = "US"
        account.dpa_reference = "Contracts, folder 14" if backend == "runpod" else ""
        account.rights, account.rights_at = GOOD, now - timedelta(hours=3)
        account.balance_usd, account.balance_at = Decimal(balance), now - timedelta(minutes=4)
        account.listed_at = fresh["listed_at"]
        account.save()
    research = ProviderAccount.objects.create(
        name="Vast.ai research", backend="vast", credentials="key-of-research", enabled=True, company_country="US",
        rights=LACKING, rights_at=now - timedelta(minutes=12), offers_at=now - timedelta(minutes=2),
        listed_at=now - timedelta(minutes=14), list_error="401: the key was refused.",
        creates_blocked="The account's key was refused. Give it a new one.", created_at=now,
    )  # fmt: skip
    Breaker.objects.create(
        account=research, call=Breaker.Call.LIST, failures=6, open_until=now + timedelta(minutes=2),
        error="The key was refused.", failed_at=now - timedelta(seconds=30),
    )  # fmt: skip
    ProviderAccount.objects.create(name="RunPod, public prices", backend="runpod", offers_at=now)


def interrupt(deployment: Deployment, *, now: datetime) -> None:
    """Make the deployment's machine an interruptible one that was outbid."""
    instance = deployment.instances.get()
    quote = instance.quote | {"interruptible": True, "tier": "interruptible", "stopped_usd_per_hour": "0.006"}
    Instance.objects.filter(pk=instance.pk).update(
        quote=quote, state="outbid", outbid_at=now - timedelta(minutes=12), bid_usd_per_hour=Decimal("0.14"),
        min_bid=Decimal("0.19"), interruptions=2, endpoint_url="http://203.0.113.7:40123", observed="outbid",
    )  # fmt: skip
    Deployment.objects.filter(pk=deployment.pk).update(
        bid_policy=Deployment.BidPolicy.RAISE, bid_ceiling=Decimal("0.25"), allow_plaintext=True,
        schedule_days="12345", schedule_from="08:00", schedule_until="20:00", time_zone="Europe/Berlin",
    )  # fmt: skip


def see(account: ProviderAccount, *, now: datetime) -> tuple[ListedMachine, ListedMachine]:
    """What the lists show: every machine of the scene, one that nobody knows, and two of somebody else's."""
    for i in Instance.objects.may_exist().exclude(remote_id="").select_related("account"):
        offer = i.offer
        listed(
            i.account, i.remote_id, i.label, offer.gpu_name, i.country, i.usd_per_hour, i.created_at, now=now
        )
    found = _found(account, now=now)
    foreign = listed(
        account, "pod-77c1", "training-run-14", "NVIDIA H100", "US", Decimal("2.79"),
        now - timedelta(days=3, hours=4), now=now,
    )  # fmt: skip
    listed(account, "pod-9e02", "", "NVIDIA RTX A4000", None, None, None, now=now, hidden=True)
    return found, foreign


def listed(
    account: ProviderAccount, remote_id: str, label: str, gpu: str, country: str | None,
    price: Decimal | None, born: datetime | None, *, now: datetime, hidden: bool = False,
) -> ListedMachine:  # fmt: skip
    return ListedMachine.objects.create(
        account=account, remote_id=remote_id, label=label, status="running", gpu_name=gpu, country=country,
        usd_per_hour=price, remote_created_at=born, first_seen_at=born or now, seen_at=now - timedelta(seconds=9),
        hidden=hidden,
    )  # fmt: skip


def _found(account: ProviderAccount, *, now: datetime) -> ListedMachine:
    label = f"{Installation.own_key()}-0123456789abcdef0123456789abcdef-1"
    deployment = Deployment.objects.create(
        name="Found machine", model_key="unknown", context=0, desired=Desired.TERMINATED, launch_key="found-1",
        desired_reason="found under our label, and nobody knows it", created_at=now,
    )  # fmt: skip
    like = Instance.objects.filter(account=account).exclude(remote_id="").first()
    assert like
    Instance.objects.create(
        deployment=deployment, account=account, attempt=1, label=label, quote=like.quote, state=State.UNKNOWN,
        usd_per_hour=Decimal("0.69"), state_since=now, created_at=now, remote_id="pod-4af0", observed="running",
        observed_at=now, country="CZ", spared_until=now + timedelta(minutes=8),
    )  # fmt: skip
    born = now - timedelta(hours=7, minutes=20)
    return listed(account, "pod-4af0", label, "NVIDIA RTX 4090", "CZ", Decimal("0.69"), born, now=now)


def read(deployment: Deployment, *, now: datetime) -> None:
    """Two readings of where the deployment's machine stands."""
    instance = deployment.instances.get()
    for ago, code, allowed in ((timedelta(days=20), "US", False), (timedelta(hours=2), "CZ", True)):
        ResidencyEvidence.objects.create(
            instance=instance, at=now - ago, asked=["CZ", "FR", "IS", "NL"], promised="CZ, EU-CZ-1",
            found=[["US-DE-1" if code == "US" else "EU-CZ-1", code]], source="GET /v2/pods: dataCenterId",
            allowed=allowed, reason=f"{code} is {'in the EU' if allowed else 'outside the EEA'}.",
        )  # fmt: skip


def drill(deployment: Deployment, *, now: datetime) -> None:
    """One drill that is over, one that was called off, and one under way."""
    instance = deployment.instances.get()

    def at(minutes: float, seconds: float) -> datetime:
        return now - timedelta(minutes=minutes) + timedelta(seconds=seconds)

    common = {"deployment": deployment, "instance": instance, "actor": "system", "usual_seconds": 174.0}
    Drill.objects.create(
        **common, replacement=instance, asked_at=at(90, 0), killed_at=at(90, 3), detected_at=at(90, 44),
        relaunched_at=at(90, 133), ready_at=at(90, 313), over_at=at(90, 314), outcome="ready",
    )  # fmt: skip
    Drill.objects.create(
        **common, asked_at=at(60, 0), over_at=at(60, 5), outcome="aborted",
        detail="Its provider refused: the machine is locked.",
    )  # fmt: skip
    Drill.objects.create(**common, asked_at=at(1, 0), killed_at=at(1, 4), detected_at=at(1, 21))


def typed(deployment: Deployment, **changes: object) -> str:
    """The settings form of the deployment as a query string, with `changes` typed into it."""
    shown = SettingsForm(deployment).initial | changes
    values = {name: value for name, value in shown.items() if value is not None and value is not False}
    return urlencode(values, doseq=True)
