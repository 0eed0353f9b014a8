"""How a machine is asked: what one request needs to know, the sessions, and what went wrong, in words."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import aiohttp
from django.conf import settings

from deployments import certificates
from deployments.certificates import Pin
from deployments.endpoints import GuardedResolver, Refused
from deployments.models import Instance

TIMEOUT = aiohttp.ClientTimeout(total=5.0, connect=2.0)
AT_ONCE = 100


@dataclass(frozen=True, slots=True)
class Target:
    """A machine's endpoint; plain values, so that no row is touched while it is asked."""

    url: str
    key: str = field(repr=False)
    plaintext: bool
    """Its deployment allows plain http to a public address."""
    loopback: bool
    """It may be this computer's own address."""
    pin: Pin | None = None
    """The one certificate that is trusted there; None: those of public authorities."""


def target_of(i: Instance) -> Target:
    loopback = i.offer.own_machine or settings.ALLOW_INSECURE_ENDPOINTS
    # A machine that has a certificate speaks TLS: an address without it is not its own.
    plaintext = i.deployment.allow_plaintext and i.pin is None
    return Target(i.endpoint_url, i.bearer, plaintext, loopback, i.pin)


async def ask_all[T: Target, R](
    targets: Sequence[T], ask: Callable[[aiohttp.ClientSession, T], Awaitable[R]]
) -> list[R]:
    """`ask` each of them, AT_ONCE at a time, on sessions that reach only what they may."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(target: T, session: aiohttp.ClientSession) -> R:
        async with gate:
            return await ask(session, target)

    async with open_session(loopback=True) as own, open_session(loopback=False) as strict:
        return await asyncio.gather(*(one(t, own if t.loopback else strict) for t in targets))


def open_session(*, loopback: bool) -> aiohttp.ClientSession:
    # No keep-alive: llama.cpp's server drops pooled connections (docs/providers.md).
    connector = aiohttp.TCPConnector(resolver=GuardedResolver(loopback=loopback), force_close=True, limit=0)
    return aiohttp.ClientSession(connector=connector, timeout=TIMEOUT, trust_env=False, auto_decompress=False)


TROUBLE = (TimeoutError, aiohttp.ClientError, OSError, ValueError)
"""What a request may raise."""


def trouble(error: BaseException, pin: Pin | None) -> str:
    """What went wrong with a request, without the address and the key."""
    if isinstance(error, Refused):
        return str(error)
    if isinstance(error, TimeoutError):
        return f"no answer within {TIMEOUT.total:.0f} s"
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return certificates.refusal(error, pin)
    if isinstance(error, aiohttp.ClientSSLError):
        return "it does not speak TLS"
    if isinstance(error, aiohttp.ClientConnectorError):
        return "the connection was refused"
    return f"no readable answer ({type(error).__name__})"
