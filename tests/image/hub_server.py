"""A server that speaks as much of Hugging Face's Hub as a download needs."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.image.running import COMMIT

REPOSITORY = "acme/small"
FILES = {
    "config.json": b'{"architectures":["Qwen3ForCausalLM"]}',
    "tokenizer.json": b"{}",
    "model.safetensors": bytes(range(256)) * 4096,
    "model.gguf": b"another form of the same weights",
}


@dataclass
class Hub:
    files: dict[str, bytes] = field(default_factory=lambda: dict(FILES))
    refusal: tuple[int, str] | None = None
    """Status and error code for every request."""
    seconds: float = 0
    """How long the largest file takes."""
    breaks: bool = False
    """The connection ends in the middle of the largest file."""
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    """Method, path, Authorization."""

    def __enter__(self) -> Hub:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *args: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def fetched(self) -> set[str]:
        """Names of the files that were asked for."""
        mark = f"/{REPOSITORY}/resolve/{COMMIT}/"
        return {
            path.removeprefix(mark)
            for method, path, _ in self.asked
            if method == "GET" and path.startswith(mark)
        }


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._serve(with_body=False)

        def do_GET(self) -> None:
            self._serve(with_body=True)

        def _serve(self, *, with_body: bool) -> None:
            hub.asked.append((self.command, self.path, self.headers.get("Authorization", "")))
            if hub.refusal:
                return self._answer(
                    hub.refusal[0], b"", {"X-Error-Code": hub.refusal[1]}, with_body=with_body
                )
            if self.path.startswith(f"/api/models/{REPOSITORY}/tree/{COMMIT}"):
                tree = [
                    {
                        "type": "file",
                        "path": name,
                        "size": len(content),
                        "oid": hashlib.sha256(content).hexdigest(),
                    }
                    for name, content in hub.files.items()
                ]
                headers = {"Content-Type": "application/json"}
                return self._answer(200, json.dumps(tree).encode(), headers, with_body=with_body)
            if self.path.startswith(f"/api/models/{REPOSITORY}/revision/{COMMIT}"):
                siblings = [{"rfilename": name} for name in hub.files]
                told = {"id": REPOSITORY, "modelId": REPOSITORY, "sha": COMMIT, "siblings": siblings}
                headers = {"Content-Type": "application/json"}
                return self._answer(200, json.dumps(told).encode(), headers, with_body=with_body)
            name = self.path.removeprefix(f"/{REPOSITORY}/resolve/{COMMIT}/")
            if name not in hub.files:
                return self._answer(404, b"", {"X-Error-Code": "EntryNotFound"}, with_body=with_body)
            return self._file(hub.files[name], with_body=with_body)

        def _file(self, content: bytes, *, with_body: bool) -> None:
            headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": COMMIT}
            self._answer(200, content, headers, with_body=with_body)

        def _answer(self, status: int, body: bytes, headers: dict[str, str], *, with_body: bool) -> None:
            self.send_response(status)
            for header, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(header, value)
            self.end_headers()
            if with_body:
                self._send(body)

        def _send(self, body: bytes) -> None:
            size = max(map(len, hub.files.values()))
            slow = len(body) == size and (hub.seconds or hub.breaks)
            parts = 20 if slow else 1
            length = -(-len(body) // parts) or 1
            for number, start in enumerate(range(0, len(body), length)):
                if hub.breaks and number >= parts // 2:
                    self.close_connection = True
                    self.connection.close()
                    return
                self.wfile.write(body[start : start + length])
                time.sleep(hub.seconds / parts if slow else 0)

        def log_message(self, *args: object) -> None:
            pass

    return Handler
