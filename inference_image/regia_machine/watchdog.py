"""The lease: without the panel's word this machine drains, and then ends.

The word is `PUT /lease`, which comes through the door. Time is the kernel's since its start: nobody can set
it, and what a machine sleeps through counts.

    starting, serving --lapse--> draining --drain_seconds--> over
                      <--renewal--
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from regia_machine.environment import Settings
from regia_machine.exits import Ending, Exit

SECONDS = range(60, 604_800 + 1)
"""What one renewal may ask for."""
TICK = 0.5
"""How often the lease is looked at. A wait for its end would not count what the machine sleeps through."""
_KEY = re.compile(r"[A-Za-z0-9_-]{16,200}")
_MOST_KEYS = 2
_LONGEST_BODY = 4096


def now() -> float:
    """Seconds since the kernel started, those in suspension included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


class BadRequest(Exception):
    """Why a renewal is refused, in a sentence."""


@dataclass(frozen=True, slots=True)
class Renewal:
    seconds: int
    keys: tuple[str, ...] | None
    """The whole list of keys from now on; None: as before."""


def read(body: bytes) -> Renewal:
    """Raises BadRequest. What it does not know it leaves alone: a newer panel may say more."""
    try:
        wish = json.loads(body)
    except (ValueError, RecursionError):
        raise BadRequest("The body is not JSON.") from None
    if not isinstance(wish, dict):
        raise BadRequest("The body is no JSON object.")
    seconds = wish.get("seconds")
    if type(seconds) is not int or seconds not in SECONDS:
        raise BadRequest(f"seconds has to be a whole number from {SECONDS.start} to {SECONDS.stop - 1}.")
    return Renewal(seconds, _keys(wish["keys"]) if "keys" in wish else None)


def _keys(value: object) -> tuple[str, ...]:
    sound = isinstance(value, list) and 1 <= len(value) <= _MOST_KEYS
    if not sound or not all(isinstance(key, str) and _KEY.fullmatch(key) for key in value):  # type: ignore[attr-defined]
        raise BadRequest("keys has to be a list of one or two keys of 16 to 200 letters, digits, _ and -.")
    return tuple(dict.fromkeys(value))  # type: ignore[call-overload]


class Watchdog:
    """Counts the lease and takes its renewals. The three callbacks are called from its own threads.

    `on_draining(True)` when the lease has lapsed, `on_draining(False)` when it was renewed after all, `on_lapse`
    once, when nobody renewed it while it drained: what runs has to end.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        on_keys: Callable[[Sequence[str]], None],
        on_draining: Callable[[bool], None],
        on_lapse: Callable[[], None],
        began: float | None = None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        """`began`: when the first period began, by `clock`; None: now."""
        self._clock = clock or now
        self._expires_at = (self._clock() if began is None else began) + settings.lease_seconds
        self._drain_seconds = settings.drain_seconds
        self._port = settings.lease_port
        self._on_keys, self._on_draining, self._on_lapse = on_keys, on_draining, on_lapse
        self._keys = 1
        self._is_serving = self._is_draining = self._is_leaving = self._is_over = False
        # Held while a callback works: a renewal and the lapse never cross.
        self._lock = threading.RLock()
        self._closing = threading.Event()
        self._server: ThreadingHTTPServer | None = None

    # -- life -----------------------------------------------------------------------------------

    def start(self) -> None:
        """Listen and count. Raises Ending when the port is taken."""
        try:
            self._server = _Server(("127.0.0.1", self._port), _handler(self))
        except OSError as e:
            raise Ending(Exit.DOOR, f"The lease's port {self._port} cannot be used: {e.strerror}.") from None
        for work in (self._server.serve_forever, self._count):
            threading.Thread(target=work, name="watchdog", daemon=True).start()

    def close(self) -> None:
        self._closing.set()
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def serving(self) -> None:
        """The engine answers and the door is open."""
        with self._lock:
            self._is_serving = True

    def leaving(self) -> None:
        """The machine ends for whatever reason: the lease decides nothing any more."""
        # Without the lock, which a renewal may hold while it waits for the door.
        self._is_leaving = True

    # -- the lease ------------------------------------------------------------------------------

    @property
    def state(self) -> str:
        """starting, serving or draining."""
        if self._is_draining or self._is_leaving:
            return "draining"
        return "serving" if self._is_serving else "starting"

    def tick(self) -> None:
        """What time has done to the lease."""
        with self._lock:
            if self._is_leaving or self._is_over:
                return
            late = self._clock() - self._expires_at
            if late >= 0 and not self._is_draining:
                self._drain()
            if late >= self._drain_seconds:
                self._is_over = True
                self._on_lapse()

    def renew(self, renewal: Renewal) -> dict[str, Any] | None:
        """What the panel is told; None: it comes too late, this machine is ending. Raises Ending by its door."""
        with self._lock:
            if self._is_over or self._is_leaving:
                return None
            self._expires_at = self._clock() + renewal.seconds
            if self._is_draining:
                self._on_draining(False)  # noqa: FBT003 - a callback's only argument
                self._is_draining = False
            if renewal.keys is not None:
                self._on_keys(renewal.keys)
                self._keys = len(renewal.keys)
            return {"expires_in": renewal.seconds, "state": self.state, "keys": self._keys}

    def _drain(self) -> None:
        self._is_draining = True
        # A door that cannot be told keeps its ways. Whatever went wrong, the lease counts on, and the end is the same.
        with suppress(Exception):
            self._on_draining(True)  # noqa: FBT003

    def _count(self) -> None:
        while not self._closing.wait(TICK):
            self.tick()


# -- its door -----------------------------------------------------------------------------------


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, *args: object) -> None:
        """A connection that broke is nobody's news."""


def _handler(watchdog: Watchdog) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = 10

        def do_PUT(self) -> None:
            if self.path != "/lease":
                return self._answer(404, {"error": "Not Found"})
            try:
                answer = watchdog.renew(read(self._body()))
            except BadRequest as e:
                return self._answer(400, {"error": str(e)})
            except (Ending, OSError) as e:
                return self._answer(500, {"error": str(e)})
            if answer is None:
                return self._answer(409, {"error": "It is too late: this machine is ending."})
            return self._answer(200, answer)

        def _body(self) -> bytes:
            length = self.headers.get("Content-Length", "")
            if not length.isdecimal() or int(length) > _LONGEST_BODY:
                raise BadRequest(f"The body has to have a length of at most {_LONGEST_BODY} bytes.")
            return self.rfile.read(int(length))

        def _answer(self, status: int, body: dict[str, Any]) -> None:
            text = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *args: object) -> None:
            """Nothing is logged of what is asked."""

    return Handler
