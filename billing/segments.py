"""What time costs: price segments begin, change and end, and the ledger follows in the same transaction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from decimal import Decimal
from uuid import UUID

from django.db import transaction
from django.db.models import Max

from billing.models import Component, PriceSegment, Subject
from billing.money import positive
from billing.periods import utc
from billing.posting import Change, closed_until, cursor, hourly, lock, post, spans

TIMED = frozenset({Component.COMPUTE, Component.DISK, Component.VOLUME})
"""What costs by the hour. The others cost by the byte or the request."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What the ledger keeps of a machine; see Subject. `tags` is text to text."""

    label: str
    scope: UUID
    scope_label: str
    provider: str
    tier: str = ""
    gpu: str = ""
    account: UUID | None = None
    account_label: str = ""
    country: str = ""
    data_center: str = ""
    owner_id: int | None = None
    tags: Mapping[str, str] = field(default_factory=dict)


def open_subject(id: UUID, snapshot: Snapshot, *, now: datetime) -> Subject:
    """The subject `id`, made with this snapshot when the ledger does not know it yet."""
    known = {f.name: getattr(snapshot, f.name) for f in fields(snapshot)}
    subject, _ = Subject.objects.get_or_create(
        pk=id, defaults={**known, "tags": dict(snapshot.tags), "created_at": now}
    )
    return subject


@transaction.atomic
def set_price(
    subject_id: UUID, component: str, usd_per_hour: Decimal, *, at: datetime, reason: str = ""
) -> None:
    """From `at` on the component costs `usd_per_hour`, USD; 0 just ends what it cost. Saying it twice is once.

    `at` is never earlier than the start of the open segment or the end of a former one: prices do not
    overlap. Raises BadAmount (a sentence) for a price that is negative or too large, Subject.DoesNotExist.
    """
    price = positive(usd_per_hour, what="A price")
    if component not in TIMED:
        raise ValueError(f"{component} is not charged by the hour.")
    segments = _lock(subject_id, component)
    opened = next((s for s in segments if s.ended_at is None), None)
    if price == (hourly(opened) if opened else 0):
        return
    at = max([utc(at), *(s.ended_at or s.started_at for s in segments)])
    before = spans(segments)
    # What the ledger held stays held, at the new price: an accrual never waits for the next metering.
    held = max(at, cursor(opened)) if opened else at
    since = min(at, cursor(opened)) if opened else at
    if opened:
        _end(opened, at)
    if price:
        segments.append(_begin(subject_id, component, price, at=at, held=held, reason=reason))
    change = Change(subject_id, component, since, before, spans(segments))
    post([change], reason=reason or "price corrected")


@transaction.atomic
def backdate(subject_id: UUID, component: str, *, to: datetime) -> None:
    """The component's first price began at `to` already: a machine found late. Only inside open hours.

    Nothing happens when it has no price, or when its first one began earlier.
    """
    segments = _lock(subject_id, component)
    first = next((s for s in segments if s.ended_at is None or s.ended_at > s.started_at), None)
    to = max(utc(to), closed_until() or utc(to))
    if first is None or to >= first.started_at:
        return
    before = spans(segments)
    # Earlier segments of no length have cost nothing; they move along, so that the order stays.
    for segment in segments[: segments.index(first)]:
        segment.started_at = segment.ended_at = segment.metered_to = to
        segment.save(update_fields=["started_at", "ended_at", "metered_to"])
    first.metered_to = cursor(first)
    first.started_at = to
    first.save(update_fields=["started_at", "metered_to"])
    post([Change(subject_id, component, to, before, spans(segments))], reason="began earlier")


@transaction.atomic
def close(subject_id: UUID, *, at: datetime) -> None:
    """Nothing of the subject costs anything from `at` on; before a price's start, it ends at its start.

    Closing again changes nothing. Raises Subject.DoesNotExist.
    """
    at = utc(at)
    segments = _lock(subject_id)
    changes = []
    for opened in [s for s in segments if s.ended_at is None]:
        own = [s for s in segments if s.component == opened.component]
        before, end = spans(own), max(at, opened.started_at)
        since = min(end, cursor(opened))
        _end(opened, end)
        changes.append(Change(subject_id, opened.component, since, before, spans(own)))
    if changes:
        post(changes, reason="ended")


def booked_until(subject_id: UUID) -> datetime | None:
    """Up to when the ledger holds what the subject cost; None before its first metering.

    Whoever ends a price by a clock that may have been put back ends it here at the earliest.
    """
    held = PriceSegment.objects.filter(subject_id=subject_id).aggregate(at=Max("metered_to"))
    at: datetime | None = held["at"]
    return at


def _lock(subject_id: UUID, component: str | None = None) -> list[PriceSegment]:
    """The subject's segments, oldest first, its row held."""
    lock([subject_id])
    segments = PriceSegment.objects.filter(subject_id=subject_id).order_by("started_at", "pk")
    return list(segments.filter(component=component) if component else segments)


def _begin(
    subject_id: UUID, component: str, price: Decimal, *, at: datetime, held: datetime, reason: str
) -> PriceSegment:
    return PriceSegment.objects.create(
        subject_id=subject_id,
        component=component,
        usd_per_unit_hour=price,
        started_at=at,
        metered_to=held,
        reason=reason[:200],
    )


def _end(segment: PriceSegment, at: datetime) -> None:
    segment.ended_at = segment.metered_to = at
    segment.save(update_fields=["ended_at", "metered_to"])
