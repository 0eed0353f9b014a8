"""The door of a machine that failed: it tells its panel why, and nobody anything else.

    GET /health     503 {"state":"failed"}
    PUT /lease      with a key: 200 {"state":"failed","code":70,"cause":"..."}; without: 401
    all else        404

Python's own server, because nginx may be what failed. It takes few connections, none for long.
"""

from __future__ import annotations

import hmac
import json
import socket
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingTCPServer
from typing import Any

from regia_machine import tls
from regia_machine.tls import Tls

SECONDS = 15.0
"""What one connection may take altogether."""
MOST = 64
"""Connections at once; more are closed."""
_LONGEST_BODY = 4096
_FAILED = {"state": "failed"}


class FailedDoor:
    """Open from its making on; raises OSError where the port cannot be bound.

    `heard` is set once a request with one of `keys` has its answer.
    """

    def __init__(self, port: int, pair: Tls | None, keys: Sequence[str], told: Mapping[str, Any]) -> None:
        self.heard = threading.Event()
        self._server = _Server(("", port), _handler(keys, {**_FAILED, **told}), pair, self.heard)
        threading.Thread(
            target=self._server.serve_forever, args=(0.1,), name="failed-door", daemon=True
        ).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    request_queue_size = MOST

    def __init__(
        self, address: tuple[str, int], handler: type[_Handler], pair: Tls | None, heard: threading.Event
    ) -> None:
        self._context = tls.context(pair) if pair else None
        self._handler, self._heard = handler, heard
        self._places = threading.BoundedSemaphore(MOST)
        super().__init__(address, handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._places.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        # Each byte may come in time and the whole never: a second handle on the connection ends it by the clock.
        handle = request.dup()
        deadline = threading.Timer(SECONDS, _cut, [handle])
        deadline.daemon = True
        deadline.start()
        try:
            self._serve(request, client_address)
        finally:
            deadline.cancel()
            handle.close()
            self._places.release()

    def _serve(self, request: socket.socket, client_address: Any) -> None:
        handled = None
        try:
            request.settimeout(SECONDS)
            if self._context is not None:
                # Here and not where it is accepted: one that shakes no hand must not keep the others out.
                request = self._context.wrap_socket(request, server_side=True)
            handled = self._handler(request, client_address, self)
        except (OSError, ValueError):
            pass  # A connection that broke is nobody's news.
        finally:
            self.shutdown_request(request)
        if isinstance(handled, _Handler) and handled.has_told:
            # Only now: with the process, an answer that was not flushed would be gone.
            self._heard.set()


class _Handler(BaseHTTPRequestHandler):
    keys: Sequence[str] = ()
    told: Mapping[str, Any] = {}
    has_told = False

    def do_GET(self) -> None:
        if self._path() == "/health":
            self._answer(503, _FAILED)
        else:
            self._answer(404, {"error": "Not Found"})

    def do_PUT(self) -> None:
        length = self.headers.get("Content-Length", "")
        if length.isascii() and length.isdecimal() and int(length) <= _LONGEST_BODY:
            # Read, whatever it says: closing on what is unread would take the answer back.
            self.rfile.read(int(length))
        if self._path() != "/lease":
            self._answer(404, {"error": "Not Found"})
        elif not self._has_key():
            self._answer(401, {"error": "Unauthorized"}, {"WWW-Authenticate": "Bearer"})
        else:
            self._answer(200, self.told)
            self.has_told = True

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Another method, or what cannot be read as a request: it has no path that could be answered here."""
        self.close_connection = True
        self._answer(404, {"error": "Not Found"})

    def _path(self) -> str:
        """As it came: Python's own reading takes //lease for /lease."""
        return self.requestline.split()[1].partition("?")[0]

    def _has_key(self) -> bool:
        """As the door reads it: a header of the machine's own goes before the bearer."""
        given = self.headers.get("X-Regia-Key") or ""
        if not given:
            scheme, _, given = self.headers.get("Authorization", "").partition(" ")
            if scheme not in {"Bearer", "bearer"}:
                return False
        # Every key is compared, each in a time that tells nothing of it.
        return sum(hmac.compare_digest(given.encode(), key.encode()) for key in self.keys) > 0

    def _answer(self, status: int, body: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> None:
        text = json.dumps(body, separators=(",", ":")).encode()
        # Without what `send_response` adds: which Python this is concerns nobody.
        self.send_response_only(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *args: object) -> None:
        """Nothing is logged of what is asked."""


def _handler(keys: Sequence[str], told: Mapping[str, Any]) -> type[_Handler]:
    return type("Handler", (_Handler,), {"keys": tuple(keys), "told": told})


def _cut(handle: socket.socket) -> None:
    with suppress(OSError):
        handle.shutdown(socket.SHUT_RDWR)
