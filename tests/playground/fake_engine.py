"""A small real server that answers as engines do: it replays captures, fails and hangs on demand."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

from aiohttp import web

CAPTURES = Path(__file__).parent / "captures"
Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


def capture(name: str) -> bytes:
    return (CAPTURES / f"{name}.sse").read_bytes()


LLAMA = (
    b'data: {"choices":[{"finish_reason":null,"index":0,"delta":{"role":"assistant","content":null}}],'
    b'"created":1,"id":"c","model":"smollm2-135m","object":"chat.completion.chunk"}\n\n'
    b'data: {"choices":[{"finish_reason":null,"index":0,"delta":{"content":"Hel"}}],"id":"c"}\n\n'
    b'data: {"choices":[{"finish_reason":null,"index":0,"delta":{"content":"lo"}}],"id":"c"}\n\n'
    b'data: {"choices":[{"finish_reason":"stop","index":0,"delta":{}}],"id":"c"}\n\n'
    b'data: {"choices":[],"id":"c","usage":{"completion_tokens":3,"prompt_tokens":31,"total_tokens":34},'
    b'"timings":{"prompt_n":31}}\n\n'
    b"data: [DONE]\n\n"
)
"""As llama.cpp streams."""


def token(text: str, *, field: str = "content") -> bytes:
    return b'data: {"choices":[{"index":0,"delta":{"%s":"%s"},"finish_reason":null}]}\n\n' % (
        field.encode(),
        text.encode(),
    )


class FakeEngine:
    def __init__(self) -> None:
        self.url = ""
        self.loop = asyncio.new_event_loop()
        self.answer: Answer = self.replay(LLAMA)
        self.asked: list[dict] = []
        self.headers: list[dict[str, str]] = []
        self.open = 0
        self.left_at: list[float] = []
        """When a caller went away in the middle of a stream (monotonic seconds)."""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.headers.append(dict(request.headers))
        self.asked.append(await request.json())
        self.open += 1
        try:
            return await self.answer(request)
        except (asyncio.CancelledError, ConnectionResetError):
            self.left_at.append(time.monotonic())
            raise
        finally:
            self.open -= 1

    def replay(self, data: bytes, *, size: int = 0, then_break: bool = False, pause: float = 0) -> Answer:
        """Stream `data`, in pieces of `size` bytes (0: in one), and break the connection after if asked to."""

        async def answer(request: web.Request) -> web.StreamResponse:
            response = await begin(request)
            step = size or len(data) or 1
            for i in range(0, len(data), step):
                await response.write(data[i : i + step])
                await asyncio.sleep(pause)
            if then_break:
                assert request.transport is not None
                request.transport.abort()
            return response

        return answer

    def refuse(self, status: int, body: str, content_type: str = "application/json") -> Answer:
        async def answer(request: web.Request) -> web.StreamResponse:
            headers = {"Location": "http://169.254.169.254/"} if 300 <= status < 400 else {}
            return web.Response(status=status, text=body, content_type=content_type, headers=headers)

        return answer

    def hang(self, first: bytes = b"") -> Answer:
        """Stream `first`, then nothing more; without it, not even the headers."""

        async def answer(request: web.Request) -> web.StreamResponse:
            if first:
                await (await begin(request)).write(first)
            await asyncio.sleep(3600)
            raise AssertionError

        return answer

    def talk_for_ever(self, *, interval: float = 0.005) -> Answer:
        async def answer(request: web.Request) -> web.StreamResponse:
            response = await begin(request)
            while True:
                await response.write(token("word "))
                await asyncio.sleep(interval)

        return answer


async def begin(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
    await response.prepare(request)
    return response


@contextlib.contextmanager
def running() -> Iterator[FakeEngine]:
    engine = FakeEngine()
    loop = engine.loop
    runner_box: list[web.AppRunner] = []

    async def start() -> None:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", engine.handle)
        # A handler is cancelled when its caller goes away, as a real engine notices it.
        runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        runner_box.append(runner)
        engine.url = f"http://127.0.0.1:{runner.addresses[0][1]}"

    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    asyncio.run_coroutine_threadsafe(start(), loop).result(10)
    try:
        yield engine
    finally:
        asyncio.run_coroutine_threadsafe(runner_box[0].cleanup(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()
