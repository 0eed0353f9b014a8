"""The base of an emulator: an aiohttp server in a thread of its own, with faults, a log and a handle for tests.

A provider's emulator gives its routes and its errors; this file gives each request its way:
log -> key -> fault before -> handler -> fault after -> answer, checked against the OpenAPI file when no
fault was at work.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, is_dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Self
from urllib.parse import unquote

from aiohttp import web

from tests.emulators.common.clock import Clock
from tests.emulators.common.conformance import Conformance, shorten
from tests.emulators.common.engines import Engines, NoEngines
from tests.emulators.common.faults import REFUSALS, SPOILERS, Fault, Faults

DEFAULT_KEY = "emulator-key-0001"
_TICK = 0.25


@dataclass(frozen=True, slots=True)
class Seen:
    """One request, as it came."""

    at: datetime
    kind: str
    method: str
    path: str
    query: Mapping[str, str]
    body: Any
    key: str = field(default="", repr=False)


@dataclass(slots=True)
class Answer:
    """A JSON answer, None for an empty body."""

    payload: Any = None
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    content_type: str = "application/json"
    checked: bool = True
    """Held against the OpenAPI file."""


@dataclass(slots=True)
class Call:
    """What a handler is given."""

    request: web.Request
    key: str
    """The API key it carries; "" without one."""
    body: Any
    fault: Fault
    late_seconds: float
    """A machine made by this call shows in lists that much later."""
    raw: bytes = b""

    @property
    def query(self) -> Mapping[str, str]:
        return self.request.query

    def path(self, name: str) -> str:
        return unquote(self.request.match_info[name])


Handler = Callable[[Call], Awaitable[Answer | web.StreamResponse] | Answer | web.StreamResponse]


@dataclass(frozen=True, slots=True)
class Route:
    """`kind` is one of list, create, terminate, stop, start, logs, charges, quotes, bid, inspect, balance, other.

    A function in its place names the kind by the request and its body. `part` tells two routes of one kind
    apart: faults planned for "list/serverless" come before those for "list".
    """

    method: str
    path: str
    kind: str | Callable[[web.Request, Any], str]
    handler: Handler
    part: str = ""
    keyless: bool = False
    """Anybody may call it; nothing is asked of the key."""
    checked: bool = True
    """Described by the OpenAPI file."""


class Emulator(ABC):
    """A provider's API at `url`. Every public method may be called from any thread."""

    CONTROLS: tuple[str, ...] = (
        "faults_add", "faults_always", "faults_clear", "faults_set", "advance", "revoke", "restore", "machines",
        "log", "whoami",
    )  # fmt: skip
    """Public methods that may be called over HTTP, besides those a subclass adds."""

    def __init__(
        self, *, keys: Sequence[str] = (DEFAULT_KEY,), clock: Clock | None = None,
        engines: Engines | None = None, boot_seconds: float = 0.0, conformance: Conformance | None = None,
    ) -> None:  # fmt: skip
        self.keys = tuple(keys)
        self.clock = clock or Clock()
        self.engines: Engines = engines or NoEngines()
        self.boot_seconds = boot_seconds
        self.faults = Faults()
        self.requests: list[Seen] = []
        self.secrets: set[str] = set()
        """Every value of every environment that was sent."""
        self.violations: list[str] = []
        self.lock = threading.RLock()
        self._arrived = threading.Condition(self.lock)
        self._conformance = conformance
        self._revoked: set[str] = set()
        self._closing, self._ending = threading.Event(), asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self.port = 0
        self.home = ""
        """The folder that it serves, as a process of its own."""

    # -- what a provider's emulator gives ---------------------------------------------------------

    @abstractmethod
    def routes(self) -> list[Route]:
        """Every address it answers."""

    def key_of(self, request: web.Request) -> str:
        """The key that a request carries."""
        return request.headers.get("Authorization", "").removeprefix("Bearer ").strip()

    @abstractmethod
    def refuse(self, fault: Fault, call: Call, kind: str) -> Answer:
        """The provider's words for one of `faults.REFUSALS`, and for ERROR_AFTER and GATEWAY_AFTER.

        UNAUTHORIZED is also what a request with a wrong or revoked key is told.
        """

    @abstractmethod
    def spoil(self, fault: Fault, kind: str, payload: Any) -> Any:
        """The answer's JSON, spoilt by one of `faults.SPOILERS` in the way of this API."""

    def settle(self) -> None:  # noqa: B027 - an emulator without a clock has nothing to do
        """Bring every machine to the clock's moment. Called with the lock held, before each request and often."""

    def limit(self, call: Call, kind: str) -> Answer | None:
        """A refusal because of too many calls, or None. Asked once for each call that carries a good key."""
        return None

    def dress(self, answer: Answer, call: Call) -> None:  # noqa: B027 - not every API adds something
        """Add what every answer carries: rate limit headers, request ids."""

    # -- life -------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self, port: int = 0) -> Self:
        ready = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(port, ready), name=type(self).__name__)
        self._thread.daemon = True
        self._thread.start()
        if not ready.wait(10) or not self.port:
            raise RuntimeError(f"{type(self).__name__} did not start on port {port}.")
        return self

    def close(self) -> None:
        """End the server and every engine that it started."""
        self._closing.set()
        if self._loop is not None and self._thread is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._ending.set)
            self._thread.join(10)
        self.engines.close()

    def __enter__(self) -> Self:
        return self if self.port else self.start()

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _run(self, port: int, ready: threading.Event) -> None:
        loop = self._loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
        runner = web.AppRunner(self._app(), access_log=None, shutdown_timeout=0.2)
        ticker: asyncio.Task[None] | None = None
        try:
            loop.run_until_complete(runner.setup())
            site = web.TCPSite(runner, "127.0.0.1", port)
            loop.run_until_complete(site.start())
            self.port = runner.addresses[0][1]
            ticker = loop.create_task(self._tick())
            ready.set()
            loop.run_until_complete(self._ending.wait())
        finally:
            ready.set()
            if ticker:
                ticker.cancel()
            loop.run_until_complete(runner.cleanup())
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()

    def _app(self) -> web.Application:
        app = web.Application(client_max_size=32 * 1024**2)
        app.router.add_route("*", "/_emulator/{method}", self._control)
        for route in self.routes():
            app.router.add_route(route.method, route.path, self._guard(route))
        app.router.add_route("*", "/{rest:.*}", self._guard(Route("*", "", "other", self.nothing_here)))
        return app

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(_TICK)
            with self.lock:
                self.settle()

    def nothing_here(self, call: Call) -> Answer:
        return Answer({"title": "Not Found", "status": 404, "detail": "No such route."}, 404)

    # -- one request ------------------------------------------------------------------------------

    def _guard(self, route: Route) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def guarded(request: web.Request) -> web.StreamResponse:
            raw = await request.read()
            body = _parse(raw)
            kind = route.kind if isinstance(route.kind, str) else route.kind(request, body)
            key = self.key_of(request)
            with self.lock:
                self._note(request, kind, body, key)
                fault = self.faults.take(kind, route.part)
                self.settle()
            late = self.faults.late_seconds if fault in {Fault.LATE, Fault.LOST_LATE} else 0.0
            return await self._serve(route, kind, Call(request, key, body, fault, late, raw))

        return guarded

    async def _serve(self, route: Route, kind: str, call: Call) -> web.StreamResponse:
        fault = call.fault
        if fault is Fault.DELAY:
            await asyncio.sleep(self.faults.delay_seconds)
        if fault is Fault.HANG_BEFORE:
            return await self._hang(call)
        if fault in REFUSALS:
            return self._send(self._refused(fault, call, kind), call)
        if not route.keyless and not self.accepts(call.key):
            return self._send(self.refuse(Fault.UNAUTHORIZED, call, kind), call)
        refused = None if route.keyless else self.limit(call, kind)
        if refused is not None:
            return self._send(refused, call)
        answer = route.handler(call)
        if isinstance(answer, Awaitable):
            answer = await answer
        if isinstance(answer, web.StreamResponse):
            return answer
        self._check(route, call, answer)
        return await self._after(fault, kind, call, answer)

    async def _after(self, fault: Fault, kind: str, call: Call, answer: Answer) -> web.StreamResponse:
        if fault in {Fault.ERROR_AFTER, Fault.GATEWAY_AFTER}:
            answer = self.refuse(fault, call, kind)
        elif fault in {Fault.LOST, Fault.LOST_LATE}:
            return _abort(call)
        elif fault is Fault.HANG_AFTER:
            return await self._hang(call)
        elif fault is Fault.HTML:
            page = "<!DOCTYPE html><html><title>Just a moment...</title><body>Checking your browser</body></html>"
            return web.Response(text=page, content_type="text/html")
        elif fault is Fault.EMPTY_BODY:
            return web.Response(content_type="application/json")
        elif fault in SPOILERS and answer.status < 300:
            answer.payload = self.spoil(fault, kind, answer.payload)
        return self._send(answer, call)

    def _refused(self, fault: Fault, call: Call, kind: str) -> Answer:
        answer = self.refuse(fault, call, kind)
        if fault is Fault.RATE_LIMITED_AFTER:
            answer.headers = {**answer.headers, "Retry-After": str(self.faults.retry_after)}
        return answer

    def _send(self, answer: Answer, call: Call) -> web.Response:
        self.dress(answer, call)
        if answer.payload is None:
            return web.Response(status=answer.status, headers=answer.headers)
        text = (
            answer.payload if isinstance(answer.payload, str) else json.dumps(answer.payload, default=_plain)
        )
        if answer.content_type != "text/plain" and isinstance(answer.payload, str):
            text = json.dumps(answer.payload)
        return web.Response(
            text=text, status=answer.status, headers=answer.headers, content_type=answer.content_type
        )

    async def _hang(self, call: Call) -> web.StreamResponse:
        """Say nothing until the client has gone."""
        while not self.has_left(call):
            await self.pause(0.02)
        return _abort(call)

    def has_left(self, call: Call) -> bool:
        """The client has closed its connection, or this server is closing."""
        transport = call.request.transport
        return self._closing.is_set() or transport is None or transport.is_closing()

    async def pause(self, seconds: float) -> None:
        """Sleep in a handler, or until the server closes."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._ending.wait(), seconds)

    def _check(self, route: Route, call: Call, answer: Answer) -> None:
        if self._conformance is None or not route.checked or not answer.checked:
            return
        request = call.request
        method, path = request.method, request.rel_url.path
        problems: list[str] = []
        if answer.status < 300:
            # What the provider refuses need not be right.
            has_body = bool(call.raw)
            problems += self._conformance.request(
                method, path, request.rel_url.raw_query_string, call.body, has_body=has_body
            )
        plain = None
        if answer.payload is not None:
            # Cut first: a list of thousands takes seconds to write and read.
            plain = json.loads(json.dumps(shorten(answer.payload), default=_plain))
        problems += self._conformance.answer(
            method, path, answer.status, plain, content_type=answer.content_type
        )
        with self.lock:
            self.violations.extend(p for p in problems if p not in self.violations)

    # -- the log ----------------------------------------------------------------------------------

    def _note(self, request: web.Request, kind: str, body: Any, key: str) -> None:
        query = dict(request.query)
        self.requests.append(Seen(self.clock.now, kind, request.method, request.path, query, body, key))
        self._arrived.notify_all()

    def seen(self, kind: str) -> list[Seen]:
        """The requests of one kind, oldest first."""
        with self.lock:
            return [seen for seen in self.requests if seen.kind == kind]

    def wait_for(self, kind: str, count: int = 1, *, timeout: float = 20.0) -> list[Seen]:
        """Wait until that many requests of the kind have come."""
        deadline = time.monotonic() + timeout
        with self._arrived:
            while len(self.seen(kind)) < count:
                left = deadline - time.monotonic()
                if left <= 0 or not self._arrived.wait(left):
                    raise TimeoutError(f"{len(self.seen(kind))} of {count} {kind} requests came.")
            return self.seen(kind)

    def log(self) -> list[Seen]:
        with self.lock:
            return list(self.requests)

    # -- the handle -------------------------------------------------------------------------------

    def accepts(self, key: str) -> bool:
        return key in self.keys and key not in self._revoked

    def whoami(self) -> dict[str, str]:
        """Which emulator this is: a port may have been taken by another one since."""
        return {"emulator": type(self).__name__, "home": self.home}

    def revoke(self, key: str | None = None) -> None:
        with self.lock:
            self._revoked.add(key or self.keys[0])

    def restore(self, key: str | None = None) -> None:
        with self.lock:
            self._revoked.discard(key or self.keys[0])

    @abstractmethod
    def machines(self) -> list[dict[str, Any]]:
        """The truth, whatever the lists say: at least id, label, status, country."""

    def advance(self, seconds: float) -> None:
        with self.lock:
            self.settle()
            self.clock.advance(seconds)
            self.settle()

    def faults_add(self, kind: str, faults: Sequence[str]) -> None:
        with self.lock:
            self.faults.add(kind, *faults)

    def faults_always(self, kind: str, fault: str) -> None:
        with self.lock:
            self.faults.always(kind, fault)

    def faults_clear(self) -> None:
        with self.lock:
            self.faults.clear()

    def faults_set(self, **values: float) -> None:
        """`delay_seconds`, `late_seconds`, `retry_after`."""
        for name, value in values.items():
            if name not in {"delay_seconds", "late_seconds", "retry_after"}:
                raise ValueError(f"There is no {name}.")
            setattr(self.faults, name, value)

    async def _control(self, request: web.Request) -> web.Response:
        name = request.match_info["method"]
        if name not in self.CONTROLS:
            return web.json_response({"error": f"There is no {name}."}, status=404)
        raw = await request.read()
        try:
            result = getattr(self, name)(**(json.loads(raw) if raw else {}))
        except (TypeError, ValueError, KeyError, LookupError) as e:
            return web.json_response({"error": f"{type(e).__name__}: {e}"}, status=400)
        return web.json_response(result, dumps=lambda value: json.dumps(value, default=_plain))


def _abort(call: Call) -> web.StreamResponse:
    with suppress(AttributeError):
        call.request.transport.abort()  # type: ignore[union-attr]
    return web.Response(status=500)


def _parse(raw: bytes) -> Any:
    try:
        return json.loads(raw) if raw else None
    except ValueError:
        return raw.decode(errors="replace")


def _plain(value: Any) -> Any:
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, datetime):
        return value.isoformat()
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, set | frozenset | tuple | Mapping):
        return dict(value) if isinstance(value, Mapping) else list(value)
    raise TypeError(f"{type(value).__name__} is not JSON.")


def add_unknown_fields(value: Any) -> Any:
    """Every object with fields that no specification knows."""
    if isinstance(value, list):
        return [add_unknown_fields(item) for item in value]
    if isinstance(value, dict):
        inner = {name: add_unknown_fields(item) for name, item in value.items()}
        return {**inner, "brandNewField": {"of": ["a", 1, None]}}
    return value


def null_all_but(value: Any, kept: frozenset[str]) -> Any:
    """Every field null but the kept ones, in every object that a kept field holds."""
    if isinstance(value, list):
        return [null_all_but(item, kept) for item in value]
    if isinstance(value, dict):
        return {name: null_all_but(item, kept) if name in kept else None for name, item in value.items()}
    return value
