"""The scene's audit: acts of a day, and an evidence pack that is ready beside one that is being written."""

from __future__ import annotations

from datetime import datetime, timedelta

from deployments.models import Deployment
from panel.accounts.models import User
from panel.audit import chain
from panel.evidence.models import Pack

_ACTS = (
    ("deployment.launch", 600, {"model": "qwen3-4b-fp8", "usd_per_hour": "0.43"}, ""),
    ("instance.create", 598, {"usd_per_hour": "0.43"}, ""),
    ("deployment.settings", 340, {"policy": "Cheapest"}, ""),
    ("deployment.stop", 210, {"desired": "stopped"}, "Nobody needs it over the weekend."),
    ("deployment.start", 90, {"desired": "running"}, ""),
    ("export.focus", 61, {"from": "2026-10-01", "to": "2026-10-31"}, ""),
    ("residency.refused", 44, {"asked": ["DE", "CZ"], "promised": "US"}, "US is outside the EEA."),
    ("account.sign_in", 30, {"by": "password"}, ""),
    ("provideraccount.rotate", 21, None, "a new key"),
    ("deployment.rotate", 9, None, ""),
)


def build(administrator: User, ready: Deployment, *, now: datetime) -> None:
    for action, minutes, after, reason in _ACTS:
        by = None if action.startswith("instance.") else administrator
        at = now - timedelta(minutes=minutes)
        chain.record(action, actor=by, target=ready, after=after, reason=reason, now=at)
    month = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    who = chain.pseudonym_of(administrator)
    before = (month - timedelta(days=1)).replace(day=1)
    Pack.objects.create(
        start=before, end=month, state=Pack.State.READY, asked_by=who, asked_at=now - timedelta(hours=5),
        ready_at=now - timedelta(hours=5), rows=48_212, size=3_410_000, head_sequence=9, sha256="5" * 64,
        whole="0b1e8f6c52a94d3788c1f0aa27d96be4435c7d18e90f2ab6c4d1735e8890fa21",
    )  # fmt: skip
    Pack.objects.create(
        start=month, end=now, state=Pack.State.WRITING, asked_by=who, asked_at=now, beat_at=now,
        section="Audit: acts", rows=12_000,
    )  # fmt: skip
