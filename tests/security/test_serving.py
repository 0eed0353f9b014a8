"""What a stranger can do to the server itself: heads without an end, bodies without an end, silence, and lies."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import closing

import pytest
import uvicorn

from panel import serving
from panel.serving import BoundedBody, BoundedProtocol


async def echo(scope, receive, send):
    size = 0
    while True:
        message = await receive()
        size += len(message.get("body", b""))
        if not message.get("more_body"):
            break
    text = f"{scope['scheme']} {scope['client'][0]} {size}".encode()
    await send(
        {
            "type": "http.response.start",
            "status": 200,
            "headers": [(b"content-length", str(len(text)).encode())],
        }
    )
    await send({"type": "http.response.body", "body": text})


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """A real server of ours, which is impatient."""
    with pytest.MonkeyPatch.context() as patch, socket.socket() as listener:
        patch.setattr(serving, "HEAD_SECONDS", 0.3)
        patch.setattr(serving, "BODY_SECONDS", 0.3)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        config = uvicorn.Config(
            BoundedBody(echo), http=BoundedProtocol, ws="none", lifespan="off", log_config=None, proxy_headers=True,
            forwarded_allow_ips=["127.0.0.9/32"],
        )  # fmt: skip
        server = uvicorn.Server(config)
        thread = threading.Thread(target=asyncio.run, args=(server.serve(sockets=[listener]),))
        thread.start()
        yield listener.getsockname()[1]
        server.should_exit = True
        thread.join()


def say(port: int, *parts: bytes, source: str = "127.0.0.1") -> bytes:
    """What is answered until the server closes, or has answered once."""
    with closing(socket.create_connection(("127.0.0.1", port), timeout=5, source_address=(source, 0))) as s:
        try:
            for part in parts:
                s.sendall(part)
        except (BrokenPipeError, ConnectionResetError):
            pass
        heard = b""
        try:
            while piece := s.recv(65536):
                heard += piece
        except (TimeoutError, ConnectionResetError):
            pass
        return heard


CLOSE = b"Connection: close\r\n\r\n"
HEAD = b"POST / HTTP/1.1\r\nHost: x\r\n"


def test_an_ordinary_request_is_answered(port):
    answer = say(port, HEAD + b"Content-Length: 3\r\n" + CLOSE, b"abc")
    assert answer.startswith(b"HTTP/1.1 200")
    assert answer.endswith(b"http 127.0.0.1 3")


@pytest.mark.parametrize("head", [b"A: " + b"a" * 200_000, b"".join(b"H%d: x\r\n" % n for n in range(9000))])
def test_a_head_without_an_end_is_refused(port, head):
    answer = say(port, HEAD, *(head[i : i + 8000] for i in range(0, len(head), 8000)))
    assert answer[:12] in (b"HTTP/1.1 431", b"HTTP/1.1 400")


def test_a_head_that_is_too_long_at_once_is_refused(port):
    assert say(port, HEAD + b"A: " + b"a" * 40_000 + b"\r\n" + CLOSE).startswith(b"HTTP/1.1 400")


@pytest.mark.parametrize("parts", [[], [b"GET / HT"], [HEAD + b"X: "]])
def test_who_says_nothing_more_is_let_go(port, parts):
    assert say(port, *parts).startswith(b"HTTP/1.1 408")


def test_a_body_that_does_not_come_is_not_waited_for(port):
    # The application reads it already: the connection is closed under it.
    assert b"200" not in say(port, HEAD + b"Content-Length: 9\r\n\r\nabc")


def test_a_body_that_is_announced_too_long_is_not_read(port, settings):
    most = settings.REQUEST_BODY_MOST
    answer = say(port, HEAD + b"Content-Length: %d\r\n" % (most + 1) + CLOSE)
    assert answer.startswith(b"HTTP/1.1 413")


def test_a_body_without_an_end_is_cut_off(port, settings):
    piece = b"%x\r\n" % 65536 + b"a" * 65536 + b"\r\n"
    pieces = [piece] * (settings.REQUEST_BODY_MOST // 65536 + 2)
    answer = say(port, HEAD + b"Transfer-Encoding: chunked\r\n" + CLOSE, *pieces)
    assert b"200 OK" not in answer


def test_https_is_believed_from_the_named_proxy_alone(port):
    forwarded = b"X-Forwarded-Proto: https\r\nX-Forwarded-For: 203.0.113.7\r\nContent-Length: 0\r\n" + CLOSE
    assert say(port, HEAD + forwarded).endswith(b"http 127.0.0.1 0")
    assert say(port, HEAD + forwarded, source="127.0.0.9").endswith(b"https 203.0.113.7 0")
