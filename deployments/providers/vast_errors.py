"""What an answer of Vast.ai's API means when it is not a clean yes. Pure.

Source: the contract's gotchas 1, 5 and 8 and its list of contradictions: a wrong key is a 404 `auth_error`
(or a 401), a missing one a 403; an offer that is gone is a 404, 410, 400 or a 200 `no_such_ask`; a 429 is
often plain text; a machine that is gone is a 404 `no_such_instance` or `not_found`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from deployments.providers.base import (
    Gone,
    NoCapacity,
    ProviderError,
    RateLimited,
    Rejected,
    Unauthorized,
    Unavailable,
    Unknown,
)
from deployments.providers.values import mask, text

_KEY_WORDS = {"auth_error", "unauthorized", "invalid_api_key"}
_GONE_WORDS = {"no_such_instance", "not_found", "instance_not_found"}
_RATE_WORDS = {"rate_limit_exceeded", "too_many_requests", "spend_rate_limit", "search_quota_exceeded"}
_NO_OFFER = re.compile(
    r"no_such_ask|no longer available|not available|unavailable|already (been )?rented", re.IGNORECASE
)
_OWN_FAULT = re.compile("internal|server|timeout|exception", re.IGNORECASE)
_ABOUT_REQUEST = {"invalid_args", "invalid_price", "missing_billing", "insufficient_credit"}
"""A 403 with one of these is about the request, not about the key."""
_SAID = 160


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back of one request, as values: no exception of the SDK lives on, with the key in its request."""

    status: int | None
    """None: no answer that can be read."""
    body: Any = field(default=None, repr=False)
    """The JSON; None when it was none."""
    plain: str = field(default="", repr=False)
    """The beginning of a body that is no JSON."""
    retry_after: float | None = None
    sent: bool = True
    """False: nothing left this computer."""
    why: str = ""
    """Without an answer: what happened, in a few words."""

    @property
    def word(self) -> str:
        return text(self.body.get("error"), most=60) if isinstance(self.body, dict) else ""

    @property
    def says_no(self) -> bool:
        """`success: false`, which Vast also answers with a 200, and not because of a fault of its own."""
        no = isinstance(self.body, dict) and self.body.get("success") is False
        return no and not _OWN_FAULT.search(self.word)

    @property
    def said(self) -> str:
        """The API's own words."""
        if not isinstance(self.body, dict):
            return text(self.plain, most=_SAID)
        msg, detail = (text(self.body.get(name), most=_SAID) for name in ("msg", "detail"))
        return msg or detail or self.word


def meaning(
    answer: Answer, kind: str, *, changes: bool, secrets: Iterable[str] = (), now: datetime | None = None
) -> ProviderError:
    """The error that `answer` to a call of this kind stands for. `changes`: the call changes something."""
    said = mask(answer.said, secrets)
    verdict = _definite(answer, kind, said, now or datetime.now(UTC))
    return verdict or _unclear(answer, said, changes=changes)


def _definite(answer: Answer, kind: str, said: str, now: datetime) -> ProviderError | None:
    """The error of an answer that leaves no doubt that nothing was done."""
    status, word = answer.status, answer.word
    if not answer.sent:
        return Unavailable(f"Vast.ai cannot be reached: {answer.why}.")
    if status is None or status >= 500 or status == 408 or (status < 400 and not answer.says_no):
        return None
    if status == 429 or word in _RATE_WORDS:
        return _too_often(answer, said, now)
    if status == 401 or word in _KEY_WORDS:
        return Unauthorized(f"Vast.ai refused the account's key ({word or status}).")
    if not isinstance(answer.body, dict):
        return None
    if status == 403 and word not in _ABOUT_REQUEST:
        return Unauthorized(
            f"The account's key lacks the right for this: {said or 'Vast.ai gives no reason'}"
        )
    if _is_no_capacity(answer, kind):
        return NoCapacity(f"Vast.ai cannot give this offer now: {said or status}")
    if kind != "create" and (word in _GONE_WORDS or (kind == "logs" and status == 404)):
        return Gone(f"Vast.ai has no such machine ({word or status}).")
    if status >= 400 or word:
        return Rejected(f"Vast.ai refused: {said or status}")
    return None


def _is_no_capacity(answer: Answer, kind: str) -> bool:
    if kind == "create" and answer.status in {404, 410}:
        return True
    return kind in {"create", "state"} and bool(_NO_OFFER.search(f"{answer.word} {answer.said}"))


def _too_often(answer: Answer, said: str, now: datetime) -> RateLimited:
    after = answer.retry_after
    if answer.word == "search_quota_exceeded":
        # A quota for the day, which begins anew at midnight UTC.
        midnight = (now + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
        after = (midnight - now).total_seconds()
    return RateLimited(f"Vast.ai is asked too often: {said or 'no reason given'}", retry_after=after)


def _unclear(answer: Answer, said: str, *, changes: bool) -> ProviderError:
    if answer.status is None:
        what = answer.why or "no answer that can be read"
    elif answer.status >= 400:
        what = f"HTTP {answer.status}"
    else:
        what = "an answer that cannot be read"
    what = f"{what}: {said}" if said and isinstance(answer.body, dict) else what
    if changes:
        return Unknown(f"Vast.ai gave no clear answer ({what}). It may have been done.")
    return Unavailable(f"Vast.ai gave no clear answer ({what}).")
