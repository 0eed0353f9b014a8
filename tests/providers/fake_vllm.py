"""A stand-in for the `vllm` command: the same command line and answers, no model. `vllm serve REPO ...`"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("verb", choices=["serve"])
    parser.add_argument("repository")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--host", required=True)
    parser.add_argument("--served-model-name", required=True)
    parser.add_argument("--max-model-len", type=int, required=True)
    known, rest = parser.parse_known_args()
    key = os.environ["VLLM_API_KEY"]
    sys.stdout.write(f"args {rest} gpu {os.environ['CUDA_VISIBLE_DEVICES']} key {key}\n")
    sys.stdout.flush()
    # vLLM runs its engine core in a process of its own, which renames itself and so loses its environment.
    core = subprocess.Popen(["sleep", "600"], env={})

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/health":
                self.answer(200, None)
            elif self.headers.get("Authorization") != f"Bearer {key}":
                self.answer(401, {"error": "Unauthorized"})
            else:
                model = {"id": known.served_model_name, "max_model_len": known.max_model_len}
                self.answer(200, {"data": [{**model, "root": known.repository, "core": core.pid}]})

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.answer(200, {"choices": [{"message": {"content": "Hello"}}]})

        def answer(self, status: int, body: object) -> None:
            data = b"" if body is None else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    ThreadingHTTPServer((known.host, known.port), Handler).serve_forever()


if __name__ == "__main__":
    main()
