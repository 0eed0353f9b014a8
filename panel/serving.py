"""What the server takes from a stranger: how long a head may be and take, how quiet a body, and how much of it.

uvicorn bounds none of these: a head without an end fills the memory, one that trickles holds a connection for ever, and
Django writes a body of any length to the disk before anybody asks who sends it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from django.conf import settings
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

HEAD_MOST = 32 * 1024
"""Bytes of a request's line and headers."""
HEAD_SECONDS = 10.0
"""From its first byte to its end."""
BODY_SECONDS = 20.0
"""Between two pieces of a body."""


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's, with an end to a request's head and to the patience for it."""

    _timer: asyncio.TimerHandle | None = None
    _in_head = True
    _head = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait(HEAD_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:
        self._wait(None)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._in_head:
            if self._timer is None:
                self._wait(HEAD_SECONDS)  # The first byte of another request on a kept connection.
            self._head += len(data)
        else:
            self._wait(BODY_SECONDS)
        super().data_received(data)
        if self._in_head and self._head > HEAD_MOST:
            self._refuse(b"431 Request Header Fields Too Large")

    def on_message_begin(self) -> None:
        self._told = 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(len(name) + len(value))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._wait(BODY_SECONDS)
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._in_head, self._head = True, 0
        self._wait(None)
        super().on_message_complete()

    def _count(self, size: int) -> None:
        self._told += size
        if self._told > HEAD_MOST:
            # httptools hands it on as an error of its parser, which uvicorn answers with 400 and closes.
            raise ValueError("too long a head")

    def _wait(self, seconds: float | None) -> None:
        """From now on be patient for so long; None: whatever comes next is not the client's to do."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if seconds is None else self.loop.call_later(seconds, self._too_slow)

    def _too_slow(self) -> None:
        if not self.transport.is_closing():
            self._refuse(b"408 Request Timeout")

    def _refuse(self, status: bytes) -> None:
        if self.transport.is_closing():
            return
        if self.cycle is None or self.cycle.response_complete:
            self.transport.write(
                b"HTTP/1.1 " + status + b"\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
            )
        self.transport.close()


class BoundedBody:
    """An ASGI application that hands on no more of a body than `REQUEST_BODY_MOST`."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        most = settings.REQUEST_BODY_MOST
        if _announced(scope) > most:
            return await _too_long(send)
        read, begun = 0, False

        async def bounded() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > most:
                raise _TooLong
            return message

        async def noted(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._app(scope, bounded, noted)
        except _TooLong:
            if not begun:
                await _too_long(send)


class _TooLong(Exception):
    pass


def _announced(scope: Message) -> int:
    told = dict(scope["headers"]).get(b"content-length", b"0")
    return int(told) if told.isdigit() and len(told) < 20 else 0


async def _too_long(send: Send) -> None:
    text = b"The request is too long.\n"
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": 413, "headers": headers})
    await send({"type": "http.response.body", "body": text})
