"""A real HTTP server that stands for a serving engine and answers each path as a test says, faults included."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any

VLLM = (Path(__file__).parent / "captures" / "vllm-metrics.txt").read_text()
LLAMA = (Path(__file__).parent / "captures" / "llamacpp-metrics.txt").read_text()
TEXT = "text/plain; version=0.0.4; charset=utf-8"
SSE = "text/event-stream; charset=utf-8"

type Answer = Callable[[BaseHTTPRequestHandler], None]


class Engine:
    """`on[path]` answers; a path without an answer gets 404. `asked`: (path, Authorization, JSON body or None)."""

    def __init__(self) -> None:
        outer = self
        self.on: dict[str, Answer] = {}
        self.asked: list[tuple[str, str, Any]] = []
        self.released = Event()
        """Set at the end: what hangs until then lets go."""

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.take(None)

            def do_POST(self) -> None:
                self.take(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

            def take(self, body: Any) -> None:
                outer.asked.append((self.path, self.headers.get("Authorization", ""), body))
                outer.on.get(self.path, status(404))(self)

            def log_message(self, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def hangs(self, handler: BaseHTTPRequestHandler) -> None:
        """It takes the request and says nothing."""
        self.released.wait(30)

    def close(self) -> None:
        self.released.set()
        self.server.shutdown()
        self.server.server_close()


def whole(body: str | bytes, content_type: str = TEXT, *, code: int = 200) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        data = body.encode() if isinstance(body, str) else body
        handler.send_response(code)
        handler.send_header("Content-Type", content_type)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data)

    return answer


def status(code: int) -> Answer:
    return whole("{}", "application/json", code=code)


def half(body: str, *, told: bool) -> Answer:
    """The connection ends after half the body, whose length was told or not."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        data = body.encode()
        handler.send_response(200)
        handler.send_header("Content-Type", TEXT)
        if told:
            handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data[: len(data) // 2])
        handler.wfile.flush()
        handler.connection.shutdown(socket.SHUT_RDWR)

    return answer


def stream(*events: object, done: bool = True) -> Answer:
    """A chat's event stream; a text is sent as it is."""
    lines = [f"data: {e if isinstance(e, str) else json.dumps(e)}\n\n" for e in events]
    return whole("".join([*lines, "data: [DONE]\n\n"] if done else lines), SSE)


def chat(text: str = "Paris is the capital of France.", *, thought: str = "", finish: str = "stop") -> Answer:
    """A whole answer, word by word, as vLLM gives it."""
    return stream(
        {"choices": [{"delta": {"role": "assistant", "content": ""}}]},
        *({"choices": [{"delta": {"reasoning": w}}]} for w in _words(thought)),
        *({"choices": [{"delta": {"content": w}}]} for w in _words(text)),
        {"choices": [{"delta": {}, "finish_reason": finish}]},
        {"choices": [], "usage": {"completion_tokens": len(text.split())}},
    )


def _words(text: str) -> Iterable[str]:
    return (f"{word} " for word in text.split())
