"""How every call to a provider is made: past the breaker of its account and kind, and counted there.

A kind of call that fails four times in a row is asked more seldom, at random moments within a growing span
(full jitter), and closes with its first success. A rate limit holds back every kind of the account, unless its
provider counts each kind by itself. Nothing
ever holds back the end of a machine: its retries are spaced by `decide`.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from datetime import datetime, timedelta

from django.db import DatabaseError
from django.db.models import F

from deployments.models import Breaker, ProviderAccount
from deployments.providers.base import ProviderError, RateLimited, Rejected, Unavailable

logger = logging.getLogger(__name__)

Call = Breaker.Call

FAILURES = 4
"""In a row, before a kind of call is held back."""
BASE = timedelta(seconds=10)
"""The first span within which the next try falls; it doubles with each further failure."""
MOST = timedelta(minutes=5)
MOST_LIST = timedelta(minutes=1)
"""Lists are how a machine's end is proved: they are never given up for longer."""
RETRY_AFTER_MOST = timedelta(minutes=10)
"""The longest that a provider's Retry-After is obeyed."""
ONE_TRY = timedelta(seconds=30)
"""How long the one call that tries a half-open breaker keeps the others waiting."""


class Held(Unavailable):
    """The breaker held the call back: nothing was sent."""


def ask[T](account: ProviderAccount, kind: Call, send: Callable[[], T], *, now: datetime) -> T:
    """The answer of `send`, one call of `kind`. Raises what it raises, and Held when it was not made.

    A definite no is an answer: the provider is well. The rows are written best-effort, because an answer
    must not be lost over them.
    """
    row = _pass(account, kind, now=now)
    try:
        answer = send()
    except Rejected:
        _well(row)
        raise
    except Exception as e:
        _failed(account, kind, e, now=now)
        raise
    _well(row)
    return answer


def held_for(account: ProviderAccount, kind: Call, *, now: datetime) -> timedelta | None:
    """How long calls of this kind are still held back; None: they are not."""
    row = Breaker.objects.filter(account=account, call=kind).first()
    return _left(row, now=now) if row and kind is not Call.END else None


def _left(row: Breaker, *, now: datetime) -> timedelta | None:
    if row.open_until is None:
        return None
    left = row.open_until - now
    # A moment that lies too far ahead was set by a clock that has been put back since.
    return left if timedelta() < left <= RETRY_AFTER_MOST else None


def _pass(account: ProviderAccount, kind: Call, *, now: datetime) -> Breaker | None:
    """The breaker that let the call pass; None while nothing has failed yet. Raises Held."""
    row = Breaker.objects.filter(account=account, call=kind).first()
    if row is None or kind is Call.END:
        return row
    if left := _left(row, now=now):
        raise Held(f"{account.name} is not asked again for {left.total_seconds():.0f} s: {row.error}")
    if row.failures < FAILURES:
        return row
    # Half open: one call tries, the others wait for what it finds.
    mine = Breaker.objects.filter(pk=row.pk, open_until=row.open_until)
    if not mine.update(open_until=now + ONE_TRY):
        raise Held(f"{account.name} is being asked by somebody else: {row.error}")
    return row


def _well(row: Breaker | None) -> None:
    if row is None or not (row.failures or row.open_until):
        return
    try:
        Breaker.objects.filter(pk=row.pk).update(failures=0, open_until=None, error="")
    except DatabaseError:
        logger.warning("%s: that it answers again could not be noted", row)


def _failed(account: ProviderAccount, kind: Call, error: Exception, *, now: datetime) -> None:
    said = _said(error)
    try:
        row, _ = Breaker.objects.get_or_create(account=account, call=kind)
        failures = row.failures + 1
        limited = isinstance(error, RateLimited)
        wait = _wait(kind, failures, error) if failures >= FAILURES or limited else None
        Breaker.objects.filter(pk=row.pk).update(
            failures=F("failures") + 1,
            failed_at=now,
            error=said[:300],
            open_until=now + wait if wait and kind is not Call.END else None,
        )
        if limited and wait and not _counts_apart(account):
            _hold_all(account, kind, now + wait, said, now=now)
    except DatabaseError:
        logger.warning("%s: a failed call could not be noted", account)


def _counts_apart(account: ProviderAccount) -> bool:
    try:
        return account.adapter().traits.limits_apart
    except LookupError:
        return False


def _hold_all(account: ProviderAccount, kind: Call, until: datetime, said: str, *, now: datetime) -> None:
    """A rate limit counts the account's calls of every kind; only ends go on."""
    for other in Call:
        if other in {kind, Call.END}:
            continue
        row, _ = Breaker.objects.get_or_create(account=account, call=other)
        if row.open_until is None or row.open_until < until:
            Breaker.objects.filter(pk=row.pk).update(open_until=until, failed_at=now, error=said[:300])


def _wait(kind: Call, failures: int, error: Exception) -> timedelta:
    if isinstance(error, RateLimited) and error.retry_after is not None:
        return _obeyed(error.retry_after)
    most = MOST_LIST if kind is Call.LIST else MOST
    doublings = min(max(0, failures - FAILURES), 10)
    span: timedelta = min(most, BASE * int(2**doublings))
    return span * random.uniform(0, 1)  # noqa: S311 - it spreads calls, it guards nothing


def _said(error: Exception) -> str:
    if not isinstance(error, ProviderError):
        return f"an answer that cannot be read ({type(error).__name__})"
    asked = error.retry_after if isinstance(error, RateLimited) else None
    if asked and asked > RETRY_AFTER_MOST.total_seconds():
        return f"{error} It asked for {asked:.0f} s; we wait {RETRY_AFTER_MOST.total_seconds():.0f} s."
    return str(error)


def _obeyed(retry_after: float) -> timedelta:
    """Retry-After as a span: what is longer than `RETRY_AFTER_MOST` is cut, what is no number of seconds is 0."""
    if not retry_after > 0:
        return timedelta()
    return timedelta(seconds=min(retry_after, RETRY_AFTER_MOST.total_seconds()))
