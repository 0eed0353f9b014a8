"""Whether an offer suits a wish, and if not, why: in sentences for whoever looks at it greyed."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import NamedTuple
from urllib.parse import urlsplit
from uuid import UUID

from django.conf import settings

from deployments import endpoints, history, public_prices, rank, residency
from deployments.catalog import Model
from deployments.fit import CONCURRENCY, Fit, fit
from deployments.models import Deployment, Offer, ProviderAccount
from deployments.models.offer import quote_values
from deployments.pricing import Price
from deployments.providers.base import Quote
from deployments.shelf import Known
from deployments.tiers import BALANCED

RUN_HOURS = 24.0
"""How long a run without a stop date must be able to last at the least."""
COMMUNITY = "community"


class OfferView(NamedTuple):
    """An offer and whether it suits; `reasons` say why not, in sentences."""

    known: Known
    account: ProviderAccount
    reasons: tuple[str, ...]
    verdict: residency.Verdict
    fit: Fit
    history: rank.History | None

    @property
    def suitable(self) -> bool:
        return not self.reasons

    @property
    def quote(self) -> Quote:
        return self.known.quote

    @property
    def price(self) -> Price:
        return self.known.price

    @property
    def offer(self) -> Offer:
        """The row, made from what is known; no query."""
        k = self.known
        return Offer(
            pk=k.pk, account=self.account, key=k.quote.key, fetched_at=k.fetched_at, available=k.available,
            **quote_values(k.quote),
        )  # fmt: skip

    @property
    def usual_seconds(self) -> float | None:
        """Until it is ready: as we saw it there ourselves, else as is usual for such an offer."""
        own = self.history.seconds_to_ready if self.history else None
        return own or self.known.quote.usual_seconds_to_ready

    @property
    def why(self) -> tuple[rank.Reason, ...]:
        """What speaks for it and against it."""
        return rank.reasons(self.quote, history=self.history)


@dataclass(frozen=True, slots=True)
class Wish:
    """What an offer is judged for."""

    model: Model
    context: int
    allowed: Collection[str]
    policy: str = Deployment.Policy.RELIABILITY
    purpose: str = Deployment.Purpose.PRODUCTION
    price_ceiling: Decimal | None = None
    allow_plaintext: bool = False
    hours: float = RUN_HOURS
    """How long it is to run without a break."""
    concurrency: int = CONCURRENCY


class _Ground(NamedTuple):
    """What offers of one account, place and tier share."""

    account: ProviderAccount
    verdict: residency.Verdict
    reasons: tuple[str, ...]


class Judge:
    """Judges offers for one wish. What many offers share, the ground they stand on and their GPU, is judged once."""

    def __init__(
        self, wish: Wish, accounts: Mapping[UUID, ProviderAccount], histories: history.Histories
    ) -> None:
        self.wish, self.accounts, self.histories = wish, accounts, histories
        self._grounds: dict[int, _Ground] = {}
        self._fits: dict[int, Fit] = {}
        self._any_history = bool(histories)
        # A little below the ceiling; to the last digit it is asked in Decimal.
        self._dear = math.inf if wish.price_ceiling is None else float(wish.price_ceiling) - 1e-6

    def __call__(self, known: Known) -> OfferView:
        # Called for thousands of offers while somebody waits: sentences are made only where one is needed.
        account, verdict, reasons = self._grounds.get(known.ground) or self._judge_ground(known)
        fits = self._fits.get(known.gpu) or self._judge_fit(known)
        if fits.reasons:
            reasons = reasons + fits.reasons
        if known.hour > self._dear or known.longest < self.wish.hours or not known.available:
            reasons = *reasons, *self._own_reasons(known)
        seen = self.histories.of(known.quote) if self._any_history else None
        return OfferView(known, account, reasons, verdict, fits, seen)

    def _judge_ground(self, known: Known) -> _Ground:
        quote, wish, account = known.quote, self.wish, self.accounts[known.account_id]
        verdict = residency.verdict(quote.country, wish.allowed, own_machine=quote.own_machine)
        reasons = (
            *_account_reasons(account, quote, wish, dated=known.dated),
            *(() if verdict.allowed else (verdict.reason,)),
            *(_not_for_production(quote) if wish.purpose == Deployment.Purpose.PRODUCTION else ()),
        )
        self._grounds[known.ground] = ground = _Ground(account, verdict, reasons)
        return ground

    def _judge_fit(self, known: Known) -> Fit:
        wish = self.wish
        found = fit(wish.model, known.quote, context=wish.context, concurrency=wish.concurrency)
        return self._fits.setdefault(known.gpu, found)

    def _own_reasons(self, known: Known) -> Iterator[str]:
        ceiling, longest, hours = self.wish.price_ceiling, known.quote.max_hours, self.wish.hours
        if not known.available:
            yield "It is no longer offered."
        if ceiling is not None and known.price.hour > ceiling:
            yield f"It costs more than the ceiling of ${ceiling.normalize():f} an hour."
        if longest is not None and longest < hours:
            yield f"It can be rented for {longest:.0f} h at most; this run is to last {hours:.0f} h."


def _account_reasons(account: ProviderAccount, quote: Quote, wish: Wish, *, dated: bool) -> Iterator[str]:
    if dated:
        yield f"A price of {public_prices.words()}, not live: nothing can be rented from it."
    if not account.enabled:
        yield f"The account {account.name} is switched off."
    if account.blocked and not dated:
        yield account.blocked
    if account.backend == ProviderAccount.Backend.LOCAL or account.public_only:
        return
    if wish.model.unpinned:
        yield wish.model.unpinned
    if quote.serverless and quote.tier != BALANCED:
        return
    if not settings.INFERENCE_IMAGE:
        yield "No image is set for rented machines: name one in INFERENCE_IMAGE."
    if is_plaintext(account, quote) and not (wish.allow_plaintext or is_on_this_computer()):
        yield (
            "Its address would be plain HTTP, keys and prompts in the clear: allow that for this deployment, "
            "or set INFERENCE_IMAGE_TLS with an image whose door speaks TLS."
        )


def is_plaintext(account: ProviderAccount, quote: Quote) -> bool:
    """Whether its endpoint would be reached without TLS: a raw port, and an image that has none of its own."""
    return account.backend == ProviderAccount.Backend.VAST and not settings.INFERENCE_IMAGE_TLS


def is_on_this_computer() -> bool:
    """Whether what Vast.ai's address rents stands on this computer, and may be spoken to without TLS.

    It is what `endpoints.check_url` lets pass later: ALLOW_INSECURE_ENDPOINTS allows no plain HTTP to others.
    """
    host = urlsplit(settings.VAST_API_BASE_URL).hostname or ""
    return settings.ALLOW_INSECURE_ENDPOINTS and endpoints.is_own(host)


def _not_for_production(quote: Quote) -> Iterator[str]:
    if quote.interruptible:
        yield "A higher bid takes it away at any moment: not for production."
    elif quote.tier == COMMUNITY:
        yield "A community host, and nobody answers for its uptime: not for production."
