"""Who asks now: the request's id and where it came from, for the audit and the logs."""

from __future__ import annotations

import ipaddress
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace

from django.conf import settings
from django.http import HttpRequest

_REQUEST_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{7,35}")


@dataclass(frozen=True, slots=True)
class RequestContext:
    """`address` and `user_agent` are personal data: they go to the audit's `Origin` and nowhere else."""

    request_id: str
    address: str
    user_agent: str


request_context: ContextVar[RequestContext | None] = ContextVar("request_context", default=None)
"""Set by RequestIdMiddleware for the time of a request; None in workers and commands."""


@contextmanager
def unaddressed(*, when: bool = True) -> Iterator[None]:
    """What is audited in here leaves no address behind: whoever erases themselves leaves none."""
    here = request_context.get()
    if not when or here is None:
        yield
        return
    token = request_context.set(replace(here, address="", user_agent=""))
    try:
        yield
    finally:
        request_context.reset(token)


def context_of(request: HttpRequest) -> RequestContext:
    """The request's id (the proxy's, when it is well-formed, else a new one), address and user agent."""
    given = request.headers.get("X-Request-ID", "")
    return RequestContext(
        request_id=given if _REQUEST_ID.fullmatch(given) else str(uuid.uuid4()),
        address=client_address(request),
        user_agent=request.headers.get("User-Agent", "")[:200],
    )


def client_address(request: HttpRequest) -> str:
    """Who is at the other end: REMOTE_ADDR, or behind trusted proxies (`REGIA_TRUSTED_PROXY`) whom they name.

    X-Forwarded-For is read from the right: whatever stands left of the first address that is no trusted
    proxy was written by the client and proves nothing. Empty when there is no address (a Unix socket).
    """
    address = _ip(request.META.get("REMOTE_ADDR", ""))
    if not settings.TRUSTED_PROXIES or not _trusted(address):
        return address
    for hop in reversed(request.META.get("HTTP_X_FORWARDED_FOR", "").split(",")):
        if not (named := _ip(hop.strip())):
            break
        address = named
        if not _trusted(named):
            break
    return address


def _ip(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text.partition("%")[0]))
    except ValueError:
        return ""


def _trusted(address: str) -> bool:
    return bool(address) and any(ipaddress.ip_address(address) in proxy for proxy in settings.TRUSTED_PROXIES)
