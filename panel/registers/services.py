"""The verbs of the Compliance pages: each changes rows, keeps the version and records who did it, in one transaction.

The audit tells which parts of a record changed and never what was written: that may be about people.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date, datetime
from typing import Any

from django.db import models, transaction

from panel.accounts.models import User
from panel.audit import chain
from panel.registers import clocks, periods, versions
from panel.registers.models import Breach, BreachEntry, Deadline, Record, State, SubjectRequest

TELLABLE = frozenset(
    {
        "aware_at", "occurred_at", "detected_at", "contained", "risk", "notified_at", "subjects_told_at", "closed_at",
        "kind", "received_on", "due_on", "identity", "extended_on", "outcome", "answered_on", "evidence_sha256",
    }
)  # fmt: skip
"""The fields whose values enter the audit: dates and choices, nothing that somebody typed."""


class Refused(Exception):
    """What cannot be done now. The text is for the person; `field` names the form's field."""

    def __init__(self, message: str, *, field: str = "") -> None:
        super().__init__(message)
        self.field = field


def told(record: models.Model, names: Iterable[str]) -> dict[str, Any]:
    """For the audit: the values that may be told, and of the others that they changed."""
    names = sorted(names)
    hidden = [name for name in names if name not in TELLABLE]
    said = {name: getattr(record, name) for name in names if name in TELLABLE}
    return said | ({"not_shown": hidden} if hidden else {})


# -- breaches -------------------------------------------------------------------------------------------


def file_breach(values: dict[str, Any], *, actor: User, now: datetime) -> Breach:
    """Save it at once: the clock runs, whatever else is known later."""
    with transaction.atomic():
        breach = Breach.objects.create(filed_at=now, filed_by=chain.pseudonym_of(actor), **values)
        versions.keep(breach, by=actor, now=now)
        clocks.look_soon(now=now)
        chain.record("breach.create", actor=actor, target=breach, after=told(breach, values), now=now)
    return breach


def change_breach(breach: Breach, values: dict[str, Any], *, actor: User, now: datetime) -> list[str]:
    """Write a part of the form; returns the names of the fields that changed. Raises Refused."""
    with transaction.atomic():
        stored = Breach.objects.select_for_update().get(pk=breach.pk)
        changed = [name for name, value in values.items() if getattr(stored, name) != value]
        before = told(stored, changed)
        for name in changed:
            setattr(stored, name, values[name])
        _check_breach(stored)
        if changed:
            stored.save(update_fields=changed)
            _settle("breach.change", stored, changed, before=before, actor=actor, now=now)
    return changed


def _check_breach(breach: Breach) -> None:
    if breach.notified_at and breach.notified_at < breach.aware_at:
        raise Refused("The authority cannot have been told before you became aware.", field="notified_at")
    late = breach.notified_at and breach.notified_at > clocks.breach_due(breach)
    if late and not breach.delay_reason:
        hours = clocks.deadline(Deadline.BREACH).amount
        raise Refused(
            f"More than {hours} hours have passed: the authority must be given the reason (Art. 33(1)).",
            field="delay_reason",
        )
    if breach.risk == Breach.Risk.UNLIKELY and not breach.risk_reason:
        raise Refused(
            "Write down why a risk is unlikely: without a reason the authority must be told.",
            field="risk_reason",
        )


def _settle(
    action: str, record: Any, changed: list[str], *, before: dict[str, Any], actor: User, now: datetime
) -> None:
    versions.keep(record, by=actor, now=now)
    clocks.look_soon(now=now)
    chain.record(action, actor=actor, target=record, before=before, after=told(record, changed), now=now)


def add_entry(breach: Breach, kind: str, text: str, *, actor: User, now: datetime) -> BreachEntry:
    """A line of the timeline; it stays as it is."""
    with transaction.atomic():
        entry = BreachEntry.objects.create(
            breach=breach, at=now, by=chain.pseudonym_of(actor), kind=kind, text=text
        )
        chain.record("breach.note", actor=actor, target=breach, after={"kind": kind}, now=now)
    return entry


def close_breach(breach: Breach, *, actor: User, now: datetime) -> None:
    """It is dealt with and documented. Raises Refused while its clock runs."""
    if breach.is_running:
        raise Refused("Its clock runs: tell the authority, or write down why the risk is unlikely.")
    change_breach(breach, {"closed_at": now}, actor=actor, now=now)


def reopen_breach(breach: Breach, *, actor: User, now: datetime) -> None:
    change_breach(breach, {"closed_at": None}, actor=actor, now=now)


# -- subject requests -------------------------------------------------------------------------------------


def file_request(values: dict[str, Any], *, actor: User, now: datetime) -> SubjectRequest:
    with transaction.atomic():
        due = clocks.answer_due(values["received_on"])
        request = SubjectRequest.objects.create(filed_at=now, due_on=due, **values)
        versions.keep(request, by=actor, now=now)
        clocks.look_soon(now=now)
        after = told(request, [*values, "due_on"])
        chain.record("subject_request.create", actor=actor, target=request, after=after, now=now)
    return request


def change_request(
    request: SubjectRequest, values: dict[str, Any], *, actor: User, now: datetime
) -> list[str]:
    """Write a part of the form; the day of the answer follows from it. Raises Refused."""
    with transaction.atomic():
        stored = SubjectRequest.objects.select_for_update().get(pk=request.pk)
        before = {name: getattr(stored, name) for name in (*values, "due_on")}
        for name, value in values.items():
            setattr(stored, name, value)
        stored.due_on = clocks.answer_due(stored.received_on, extended=stored.extended_on is not None)
        _check_request(stored, today=periods.today(now))
        changed = [name for name in before if getattr(stored, name) != before[name]]
        if changed:
            kept = {name: before[name] for name in changed if name in TELLABLE}
            stored.save(update_fields=changed)
            _settle("subject_request.change", stored, changed, before=kept, actor=actor, now=now)
    return changed


def _check_request(r: SubjectRequest, *, today: date) -> None:
    first_month = clocks.answer_due(r.received_on)
    if r.extended_on and r.extended_on > first_month:
        raise Refused(
            f"The person had to be told of it by {first_month:%-d %B %Y}: the time cannot be extended any more (Art. 12(3)).",
            field="extended_on",
        )
    if r.extended_on and r.extended_on < r.received_on:
        raise Refused("That is before the request came.", field="extended_on")
    if r.extended_on and not r.extension_reason:
        raise Refused("Say why: the person is told the reason (Art. 12(3)).", field="extension_reason")
    if r.answered_on and r.answered_on < r.received_on:
        raise Refused("That is before the request came.", field="answered_on")
    if r.answered_on and r.answered_on > today:
        raise Refused("That day has not come yet.", field="answered_on")
    if r.answered_on and not r.outcome:
        raise Refused("Say what came of it.", field="outcome")
    if r.outcome == SubjectRequest.Outcome.REFUSED and not r.refusal_reason:
        raise Refused("Say why: the person is told the reason (Art. 12(4)).", field="refusal_reason")


# -- records of the registers ---------------------------------------------------------------------------


def confirm(record: Record, *, actor: User, now: datetime) -> None:
    """A person has read the draft and stands by it. It counts as reviewed today."""
    with transaction.atomic():
        before = {"state": record.state, "last_review": record.last_review}
        record.state, record.last_review = State.CONFIRMED, periods.today(now)
        record.save(update_fields=["state", "last_review"])
        versions.keep(record, by=actor, now=now)
        after = {"state": record.state, "last_review": record.last_review}
        name = record._meta.model_name
        chain.record(f"{name}.confirm", actor=actor, target=record, before=before, after=after, now=now)
