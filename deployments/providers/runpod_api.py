"""RunPod's REST v2 and its public GraphQL, one call at a time: what each answer means as our errors.

Source: RunPod's REST v2, RFC 9457 problems. Only a JSON problem is a definite no: a page in HTML comes from
something in between, and says nothing about what was done.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

from deployments.providers import http
from deployments.providers.base import (
    Gone,
    NoCapacity,
    ProviderError,
    RateLimited,
    Rejected,
    Secret,
    Unauthorized,
    Unavailable,
)
from deployments.providers.http import Answer, failed
from deployments.providers.runpod_pace import PACE
from deployments.providers.values import mask, text

Row = Mapping[str, Any]

LOCKED = "The pod is locked in RunPod's console: unlock it there, then it can be stopped and ended."
_TOO_MANY = "RunPod has had too many requests; nothing was done."
_AGENT = "regia/1"
_CAPACITY = re.compile(
    r"no longer any instances|no instances|capacity|(un|not )available|out of stock"
    r"|(no|not enough|insufficient) (free )?(gpu|machine|resource|worker)s?",
    re.IGNORECASE,
)
_LOCK = re.compile(r"\block(ed)?\b", re.IGNORECASE)
_POOL = re.compile(r"\b(pools?|gpu types?|data ?cent(er|re)s?)\b", re.IGNORECASE)


class Api:
    """One key at one address."""

    def __init__(self, key: Secret | None, base: str) -> None:
        self._key = key
        self._base = base.rstrip("/")
        digest = hashlib.sha256(key.reveal().encode()).hexdigest() if key else ""
        self._who = f"{self._base} {digest}"

    def read(self, path: str, query: Mapping[str, str] | None = None, *, machine: str = "") -> Row:
        """The JSON object that a GET answers. `machine`: whose 404 means that it is gone."""
        answer = self._send("GET", path, query=query, changes=False)
        if answer.status != 200:
            raise self._refusal(answer, changes=False, machine=machine)
        return _object(answer, changes=False)

    def change(
        self, method: str, path: str, body: Row | None = None, *, machine: str = "", urgent: bool = False,
        deadline: float | None = None, secrets: Collection[str] = (),
    ) -> Row:  # fmt: skip
        """Send one request that changes something, once; {} for a 204. Anything but a clean yes raises.

        `deadline` is a `time.monotonic()` moment. `secrets` are kept out of the error's text.
        """
        answer = self._send(method, path, body=body, changes=True, urgent=urgent, deadline=deadline)
        if answer.status == 204:
            return {}
        if answer.status not in (200, 201, 202):
            raise self._refusal(answer, changes=True, machine=machine, secrets=secrets)
        return _object(answer, changes=True)

    def stream(
        self, path: str, query: Mapping[str, str], *, machine: str, seconds: float, quiet: float, limit: int,
        enough: Callable[[bytes], bool],
    ) -> bytes:  # fmt: skip
        """The beginning of an event stream; see `http.read_for`."""
        headers = self._headers()
        PACE.enter(self._who)
        answer = http.read_for(
            f"{self._base}{path}", headers=headers, query=query, seconds=seconds, quiet=quiet, limit=limit,
            enough=enough,
        )  # fmt: skip
        PACE.told(self._who, answer.headers, status=answer.status)
        if answer.status != 200:
            raise self._refusal(answer, changes=False, machine=machine)
        if not answer.headers.get("Content-Type", "").startswith("text/event-stream"):
            raise Unavailable("RunPod's answer is not a log.")
        return answer.content

    def public(self, query: str) -> Row:
        """The `data` of a GraphQL query that needs no key. A part of it is no answer."""
        headers = {"User-Agent": _AGENT}
        url = f"{self._base}/graphql"
        answer = http.request("POST", url, headers=headers, body={"query": query}, changes=False)
        if answer.status != 200:
            raise self._refusal(answer, changes=False)
        payload = _object(answer, changes=False)
        data = payload.get("data")
        if payload.get("errors") or not isinstance(data, Mapping):
            raise Unavailable("RunPod's public catalogue cannot be read.")
        return data

    def _send(
        self, method: str, path: str, *, query: Mapping[str, str] | None = None, body: Row | None = None, changes: bool,
        urgent: bool = False, deadline: float | None = None,
    ) -> Answer:  # fmt: skip
        headers = self._headers()
        PACE.enter(self._who, urgent=urgent)
        if deadline is not None and time.monotonic() > deadline:
            raise Unavailable("The deadline of this request has passed; nothing was sent.")
        url = f"{self._base}{path}"
        answer = http.request(method, url, headers=headers, query=query, body=body, changes=changes)
        wait = PACE.told(self._who, answer.headers, status=answer.status)
        if answer.status == 429:
            raise RateLimited(_TOO_MANY, retry_after=wait)
        return answer

    def _headers(self) -> dict[str, str]:
        if self._key is None:
            raise Unauthorized("This account has no key.")
        key = self._key.reveal()
        if not key.isascii() or not key.isprintable() or " " in key:
            raise Unauthorized("The account's key has characters that no key of RunPod has.")
        # The default agents of HTTP libraries are refused by what stands before the API.
        return {"Authorization": f"Bearer {key}", "User-Agent": _AGENT, "Accept": "application/json"}

    def _refusal(
        self, answer: Answer, *, changes: bool, machine: str = "", secrets: Collection[str] = ()
    ) -> ProviderError:
        own = [self._key.reveal()] if self._key else []
        return refusal(answer, changes=changes, machine=machine, secrets=[*own, *secrets])

    def __repr__(self) -> str:
        return f"Api({self._base!r})"


def refusal(
    answer: Answer, *, changes: bool, machine: str = "", secrets: Collection[str] = ()
) -> ProviderError:
    """The error that an answer other than yes stands for."""
    status = answer.status
    if status == 401:
        return Unauthorized("RunPod refused the account's key.")
    if status == 429:
        return RateLimited(_TOO_MANY)
    problem = _problem(answer)
    # 408: somebody gave up waiting, which says nothing of what was done.
    if not 400 <= status < 500 or status == 408 or problem is None:
        return failed(f"RunPod answered {status}, and that says nothing.", changes=changes)
    said = mask(_words(problem), secrets) or f"status {status}"
    if status == 403:
        return _forbidden(said)
    if status == 404:
        return _missing(said, changes=changes, machine=machine)
    if status == 402:
        return Rejected(f"The money at RunPod does not suffice: {said}")
    if machine and _LOCK.search(said):
        return Rejected(LOCKED)
    if status in (400, 409) and changes and _CAPACITY.search(said):
        return NoCapacity(f"RunPod has none left: {said}")
    return Rejected(f"RunPod refused it: {said}")


def _forbidden(said: str) -> ProviderError:
    if _LOCK.search(said):
        return Rejected(LOCKED)
    if _POOL.search(said):
        # Of a create: this account may not have that GPU, which is no fault of the key.
        return Rejected(f"RunPod does not give this account that GPU: {said}")
    return Unauthorized(f"The account's key lacks a right at RunPod: {said}")


def _missing(said: str, *, changes: bool, machine: str) -> ProviderError:
    if machine:
        return Gone(f"RunPod has no {machine}.")
    return (
        Rejected(f"RunPod refused it: {said}") if changes else Unavailable(f"RunPod has no such page: {said}")
    )


def _object(answer: Answer, *, changes: bool) -> Row:
    """The JSON object of a good answer; anything else is a failed call."""
    try:
        payload = answer.json()
    except ValueError:
        payload = None
    if not isinstance(payload, Mapping):
        raise failed("RunPod's answer cannot be read.", changes=changes)
    return payload


def _problem(answer: Answer) -> Row | None:
    try:
        payload = answer.json()
    except ValueError:
        return None
    return payload if isinstance(payload, Mapping) else None


def _words(problem: Row) -> str:
    said = text(problem.get("detail"), most=200) or text(problem.get("title"), most=80)
    errors = problem.get("errors")
    listed = [text(e, most=100) for e in errors[:2]] if isinstance(errors, list) else []
    return " ".join([said, *listed]).strip()


def rows_of(payload: Row, name: str) -> list[Any]:
    """The wrapped list of an answer. Without one it is a failed call, never an empty list."""
    rows = payload.get(name)
    if not isinstance(rows, list):
        raise Unavailable(f"RunPod's answer has no list of {name}.")
    return rows
