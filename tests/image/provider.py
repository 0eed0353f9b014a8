"""A server that stands for a provider's API: it takes a request to end a machine, and keeps it."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Provider:
    """Takes a request to end a machine, and keeps it."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, str]] = []
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_DELETE(self) -> None:
                provider.asked.append((self.command, self.path, self.headers["Authorization"]))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    def __enter__(self) -> Provider:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        return self

    def __exit__(self, *args: object) -> None:
        self._server.shutdown()
        self._server.server_close()
