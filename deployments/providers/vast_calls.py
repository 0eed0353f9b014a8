"""The calls of the `vastai` SDK, one request each, and their answers as values.

The SDK is imported on the first call (1-2 s, 60 MB). Its retries are off: a create that answered 504 was
sent three times otherwise. It raises raw `requests` errors whose request holds the key, so nothing that it
raises leaves this file.
"""

from __future__ import annotations

import hashlib
import logging
import math
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cache
from typing import Any

from deployments.providers.base import ProviderError, RateLimited, Secret, Unauthorized, Unavailable
from deployments.providers.vast_errors import Answer, meaning
from deployments.providers.vast_pace import PATIENCE, Pace

Act = Callable[[Any], Any]
"""What is asked of a `vastai.VastAI`."""

TIMEOUT = 20.0
SEARCH_TIMEOUT = 40.0
"""Seconds without a byte. A thousand offers are some megabytes."""

_NEVER_SENT = {
    "NewConnectionError", "NameResolutionError", "ConnectTimeout", "ConnectTimeoutError", "InvalidURL", "MissingSchema",
    "InvalidSchema", "InvalidHeader", "InvalidProxyURL",
}  # fmt: skip
"""Errors of requests and urllib3 before a byte of the request has left."""
_WHY = {
    "NewConnectionError": "the connection is refused", "NameResolutionError": "its name is not known",
    "ConnectTimeout": "it does not answer", "ConnectTimeoutError": "it does not answer",
}  # fmt: skip


class Calls:
    """One account's calls. `key` None: without one only the search works."""

    def __init__(self, key: Secret | None, address: str, pace: Pace) -> None:
        self._key = key
        self._address = address.rstrip("/")
        self._pace = pace
        self.who = hashlib.sha256(f"{self._address} {key.reveal() if key else ''}".encode()).hexdigest()

    def read(self, kind: str, act: Act, *, keyless: bool = False) -> Any:
        """The JSON of a call that changes nothing. Raises Unavailable for every answer that is not clear."""
        answer = self._ask(kind, act, keyless=keyless)
        body = answer.body
        refused = isinstance(body, dict) and body.get("success") is False
        if answer.status == 200 and body is not None and not refused:
            return body
        raise self._error(answer, kind, changes=False)

    def change(
        self, kind: str, act: Act, *, deadline: float | None = None, patience: float = PATIENCE,
        secrets: Iterable[str] = (), proof: Callable[[Any], bool] | None = None,
    ) -> Any:  # fmt: skip
        """The JSON of a call that changes something, sent once.

        It is a yes when `proof` of it holds, whatever the status was, or, without one, when it says
        `success`. Raises Unknown for everything that is neither a yes nor a definite no.
        """
        answer = self._ask(kind, act, deadline=deadline, patience=patience)
        body = answer.body if isinstance(answer.body, dict) else {}
        if proof(body) if proof else answer.status == 200 and body.get("success") is True:
            return body
        raise self._error(answer, kind, changes=True, secrets=secrets)

    def _ask(
        self, kind: str, act: Act, *, keyless: bool = False, deadline: float | None = None, patience: float = PATIENCE
    ) -> Answer:  # fmt: skip
        if self._key is None and not keyless:
            raise Unauthorized(
                "This account has no key: without one Vast.ai shows its offers and nothing else."
            )
        api = self._api(SEARCH_TIMEOUT if kind == "search" else TIMEOUT)
        self._pace.enter(self.who, kind, patience=patience)
        if deadline is not None and time.monotonic() > deadline:
            raise Unavailable("The deadline of this create has passed; nothing was sent.")
        answer = _answer(act, api)
        self._pace.leave(self.who, kind)
        return answer

    def _api(self, timeout: float) -> Any:
        key = self._key.reveal() if self._key else ""
        if not (key.isascii() and key.isprintable()) or " " in key:
            raise Unauthorized("The account's key holds characters that no key of Vast.ai has.")
        api = _sdk()(api_key=key, server_url=self._address, retry=1, quiet=True)
        api.client.timeout = timeout
        if not key:
            api.client.api_key = None  # else it sends an empty one
        return api

    def _error(
        self, answer: Answer, kind: str, *, changes: bool, secrets: Iterable[str] = ()
    ) -> ProviderError:
        own = [self._key.reveal()] if self._key else []
        error = meaning(answer, kind, changes=changes, secrets=[*own, *secrets])
        if isinstance(error, RateLimited):
            self._pace.back_off(self.who, kind, error.retry_after)
        return error


@cache
def _sdk() -> Any:
    """The SDK's class. Its logger writes to stderr and past the panel's own settings: both are undone."""
    from vastai import VastAI  # type: ignore[import-untyped]

    logger = logging.getLogger("vastai")
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
    logger.setLevel(logging.CRITICAL)
    logger.propagate = True
    return VastAI


def _answer(act: Act, api: Any) -> Answer:
    try:
        return Answer(200, act(api))
    except Exception as e:
        return _failure(e)


def _failure(error: Exception) -> Answer:
    """What the SDK's exception tells, without keeping it: it holds the request, and that the key."""
    response = getattr(error, "response", None)
    if response is not None:
        return _spoken(response)
    reason = getattr(error.args[0], "reason", None) if error.args else None
    for name in (type(reason).__name__, type(error).__name__):
        if name in _NEVER_SENT:
            return Answer(None, sent=False, why=_WHY.get(name, "its address cannot be used"))
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        return Answer(None, sent=False, why="its certificate is not valid")
    if "Timeout" in type(error).__name__:
        return Answer(None, why="no answer in time")
    if isinstance(error, OSError) and not isinstance(error, ValueError):
        return Answer(None, why="the connection was lost")
    # A JSON error, or the KeyError and TypeError of an SDK that found another shape than it knows.
    return Answer(None, why="an answer that cannot be read")


def _spoken(response: Any) -> Answer:
    body: Any = None
    with suppress(ValueError, RecursionError):
        body = response.json()
    plain = bytes(response.content[:400]).decode(errors="replace")
    # A page is not worth quoting.
    plain = "" if plain.lstrip().startswith("<") else plain
    return Answer(response.status_code, body, plain, _seconds(response.headers.get("Retry-After")))


def _seconds(retry_after: str | None) -> float | None:
    """Retry-After, in seconds or as a date."""
    if not retry_after:
        return None
    with suppress(ValueError):
        seconds = float(retry_after)
        return max(0.0, seconds) if math.isfinite(seconds) else None
    try:
        at = parsedate_to_datetime(retry_after)
    except ValueError:
        return None
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    return max(0.0, (at - datetime.now(UTC)).total_seconds())
