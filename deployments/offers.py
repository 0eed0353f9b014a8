"""What can be rented now: fetched in the background, judged and ranked for a wish.

`refresh` writes; `shelf` reads, `judging` judges, `rank` orders, and what a page asks for stands here.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from decimal import Decimal
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.utils import timezone

from billing.money import quantize
from deployments import history, judging, public_prices, rank, shelf
from deployments.catalog import Model
from deployments.fit import CONCURRENCY
from deployments.judging import RUN_HOURS, Judge, OfferView, Wish, is_plaintext
from deployments.models import Deployment, Offer, ProviderAccount
from deployments.models.offer import quote_values
from deployments.providers.base import ProviderError, Quote

__all__ = [
    "OfferView",
    "Wish",
    "feeds",
    "for_deployment",
    "for_model",
    "is_plaintext",
    "judge",
    "ranked",
    "refresh",
    "store",
    "wished_hours",
]

STALE = timedelta(minutes=10)
"""Offers older than this are shown as stale."""
GONE_FOR = timedelta(days=1)
"""What is no longer offered is deleted after this. Nothing refers to its row: a launch freezes the quote."""


# -- fetching --------------------------------------------------------------------------------------


def refresh(account: ProviderAccount, *, now: datetime) -> int:
    """Fetch the account's offers and store them; what is no longer offered is marked so. Returns their number.

    Raises what the adapter raises, most often a ProviderError; the account keeps the sentence, what was stored
    before stays, with its age, and an account that never had any shows the dated prices.
    """
    try:
        quotes = account.adapter().quotes()
    except Exception as e:
        _note_failure(account, e)
        raise
    return store(account, quotes, now=now)


def store(account: ProviderAccount, quotes: Sequence[Quote], *, now: datetime) -> int:
    """Write what `account` offers now. Only what changed is written, so that thousands a minute cost little."""
    found = {q.key: q for q in map(_tidy, quotes)}
    before = {k.quote.key: k for k in shelf.read(account.pk)}
    gone = [k.pk for key, k in before.items() if key not in found]
    new = [q for key, q in found.items() if key not in before or before[key].quote != q]
    with transaction.atomic():
        for start in range(0, len(gone), 500):
            Offer.objects.filter(pk__in=gone[start : start + 500]).update(available=False, fetched_at=now)
        _upsert(account, new, now=now)
        account.offers.filter(available=False, fetched_at__lt=now - GONE_FOR).delete()
        ProviderAccount.objects.filter(pk=account.pk).update(offers_at=now, offers_error="")
    return len(found)


def store_dated_prices(account: ProviderAccount) -> None:
    """Show the snapshot's prices, with their date, for an account whose offers were never fetched."""
    quotes = [_tidy(q) for q in public_prices.quotes(account.backend)]
    if account.offers_at is None and not account.offers.exists():
        _upsert(account, quotes, now=public_prices.dated())


def _upsert(account: ProviderAccount, quotes: Sequence[Quote], *, now: datetime) -> None:
    columns = [f.name for f in fields(Quote) if f.name != "key"]
    Offer.objects.bulk_create(
        [
            Offer(account=account, key=q.key, fetched_at=now, available=True, **quote_values(q))
            for q in quotes
        ],
        update_conflicts=True,
        unique_fields=["account", "key"],
        update_fields=[*columns, "fetched_at", "available"],
    )


def _note_failure(account: ProviderAccount, error: Exception) -> None:
    # Only an adapter's own errors are known to hold no secret.
    said = str(error) if isinstance(error, ProviderError) else ""
    sentence = said or f"Its answer cannot be read ({type(error).__name__})."
    ProviderAccount.objects.filter(pk=account.pk).update(offers_error=sentence[:300])
    store_dated_prices(account)


_TEXT = {f.name: f.max_length for f in Offer._meta.concrete_fields if f.max_length}
_USD = [f.name for f in fields(Quote) if f.type in {"Decimal", "Decimal | None"}]


def _tidy(quote: Quote) -> Quote:
    """The quote as the database gives it back: nano-dollars, and no text longer than its column."""
    values = {f.name: getattr(quote, f.name) for f in fields(Quote)}
    for name in _USD:
        if values[name] is not None:
            values[name] = quantize(values[name])
    for name, longest in _TEXT.items():
        if isinstance(values.get(name), str):
            values[name] = values[name][:longest]
    return Quote(**values)


# -- judged and ranked -------------------------------------------------------------------------------


def wished_hours(stop_at: datetime | None, *, now: datetime) -> float:
    """How long a run lasts that ends at `stop_at`, in whole hours, rounded up; a day without one."""
    return (
        float(math.ceil((stop_at - now).total_seconds() / 3600)) if stop_at and stop_at > now else RUN_HOURS
    )


def ranked(wish: Wish, *, now: datetime) -> list[OfferView]:
    """Every known offer, the suitable ones first, then those with the fewest reasons against, in the policy's order."""
    known, histories, of = shelf.by_account(), history.recent(now), accounts()
    inputs = made_of(known, histories, of.values())
    key = _key(wish)
    kept = _memo.get(key)
    if kept is None or kept[0] != inputs:
        kept = inputs, _rank(wish, Judge(wish, of, histories), known)
        while len(_memo) >= KEPT:
            _memo.pop(next(iter(_memo)), None)
        _memo[key] = kept
    return list(kept[1])


def _rank(wish: Wish, judge: Judge, known: list[tuple[shelf.Known, ...]]) -> list[OfferView]:
    views = [judge(k) for offers in known for k in offers]
    keys = [(len(v[2]), rank.order(_place(v), wish.policy, v[0].hour), i) for i, v in enumerate(views)]
    keys.sort()
    return [views[i] for _, _, i in keys]


KEPT = 16
"""How many wishes' rankings a process keeps: filters and sorting ask for the same one again and again."""


@dataclass(frozen=True, slots=True, eq=False)
class _Inputs:
    """All that a ranking was made of. It holds while every part is what it was."""

    known: list[tuple[shelf.Known, ...]]
    histories: history.Histories
    accounts: list[tuple[object, ...]]
    settings: tuple[object, ...]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Inputs) or len(self.known) != len(other.known):
            return False
        # The same tuple, not an equal one: to compare thousands of offers costs more than to rank them.
        same = all(mine is theirs for mine, theirs in zip(self.known, other.known, strict=True))
        rest = self.settings, self.accounts, self.histories
        return same and rest == (other.settings, other.accounts, other.histories)

    __hash__ = None  # type: ignore[assignment]


def made_of(
    known: list[tuple[shelf.Known, ...]], histories: history.Histories, of: Iterable[ProviderAccount]
) -> _Inputs:
    """What judgements of these offers depend on beside the wish; two of them are equal while nothing has changed."""
    return _Inputs(known, histories, [_facts(a) for a in of], _settings())


_memo: dict[tuple[object, ...], tuple[_Inputs, list[OfferView]]] = {}


def _key(w: Wish) -> tuple[object, ...]:
    return (
        w.model, w.context, tuple(sorted(w.allowed)), w.policy, w.purpose, w.price_ceiling, w.allow_plaintext,
        w.hours, w.concurrency,
    )  # fmt: skip


def _facts(a: ProviderAccount) -> tuple[object, ...]:
    """What a view tells of its account, or is judged by."""
    return (
        a.pk,
        a.name,
        a.backend,
        a.credentials,
        a.enabled,
        a.creates_blocked,
        a.create_refused,
        a.local_usd_per_hour,
    )


def _settings() -> tuple[object, ...]:
    return settings.INFERENCE_IMAGE, settings.INFERENCE_IMAGE_TLS, judging.is_on_this_computer()


def _place(view: OfferView) -> rank.Place:
    return rank.place(view.quote, view.history) if view.history else view.known.place


def for_model(
    model: Model,
    *,
    context: int,
    allowed: Collection[str],
    policy: str = Deployment.Policy.RELIABILITY,
    price_ceiling: Decimal | None = None,
    purpose: str = Deployment.Purpose.PRODUCTION,
    allow_plaintext: bool = False,
    hours: float = RUN_HOURS,
    concurrency: int = CONCURRENCY,
    now: datetime | None = None,
) -> list[OfferView]:
    """`ranked` for these wishes."""
    wish = Wish(model, context, allowed, policy, purpose, price_ceiling, allow_plaintext, hours, concurrency)
    return ranked(wish, now=now or timezone.now())


def for_deployment(deployment: Deployment, *, now: datetime) -> list[OfferView]:
    """`ranked` for what a deployment was launched with; nothing for a model that is no longer in the catalogue."""
    d = deployment
    if d.model is None:
        return []
    hours = wished_hours(d.stop_at, now=now)
    return ranked(
        Wish(
            d.model,
            d.context,
            d.allowed_countries,
            d.policy,
            d.purpose,
            d.price_ceiling,
            d.allow_plaintext,
            hours,
        ),
        now=now,
    )


def judge(
    offer: Offer,
    model: Model,
    *,
    context: int,
    allowed: Collection[str],
    price_ceiling: Decimal | None = None,
    purpose: str = Deployment.Purpose.PRODUCTION,
    allow_plaintext: bool = False,
    hours: float = RUN_HOURS,
    concurrency: int = CONCURRENCY,
) -> OfferView:
    """Whether `offer` can serve `model` with `context` tokens where the deployment may stand."""
    wish = Wish(
        model, context, allowed, purpose=purpose, price_ceiling=price_ceiling, allow_plaintext=allow_plaintext, hours=hours,
        concurrency=concurrency,
    )  # fmt: skip
    return Judge(wish, {offer.account_id: offer.account}, history.Histories())(shelf.known_of(offer))


def accounts() -> dict[UUID, ProviderAccount]:
    """Every account, in one query."""
    return {a.pk: a for a in ProviderAccount.objects.order_by("name")}


# -- how the offers came ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Feed:
    """How fresh one account's offers are."""

    account: ProviderAccount
    offers: int
    at: datetime | None
    """When they were last fetched; None: never."""
    stale: bool
    dated: bool
    """They are the snapshot's prices."""

    @property
    def error(self) -> str:
        return self.account.offers_error

    @property
    def failing(self) -> bool:
        return bool(self.error) or (self.stale and not self.dated)


def grounds(views: Iterable[OfferView]) -> list[OfferView]:
    """One offer for each account, country and tier."""
    return list({v.known.ground: v for v in views}.values())


def feeds(views: Sequence[OfferView], *, now: datetime) -> list[Feed]:
    """One for each account that is switched on or has offers."""
    numbers = Counter(v.known.ground for v in views)
    counts: Counter[UUID] = Counter()
    dated = set()
    for v in grounds(views):
        counts[v.account.pk] += numbers[v.known.ground]
        if v.known.dated:
            dated.add(v.account.pk)
    return [
        Feed(
            a,
            counts.get(a.pk, 0),
            a.offers_at,
            stale=bool(a.offers_at and now - a.offers_at > STALE),
            dated=a.pk in dated,
        )
        for a in accounts().values()
        if a.enabled or a.pk in counts
    ]
