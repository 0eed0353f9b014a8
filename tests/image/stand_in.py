"""A small engine: it speaks OpenAI's stream, answers every path, and notes what came and who left.

    python tests/image/stand_in.py --port N [--notes FILE] [--load-seconds S]

It answers 200 to whatever is asked, so that a refusal is the door's. `max_tokens`, `first_seconds` and
`pause_seconds` of the request's body say how much is answered and how fast. The text of a chunk is
`<number>@<CLOCK_MONOTONIC in nanoseconds when it was written> `. Nothing of a prompt is noted or printed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from pathlib import Path
from typing import Any

MODELS = {
    "object": "list", "data": [{"id": "stand-in", "object": "model", "owned_by": "tests", "max_model_len": 4096}]
}  # fmt: skip


class Conversation(asyncio.Protocol):
    notes: Path | None = None
    models_seconds = 0.0

    def __init__(self) -> None:
        self.buffer = b""
        self.asked: dict[str, Any] | None = None
        """What is being answered."""
        self.sent, self.closes = 0, False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        if self.asked is not None:
            self.note("left", path=self.asked["path"], sent=self.sent)
            self.asked = None

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head, found, rest = self.buffer.partition(b"\r\n\r\n")
        if not found or self.asked is not None:
            return
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        length = int(headers.get("content-length", 0))
        if len(rest) < length:
            return
        self.buffer = rest[length:]
        self.closes = headers.get("connection") == "close"
        method, target, _ = first.split(" ")
        self.asked = {"method": method, "path": target}
        self.note("asked", method=method, path=target, headers=headers, length=length)
        self.task = asyncio.get_running_loop().create_task(self.answer(rest[:length]))

    async def answer(self, body: bytes) -> None:
        assert self.asked is not None
        path = self.asked["path"]
        if path == "/__models_seconds":
            Conversation.models_seconds = float(body)
        elif path == "/v1/models":
            await asyncio.sleep(self.models_seconds)
        if path in {"/v1/chat/completions", "/v1/completions"}:
            await self.generate(json.loads(body))
        else:
            self.whole(b"" if path == "/health" else json.dumps(MODELS).encode())

    async def generate(self, wish: dict[str, Any]) -> None:
        loop, tokens = asyncio.get_running_loop(), int(wish.get("max_tokens", 4))
        pause = float(wish.get("pause_seconds", 0))
        # By the clock, not by sleeping: otherwise each chunk would be a little later than the one before.
        begin = loop.time() + float(wish.get("first_seconds", 0))
        if wish.get("stream"):
            await self.stream(tokens, begin, pause)
        else:
            await asyncio.sleep(begin + tokens * pause - loop.time())
            message = {"role": "assistant", "content": text(0)}
            self.whole(json.dumps({"object": "chat.completion", "choices": [{"message": message}]}).encode())

    async def stream(self, tokens: int, begin: float, pause: float) -> None:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(begin - loop.time())
        self.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n",
            bare=True,
        )
        for number in range(tokens):
            await asyncio.sleep(begin + number * pause - loop.time())
            self.write(f"data: {json.dumps(chunk(number))}\n\n".encode())
            self.sent += 1
        self.write(b"data: [DONE]\n\n")
        self.write(b"")
        self.over()

    def whole(self, body: bytes) -> None:
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        self.write(head.encode() + body, bare=True)
        self.over()

    def write(self, data: bytes, *, bare: bool = False) -> None:
        if self.asked is not None:
            self.transport.write(data if bare else b"%x\r\n%s\r\n" % (len(data), data))

    def over(self) -> None:
        if self.asked is not None:
            self.note("done", path=self.asked["path"], sent=self.sent)
            self.asked, self.sent = None, 0
            if self.closes:
                self.transport.close()

    def note(self, what: str, **values: Any) -> None:
        if self.notes is None:
            return
        with self.notes.open("a") as file:
            file.write(json.dumps({"what": what, "at": time.monotonic(), **values}) + "\n")


def text(number: int) -> str:
    return f"{number}@{time.monotonic_ns()} "


def chunk(number: int) -> dict[str, Any]:
    choices = [{"index": 0, "delta": {"content": text(number)}, "finish_reason": None}]
    return {"id": "stand-in", "object": "chat.completion.chunk", "model": "stand-in", "choices": choices}


async def serve(port: int, load_seconds: float) -> None:
    await asyncio.sleep(load_seconds)
    server = await asyncio.get_running_loop().create_server(Conversation, "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--notes", type=Path)
    parser.add_argument("--load-seconds", type=float, default=0.0)
    options = parser.parse_args()
    Conversation.notes = options.notes
    asyncio.run(serve(options.port, options.load_seconds))


if __name__ == "__main__":
    main()
