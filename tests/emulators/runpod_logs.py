"""RunPod's logs: Server-Sent Events that never end."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING

from aiohttp import web

from tests.emulators.common import Call
from tests.emulators.runpod_state import Log, rfc3339

if TYPE_CHECKING:
    from tests.emulators.runpod import RunPodEmulator

_PAUSE = 0.2
_HEADERS = {
    "Content-Type": "text/event-stream", "Cache-Control": "no-cache", "Connection": "keep-alive",
    "X-Accel-Buffering": "no",
}  # fmt: skip

Line = tuple[datetime, str, str]


async def stream_logs(
    emulator: RunPodEmulator, call: Call, log: Log, engine: str, *, end: bool = False
) -> web.StreamResponse:
    """The newest `tail` lines, then whatever comes, until the reader leaves."""
    response = web.StreamResponse(headers={**_HEADERS, **emulator.rate_headers(call.key)})
    await response.prepare(call.request)
    source, tail = call.query.get("source"), int(call.query.get("tail", 100))
    after = call.request.headers.get("Last-Event-ID") or call.query.get("since") or ""
    sent: set[tuple[str, str]] = set()
    lines = [line for line in _lines(emulator, log, engine) if source in {None, line[1]}]
    sent.update((s, text) for _, s, text in lines)
    lines = [line for line in lines if (rfc3339(line[0]) or "") > after]
    try:
        for line in lines[-tail:] if tail else []:
            await response.write(_event(line))
        while not emulator.has_left(call):
            await emulator.pause(_PAUSE)
            for line in _lines(emulator, log, engine):
                if source in {None, line[1]} and line[1:] not in sent:
                    sent.add(line[1:])
                    await response.write(_event(line))
    except ConnectionError:
        pass
    return response


def _lines(emulator: RunPodEmulator, log: Log, engine: str) -> Iterator[Line]:
    yield from sorted(log.lines, key=lambda line: line[0])
    for text in emulator.engines.logs(engine):
        yield emulator.clock.now, "container", text


def _event(line: Line) -> bytes:
    at, source, text = line
    data = json.dumps({"ts": rfc3339(at), "source": source, "line": text})
    return f"id: {rfc3339(at)}\ndata: {data}\n\n".encode()
