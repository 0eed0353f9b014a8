"""The answer on its way from the engine to the browser: bytes go through as they come.

Only what is needed is read of them: the first token, the final usage, the finish reason, an error. One last
event is added:

    event: regia      data: {"ttft": s, "seconds": s, "tokens_per_second": n, "prompt_tokens": n,
                             "completion_tokens": n, "thinking_tokens": n, "finish_reason": text, "usd": "0.000031"}
    event: error      data: {"error": sentence}, then `event: regia` with what is known

What the engine did not tell is null there, never 0.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any

import aiohttp
from django.conf import settings

from billing.money import accrued
from deployments.playground.upstream import error_of

_MAX_EVENT = 1024 * 1024
"""Bytes of one event that are waited for; an engine that sends more is not an engine."""
_WORTH_READING = re.compile(rb'"error"|"usage"\s*:\s*\{|"finish_reason"\s*:\s*"')
_DONE = b"data: [DONE]\n\n"
_NO_STREAM = "The engine sent something that is no stream of tokens."


class Meter:
    """What is known of one answer. Times are `time.perf_counter()` seconds."""

    __slots__ = ("began", "finish_reason", "first_at", "usage", "usd_per_hour")

    def __init__(self, *, began: float, usd_per_hour: Decimal) -> None:
        self.began = began
        self.usd_per_hour = usd_per_hour
        self.first_at: float | None = None
        self.finish_reason: str | None = None
        self.usage: dict[str, Any] = {}

    def read(self, event: dict[str, Any], *, at: float) -> None:
        """Take from one chunk of the stream what is counted."""
        usage = event.get("usage")
        if isinstance(usage, dict):
            self.usage = usage
        choices = event.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices else None
        if not isinstance(choice, dict):
            return
        reason, delta = choice.get("finish_reason"), choice.get("delta")
        if isinstance(reason, str):
            self.finish_reason = reason[:40]
        if self.first_at is None and isinstance(delta, dict) and any(delta.get(c) for c in _CHANNELS):
            self.first_at = at

    def summary(self, *, at: float) -> dict[str, Any]:
        """The figures under the answer; None is "n/a". USD as text, by the hour's price and the stream's time."""
        out = _count(self.usage.get("completion_tokens"))
        details = self.usage.get("completion_tokens_details")
        writing = None if self.first_at is None else at - self.first_at
        return {
            "ttft": None if self.first_at is None else round(self.first_at - self.began, 4),
            "seconds": round(at - self.began, 4),
            "tokens_per_second": round((out - 1) / writing, 1) if out and out > 1 and writing else None,
            "prompt_tokens": _count(self.usage.get("prompt_tokens")),
            "completion_tokens": out,
            "thinking_tokens": _count(details.get("reasoning_tokens")) if isinstance(details, dict) else None,
            "finish_reason": self.finish_reason,
            "usd": f"{accrued(self.usd_per_hour, timedelta(seconds=at - self.began)):f}",
        }


_CHANNELS = ("content", "reasoning", "reasoning_content")


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


class _Cut(Exception):
    """The answer ends here, before its end. The text is a sentence; `forward` came before it and is kept."""

    def __init__(self, text: str, *, forward: bytes = b"") -> None:
        super().__init__(text)
        self.forward = forward


class Relay:
    """An async iterator over the answer's bytes, the last event included. Closing it closes the engine's side.

    It is a class and not a generator because it is entered for every token of every stream.
    """

    def __init__(
        self, response: aiohttp.ClientResponse, meter: Meter, *, leave: Callable[[], None] = lambda: None
    ) -> None:
        self._response = response
        self._leave = leave
        self._next = response.content.readany
        self._meter = meter
        self._tail = b""
        self._over = False
        self._loop = asyncio.get_running_loop()

    def __aiter__(self) -> Relay:
        return self

    async def __anext__(self) -> bytes:
        if self._over:
            raise StopAsyncIteration
        try:
            chunk = await self._next()
            done = self._watch(chunk)
        except _Cut as cut:
            return self._last(cut.forward, error=str(cut))
        except TimeoutError:
            return self._last(b"", error=_HANGS.format(settings.CHAT_IDLE_SECONDS))
        except (OSError, aiohttp.ClientError):
            return self._last(b"", error="The engine's connection broke: the answer is not complete.")
        return self._last(chunk) if done else chunk

    def _watch(self, chunk: bytes) -> bool:
        """Read what is worth reading of the whole events in hand; whether the answer is complete."""
        if not chunk:
            if self._meter.finish_reason is None:
                raise _Cut("The engine closed the stream before the answer was complete.")
            return True
        told = len(self._tail)
        data = self._tail + chunk if told else chunk
        if b"\r" in data:
            data = data.replace(b"\r\n", b"\n")
        end = data.rfind(b"\n\n") + 2 if b"\n\n" in data else 0
        self._tail = data[end:]
        if len(self._tail) > _MAX_EVENT:
            raise _Cut(_NO_STREAM)
        if self._meter.first_at is None or _WORTH_READING.search(data, 0, end):
            self._read(data, told, end)
        return data.endswith(_DONE, 0, end) and data[: end - len(_DONE)][-1:] in (b"", b"\n")

    def _read(self, data: bytes, told: int, end: int) -> None:
        """Count what the whole events say. `told` bytes have gone to the browser before, all of `data` will."""
        now, start = time.perf_counter(), 0
        while start < end:
            stop = data.index(b"\n\n", start) + 2
            if why := self._read_event(data[start:stop], now=now):
                # What came before it is the reader's; what is wrong we tell in our own words.
                raise _Cut(why, forward=data[told:start])
            start = stop

    def _read_event(self, event: bytes, *, now: float) -> str:
        """Count one event; what is wrong with it, empty when nothing is."""
        for line in event.split(b"\n"):
            if not line.startswith(b"data:") or line[5:].strip() == b"[DONE]":
                continue
            try:
                value = json.loads(line[5:])
            except (ValueError, RecursionError):
                return _NO_STREAM
            if isinstance(value, dict) and value.get("error"):
                return f"The engine failed while it answered: {error_of(value)[0] or 'it did not say why.'}"
            if isinstance(value, dict):
                self._meter.read(value, at=now)
        return ""

    def _last(self, chunk: bytes, *, error: str = "") -> bytes:
        """The answer's last bytes: the chunk in hand, the error if there is one, the figures."""
        self.close()
        # An event that broke off must not swallow ours.
        parts = [chunk, b"\n\n"] if self._tail or error else [chunk]
        if error:
            parts.append(_event(b"error", {"error": error}))
        parts.append(_event(b"regia", self._meter.summary(at=time.perf_counter())))
        return b"".join(parts)

    async def aclose(self) -> None:
        self.close()

    def close(self) -> None:
        """Close the engine's side at once, from the loop's thread or another."""
        if self._over:
            return
        self._over = True
        self._leave()
        try:
            on_loop = asyncio.get_running_loop() is self._loop
        except RuntimeError:
            on_loop = False
        if on_loop:
            self._response.close()
        elif not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._response.close)


_HANGS = "The engine sent nothing for {} s: the answer is not complete, and the engine may hang."


def _event(name: bytes, data: dict[str, Any]) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (name, json.dumps(data).encode())
