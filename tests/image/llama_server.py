"""The real local engine as the machine's engine: llama.cpp's server, without a key, for whoever is on this machine.

python tests/image/llama_server.py --port N --gguf FILE
"""

from __future__ import annotations

import argparse
import os
import signal
import threading

from xllamacpp import CommonParams, Server


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--gguf", required=True)
    options = parser.parse_args()
    params = CommonParams()
    params.model.path, params.port, params.hostnames = options.gguf, options.port, ["127.0.0.1"]
    params.n_ctx, params.n_parallel, params.cpuparams.n_threads = 2048, 2, 1
    params.model_alias, params.endpoint_metrics, params.ui = {"smollm2-135m"}, True, False
    over = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: over.set())
    server = Server(params)
    over.wait()
    del server
    os._exit(0)


if __name__ == "__main__":
    main()
