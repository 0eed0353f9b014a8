"""The cheapest offer of now that is in no respect worse than what stands: rank, reliability, place and purpose.

Offers are judged by `judging`, as the Launch page judges them: what residency or purpose forbids never comes here,
nor does a dated price. For each wish only those are kept that no cheaper one is as good as.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from threading import Lock
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
    """Of one GPU: the engine takes nothing of a second."""

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
    return Good(place.standing, place.trust, _reliability(case.quote), 0 if smaller else case.quote.vram_mb)


def _reliability(quote: Quote) -> float:
    """As the provider states it; who answers for it with an SLA states nothing lower than anybody."""
    if quote.reliability is not None:
        return quote.reliability
    return 1.0 if quote.sla else 0.0


class _Line:
    """One wish's offers of one group, looked through from the cheapest on and only as far as anybody asks."""

    def __init__(self, known: Sequence[Known], judge: Judge) -> None:
        self.known, self.judge, self.at, self.lock = known, judge, 0, Lock()
        self.kept: list[_Kept] = []
        """Those that no cheaper one is as good as."""

    def cheapest(self, want: Want) -> Known | None:
        # Requests of one process run in threads, and share it.
        with self.lock:
            return self._cheapest(want, float(want.below))

    def _cheapest(self, want: Want, below: float) -> Known | None:
        for k in self.kept:
            if k.hour < below and k.good.as_good_as(want.good):
                return k.known
        while self.at < len(self.known) and self.known[self.at].hour < below:
            known = self.known[self.at]
            self.at += 1
            good = self._good(known)
            if good is None or any(k.good.as_good_as(good) for k in self.kept):
                continue
            self.kept.append(_Kept(known.hour, good, known))
            if good.as_good_as(want.good):
                return known
        return None

    def _good(self, known: Known) -> Good | None:
        """None: it does not suit. What failed us there counts against it; that it worked counts for nothing here."""
        view = self.judge(known)
        if view.reasons or known.quote.own_machine:
            return None
        standing, trust = known.place
        if view.history is not None:
            seen = rank.place(known.quote, view.history)
            standing, trust = min(standing, seen.standing), min(trust, seen.trust)
        return Good(standing, trust, _reliability(known.quote), known.quote.vram_mb)


@dataclass(slots=True)
class _Stall:
    """What was sorted out of the same offers before. It holds while what it was made of is the same."""

    made_of: object
    groups: dict[str, list[Known]]
    lines: dict[tuple[object, ...], _Line]


_stall = _Stall(None, {}, {})
WISHES = 1024
"""How many lines a process keeps."""


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
        self._stall = _opened([known for a, known in some if a.pk in fresh], (made_of, fresh))

    def cheapest(self, case: Case, want: Want) -> Choice | None:
        """The cheapest offer that suits the deployment and is as good as `want` says; None without any."""
        key = (want.group, *_wish_key(case, want.concurrency))
        line = self._stall.lines.get(key) or self._open(case, want, key)
        known = line.cheapest(want)
        if known is None or (case.price_ceiling is not None and known.price.hour > case.price_ceiling):
            return None
        account = self.accounts[known.account_id]
        return Choice(
            known.pk, known.quote, known.price.hour, described(account.backend, known.quote.tier).name, account.name,
            account.offers_at or known.fetched_at, self.boot(account.backend, known.quote),
        )  # fmt: skip

    def _open(self, case: Case, want: Want, key: tuple[object, ...]) -> _Line:
        wish = Wish(
            case.model, case.context, case.allowed, purpose=case.purpose, allow_plaintext=case.allow_plaintext,
            concurrency=want.concurrency,
        )  # fmt: skip
        lines = self._stall.lines
        if len(lines) >= WISHES:
            lines.clear()
        lines[key] = line = _Line(
            self._stall.groups.get(want.group, ()), Judge(wish, self.accounts, self.histories)
        )
        return line


def _opened(offers: list[Sequence[Known]], made_of: tuple[object, object]) -> _Stall:
    global _stall
    stall = _stall
    if made_of[0] is None or stall.made_of != made_of:
        stall = _Stall(made_of, {ON: [], BID: [], ZERO: []}, {})
        for known in sorted((k for some in offers for k in some), key=lambda k: k.hour):
            stall.groups[group_of(known.quote)].append(known)
        _stall = stall
    return stall


def _wish_key(case: Case, concurrency: int) -> tuple[object, ...]:
    return (
        case.model.key,
        case.context,
        case.allowed,
        case.purpose,
        case.allow_plaintext,
        concurrency,
    )
