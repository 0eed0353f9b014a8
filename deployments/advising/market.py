"""The cheapest offer of now that is in no respect worse than what stands: rank, reliability, place and purpose.

Offers are judged by `judging`, as the Launch page judges them: what residency or purpose forbids never comes here,
nor does a dated price. For each wish only those are kept that no cheaper one is as good as.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import NamedTuple
from uuid import UUID

from deployments import rank
from deployments.advising.case import Boot, Case, Choice
from deployments.history import Histories
from deployments.judging import Judge, Wish
from deployments.models import ProviderAccount
from deployments.providers.base import Quote
from deployments.shelf import Known
from deployments.tiers import described

FRESH = timedelta(minutes=10)
"""Offers that were confirmed longer ago are no offers of now."""


class Good(NamedTuple):
    """How good an offer is; one is as good as another when no part is lower."""

    standing: int
    trust: float
    reliability: float
    vram_mb: int

    def as_good_as(self, other: Good) -> bool:
        return (
            self.standing >= other.standing
            and self.trust >= other.trust
            and self.reliability >= other.reliability
            and self.vram_mb >= other.vram_mb
        )


class _Kept(NamedTuple):
    hour: float
    good: Good
    known: Known


@dataclass(frozen=True, slots=True)
class Want:
    """What a move looks for."""

    concurrency: int
    below: Decimal
    """USD per hour, all-in; nothing as dear as this."""
    group: str
    """ON, BID or ZERO."""
    good: Good


ON, BID, ZERO = "on", "bid", "zero"


def group_of(quote: Quote) -> str:
    """Always on, taken away by a higher bid, or asleep while nobody asks."""
    if quote.serverless and not quote.workers_min:
        return ZERO
    return BID if quote.interruptible else ON


def good_of(case: Case, *, smaller: bool = False) -> Good:
    """What an offer must be at least to be as good as what stands."""
    place = case.place
    return Good(place.standing, place.trust, _reliability(case.quote), 0 if smaller else _vram(case.quote))


def _reliability(quote: Quote) -> float:
    """As the provider states it; who answers for it with an SLA states nothing lower than anybody."""
    if quote.reliability is not None:
        return quote.reliability
    return 1.0 if quote.sla else 0.0


def _vram(quote: Quote) -> int:
    """Of one GPU: the engine takes nothing of a second."""
    return quote.vram_mb


@dataclass(slots=True)
class _Stall:
    """What was sorted out of the same offers before. It holds while what it was made of is the same."""

    made_of: object
    known: list[Known]
    kept: dict[tuple[object, ...], dict[str, list[_Kept]]]


_stall = _Stall(None, [], {})
WISHES = 512
"""How many wishes' best offers a process keeps."""


class Market:
    """The offers of now. `boot` says how long a start takes at a provider's tier.

    `made_of` is equal to that of another market whose offers are judged alike: then nothing is judged twice.
    """

    def __init__(
        self, offers: Iterable[Sequence[Known]], accounts: Mapping[UUID, ProviderAccount], histories: Histories,
        boot: Callable[[str, Quote], Boot], *, now: datetime, made_of: object = None,
    ) -> None:  # fmt: skip
        self.accounts, self.histories, self.boot = accounts, histories, boot
        fresh = frozenset(pk for pk, a in accounts.items() if a.offers_at and now - a.offers_at <= FRESH)
        some = [(accounts[known[0].account_id], known) for known in offers if known]
        self.stale = sorted(a.name for a, _ in some if a.pk not in fresh)
        """Accounts whose offers are too old to be advised."""
        self._stall = self._opened([known for a, known in some if a.pk in fresh], (made_of, fresh))
        self._found: dict[tuple[object, ...], Known | None] = {}

    @staticmethod
    def _opened(offers: list[Sequence[Known]], made_of: tuple[object, object]) -> _Stall:
        global _stall
        if made_of[0] is None or _stall.made_of != made_of:
            known = sorted((k for some in offers for k in some), key=lambda k: k.hour)
            _stall = _Stall(made_of, known, {})
        return _stall

    def cheapest(self, case: Case, want: Want, *, hours: float = 0.0) -> Choice | None:
        """The cheapest offer that suits the deployment and is as good as `want` says; None without any."""
        key = _wish_key(case, want.concurrency)
        memo = (key, want, hours)
        if memo not in self._found:
            kept = self._stall.kept.get(key) or self._keep(case, want.concurrency, key)
            below = float(want.below)
            self._found[memo] = next(
                (
                    k.known for k in kept[want.group]
                    if k.hour < below and k.good.as_good_as(want.good) and k.known.longest >= hours
                ),
                None,
            )  # fmt: skip
        known = self._found[memo]
        if known is None or (case.price_ceiling is not None and known.price.hour > case.price_ceiling):
            return None
        account = self.accounts[known.account_id]
        return Choice(
            known.pk, known.quote, known.price.hour, described(account.backend, known.quote.tier).name, account.name,
            account.offers_at or known.fetched_at, self.boot(account.backend, known.quote),
        )  # fmt: skip

    def _keep(self, case: Case, concurrency: int, key: tuple[object, ...]) -> dict[str, list[_Kept]]:
        wish = Wish(
            case.model, case.context, case.allowed, purpose=case.purpose, allow_plaintext=case.allow_plaintext,
            concurrency=concurrency,
        )  # fmt: skip
        judge = Judge(wish, self.accounts, self.histories)
        groups: dict[str, list[_Kept]] = {ON: [], BID: [], ZERO: []}
        for offer in self._suitable(judge):
            kept = groups[group_of(offer.known.quote)]
            if not any(k.good.as_good_as(offer.good) for k in kept):
                kept.append(offer)
        if len(self._stall.kept) >= WISHES:
            self._stall.kept.clear()
        self._stall.kept[key] = groups
        return groups

    def _suitable(self, judge: Judge) -> Iterator[_Kept]:
        """The cheapest first. What failed us there counts against it; that it worked counts for nothing here."""
        for known in self._stall.known:
            view = judge(known)
            quote = known.quote
            if view.reasons or quote.own_machine:
                continue
            standing, trust = known.place
            if view.history is not None:
                seen = rank.place(quote, view.history)
                standing, trust = min(standing, seen.standing), min(trust, seen.trust)
            yield _Kept(known.hour, Good(standing, trust, _reliability(quote), _vram(quote)), known)


def _wish_key(case: Case, concurrency: int) -> tuple[object, ...]:
    return (
        case.model.key,
        case.context,
        case.allowed,
        case.purpose,
        case.allow_plaintext,
        concurrency,
    )
