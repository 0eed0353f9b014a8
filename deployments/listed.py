"""The rows behind the orphan radar: every machine of an account's list, ours and others', as last shown."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from django.db import transaction

from deployments.models import ListedMachine, ProviderAccount
from deployments.providers.base import Machine


def write(account: ProviderAccount, machines: Iterable[Machine], *, whole: bool, now: datetime) -> None:
    """Write what changed. `whole`: the list is complete and believed, so what it leaves out is gone.

    What somebody hid stays hidden.
    """
    known = {row.remote_id: row for row in ListedMachine.objects.filter(account=account)}
    fresh, changed, shown = [], [], set()
    for machine in machines:
        if machine.remote_id in shown:
            continue
        shown.add(machine.remote_id)
        columns = _columns(machine)
        row = known.get(machine.remote_id)
        if row is None:
            fresh.append(_row(account, machine, columns, now=now))
        elif any(getattr(row, name) != value for name, value in columns.items()):
            for name, value in columns.items():
                setattr(row, name, value)
            row.seen_at = now
            changed.append(row)
    gone = known.keys() - shown if whole else ()
    if not (fresh or changed or gone):
        return
    with transaction.atomic():
        ListedMachine.objects.bulk_create(fresh, ignore_conflicts=True, batch_size=500)
        if changed:
            ListedMachine.objects.bulk_update(changed, [*_COLUMNS, "seen_at"], batch_size=100)
        ListedMachine.objects.filter(pk__in=[known[remote_id].pk for remote_id in gone]).delete()


def _row(account: ProviderAccount, m: Machine, columns: dict[str, Any], *, now: datetime) -> ListedMachine:
    return ListedMachine(
        account=account, remote_id=m.remote_id[:120], first_seen_at=now, seen_at=now, **columns
    )


_COLUMNS = (
    "label", "status", "gpu_name", "country", "data_center", "usd_per_hour", "remote_created_at", "locked",
)  # fmt: skip


def clean(label: str, *, most: int) -> str:
    """A label as a column takes it: somebody else's may hold what no database stores as text."""
    return label.encode(errors="replace").decode().replace("\0", "?")[:most]


def _columns(m: Machine) -> dict[str, Any]:
    return {
        "label": clean(m.label, most=300),
        "status": m.status.value,
        "gpu_name": m.gpu_name[:120],
        "country": m.country[:2] if m.country else None,
        "data_center": m.data_center[:80],
        "usd_per_hour": m.usd_per_hour,
        "remote_created_at": m.created_at,
        "locked": m.locked,
    }
