"""The ASGI door: a token stream goes from the server straight to its answer, past Django's handler.

Django's handler and its middleware cost a request several changes of threads, which 100 streams that begin
at once were measured to wait 100 ms for. The rest of the site goes to Django untouched. Where there is no
such door (a test client) `StreamMiddleware` takes the stream, and both lead through the same checks.
"""

from __future__ import annotations

import asyncio
import io
import logging
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

from django.conf import settings
from django.core.exceptions import BadRequest
from django.core.handlers.asgi import ASGIRequest
from django.http import HttpRequest, HttpResponse, HttpResponseBase, JsonResponse

from deployments.playground.admission import Seat, admit_on_kept_connection
from deployments.playground.middleware import StreamMiddleware, stream_of
from deployments.playground.views import EventStream

logger = logging.getLogger(__name__)

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

_THREADS = 4
"""That read the database for streams, each with a connection of its own."""


class StreamDoor:
    """Wraps Django's ASGI application; `settings.ASGI_DOOR` names it."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._stream = StreamMiddleware(_no_chain)
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="chat-door")

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST" or not scope["path"].endswith("/stream"):
            return await self._app(scope, receive, send)
        body = io.BytesIO()
        try:
            request = _request(scope, body)
        except BadRequest:
            return await _send(
                JsonResponse({"error": "The request's headers cannot be read."}, status=400), send
            )
        deployment_id = stream_of(request) if request else None
        if request is None or deployment_id is None:
            return await self._app(scope, receive, send)
        if await _read_into(body, receive):
            await _until_left(receive, self._serve(request, deployment_id, send))
        return None

    async def _serve(self, request: ASGIRequest, deployment_id: uuid.UUID, send: Send) -> None:
        try:
            response = await self._stream.stream(request, deployment_id, admit=self._admit)
        except Exception:
            logger.exception("A chat could not be answered.")
            response = JsonResponse({"error": "The panel failed. Its log says why; try again."}, status=500)
        try:
            await _send(response, send)
        finally:
            if isinstance(response, EventStream):
                response.relay.close()

    async def _admit(self, request: HttpRequest, deployment_id: uuid.UUID) -> Seat:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, admit_on_kept_connection, request, deployment_id)


async def _no_chain(request: HttpRequest) -> HttpResponseBase:
    raise AssertionError("The door does not go down the chain.")


def _request(scope: Message, body: io.BytesIO) -> ASGIRequest | None:
    try:
        return ASGIRequest(scope, body)
    except UnicodeDecodeError:
        return None


async def _read_into(body: io.BytesIO, receive: Receive) -> bool:
    """Read the request's body, one byte past the limit at the most; False when the browser left."""
    room = settings.DATA_UPLOAD_MAX_MEMORY_SIZE + 1
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return False
        body.write(message.get("body", b"")[: room - body.tell()])
        if not message.get("more_body") or body.tell() >= room:
            body.seek(0)
            return True


async def _until_left(receive: Receive, serving: Awaitable[None]) -> None:
    """Serve; when the browser leaves first, cancel, which closes the engine's side at once."""
    task = cast("asyncio.Task[None]", asyncio.current_task())
    leaving = asyncio.ensure_future(_left(receive))
    leaving.add_done_callback(lambda done: None if done.cancelled() else task.cancel())
    try:
        await serving
    except asyncio.CancelledError:
        if not leaving.done():
            raise
        task.uncancel()
    finally:
        leaving.cancel()


async def _left(receive: Receive) -> None:
    # What is left of a body that was too long is read and dropped.
    while (await receive())["type"] != "http.disconnect":
        pass


async def _send(response: HttpResponseBase, send: Send) -> None:
    headers = [(name.encode("ascii"), value.encode("latin1")) for name, value in response.items()]
    headers += [
        (b"Set-Cookie", cookie.OutputString().encode("ascii")) for cookie in response.cookies.values()
    ]
    await send({"type": "http.response.start", "status": response.status_code, "headers": headers})
    if isinstance(response, EventStream):
        async for part in response.relay:
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body"})
    elif isinstance(response, HttpResponse):
        await send({"type": "http.response.body", "body": response.content})
