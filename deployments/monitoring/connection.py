"""How a machine is asked: what one request needs to know, the sessions, and what went wrong, in words."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from threading import Thread
from time import monotonic

import aiohttp
from django.conf import settings

from deployments import certificates
from deployments.certificates import Pin
from deployments.endpoints import GuardedResolver, Refused
from deployments.models import Instance

TIMEOUT = aiohttp.ClientTimeout(total=5.0, connect=2.0)
AT_ONCE, AT_MOST = 100, 500
"""Connections that are worked on at the same time, and with those that hang. Each is answered sooner for the first; a
process has a thousand files or more, so there is a second."""
HANGS = 1.0
"""Seconds without an answer, after which one's place is given to another."""
TOGETHER = 0.2
"""Seconds that answers are gathered for, so that they are written in few transactions."""


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
    gate, most = asyncio.Semaphore(AT_ONCE), asyncio.Semaphore(AT_MOST)

    async def one(target: T, session: aiohttp.ClientSession) -> R:
        async with most:
            async with gate:
                asked = asyncio.ensure_future(ask(session, target))
                await asyncio.wait([asked], timeout=HANGS)
            return await asked

    async with open_session(loopback=True) as own, open_session(loopback=False) as strict:
        return await asyncio.gather(*(one(t, own if t.loopback else strict) for t in targets))


def answers[K: Hashable, T: Target, R](
    targets: Mapping[K, T], ask: Callable[[aiohttp.ClientSession, T], Awaitable[R]]
) -> Iterator[dict[K, R]]:
    """`ask` all of them at once and yield what came, as it comes: who hangs keeps nobody else's answer waiting.

    `ask` does not raise. The loop runs in a thread of its own, which touches no row.
    """
    if not targets:
        return
    box: SimpleQueue[tuple[K, R] | BaseException | None] = SimpleQueue()
    thread = Thread(target=_ask_into, args=(box, targets, ask), daemon=True)
    thread.start()
    try:
        while found := _gathered(box):
            yield found
    finally:
        thread.join()


def _ask_into[K: Hashable, T: Target, R](
    box: SimpleQueue[tuple[K, R] | BaseException | None],
    targets: Mapping[K, T],
    ask: Callable[[aiohttp.ClientSession, T], Awaitable[R]],
) -> None:
    keys = {id(target): key for key, target in targets.items()}

    async def tell(session: aiohttp.ClientSession, target: T) -> None:
        box.put((keys[id(target)], await ask(session, target)))

    try:
        asyncio.run(ask_all(list(targets.values()), tell))
        box.put(None)
    except BaseException as e:  # it is raised again where the answers are read
        box.put(e)


def _gathered[K: Hashable, R](box: SimpleQueue[tuple[K, R] | BaseException | None]) -> dict[K, R]:
    """What has come by now, at least one; empty at the end."""
    found: dict[K, R] = {}
    item = box.get()
    until = monotonic() + TOGETHER
    while item is not None:
        if isinstance(item, BaseException):
            raise item
        found[item[0]] = item[1]
        try:
            item = box.get(timeout=max(0.0, until - monotonic()))
        except Empty:
            return found
    if found:
        box.put(None)
    return found


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
