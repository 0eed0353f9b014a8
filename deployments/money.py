"""Hands billing what a state change means in money. Called inside the transaction of the change."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import UUID, uuid5

from billing import budgets, ledger
from billing.models import Component, Subject
from deployments.lifecycle import COMPUTE_BILLS, HELD, TERMINAL, State
from deployments.models import Instance
from deployments.providers.base import Bills, Machine, MachineStatus

_EARLIEST = datetime(2020, 1, 1, tzinfo=UTC)
"""No machine that is rented now is older: such a time is a zero in disguise."""
QUIET = frozenset({MachineStatus.STOPPED, MachineStatus.OUTBID})
"""The provider bills no compute of what it calls so."""
BOOTING = frozenset({MachineStatus.PENDING, MachineStatus.PULLING})
GAP = timedelta(minutes=3)
"""Without a list for so long nobody knows what bills only in part: it counts as all of it."""
_PARTS = {Bills.ALL: 2, Bills.DISK: 1, Bills.NOTHING: 0}


def moved(instance: Instance, before: State, after: State, *, now: datetime) -> None:
    """Open, change or close the price segments and the reservation of `instance`.

    What is asked for and not known to exist holds its reservation and accrues nothing yet; once it is seen,
    it accrues from its creation. What is not confirmed gone accrues.
    """
    if after in TERMINAL:
        ledger.close(instance.id, at=_not_before_booked(instance, now=now))
        end_duplicates(instance, instance.duplicates, now=now)
        budgets.release(instance.id, now=now)
        return
    if after in HELD:
        if before is State.UNKNOWN and instance.remote_id:
            # Nobody saw what it did until now: it counts as having run.
            price(instance, at=_born(instance, now=now), reason=f"{before.word} to {after.word}")
        if after is State.STOPPED:
            # What a stop frees is free for others; what was outbid may come back at any moment.
            budgets.reprice(instance.id, kept_usd_per_hour(instance), now=now)
        hold(instance, at=_not_before_booked(instance, now=now), reason=after.word.lower())
        return
    if before in HELD and after is State.TERMINATING and instance.observed in QUIET:
        return  # its disk goes on; no compute ran
    if after in COMPUTE_BILLS and instance.remote_id and not _billed(before):
        at = now if before in HELD else _born(instance, now=now)
        price(instance, at=at, reason=f"{before.word} to {after.word}")


def open_subject(instance: Instance, *, now: datetime) -> None:
    """Make the instance known to billing by its id and a snapshot of what it is."""
    ledger.open_subject(instance.id, snapshot(instance), now=now)


def snapshot(instance: Instance) -> ledger.Snapshot:
    """What billing keeps of the instance."""
    deployment, offer = instance.deployment, instance.offer
    return ledger.Snapshot(
        label=instance.label, scope=deployment.pk, scope_label=deployment.name,
        provider=instance.account.backend, tier=offer.tier, gpu=offer.gpu_name,
        account=instance.account_id, account_label=instance.account.name,
        country=instance.country or offer.country or "", data_center=(instance.data_center or offer.data_center)[:80],
        owner_id=deployment.owner_id, tags=deployment.tags,
    )  # fmt: skip


def price(instance: Instance, *, at: datetime, reason: str) -> None:
    """Let compute and disk cost what the instance's price says from `at` on, as far as they bill now."""
    disk = instance.offer.disk_usd_per_hour
    compute = max(Decimal(0), instance.usd_per_hour - disk)
    if instance.bills_only:
        compute = Decimal(0)
    if instance.bills_only == Bills.NOTHING:
        disk = Decimal(0)
    ledger.set_price(instance.id, Component.COMPUTE, compute, at=at, reason=reason)
    ledger.set_price(instance.id, Component.DISK, disk, at=at, reason=reason)


def hold(instance: Instance, *, at: datetime, reason: str) -> None:
    """From `at` on compute costs nothing and the disk what it costs while the machine is kept."""
    ledger.set_price(instance.id, Component.COMPUTE, Decimal(0), at=at, reason=reason)
    ledger.set_price(instance.id, Component.DISK, kept_usd_per_hour(instance), at=at, reason=reason)


def kept_usd_per_hour(instance: Instance) -> Decimal:
    """What it costs stopped: as the list tells, else as its offer said."""
    told = instance.kept_usd_per_hour
    return instance.offer.held_usd_per_hour if told is None else told


def hold_found(instance: Instance, *, now: datetime) -> None:
    """A machine that somebody adopted was never admitted: from now on the budgets hold it as any other."""
    open_subject(instance, now=now)
    kept = kept_usd_per_hour(instance) if _can_stop(instance) else Decimal(0)
    budgets.hold(instance.id, instance.usd_per_hour, kept=kept, now=now)


def _can_stop(instance: Instance) -> bool:
    return instance.account.adapter().traits.can_stop


def follow(
    instance: Instance, before: str, *, bills: str, kept: Decimal | None, last_seen: datetime | None, now: datetime
) -> None:  # fmt: skip
    """What the list tells of a machine's charges changed: its price follows before any state does.

    `before`, `bills` and `kept` are what stood in `observed`, `bills_only` and `kept_usd_per_hour`. Nobody tells
    the moment of a change: what rises bills from the list that last showed it lower, what falls from now on.
    """
    if kept != instance.kept_usd_per_hour and _can_stop(instance):
        budgets.keep(instance.id, kept_usd_per_hour(instance), now=now)
    if _follow_rest(instance, before, last_seen=last_seen, now=now):
        return
    if instance.status in HELD and instance.observed in QUIET:
        if kept != instance.kept_usd_per_hour:
            hold(instance, at=_not_before_booked(instance, now=now), reason="the price of keeping it changed")
    elif bills != instance.bills_only and (_billed(instance.status) or instance.status in HELD):
        at = min(last_seen or now, now)
        if _PARTS[Bills(instance.bills_only)] < _PARTS[Bills(bills)]:
            first_boot = not before and _is_first_boot(instance, now=now)
            at = _born(instance, now=now) if first_boot else _not_before_booked(instance, now=now)
        price(instance, at=at, reason=_BILLS[Bills(instance.bills_only)])


_BILLS = {
    Bills.ALL: "its container runs",
    Bills.DISK: "its container does not run: the disk alone bills",
    Bills.NOTHING: "its host is offline: nothing bills",
}


def _is_first_boot(instance: Instance, *, now: datetime) -> bool:
    """Whether nothing of it can have run yet: soon after its creation it boots.

    What is at rest, and what boots after a gap, may have run unseen: a bid is outbid and comes back.
    """
    return instance.observed in BOOTING and now - _born(instance, now=now) <= GAP


def assume_it_runs(instances: Iterable[Instance], *, last_seen: datetime | None, now: datetime) -> None:
    """No list tells any more what bills: from the last one on it counts as all of it, until a list tells again."""
    for i in instances:
        before = i.bills_only
        if Instance.objects.filter(pk=i.pk, state=i.state, bills_only=before).update(bills_only=""):
            i.bills_only = ""
            follow(i, i.observed, bills=before, kept=i.kept_usd_per_hour, last_seen=last_seen, now=now)


def _follow_rest(instance: Instance, before: str, *, last_seen: datetime | None, now: datetime) -> bool:
    """A kept machine was seen to run again, or the other way; whether that was it."""
    was, is_quiet = before in QUIET, instance.observed in QUIET
    if instance.status not in HELD | {State.TERMINATING} or was == is_quiet:
        return False
    if was:
        price(instance, at=min(last_seen or now, now), reason="it was seen to run")
    elif instance.status in HELD:
        hold(instance, at=_not_before_booked(instance, now=now), reason="it was seen at rest")
    return True


def workers(
    instance: Instance, billed: int, *, before: Decimal, last_seen: datetime | None, gap: timedelta, now: datetime
) -> None:  # fmt: skip
    """A serverless endpoint bills for `billed` workers; `before` is what it was known to cost until now, USD per hour.

    What rises does so from `last_seen`, the inspection before. When that lies further back than `gap`, workers
    may have come and gone unseen: it counts as if as many had run as may.
    """
    if instance.status in HELD or not _billed(instance.status):
        return
    since, most = min(last_seen or now, now), max(billed, instance.offer.workers_min, 1)
    if now - since > gap and most * instance.offer.usd_per_hour > before:
        _bill_workers(instance, most, at=since, reason=f"not inspected: {most} may have run")
        before = most * instance.offer.usd_per_hour
    rises = billed * instance.offer.usd_per_hour > before
    # A worker's life is rounded up to a whole second, so what ends may bill for one more.
    at = since if rises else _not_before_booked(instance, now=now) + timedelta(seconds=1)
    _bill_workers(instance, billed, at=at, reason=f"{billed} workers bill")


def _bill_workers(instance: Instance, count: int, *, at: datetime, reason: str) -> None:
    compute = max(Decimal(0), instance.offer.usd_per_hour - instance.offer.disk_usd_per_hour)
    ledger.set_price(instance.id, Component.COMPUTE, count * compute, at=at, reason=reason)
    ledger.set_price(
        instance.id, Component.DISK, count * instance.offer.disk_usd_per_hour, at=at, reason=reason
    )


# -- more than one machine under one label ------------------------------------------------------------


def begin_duplicate(instance: Instance, machine: Machine, *, now: datetime) -> None:
    """A second machine under the label costs as well, by itself, from its creation until no list shows it."""
    subject = duplicate_id(instance, machine.remote_id)
    mine = snapshot(instance)
    ledger.open_subject(subject, replace(mine, label=f"{mine.label} ({machine.remote_id})"), now=now)
    rate = instance.offer.usd_per_hour if machine.usd_per_hour is None else machine.usd_per_hour
    born = min(_believed(machine.created_at) or instance.create_sent_at or now, now)
    if instance.create_sent_at:
        born = max(born, instance.create_sent_at)
    ledger.set_price(
        subject, Component.COMPUTE, rate, at=min(born, now), reason="a second machine under one label"
    )


def end_duplicates(instance: Instance, remote_ids: Collection[str], *, now: datetime) -> None:
    """What stood beside the instance's own machine costs nothing from now on."""
    for remote_id in remote_ids:
        subject = duplicate_id(instance, remote_id)
        with suppress(Subject.DoesNotExist):
            ledger.close(subject, at=max(now, ledger.booked_until(subject) or now))


def duplicate_id(instance: Instance, remote_id: str) -> UUID:
    """The ledger's subject of a machine that stands beside the instance's own."""
    return uuid5(instance.id, remote_id)


def _not_before_booked(instance: Instance, *, now: datetime) -> datetime:
    """`now`, unless a clock that was put back would take back what is booked."""
    return max(now, ledger.booked_until(instance.id) or now)


def _billed(state: State) -> bool:
    return state in COMPUTE_BILLS and state is not State.UNKNOWN


def _born(instance: Instance, *, now: datetime) -> datetime:
    """When the machine began to cost: as the provider says, else when it was asked for; never in the future."""
    born = _believed(instance.remote_created_at) or instance.create_sent_at or now
    if instance.create_sent_at:
        # A provider's clock that runs behind ours must not charge for the time before we asked.
        born = max(born, instance.create_sent_at)
    return min(born, now)


def _believed(created_at: datetime | None) -> datetime | None:
    return created_at if created_at and created_at >= _EARLIEST else None
