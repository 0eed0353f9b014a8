"""A small OpenAI-like server: what the image's process runs in tests in which the engine itself is not tested.

Standard library only. It behaves as vLLM does where it matters (refused while it loads), and badly when told to.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--load-seconds", type=float, default=0)
    parser.add_argument("--die-loading", type=int, help="exit with this code instead of listening")
    parser.add_argument("--warmup", choices=["answer", "fail", "empty", "die"], default="answer")
    parser.add_argument("--chunks", type=int, default=20, help="of a stream")
    parser.add_argument("--pace", type=float, default=0.1, help="seconds between them")
    parser.add_argument("--deaf", action="store_true", help="ignore SIGTERM")
    parser.add_argument("--orphan", action="store_true", help="leave a process behind in another session")
    parser.add_argument("--tell", type=Path, help="a file that is told pid, environment and arguments")
    parser.add_argument("--say", action="append", default=[], help="a line on the output")
    parser.add_argument("--say-file", type=Path, help="what is in it goes to the output")
    return parser.parse_args()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    order: argparse.Namespace
    requests = 0

    def do_GET(self) -> None:
        if self.path == "/health":
            self._answer(200, b"")
        elif self.path == "/v1/models":
            self._answer(200, json.dumps({"object": "list", "data": [{"id": "model"}]}).encode())
        elif self.path == "/metrics":
            self._answer(200, b"vllm:num_requests_running 0\n")
        else:
            self._answer(404, b"{}")

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        Handler.requests += 1
        if Handler.requests == 1 and self.order.warmup != "answer":
            self._answer_badly()
        elif body.get("stream"):
            self._stream()
        else:
            choice = {
                "index": 0,
                "message": {"role": "assistant", "content": "Hello"},
                "finish_reason": "stop",
            }
            self._answer(200, json.dumps({"model": body["model"], "choices": [choice]}).encode())

    def _answer_badly(self) -> None:
        if self.order.warmup == "die":
            say("RuntimeError: CUDA error: an illegal memory access was encountered")
            os._exit(9)
        if self.order.warmup == "fail":
            self._answer(500, b'{"error":{"message":"CUDA out of memory","code":500}}')
        else:
            self._answer(200, b'{"choices":[]}')

    def _stream(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for number in range(self.order.chunks):
            self._chunk(json.dumps({"choices": [{"index": 0, "delta": {"content": f"{number} "}}]}))
            time.sleep(self.order.pace)
        self._chunk("[DONE]")
        self.wfile.write(b"0\r\n\r\n")

    def _chunk(self, text: str) -> None:
        data = f"data: {text}\n\n".encode()
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, *args: object) -> None:
        pass


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def leave_an_orphan() -> int:
    """A process in a session of its own whose parent is gone. It says its pid."""
    sleeper = "import os; print(os.getpid(), flush=True); os.setsid(); os.close(1); os.close(2); __import__('time').sleep(300)"
    code = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {sleeper!r}])"
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return int(made.stdout)


def main() -> None:
    order = arguments()
    if order.deaf:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    else:
        signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    told = {
        "pid": os.getpid(),
        "environment": dict(os.environ),
        "arguments": sys.argv[1:],
        "folder": os.getcwd(),
    }
    if order.orphan:
        told["orphan"] = leave_an_orphan()
    if order.tell:
        draft = order.tell.with_suffix(".new")
        draft.write_text(json.dumps(told))
        draft.replace(order.tell)
    for line in order.say:
        say(line)
    if order.say_file:
        sys.stdout.buffer.write(order.say_file.read_bytes())
        sys.stdout.flush()
    time.sleep(order.load_seconds)
    if order.die_loading is not None:
        say("ValueError: the engine cannot load this model")
        sys.exit(order.die_loading)
    Handler.order = order
    server = Server(("127.0.0.1", order.port), Handler)
    threading.Thread(target=server.serve_forever).start()


if __name__ == "__main__":
    main()
