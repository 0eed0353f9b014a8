"""Reads the providers' bills: a window at a time, outside any transaction, and never past a gap.

Each account has a cursor, up to which its bill was told whole. A run asks from two days before it, because providers
bill late, to the end of the hour or day that runs; the cursor moves with what is written. What fails stands still
with its reason, and goes on from there.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from django.db.models import Min

from billing import statements
from billing.models import Bill, Subject
from billing.periods import day_of
from billing.statements import Line, ceil_step, floor_step
from deployments import calls, volumes
from deployments.calls import Call
from deployments.models import ProviderAccount
from deployments.models.account import ADAPTERS
from deployments.providers.base import Charge, Provider, ProviderError
from panel import logs

logger = logging.getLogger(__name__)

OVERLAP = timedelta(days=2)
"""Asked for once more: providers bill late."""
WINDOW = timedelta(days=7)
"""The longest span of one request, so that no answer grows with the time that the panel was down."""
WINDOWS = 6
"""Requests of one run for one account; the next run goes on."""
EVERY = timedelta(hours=1)
AFTER_ERROR = timedelta(minutes=15)
SOON = timedelta(minutes=1)
_SECOND = timedelta(seconds=1)


def fetch_due(*, clock: Callable[[], datetime]) -> None:
    """Read the bill of every account whose time has come. No error of one keeps another waiting."""
    for account in ProviderAccount.objects.filter(backend__in=ADAPTERS).order_by("created_at", "pk"):
        try:
            fetch(account, now=clock())
        except Exception:
            logger.exception("The bill of %s could not be read", account)


def fetch(account: ProviderAccount, *, now: datetime) -> bool:
    """Read the account's bill up to now, if it is due; whether all of it could be read."""
    if account.public_only:
        return False
    adapter = account.adapter()
    bill = _bill(account, adapter, now=now)
    if bill is None or not _claim(bill, now=now):
        return False
    logs.about(account=account.pk)
    try:
        return _read(account, adapter, bill, now=now)
    except calls.Held as e:
        _stand_still(account, bill, str(e), now=now)
    except ProviderError as e:
        _stand_still(account, bill, str(e), now=now)
    except Exception as e:
        # An answer that nobody can read is no bill. It is asked for again.
        logger.warning("The bill of %s cannot be read (%s)", account, type(e).__name__)
        _stand_still(account, bill, f"The bill cannot be read ({type(e).__name__}).", now=now)
    return False


def _bill(account: ProviderAccount, adapter: Provider, *, now: datetime) -> Bill | None:
    """The account's bill, opened with its first machine; None while there never was one."""
    traits = adapter.traits
    first = account.instances.aggregate(at=Min("created_at"))["at"]
    if first is None and not Bill.objects.filter(pk=account.pk).exists():
        return None
    return statements.open_bill(
        account.pk, account.name, provider=account.backend, step=timedelta(seconds=traits.bill_step),
        lag=timedelta(seconds=traits.bill_lag), since=min(first or now, now),
    )  # fmt: skip


def _claim(bill: Bill, *, now: datetime) -> bool:
    """Take the right to this run: a guarded UPDATE, so that of two workers one asks."""
    # A time that lies too far ahead was set by a clock that has been put back since.
    if bill.next_at is not None and now < bill.next_at <= now + EVERY:
        return False
    return bool(Bill.objects.filter(pk=bill.pk, next_at=bill.next_at).update(next_at=now + EVERY))


def _read(account: ProviderAccount, adapter: Provider, bill: Bill, *, now: datetime) -> bool:
    end = ceil_step(now, bill.step)
    since = max(bill.since, floor_step(bill.told_until - OVERLAP, bill.step))
    for start, until in _windows(since, end):
        charges = calls.ask(account, Call.READ, lambda a=start, b=until: adapter.charges(a, b), now=now)  # type: ignore[misc]
        lines = _lines(account, charges, bill.step)
        statements.record(account.pk, lines, since=start, until=until, now=now)
    if until < end:
        Bill.objects.filter(pk=bill.pk).update(next_at=now + SOON)
        return False
    return True


def _windows(since: datetime, end: datetime) -> Iterator[tuple[datetime, datetime]]:
    """At most `WINDOWS` spans of whole days."""
    for _ in range(WINDOWS):
        until = min(day_of(since) + WINDOW, end)
        yield since, until
        since = until
        if since >= end:
            return


def _stand_still(account: ProviderAccount, bill: Bill, sentence: str, *, now: datetime) -> None:
    masked = sentence.replace(account.credentials, "***") if account.credentials else sentence
    statements.stand_still(account.pk, masked, now=now)
    wait = calls.held_for(account, Call.READ, now=now) or AFTER_ERROR
    Bill.objects.filter(pk=bill.pk).update(next_at=now + wait)


# -- charges -> lines -----------------------------------------------------------------------------------


def _lines(account: ProviderAccount, charges: Iterable[Charge], step: timedelta) -> list[Line]:
    """Each charge in the hours or days that it lies in, with the ledger's subject that it is for."""
    told = list(charges)
    subjects = subjects_of(account, told)
    return [
        Line(c.remote_id, c.component, start, end, usd, c.label, seconds, subjects.get(c.remote_id))
        for c in told
        for start, end, usd, seconds in _cut(c, step)
    ]


def _cut(charge: Charge, step: timedelta) -> Iterator[tuple[datetime, datetime, Decimal, int]]:
    """(start of the hour or day, end of what was charged in it, USD, seconds): parts by their share of time."""
    start, length = floor_step(charge.start, step), (charge.end - charge.start) // timedelta(microseconds=1)
    if not length:
        yield start, charge.end, charge.usd, 0
        return
    # A span that fills the grid says nothing of how long the machine ran in it.
    fills = charge.start == start and charge.end == ceil_step(charge.end, step)
    rest = charge.usd
    while start < charge.end:
        until = ceil_step(start + _SECOND, step)
        a, b = max(start, charge.start), min(until, charge.end)
        part = charge.usd * ((b - a) // timedelta(microseconds=1)) / length if b < charge.end else rest
        rest -= part
        yield start, b, part, 0 if fills else int((b - a).total_seconds())
        start = until


def subjects_of(account: ProviderAccount, charges: Iterable[Charge]) -> dict[str, UUID]:
    """The ledger's subject of each remote id: by the id of an instance, a double's, the label, or a volume's; else it has none."""
    labels = {c.remote_id: c.label for c in charges}
    ids = [remote_id for remote_id in labels if remote_id]
    found: dict[str, UUID] = {}
    for some in _batched(ids, 500):
        rows = account.instances.filter(remote_id__in=some)
        found.update(rows.values_list("remote_id", "pk"))
    rest = {r: label for r, label in labels.items() if r not in found}
    found |= _doubles(account, rest)
    found |= _by_label(account, {r: label for r, label in rest.items() if r not in found})
    found |= {r: volumes.subject_id(account.pk, r) for r in rest if r not in found}
    return _known(account, found)


def _doubles(account: ProviderAccount, labels: dict[str, str]) -> dict[str, UUID]:
    """Machines that stood beside an instance's own: the ledger knows each by its instance and its remote id."""
    if not labels:
        return {}
    names = Subject.objects.filter(account=account.pk, label__endswith=")").values_list("pk", "label")
    return {
        remote_id: pk
        for pk, label in names
        if (remote_id := label.rpartition(" (")[2].removesuffix(")")) in labels
    }


def _by_label(account: ProviderAccount, labels: dict[str, str]) -> dict[str, UUID]:
    """An attempt whose remote id was never learnt. One that has another machine already is not this one's."""
    wanted = {label: remote_id for remote_id, label in labels.items() if label}
    rows: Any = account.instances.filter(label__in=list(wanted), remote_id="")
    return {wanted[i.label]: i.pk for i in rows.only("pk", "label")}


def _known(account: ProviderAccount, found: dict[str, UUID]) -> dict[str, UUID]:
    """Without those that the ledger was never told of."""
    known: set[UUID] = set()
    for some in _batched(list(set(found.values())), 500):
        known |= set(Subject.objects.filter(pk__in=some).values_list("pk", flat=True))
    return {remote_id: subject for remote_id, subject in found.items() if subject in known}


def _batched[T](items: list[T], size: int) -> Iterator[list[T]]:
    for i in range(0, len(items), size):
        yield items[i : i + size]
