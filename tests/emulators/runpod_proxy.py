"""Ways to an engine: the pods' public proxy, and what the serverless runtime passes on."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

import aiohttp
from aiohttp import web

from tests.emulators.common import Answer, Call, Route

if TYPE_CHECKING:
    from tests.emulators.runpod import RunPodEmulator

_HOP = {
    "host", "connection", "keep-alive", "transfer-encoding", "content-length", "content-encoding", "upgrade",
    "accept-encoding",
}  # fmt: skip


class Proxy:
    """`/proxy/{pod}-{port}/…` stands for `https://{pod}-{port}.proxy.runpod.net/…`. Public: it asks for no key."""

    def __init__(self, emulator: RunPodEmulator) -> None:
        self.emulator = emulator

    def routes(self) -> list[Route]:
        def route(path: str) -> Route:
            return Route("*", path, "other", self.pass_on, "proxy", keyless=True, checked=False)

        return [route("/proxy/{pod}-{port:\\d+}/{rest:.*}"), route("/proxy/{pod}/{port:\\d+}/{rest:.*}")]

    async def pass_on(self, call: Call) -> Answer | web.StreamResponse:
        pod = self.emulator.find_pod(call.path("pod"))
        if pod is None or int(call.path("port")) not in pod.http_ports:
            return _page(404, "Not Found")
        url = self.emulator.engines.url(pod.id) if pod.status == "RUNNING" else None
        if url is None:
            return _page(502, "Bad Gateway")
        return await forward(self.emulator, call, f"{url}/{call.path('rest')}", {})


async def forward(
    emulator: RunPodEmulator, call: Call, url: str, headers: Mapping[str, str]
) -> Answer | web.StreamResponse:
    """Stream the request's answer; the engine's side is closed as soon as the client has left."""
    sent = {name: value for name, value in call.request.headers.items() if name.lower() not in _HOP}
    work = asyncio.ensure_future(_copy(emulator, call, url, {**sent, **headers}))
    while not work.done():
        await asyncio.wait({work}, timeout=0.1)
        if not work.done() and emulator.has_left(call):
            work.cancel()
            with suppress(asyncio.CancelledError):
                await work
            return web.Response(status=499)
    return work.result()


async def _copy(
    emulator: RunPodEmulator, call: Call, url: str, headers: Mapping[str, str]
) -> Answer | web.StreamResponse:
    request = call.request
    # No time of its own but to the first byte, as Cloudflare has it; a stream may then last.
    timeout = aiohttp.ClientTimeout(total=None)
    # A kept connection that the engine has closed would fail the next request.
    connector = aiohttp.TCPConnector(force_close=True)
    async with aiohttp.ClientSession(timeout=timeout, connector=connector, auto_decompress=False) as session:
        started = session.request(
            request.method, url, params=request.query, data=call.raw or None, headers=headers,
            allow_redirects=False,
        )  # fmt: skip
        try:
            upstream = await asyncio.wait_for(started, emulator.proxy_seconds)
        except TimeoutError:
            return _page(524, "A timeout occurred")
        except aiohttp.ClientError:
            return _page(502, "Bad Gateway")
        async with upstream:
            kept = {name: v for name, v in upstream.headers.items() if name.lower() not in _HOP}
            response = web.StreamResponse(status=upstream.status, headers=kept)
            await response.prepare(request)
            with suppress(ConnectionError):
                await _pour(emulator, call, upstream, response)
            return response


async def _pour(
    emulator: RunPodEmulator, call: Call, upstream: aiohttp.ClientResponse, response: web.StreamResponse
) -> None:
    try:
        async for piece in upstream.content.iter_any():
            await response.write(piece)
    except aiohttp.ClientError:
        # The engine died in mid-stream: so does the answer, without an end.
        if call.request.transport is not None:
            call.request.transport.abort()
        return
    await response.write_eof()


def _page(status: int, title: str) -> Answer:
    html = f"<!DOCTYPE html><html><head><title>{status}: {title}</title></head><body>{title}</body></html>"
    return Answer(html, status, content_type="text/html", checked=False)
