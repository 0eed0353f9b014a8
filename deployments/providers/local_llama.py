"""The engine without a GPU: llama.cpp's OpenAI-compatible server in this process.

Run as `python -m deployments.providers.local_llama <root> <label> <fd>` by the machine's supervisor, with
a pipe as its standard input: when that closes, the supervisor is gone, and so is this. The port is written
to the pipe `fd`, because llama.cpp's logger writes pieces of lines and would tear a word of ours.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from deployments.providers import local_commands, local_computer
from deployments.providers.local_files import MachineFolder


def main(root: str, label: str, port_pipe: str) -> None:
    machine = MachineFolder(Path(root), label)
    order, api_key = machine.read("meta.json")["order"], machine.read("secrets.json")["api_key"]
    over = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: over.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_watch_supervisor, daemon=True).start()
    # In a thread of its own, because Python hears no signal while the main thread loads a model.
    threading.Thread(target=_serve, args=(order, api_key, int(port_pipe)), daemon=True).start()
    over.wait()
    # Its clean-up would wait for streams that nobody reads any more; there is nothing to save.
    os._exit(0)


def _serve(order: dict[str, Any], api_key: str, port_pipe: int) -> None:
    try:
        server = start_server(order, api_key)
    except Exception as e:
        sys.stdout.write(f"\n{local_commands.NOT_LOADED}: {e}\n")
        sys.stdout.flush()
        os._exit(1)
    os.write(port_pipe, server.listening_address.rpartition(":")[2].encode())
    os.close(port_pipe)
    threading.Event().wait()


def start_server(order: dict[str, Any], api_key: str) -> Any:
    """Load the model and listen on a free port of 127.0.0.1 (`server.listening_address`)."""
    import xllamacpp

    wanted = local_commands.llama_parameters(order, cores=local_computer.cores())
    params = xllamacpp.CommonParams()
    params.model.path = order["gguf"]
    params.n_ctx, params.n_parallel = wanted["n_ctx"], wanted["n_parallel"]
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = wanted["n_threads"]
    params.n_threads_http = wanted["n_threads_http"]
    params.hostnames, params.port = ["127.0.0.1"], 0
    params.model_alias, params.api_keys = {wanted["alias"]}, [api_key]
    params.endpoint_metrics, params.endpoint_slots, params.ui = True, False, False
    # No copy of past prompts in memory: it would hold people's words, and up to 8 GiB of them.
    params.cache_ram_mib = 0
    return xllamacpp.Server(params)


def _watch_supervisor() -> None:
    while os.read(0, 1024):
        pass
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:4])
