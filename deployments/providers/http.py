"""The providers' REST by httpx: one request, its answer, and what a failed connection means.

    not connected                     Unavailable: nothing was sent
    connected, and then no answer     Unknown for what changes something, else Unavailable

No request is repeated and no redirect is followed. Texts of errors name the host, never a path, key or body.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any
from urllib.parse import urlsplit

import httpx

from deployments.providers.base import ProviderError, Unavailable, Unknown

CONNECT_SECONDS = 5.0
READ_SECONDS = 15.0
"""For an answer to a call that reads."""
CHANGE_SECONDS = 30.0
"""For an answer to a call that changes something: giving up early leaves an unclear machine."""
BODY_LIMIT = 32 * 1024**2

_NOT_SENT = (
    httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError, httpx.UnsupportedProtocol,
    httpx.InvalidURL,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    """By any case of the name."""
    content: bytes = field(repr=False)
    """It may hold a machine's environment, in clear."""

    def json(self) -> Any:
        """Raises ValueError for what is not JSON."""
        try:
            return json.loads(self.content)
        except RecursionError:
            raise ValueError("too deep") from None


def request(
    method: str, url: str, *, headers: Mapping[str, str], query: Mapping[str, str] | None = None, body: Any = None,
    changes: bool,
) -> Answer:  # fmt: skip
    """Send it once and read the whole answer, of any status. Raises Unavailable or Unknown, nothing else."""
    seconds = CHANGE_SECONDS if changes else READ_SECONDS
    with _sent(method, url, headers, query, body, seconds, changes=changes) as response:
        content = b"".join(_bounded(response, time.monotonic() + seconds, changes=changes))
        return Answer(response.status_code, response.headers, content)


def read_for(
    url: str, *, headers: Mapping[str, str], query: Mapping[str, str], seconds: float, quiet: float, limit: int,
    enough: Callable[[bytes], bool],
) -> Answer:  # fmt: skip
    """What a stream that never ends says within `seconds`, until it is quiet, `limit` bytes or `enough`."""
    deadline, content = time.monotonic() + seconds, b""
    with _sent("GET", url, headers, query, None, quiet, changes=False) as response:
        try:
            for chunk in response.iter_bytes():
                content += chunk
                if time.monotonic() > deadline or len(content) >= limit or enough(content):
                    break
        except httpx.ReadTimeout:
            pass  # Silence is the usual end.
        return Answer(response.status_code, response.headers, content[:limit])


@contextmanager
def _sent(
    method: str, url: str, headers: Mapping[str, str], query: Mapping[str, str] | None, body: Any, seconds: float,
    *, changes: bool,
) -> Iterator[httpx.Response]:  # fmt: skip
    host = urlsplit(url).hostname
    try:
        timeout = httpx.Timeout(seconds, connect=CONNECT_SECONDS)
        client = _one_way() if changes else _kept()
        with client.stream(
            method, url, headers=headers, params=query, json=body, timeout=timeout
        ) as response:
            yield response
    except _NOT_SENT as e:
        raise Unavailable(f"{host} was not reached ({type(e).__name__}). Nothing was sent.") from e
    except httpx.HTTPError as e:
        raise failed(f"{host} did not answer ({type(e).__name__}).", changes=changes) from e


def failed(message: str, *, changes: bool) -> ProviderError:
    """The error of a call without an answer that can be believed."""
    return Unknown(f"{message} It may have been done.") if changes else Unavailable(message)


def _bounded(response: httpx.Response, deadline: float, *, changes: bool) -> Iterator[bytes]:
    size = 0
    for chunk in response.iter_bytes():
        size += len(chunk)
        if size > BODY_LIMIT or time.monotonic() > deadline:
            raise failed("The answer is too long.", changes=changes)
        yield chunk


@cache
def _kept() -> httpx.Client:
    """For reading: connections are kept and shared by all threads."""
    return httpx.Client(limits=httpx.Limits(max_connections=50, max_keepalive_connections=10))


@cache
def _one_way() -> httpx.Client:
    """For changes: each on a connection of its own.

    A kept one may be closed by the server just as the request leaves, and then nobody knows whether it was done.
    """
    return httpx.Client(limits=httpx.Limits(max_connections=50, max_keepalive_connections=0))
