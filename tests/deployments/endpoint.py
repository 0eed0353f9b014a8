"""A real HTTP server that stands for a machine's endpoint."""

from __future__ import annotations

from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread


class Endpoint:
    """A real HTTP server that answers probes as a loaded engine does; `alive=False` makes it answer 500."""

    def __init__(self) -> None:
        outer = self
        self.alive = True

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = b'{"data": []}'
                self.send_response(200 if outer.alive else 500)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
