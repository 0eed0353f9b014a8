"""What people do about a gap: assign it, comment, explain it, book it, close it. Each act is audited."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import date, datetime
from decimal import Decimal
from typing import Any

from django.db import transaction

from billing import sides
from billing.corrections import Correction, added
from billing.judging import ZERO
from billing.models import Bill, Booking, DayTotal, Discrepancy
from billing.money import quantize
from billing.periods import DAY, calendar_month, midnight
from billing.posting import lock
from billing.reconcile import State, balance_gap, booked_of_balance, compare, note, signed, three_way
from billing.sides import Machine
from billing.statements import BALANCE, open_unassigned
from panel.accounts.models import User
from panel.audit import chain

LENGTH = 1000
"""Characters of the longest comment."""


class GapRefused(Exception):
    """It cannot be done. The text is a sentence for operators."""


def assign(row: Discrepancy, owner: User | None, *, actor: User, now: datetime) -> None:
    """Give the gap an owner, or with None take it from them. Raises GapRefused."""
    with transaction.atomic():
        row = _held(row)
        if not row.is_unexplained:
            raise GapRefused("Only a gap that nobody has explained is assigned.")
        if owner is not None and not owner.has_perm("billing.explain_discrepancy"):
            raise GapRefused(
                "They may not explain unexplained money. Choose an operator or an administrator."
            )
        row.owner, row.state = owner, State.ASSIGNED if owner else State.OPEN
        row.save(update_fields=["owner", "state"])
        said = f"Assigned to {owner}." if owner else "Assigned to nobody."
        note(row, said, now=now, author_id=actor.pk)
        chain.record("discrepancy.assign", actor=actor, target=row, after=_told(row), now=now)


def comment(row: Discrepancy, text: str, *, actor: User, now: datetime) -> None:
    """Add a comment to its story. Raises GapRefused."""
    text = _clean(text, what="The comment")
    with transaction.atomic():
        note(_held(row), text, now=now, author_id=actor.pk)
        chain.record("discrepancy.comment", actor=actor, target=row, now=now)


def explain(
    row: Discrepancy, text: str, *, reason: str, actor: User, now: datetime, alike: bool = False
) -> int:
    """Say why the two figures differ; how many gaps that explains. Raises GapRefused.

    `alike`: it explains every unexplained gap of the same machine with the same likely reason.
    """
    text = _clean(text, what="The explanation")
    if reason not in Discrepancy.Reason.values:
        raise GapRefused("Choose a reason.")
    with transaction.atomic():
        row = _held(row)
        if row.state == State.CLOSED:
            raise GapRefused("This gap is closed.")
        rows = [row, *_alike(row)] if alike else [row]
        for one in rows:
            one.state, one.explanation, one.reason, one.accepted_usd = State.EXPLAINED, text, reason, one.usd
            one.save(update_fields=["state", "explanation", "reason", "accepted_usd"])
            note(one, f"Explained ({one.get_reason_display()}): {text}", now=now, author_id=actor.pk)
        for one in rows:
            chain.record("discrepancy.explain", actor=actor, target=one, after=_told(one), now=now)
    return len(rows)


def close(row: Discrepancy, *, actor: User, now: datetime) -> None:
    """Close an explained gap without booking it: the two books go on differing by it. Raises GapRefused."""
    with transaction.atomic():
        row = _held(row)
        if row.state != State.EXPLAINED:
            raise GapRefused("A gap is explained before it is closed.")
        row.state, row.closed_at, row.accepted_usd = State.CLOSED, now, row.usd
        row.save(update_fields=["state", "closed_at", "accepted_usd"])
        note(row, f"Closed as it is, {signed(row.usd)} not booked.", now=now, author_id=actor.pk)
        chain.record("discrepancy.close", actor=actor, target=row, after=_told(row), now=now)


def book(row: Discrepancy, *, actor: User, now: datetime) -> Decimal:
    """Take our ledger to the provider's bill by an adjustment, and close the gap; what was booked, USD.

    Booking it again books what has changed since, and so nothing. Raises GapRefused.
    """
    with transaction.atomic():
        row = _held(row)
        if row.state not in {State.EXPLAINED, State.CLOSED}:
            raise GapRefused("A gap is explained before it is booked.")
        bill = Bill.objects.get(pk=row.account)
        reason = f"reconciled with {row.account_label}: {row.explanation or row.get_reason_display()}"
        if row.key == BALANCE:
            booked = _book_balance(bill, row, reason=reason, now=now)
        else:
            booked = book_day(bill, row.day, {row.key: row}, reason=reason, now=now)
        if booked or row.state != State.CLOSED:
            _close_booked(row, booked, actor=actor, now=now)
    if row.key != BALANCE:
        compare(row.account, [row.day], now=now)
    return booked


def _close_booked(row: Discrepancy, booked: Decimal, *, actor: User, now: datetime) -> None:
    row.metered_usd, row.usd = row.metered_usd + booked, row.usd - booked
    row.state, row.closed_at, row.changed_at, row.accepted_usd = State.CLOSED, now, now, row.usd
    row.save()
    note(row, f"Booked {signed(booked)} and closed.", now=now, author_id=actor.pk)
    chain.record(
        "discrepancy.book", actor=actor, target=row, after={**_told(row), "booked": str(booked)}, now=now
    )


def book_day(
    bill: Bill, day: date, wanted: Mapping[str, Discrepancy | None], *, reason: str, now: datetime
) -> Decimal:
    """Adjust these machines (by key) to what they were charged on a day that is over; the sum, USD.

    In the caller's transaction. What each costs is read anew while its subject is held, so that two who book the
    same book it once.
    """
    read = sides.days_of(bill, [day], horizon=midnight(day) + DAY)
    machines = {key: m for key, m in (read[0].machines if read else {}).items() if key in wanted}
    subjects = {key: _subject(bill, m, now=now) for key, m in machines.items()}
    lock(set(subjects.values()))
    totals = dict(
        DayTotal.objects.filter(subject__in=subjects.values(), day=day).values_list("subject_id", "usd")
    )
    gaps = {}
    for key, m in machines.items():
        if gap := quantize(m.charged) - totals.get(subjects[key], ZERO):
            gaps[key] = Correction(subjects[key], gap, m.hour or midnight(day))
    if not gaps:
        return ZERO
    rows = added(list(gaps.values()), reason=reason, now=now)
    Booking.objects.bulk_create(
        Booking(
            account=bill.account, day=day, key=key, adjustment=adjustment, discrepancy=wanted[key], at=now
        )
        for key, adjustment in zip(gaps, rows, strict=True)
    )
    return sum((c.usd for c in gaps.values()), ZERO)


def _subject(bill: Bill, machine: Machine, *, now: datetime) -> Any:
    if machine.known or machine.subject:
        return machine.subject
    opened = open_unassigned(bill, machine.remote_id, label=machine.remote_id, now=now)
    return opened.pk


def _book_balance(bill: Bill, row: Discrepancy, *, reason: str, now: datetime) -> Decimal:
    """What the balance moved and no line tells, to a subject of the account, on the last day of the month that is told."""
    subject = open_unassigned(bill, BALANCE, label="prepaid money", now=now)
    lock([subject.pk])
    figures = three_way(bill.account, row.day)
    gap = balance_gap(figures, booked_of_balance(bill.account, row.day))
    if not gap:
        return ZERO
    last = min(calendar_month(midnight(row.day)).end, bill.told_until)
    hour = max(midnight(row.day), midnight(last.date()) - DAY)
    (adjustment,) = added([Correction(subject.pk, gap, hour)], reason=reason, now=now)
    Booking.objects.create(
        account=bill.account, day=row.day, key=BALANCE, adjustment=adjustment, discrepancy=row, at=now
    )
    return gap


def _alike(row: Discrepancy) -> Iterable[Discrepancy]:
    found = Discrepancy.objects.filter(
        account=row.account, key=row.key, reason=row.reason, state__in=Discrepancy.UNEXPLAINED
    ).exclude(pk=row.pk)
    return found.order_by("pk").select_for_update()


def _held(row: Discrepancy) -> Discrepancy:
    # The bill's row first, as whoever compares holds it: two who hold the same never wait for each other.
    Bill.objects.select_for_update().get(pk=row.account)
    return Discrepancy.objects.select_for_update(of=("self",)).get(pk=row.pk)


def _told(row: Discrepancy) -> dict[str, Any]:
    return {
        "state": str(row.state), "usd": str(row.usd), "reason": str(row.reason),
        "owner": str(row.owner_id) if row.owner_id else None,
    }  # fmt: skip


def _clean(text: str, *, what: str) -> str:
    text = text.strip()
    if not text:
        raise GapRefused(f"{what} is empty. Write a sentence.")
    if len(text) > LENGTH:
        raise GapRefused(f"{what} is longer than {LENGTH} characters. Shorten it.")
    return text
