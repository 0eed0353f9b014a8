"""The offers as last fetched, apart from the database, so that a page can read thousands in milliseconds.

A process keeps each account's rows until their fingerprint in the database is another one, and reads then only
those that were written since.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from datetime import datetime
from uuid import UUID

from django.conf import settings
from django.db import connection
from django.db.models import Count, Max, Sum

from deployments import public_prices, rank
from deployments.models import Offer
from deployments.pricing import Price, all_in
from deployments.providers.base import Quote


@dataclass(frozen=True, slots=True)
class Known:
    """An offer as last fetched, and what follows from it alone."""

    pk: int
    account_id: UUID
    fetched_at: datetime
    """When these values were first told; `ProviderAccount.offers_at` says when they were last confirmed."""
    available: bool
    quote: Quote
    price: Price
    """All-in, with the expected traffic."""
    ground: int
    """A number that offers of one account, place and tier share: they are judged once."""
    gpu: int
    """The same of what a model has to fit."""
    place: rank.Place
    """Its standing and trust as long as we have no history with it."""
    hour: float
    """The all-in price, for sorting and a first look alone."""
    longest: float
    """The longest rental, hours; endless without an end."""

    @property
    def dated(self) -> bool:
        """It is a price of the snapshot: nothing can be rented from it."""
        return public_prices.is_dated(self.quote.key)


def known_of(offer: Offer) -> Known:
    return _known(offer.pk, offer.account_id, offer.fetched_at, offer.quote(), available=offer.available)


def _known(pk: int, account_id: UUID, fetched_at: datetime, quote: Quote, *, available: bool = True) -> Known:
    price = all_in(quote, traffic_gb=settings.EXPECTED_TRAFFIC_GB)
    return Known(
        pk, account_id, fetched_at, available, quote, price, _ground(account_id, quote), _gpu(quote), rank.place(quote),
        float(price.hour), math.inf if quote.max_hours is None else quote.max_hours,
    )  # fmt: skip


def _ground(account_id: UUID, q: Quote) -> int:
    dated = public_prices.is_dated(q.key)
    return _number(account_id, q.country, q.own_machine, q.serverless, q.interruptible, q.tier, dated)


def _gpu(q: Quote) -> int:
    memory = q.memory_mb if q.own_machine else 0
    return _number(q.gpu_count, q.vram_mb, q.cuda_max, q.compute_capability, q.own_machine, memory)


_numbers: dict[tuple[object, ...], int] = {}


def _number(*facts: object) -> int:
    """The same small number for the same facts: thousands of look-ups by it cost little."""
    return _numbers.setdefault(facts, len(_numbers))


@dataclass(frozen=True, slots=True)
class _Kept:
    fingerprint: tuple[object, ...]
    offers: tuple[Known, ...]


_shelf: dict[UUID, _Kept] = {}


def known() -> list[Known]:
    """Every available offer."""
    return [k for offers in by_account() for k in offers]


def by_account() -> list[tuple[Known, ...]]:
    """Every available offer, by account; the same tuple as before while nothing has changed. One query, and two more for each account of which a row has changed since."""
    prints = (
        Offer.objects.filter(available=True)
        .order_by()
        .values_list("account_id")
        .annotate(Count("pk"), Max("fetched_at"), Max("pk"), Sum("usd_per_hour"))
    )
    traffic = settings.EXPECTED_TRAFFIC_GB
    return [_of_account(account_id, (traffic, *fingerprint)) for account_id, *fingerprint in prints]


def _of_account(account_id: UUID, fingerprint: tuple[object, ...]) -> tuple[Known, ...]:
    # Inside a transaction rows may be seen that nobody else sees, or that are taken back.
    if connection.in_atomic_block:
        return read(account_id)
    kept = _shelf.get(account_id)
    if kept is not None and kept.fingerprint == fingerprint:
        return kept.offers
    # Another expectation of traffic is another price: nothing can be used again.
    before = kept.offers if kept and kept.fingerprint[0] == fingerprint[0] else ()
    offers = read(account_id, before=before)
    _shelf[account_id] = _Kept(fingerprint, offers)
    return offers


_COLUMNS = [f.name for f in fields(Quote)]
FEW = 500
"""Rows that are read by their keys; of more, the whole account is."""


def read(account_id: UUID, *, before: tuple[Known, ...] = ()) -> tuple[Known, ...]:
    """The account's available offers. Those in `before` whose row was not written since are used again."""
    rows = Offer.objects.filter(account_id=account_id, available=True).order_by()
    same = {(k.pk, k.fetched_at): k for k in before}
    stamps = list(rows.values_list("pk", "fetched_at")) if same else []
    kept = [same[stamp] for stamp in stamps if stamp in same]
    new = [pk for pk, at in stamps if (pk, at) not in same]
    if kept and len(new) <= FEW:
        rows = rows.filter(pk__in=new)
    else:
        kept = []
    for pk, fetched_at, *values in rows.values_list("pk", "fetched_at", *_COLUMNS):
        kept.append(_known(pk, account_id, fetched_at, Quote(*values)))
    return tuple(kept)
