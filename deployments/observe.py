"""What the providers' lists tell: one list call for each account and cycle feeds every instance of it.

Facts only are written here; `reconcile.step` draws the consequences. A failed, partial or suddenly empty
list never means "gone".
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from datetime import datetime, timedelta
from itertools import batched
from typing import Any

from django.db import DatabaseError, transaction
from django.db.models import Q

from billing import budgets
from deployments import calls, crash, found, listed, money, places, services, traffic, volumes, witness
from deployments.calls import Call
from deployments.lifecycle import HELD, MAY_EXIST, SERVING, TERMINAL, Desired, State
from deployments.models import Cause, Deployment, Event, Instance, ProviderAccount
from deployments.models.account import ADAPTERS
from deployments.monitoring import samples
from deployments.providers.base import (
    Listing,
    Machine,
    MachineStatus,
    Provider,
    ProviderError,
    Traits,
    Unauthorized,
)
from panel import logs
from panel.notices.models import Notice
from panel.notices.notify import clear_notice, raise_notice

logger = logging.getLogger(__name__)

STEADY_INTERVAL = timedelta(seconds=5)
IDLE_INTERVAL = timedelta(seconds=60)
RATE_LIMIT_MOST = calls.RETRY_AFTER_MOST
ROWS = 100
"""Rows in one transaction."""
GUARD_MIN = 3
"""The mass-disappearance guard looks from this many machines on."""
GUARD_LIMIT = timedelta(minutes=30)
"""Only after lists agreed for this long is a mass disappearance believed."""
GUARD_GAP = timedelta(minutes=3)
"""Two lists that are further apart do not agree without a gap: the half hour begins anew."""


def due_accounts(now: datetime) -> list[ProviderAccount]:
    """The accounts whose next list call has come: enabled ones, and all that may still hold a machine."""
    accounts = (
        ProviderAccount.objects.filter(backend__in=ADAPTERS)
        .filter(
            Q(enabled=True)
            | Q(instances__state__in=[s.value for s in MAY_EXIST | {State.REQUESTED}])
            | Q(instances__watch_until__gt=now)
        )
        .distinct()
    )
    return [account for account in accounts if not account.public_only and _may_list(account, now=now)]


def _may_list(account: ProviderAccount, *, now: datetime) -> bool:
    """Whether its list is due. An account that cannot even be spoken for keeps no other from its list."""
    try:
        return _is_due(account, account.adapter().traits, now=now)
    except Exception as e:
        logger.exception("%s has no adapter", account)
        _mark(account, f"It cannot be spoken to ({type(e).__name__}).")
        return False


def next_list(account: ProviderAccount, traits: Traits) -> datetime | None:
    """When the account's next list call is due; None: at once.

    The provider's own interval stands in the row. What is steady is listed more seldom than that, and what
    begins to move is listed at once.
    """
    if account.next_list_at is None:
        return None
    interval = timedelta(seconds=traits.list_interval)
    live = set(account.instances.may_exist().values_list("state", flat=True).distinct())
    pace = interval
    if not live and not account.instances.filter(state=State.REQUESTED).exists():
        pace = max(interval, IDLE_INTERVAL)
    elif live and live <= {State.READY.value, State.STOPPED.value}:
        pace = max(interval, STEADY_INTERVAL)
    return account.next_list_at + (pace - interval)


def _is_due(account: ProviderAccount, traits: Traits, *, now: datetime) -> bool:
    at = next_list(account, traits)
    # A time that lies too far ahead was set by a clock that has been put back since.
    return at is None or at <= now or at > now + RATE_LIMIT_MOST + IDLE_INTERVAL


def observe(account_id: Any, *, now: datetime) -> bool:
    """List the account once, if it is due, and write what the list tells. False when it was not due or failed."""
    account = ProviderAccount.objects.get(pk=account_id)
    if account.public_only:
        return False
    adapter = account.adapter()
    if not _claim(account, adapter.traits, now=now):
        return False
    logs.about(account=account_id)
    listing = _list(account, adapter, now=now)
    if listing is None:
        return False
    crash.point(7)
    try:
        _apply(account, adapter, listing, now=now)
        places.inspect_due(account, adapter, now=now)
        volumes.look(account, adapter, now=now)
    except Exception as e:
        # One odd row is shown, and the next cycle goes on; what was written stays.
        logger.exception("The list of %s could not be applied", account)
        _mark(account, f"The list could not be applied ({type(e).__name__}).")
        return False
    return True


def _list(account: ProviderAccount, adapter: Provider, *, now: datetime) -> Listing | None:
    try:
        return calls.ask(account, Call.LIST, adapter.list_machines, now=now)
    except calls.Held:
        _put_off(account, now=now)
    except ProviderError as e:
        _failed(account, e, now=now)
    except Exception as e:
        # HTML, null where an object should be: an odd answer is a failed list, never an empty one.
        logger.warning("%s: the list cannot be read (%s)", account, type(e).__name__)
        _failed(account, ProviderError(f"The list cannot be read ({type(e).__name__})."), now=now)
    return None


def _mark(account: ProviderAccount, sentence: str) -> None:
    with suppress(DatabaseError):
        ProviderAccount.objects.filter(pk=account.pk).update(list_error=sentence[:300])


def _put_off(account: ProviderAccount, *, now: datetime) -> None:
    """Not before the breaker lets it."""
    if left := calls.held_for(account, Call.LIST, now=now):
        ProviderAccount.objects.filter(pk=account.pk).update(next_list_at=now + left)


def _claim(account: ProviderAccount, traits: Traits, *, now: datetime) -> bool:
    """Take the right to this cycle's one list call: a guarded UPDATE, so that two workers make one."""
    if not _is_due(account, traits, now=now):
        return False
    mine = ProviderAccount.objects.filter(pk=account.pk, next_list_at=account.next_list_at)
    return bool(mine.update(next_list_at=now + timedelta(seconds=traits.list_interval)))


def _failed(account: ProviderAccount, error: ProviderError, *, now: datetime) -> None:
    columns: dict[str, Any] = {"list_error": str(error)[:300]}
    _restart_guard(account, now=now)
    _assume_it_runs(account, now=now)
    if isinstance(error, Unauthorized):
        columns["creates_blocked"] = "The account's key was refused. Give it a new one."
        raise_notice(
            f"account-key:{account.pk}", Notice.Severity.CRITICAL, f"{account.name} refused its key", now=now,
            cause=Cause.KEY.of(account.pk),
            detail="Nothing is rented there, and what runs goes on accruing unverified.",
        )  # fmt: skip
    ProviderAccount.objects.filter(pk=account.pk).update(**columns)
    _put_off(account, now=now)


def _assume_it_runs(account: ProviderAccount, *, now: datetime) -> None:
    if account.listed_at is None or now - account.listed_at <= money.GAP:
        return
    rows = account.instances.may_exist().exclude(bills_only="").exclude(observed__in=money.QUIET)
    with transaction.atomic():
        some = list(rows.select_related("deployment", "account").without_secrets().order_by("pk"))
        if some:
            ids = [row.deployment_id for row in some]
            list(Deployment.objects.filter(pk__in=ids).order_by("pk").select_for_update().values_list("pk"))
            money.assume_it_runs(some, last_seen=account.listed_at, now=now)


def _apply(account: ProviderAccount, adapter: Provider, listing: Listing, *, now: datetime) -> None:
    _assume_it_runs(account, now=now)
    ours = found.ours(listing)
    # What stands there under a label or an id that we know is looked at, however long its attempt has been over.
    rows = list(
        account.instances.watched(
            now,
            and_labels=[found.label_of(m) for m in ours],
            and_ids=[m.remote_id for m in ours if m.remote_id],
        )
        .select_related("deployment", "account")
        .order_by("pk")
    )
    by_label = _by_label(listing.machines)
    by_id = {m.remote_id: m for m in listing.machines}
    if not listing.complete or account.listed_at is None or now - account.listed_at > GUARD_GAP:
        _restart_guard(account, now=now)
    strange = _is_strangers(account, rows, by_label, by_id, now=now)
    trusted = listing.complete and not strange and not _suspicious(account, rows, by_label, by_id, now=now)
    missing = [r for r in rows if trusted and _is_missing(r, by_label, by_id)]
    spared = witness.spared(account, adapter, missing, now=now)
    for some in batched((r for r in rows if r.pk not in spared), ROWS):
        # Many rows in one transaction: a commit waits for the disk, and a thousand machines are a thousand rows.
        with transaction.atomic():
            # One order for everybody who writes both: the deployment's row, then its instance's.
            ids = [row.deployment_id for row in some]
            list(Deployment.objects.filter(pk__in=ids).order_by("pk").select_for_update().values_list("pk"))
            _write_facts(some, account, adapter.traits, by_label, by_id, trusted=trusted, now=now)
    _note_gpus(rows, by_id, now=now)
    traffic.note(rows, by_id, now=now)
    listed.write(account, listing.machines, whole=trusted and not spared, now=now)
    found.sweep(account, listing, now=now)
    ProviderAccount.objects.filter(pk=account.pk).update(
        # What a cut list does not show may have changed at any time since the last whole one.
        **({"listed_at": now} if listing.complete else {}),
        list_error="" if trusted else _distrust(complete=listing.complete, strange=strange),
        **({"creates_blocked": ""} if trusted else {}),
    )
    clear_notice(f"account-key:{account.pk}", now=now)


def _write_facts(
    rows: Iterable[Instance], account: ProviderAccount, traits: Traits, by_label: dict[str, list[Machine]],
    by_id: dict[str, Machine], *, trusted: bool, now: datetime,
) -> None:  # fmt: skip
    for row in rows:
        found = by_label.get(row.label, [])
        own = by_id.get(row.remote_id) if row.remote_id else None
        if own is None and found and (trusted or not row.remote_id):
            own = found[0]  # what stands under our label is ours, whatever its id
        if own:
            others = [m for m in found if m.remote_id != own.remote_id]
            _found(row, own, others, last_seen=account.listed_at, now=now)
        elif trusted:
            _missing(row, traits, now=now)


def _is_missing(row: Instance, by_label: dict[str, list[Machine]], by_id: dict[str, Machine]) -> bool:
    return row.remote_id not in by_id and row.label not in by_label


def _note_gpus(rows: Iterable[Instance], by_id: dict[str, Machine], *, now: datetime) -> None:
    """What the list says of the serving machines' GPUs goes to the samples; no row changes for it."""
    serving = [(row, by_id.get(row.remote_id)) for row in rows if row.status in SERVING and row.remote_id]
    samples.record_many((row.pk, now, {"gpu_use": m.gpu_use}) for row, m in serving if m)


_FROZEN = "Most machines are missing from the list at once: it is not believed."


_STRANGE = "The new key shows none of this account's machines: is it another team's?"


def _distrust(*, complete: bool, strange: bool) -> str:
    if strange:
        return _STRANGE
    return _FROZEN if complete else "The list was incomplete."


def _is_strangers(
    account: ProviderAccount, rows: list[Instance], by_label: dict[str, list[Machine]], by_id: dict[str, Machine], *, now: datetime
) -> bool:  # fmt: skip
    """A list under a new key that shows none of our machines: it may be another team's, and proves nothing."""
    if not account.key_unproved:
        return False
    expected = [r for r in rows if r.remote_id and r.status in MAY_EXIST]
    if expected and not any(r.remote_id in by_id or r.label in by_label for r in expected):
        raise_notice(
            f"account-stranger:{account.pk}", Notice.Severity.CRITICAL, f"{account.name}'s new key shows none of its machines",
            now=now, cause=Cause.KEY.of(account.pk), detail="It may belong to another team. Nothing counts as gone, all go on accruing, nothing new is "
            "rented there. Give the account a key of its own team.",
        )  # fmt: skip
        ProviderAccount.objects.filter(pk=account.pk).update(creates_blocked=_STRANGE)
        return True
    ProviderAccount.objects.filter(pk=account.pk).update(key_unproved=False)
    clear_notice(f"account-stranger:{account.pk}", now=now)
    return False


def _by_label(machines: Iterable[Machine]) -> dict[str, list[Machine]]:
    """Machines by their exact label, the oldest first: attempt 1 is not attempt 10."""
    out: dict[str, list[Machine]] = defaultdict(list)
    for m in machines:
        out[m.label].append(m)
    for same in out.values():
        same.sort(key=lambda m: (m.created_at is None, m.created_at, m.remote_id))
    return out


def _suspicious(
    account: ProviderAccount, rows: list[Instance], by_label: dict[str, list[Machine]], by_id: dict[str, Machine], *, now: datetime
) -> bool:  # fmt: skip
    """The mass-disappearance guard: more than half of what should be there is missing at once.

    The list is then not believed and nothing new is rented, until machines are back or lists have agreed
    for half an hour.
    """
    expected = [r for r in rows if r.remote_id and r.observed and r.status is not State.TERMINATING]
    missing = [r for r in expected if _is_missing(r, by_label, by_id)]
    key = f"mass-disappearance:{account.pk}"
    if len(expected) < GUARD_MIN or len(missing) * 2 <= len(expected):
        if clear_notice(key, now=now):
            ProviderAccount.objects.filter(pk=account.pk).update(creates_blocked="")
        return False
    notice = raise_notice(
        key, Notice.Severity.CRITICAL, f"{len(missing)} of {len(expected)} machines are missing from {account.name}'s list",
        now=now, cause=Cause.PROVIDER.of(account.pk), detail="The list is not believed: nothing counts as gone, all go on accruing, nothing new is rented.",
    )  # fmt: skip
    ProviderAccount.objects.filter(pk=account.pk).update(creates_blocked=_FROZEN)
    return not timedelta() <= now - notice.raised_at > GUARD_LIMIT


def _restart_guard(account: ProviderAccount, *, now: datetime) -> None:
    """A gap between the lists: what they agreed on before it proves nothing any more."""
    key = f"mass-disappearance:{account.pk}"
    Notice.objects.filter(key=key, cleared_at=None).update(raised_at=now)


def _found(
    row: Instance, machine: Machine, extra: list[Machine], *, last_seen: datetime | None, now: datetime
) -> None:
    """Write what changed of a machine that is there; most cycles change nothing and write nothing."""
    fresh = _facts(row, machine, extra)
    changed = {k: v for k, v in fresh.items() if getattr(row, k) != v}
    before, beside, seen = row.observed, set(row.duplicates), row.missing_since or last_seen
    bills, kept = row.bills_only, row.kept_usd_per_hour
    if changed.keys() & {"endpoint_url"} and machine.endpoint_url:
        # A new address is probed at once; what the probe knew of the old one says nothing of it.
        changed |= {"next_probe_at": now, "probe_failures": 0, "probe_recent": 0, "probe_ok_at": None}
    if changed and _write(row, changed, now=now):
        if changed.keys() & {"observed", "bills_only", "kept_usd_per_hour"}:
            money.follow(row, before, bills=bills, kept=kept, last_seen=seen, now=now)
        if changed.keys() & {"country", "data_center", "observed"}:
            places.note(row, now=now)
        if "drift" in changed:
            _tell_drift(row, now=now)
        if "duplicates" in changed:
            _count_beside(row, extra, beside, now=now)
    if _states_price(row, machine):
        _reprice(row, machine, now=now)


def _facts(row: Instance, machine: Machine, extra: list[Machine]) -> dict[str, Any]:
    """The columns that the list tells of. What it is silent on stays as it was."""
    is_wanted = row.deployment.desired == Desired.RUNNING and row.status not in {
        State.STOPPED,
        State.STOPPING,
    }
    return {
        "remote_id": machine.remote_id,
        "observed": _status(row, machine).value,
        "observed_detail": machine.detail[:300],
        "endpoint_url": _address(row, machine)[:300],
        "missing_lists": 0,
        "missing_since": None,
        "duplicates": [m.remote_id for m in extra],
        "country": _country(row, machine),
        "data_center": machine.data_center[:80] or row.data_center,
        "remote_created_at": machine.created_at or row.remote_created_at,
        "locked": machine.locked,
        # What we scaled down ourselves is no drift.
        "drift": machine.drift[:300] if is_wanted else "",
        "min_bid": machine.min_bid,
        "machine_ends_at": machine.ends_at,
        "bills_only": machine.bills.value,
        "kept_usd_per_hour": row.kept_usd_per_hour
        if machine.kept_usd_per_hour is None
        else machine.kept_usd_per_hour,
    }


def _address(row: Instance, machine: Machine) -> str:
    """By what the machine was ordered with: the setting may have changed since."""
    url = machine.endpoint_url or ""
    if machine.own_door and not row.tls_certificate and url.startswith("https:"):
        return f"http:{url.removeprefix('https:')}"
    return url


def _status(row: Instance, machine: Machine) -> MachineStatus:
    """What it is. A bid that was stopped reads like one that was outbid: which of them it is stands in our row."""
    is_ours = machine.status is MachineStatus.OUTBID and row.status in {State.STOPPING, State.STOPPED}
    return MachineStatus.STOPPED if is_ours else machine.status


def _country(row: Instance, machine: Machine) -> str | None:
    """Where it stands. Silence changes nothing; a site that is new and of no known country is nowhere allowed."""
    if machine.country:
        return machine.country[:2]
    return row.country if machine.data_center[:80] in ("", row.data_center) else None


def _states_price(row: Instance, machine: Machine) -> bool:
    """Whether the list says another price for the running machine. At rest it says what is kept, or nothing true."""
    if row.offer.serverless or machine.status in money.QUIET | {MachineStatus.EXITED} or row.status in HELD:
        return False
    if not machine.usd_per_hour and not row.offer.own_machine:
        return False  # nothing rented runs for nothing: it has not been priced
    return machine.usd_per_hour is not None and machine.usd_per_hour != row.usd_per_hour


def _count_beside(row: Instance, extra: list[Machine], before: set[str], *, now: datetime) -> None:
    """What stands beside the instance's machine under its label bills as well, each by itself."""
    for machine in extra:
        if machine.remote_id not in before:
            money.begin_duplicate(row, machine, now=now)
    money.end_duplicates(row, before - {m.remote_id for m in extra}, now=now)
    if not extra:
        clear_notice(f"duplicates:{row.pk}", now=now)


def _tell_drift(row: Instance, *, now: datetime) -> None:
    key = f"drift:{row.pk}"
    if not row.drift:
        clear_notice(key, now=now)
        return
    raise_notice(
        key, Notice.Severity.WARNING, f"{row.deployment.name} was changed by its provider", now=now,
        url=row.deployment.get_absolute_url(), subject=row.deployment.pk, detail=f"{row.drift} Mend it on its page.",
    )  # fmt: skip


def _missing(row: Instance, traits: Traits, *, now: datetime) -> None:
    """Count one more complete list without the machine, once the grace after an unclear create is over."""
    if row.status is State.REQUESTED or (row.status in TERMINAL and not row.observed):
        return
    if row.state_since >= now:
        return  # the list was read before the row came to this state
    if not row.observed and row.create_sent_at:
        waited = now - row.create_sent_at
        # A clock that was set back waits anew: too long is safe, too short is not.
        if not waited > timedelta(seconds=traits.unknown_grace):
            return
    since, beside = row.missing_since or now, set(row.duplicates)
    fresh = {"missing_lists": row.missing_lists + 1, "missing_since": since, "duplicates": []}
    if _write(row, fresh, now=now):
        money.end_duplicates(row, beside, now=now)


def _write(row: Instance, changed: dict[str, Any], *, now: datetime) -> bool:
    """Write facts if nobody wrote newer ones meanwhile, and make the deployment due; whether they were written."""
    moved = Instance.objects.filter(pk=row.pk, state=row.state, missing_lists=row.missing_lists).update(
        observed_at=now, **changed
    )
    if moved:
        for k, v in changed.items():
            setattr(row, k, v)
        services.ring(row.deployment, now=now)
    return bool(moved)


def _reprice(row: Instance, machine: Machine, *, now: datetime) -> None:
    """The provider bills another price now: a new segment, a new reservation, an Event."""
    before, after = row.usd_per_hour, machine.usd_per_hour
    assert after is not None  # noqa: S101 - the caller checked
    with transaction.atomic():
        if not Instance.objects.filter(pk=row.pk, state=row.state, usd_per_hour=before).update(
            usd_per_hour=after
        ):
            return  # it moved meanwhile; the next list tells
        row.usd_per_hour = after
        budgets.reprice(row.id, after, now=now)
        if row.bills and row.status is not State.UNKNOWN:
            money.price(row, at=now, reason=f"the provider's price went from {before} to {after}")
        Event.objects.create(
            deployment=row.deployment, instance=row, at=now, kind="price",
            reason=f"from ${before.normalize():f} to ${after.normalize():f} an hour",
        )  # fmt: skip
        services.ring(row.deployment, now=now)
