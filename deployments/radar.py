"""The orphan radar: every machine that an account's list shows, and whose it is.

ours       a deployment's attempt stands under its exact label
found      it carries this installation's label, and nobody here asked for it
foreign    somebody else's: never touched, only hidden from the page
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum

from django.db import transaction

from deployments import services
from deployments.lifecycle import Desired
from deployments.models import Installation, Instance, ListedMachine, ProviderAccount
from panel.accounts.models import User
from panel.audit import chain

STALE_AFTER = timedelta(minutes=3)
"""An account is listed each minute at the least; what was listed longer ago is shown as old."""


class RadarRefused(Exception):
    """What was asked of a machine on the radar is not valid. The text is for the operator."""


class Bin(StrEnum):
    OURS = "ours"
    FOUND = "found"
    FOREIGN = "foreign"


@dataclass(frozen=True, slots=True)
class Sighting:
    """A machine of a list. `burned`: its age at its price now, USD; None when either is unknown."""

    machine: ListedMachine
    bin: Bin
    instance: Instance | None
    burned: Decimal | None
    doubled: bool
    """A second machine under the label of an attempt that has one."""

    @property
    def may_decide(self) -> bool:
        """Whether it waits for somebody to adopt or end it."""
        return self.bin is Bin.FOUND and self.instance is not None and self.instance.spared_until is not None


@dataclass(frozen=True, slots=True)
class Sweep:
    """How an account's last list went. `problem` is a sentence, empty when it is whole and fresh."""

    account: ProviderAccount
    stale: bool
    problem: str
    count: int


def sightings(*, now: datetime) -> list[Sighting]:
    """Every listed machine, what costs most first. Three queries."""
    machines = list(ListedMachine.objects.select_related("account").defer("account__credentials"))
    labels = {m.label for m in machines if m.label}
    attempts = Instance.objects.filter(label__in=labels).select_related("deployment").without_secrets()
    by_label = {i.label: i for i in attempts}
    prefix = f"{Installation.own_key()}-"
    seen = [_sighting(m, by_label.get(m.label), prefix, now=now) for m in machines]
    return sorted(seen, key=lambda s: (-(s.burned or 0), s.machine.label, s.machine.pk))


def _sighting(machine: ListedMachine, instance: Instance | None, prefix: str, *, now: datetime) -> Sighting:
    mine = machine.label.startswith(prefix)
    found = mine and (instance is None or unclaimed(instance))
    doubled = bool(instance and instance.remote_id and instance.remote_id != machine.remote_id)
    where = Bin.FOUND if found else Bin.OURS if mine and instance else Bin.FOREIGN
    return Sighting(machine, where, instance if mine else None, burned(machine, now=now), mine and doubled)


def unclaimed(instance: Instance) -> bool:
    """Whether it stands for a machine that was found under our label and that nobody has adopted."""
    deployment = instance.deployment
    return deployment.launch_key.startswith(services.ADOPTABLE) and deployment.desired == Desired.TERMINATED


def burned(machine: ListedMachine, *, now: datetime) -> Decimal | None:
    """USD that the machine has cost by now if its price was always what it is now; None when nobody knows."""
    if machine.usd_per_hour is None or machine.remote_created_at is None:
        return None
    hours = Decimal(str(max(0.0, (now - machine.remote_created_at).total_seconds()))) / 3600
    return machine.usd_per_hour * hours


def sweeps(seen: Iterable[Sighting], *, now: datetime) -> list[Sweep]:
    """How fresh and whole each account's list is. Accounts that cannot be listed are left out."""
    counts: dict[object, int] = {}
    for sighting in seen:
        counts[sighting.machine.account_id] = counts.get(sighting.machine.account_id, 0) + 1
    accounts = ProviderAccount.objects.order_by("name")
    return [_sweep(a, counts.get(a.pk, 0), now=now) for a in accounts if not a.public_only]


def _sweep(account: ProviderAccount, count: int, *, now: datetime) -> Sweep:
    old = account.listed_at is None or not timedelta() <= now - account.listed_at <= STALE_AFTER
    # A disabled account with nothing of ours on it is not listed any more: that is no fault.
    quiet = not account.enabled and not account.list_error
    problem = account.list_error
    if not problem and account.listed_at is None and account.enabled:
        problem = "It has not been listed yet."
    return Sweep(account, old and not quiet, problem, count)


def hide(machine: ListedMachine, *, actor: User, now: datetime) -> None:
    """Leave somebody else's machine out of the page. Raises RadarRefused for one of ours."""
    _set_hidden(machine, hidden=True, actor=actor, now=now)


def show(machine: ListedMachine, *, actor: User, now: datetime) -> None:
    """Put a hidden machine back on the page."""
    _set_hidden(machine, hidden=False, actor=actor, now=now)


def _set_hidden(machine: ListedMachine, *, hidden: bool, actor: User, now: datetime) -> None:
    if hidden and machine.label.startswith(f"{Installation.own_key()}-"):
        raise RadarRefused("It carries our label, so it stays in sight.")
    with transaction.atomic():
        if not ListedMachine.objects.filter(pk=machine.pk, hidden=not hidden).update(hidden=hidden):
            return
        # Not its label: somebody else's may name a person.
        chain.record(
            f"listedmachine.{'hide' if hidden else 'show'}", actor=actor, target=machine, now=now,
            after={"account": str(machine.account_id), "remote_id": machine.remote_id, "hidden": hidden},
        )  # fmt: skip
