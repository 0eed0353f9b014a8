"""One request, one answer: a server that misbehaves costs bounded time and memory, and nothing is sent twice."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from deployments.providers import http
from deployments.providers.base import Unavailable, Unknown


class Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.seen: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def answer(self) -> None:
        self.server.seen.append(self.path)
        with suppress(OSError):
            getattr(self, self.path.strip("/"))()

    do_GET = do_POST = answer

    def head(self, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def elsewhere(self) -> None:
        self.head(302, Location="/json")

    def json(self) -> None:
        self.head()
        self.wfile.write(b"{}")

    def deep(self) -> None:
        self.head()
        self.wfile.write(b"[" * 200_000)

    def endless(self) -> None:
        self.head()
        while True:
            self.wfile.write(b"x" * 65_536)

    def trickle(self) -> None:
        self.head()
        while True:
            self.wfile.write(b"x")
            time.sleep(0.02)

    def half(self) -> None:
        self.head(200, **{"Content-Length": "100"})
        self.wfile.write(b"{")

    def quiet(self) -> None:
        self.head()
        self.wfile.write(b"data: 1\n\n")
        self.wfile.flush()
        time.sleep(30)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(http, "READ_SECONDS", 0.3)
    monkeypatch.setattr(http, "CHANGE_SECONDS", 0.3)
    monkeypatch.setattr(http, "BODY_LIMIT", 1_000_000)
    with Server() as made:
        threading.Thread(target=made.serve_forever, daemon=True).start()
        yield made
        made.shutdown()


def ask(server: Server, path: str, *, changes: bool = False) -> http.Answer:
    return http.request("POST" if changes else "GET", f"{server.url}/{path}", headers={}, changes=changes)


@pytest.mark.parametrize("path", ["endless", "trickle", "half"])
@pytest.mark.parametrize(("changes", "error"), [(False, Unavailable), (True, Unknown)])
def test_an_answer_without_an_end_is_none(
    server: Server, path: str, changes: bool, error: type[Exception]
) -> None:
    with pytest.raises(error):
        ask(server, path, changes=changes)
    assert server.seen == [f"/{path}"]


def test_no_redirect_is_followed(server: Server) -> None:
    assert ask(server, "elsewhere").status == 302
    assert server.seen == ["/elsewhere"]


def test_json_that_is_too_deep_is_none(server: Server) -> None:
    with pytest.raises(ValueError):
        ask(server, "deep").json()


@pytest.mark.parametrize(("path", "limit"), [("quiet", 1000), ("trickle", 1000), ("endless", 1000)])
def test_a_stream_is_read_for_a_while_and_no_longer(server: Server, path: str, limit: int) -> None:
    answer = http.read_for(
        f"{server.url}/{path}",
        headers={},
        query={},
        seconds=0.3,
        quiet=0.3,
        limit=limit,
        enough=lambda c: False,
    )
    assert 0 < len(answer.content) <= limit


def test_a_change_is_sent_on_a_connection_of_its_own(server: Server) -> None:
    """A kept one may be closed by the server just as the request leaves."""
    for _ in range(3):
        assert ask(server, "json", changes=True).json() == {}
    pool = http._one_way()._transport._pool  # type: ignore[attr-defined]
    assert pool.connections == []
