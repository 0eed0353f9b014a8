"""A ledger with all that an export has to say: providers, tiers, traffic, corrections, names made to harm."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from billing import fx, ledger
from billing.models import Component, Subject

NOW = datetime(2026, 11, 24, 12, 30, tzinfo=UTC)
OCTOBER = datetime(2026, 10, 1, tzinfo=UTC)
NOVEMBER = datetime(2026, 11, 1, tzinfo=UTC)
HOSTILE = ("=cmd|' /C calc'!A0", "+1+1", "@SUM(A1)", '-2"quoted",\nnext line', "\t=1", "\u202eevil\u202c", "Zürich 東京", "two\r\nlines")  # fmt: skip
RATES = {datetime(2026, 10, 30).date(): "1.0800", datetime(2026, 11, 20).date(): "1.0850"}  # noqa: DTZ001


def machine(
    provider: str, tier: str, gpu: str, *, label: str = "", name: str = "", country: str = "", center: str = "",
    tags: dict[str, str] | None = None, account: bool = True,
) -> Subject:  # fmt: skip
    pk = uuid.uuid4()
    snapshot = ledger.Snapshot(
        label=label or f"regia-{pk.hex[:8]}-1", scope=uuid.uuid4(), scope_label=name or f"{provider}-{tier}",
        provider=provider, tier=tier, gpu=gpu, account=uuid.uuid4() if account else None,
        account_label="Team" if account else "", country=country, data_center=center, tags=tags or {},
    )  # fmt: skip
    return ledger.open_subject(pk, snapshot, now=OCTOBER)


def rates(*, now: datetime = NOW) -> None:
    fx.record_ecb([(day, {"USD": Decimal(usd)}) for day, usd in RATES.items()], now=now)


def build(*, hostile: bool = True) -> list[Subject]:
    """October is closed and corrected since; November runs. 8 to 15 machines of some hours each."""
    pod = machine("runpod", "secure", "NVIDIA L4", country="RO", center="EU-RO-1", tags={"team": "search"})
    bid = machine("vast", "interruptible", "RTX 3090", country="FR")
    made = [
        pod,
        bid,
        machine("vast", "datacenter", "RTX 3090", country="FR", account=False),
        machine("local", "local", "", label="", account=False),
        machine("runpod", "serverless-flex", "NVIDIA L4", country="CZ", center="EU-CZ-1"),
    ]
    if hostile:
        made += [
            machine(
                "runpod", "secure", text, label=text, name=text, center=text, tags={text: text, "team": text}
            )
            for text in HOSTILE
        ]
    for i, subject in enumerate(made):
        start = NOVEMBER + timedelta(days=18, hours=i, minutes=7 * i, seconds=13, microseconds=250_000)
        ledger.set_price(subject.pk, Component.COMPUTE, Decimal("0.43") + i, at=start)
        if i % 2 == 0:
            ledger.set_price(subject.pk, Component.DISK, Decimal("0.005555555"), at=start)
        ledger.close(subject.pk, at=start + timedelta(hours=27, seconds=1))
    # A price that changed inside of an hour, and a second that cost something.
    ledger.set_price(bid.pk, Component.VOLUME, Decimal("0.10"), at=NOVEMBER + timedelta(hours=5))
    ledger.set_price(bid.pk, Component.VOLUME, Decimal("0.17"), at=NOVEMBER + timedelta(hours=5, minutes=20))
    ledger.close(bid.pk, at=NOVEMBER + timedelta(hours=5, minutes=20, milliseconds=300))
    _traffic(pod)
    _october(pod)
    return made


def _traffic(pod: Subject) -> None:
    for i, gigabytes in enumerate(("1.5", "0.333333")):
        at = NOVEMBER + timedelta(days=20, hours=i)
        ledger.charge_usage(
            pod.pk, Component.TRAFFIC_OUT, Decimal(gigabytes), "GB", Decimal("0.02"), at, f"t{i}"
        )


def _october(pod: Subject) -> None:
    """Closed with what ran in it, then corrected: once before the month was over, twice after."""
    ledger.set_price(pod.pk, Component.VOLUME, Decimal("0.02"), at=OCTOBER)
    ledger.close(pod.pk, at=OCTOBER + timedelta(days=2))
    ledger.close_period(OCTOBER + timedelta(days=10), now=OCTOBER + timedelta(days=11))
    ledger.adjust(pod.pk, Decimal("0.50"), hour=OCTOBER, reason="found at once", now=OCTOBER + timedelta(days=12))  # fmt: skip
    ledger.close_period(NOVEMBER, now=NOVEMBER + timedelta(days=1))
    for usd, reason in (("-0.123456789", "=1+1 credit"), ("0.3", "volume: metered late")):
        ledger.adjust(pod.pk, Decimal(usd), hour=OCTOBER + timedelta(hours=3), reason=reason, now=NOW)
