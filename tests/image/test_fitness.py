"""Whether a machine can run the model: real scripts named nvidia-smi, a real server, this computer's disk."""

from __future__ import annotations

import os
import shutil
import socket
import threading
import time
from collections import namedtuple
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from regia_machine import environment, fitness, models
from regia_machine.environment import Settings
from regia_machine.exits import Ending, Exit, Unfit

from tests.image.running import COMMIT, free_port, running, soon_gone, variables

AWQ, BF16, FP8 = (models.known(name) for name in ("Qwen/Qwen3-4B-AWQ", "Qwen/Qwen3-4B", "Qwen/Qwen3-4B-FP8"))
RTX_4090 = "NVIDIA GeForce RTX 4090, 24564, 8.9"
RTX_3070 = "NVIDIA GeForce RTX 3070, 8192, 8.6"
T4 = "Tesla T4, 15360, 7.5"
GTX_1080 = "NVIDIA GeForce GTX 1080 Ti, 11264, 6.1"
HEADER = "| NVIDIA-SMI 570.86.10    Driver Version: 570.86.10    CUDA Version: {cuda}     |"


def never() -> None:
    """Nothing ends the machine."""


@pytest.fixture
def smi(tmp_path, monkeypatch):
    """Puts a script named nvidia-smi in front: rows it answers a query with, and the CUDA version of its table."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    def write(*rows: str, cuda: str = "12.8", script: str = "") -> Path:
        lines = "\n".join(rows)
        text = (
            script
            or f'case "$*" in *--query-gpu*) echo "{lines}";; *) echo "{HEADER.format(cuda=cuda)}";; esac'
        )
        path = folder / "nvidia-smi"
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
        return folder

    return write


@pytest.fixture
def ordered(tmp_path) -> Settings:
    return environment.read({**variables(tmp_path), "REGIA_CONTEXT": "8192", "REGIA_CHECKS": "on"})


def unfit(ordered: Settings, model: models.Model | None, *, seconds: float = 10) -> Unfit:
    with pytest.raises(Unfit) as caught:
        fitness.check_gpu(ordered, model, never, seconds=seconds)
    assert caught.value.cause.endswith(".")
    return caught.value


# -- the GPU ------------------------------------------------------------------------------------


def test_the_catalogues_models_are_known():
    assert AWQ is not None
    assert AWQ.weights_bytes > 2_000_000_000
    assert AWQ.min_compute_capability == (7, 5)
    assert models.known("acme/small") is None


def test_a_missing_catalogue_knows_no_model(tmp_path):
    assert models.known("Qwen/Qwen3-4B-AWQ", catalogue=tmp_path / "models.toml") is None


@pytest.mark.parametrize("model", [AWQ, BF16, FP8, None])
def test_a_4090_runs_each_of_the_models(smi, ordered, model):
    smi(RTX_4090)

    fitness.check_gpu(ordered, model, never)


def test_without_nvidia_smi_there_is_no_gpu(ordered, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))

    told = unfit(ordered, AWQ)

    assert told.code == Exit.GPU
    assert "no nvidia-smi" in told.cause


def test_a_driver_that_finds_no_device_is_no_gpu(smi, ordered):
    smi(script="echo 'No devices were found'; exit 6")

    told = unfit(ordered, AWQ)

    assert told.code == Exit.GPU
    assert "No devices were found" in told.cause


def test_a_row_that_cannot_be_measured_is_no_gpu(smi, ordered):
    smi("NVIDIA GH200, [N/A], [N/A]")

    assert unfit(ordered, AWQ).code == Exit.GPU


def test_a_driver_that_hangs_is_given_up_and_nothing_of_it_is_left(smi, ordered, tmp_path):
    smi(script=f"sleep 60 & echo $! > {tmp_path}/pid; wait")
    began = time.monotonic()

    told = unfit(ordered, AWQ, seconds=0.5)

    assert told.code == Exit.GPU
    assert "within 0.5 seconds" in told.cause
    assert time.monotonic() - began < 5
    assert soon_gone(int((tmp_path / "pid").read_text()))


def test_a_stop_is_heard_while_the_driver_hangs(smi, ordered):
    smi(script="sleep 60")
    began = time.monotonic()

    def look() -> None:
        if time.monotonic() - began > 0.3:
            raise Ending(Exit.ASKED, "It was told to stop.")

    with pytest.raises(Ending) as caught:
        fitness.check_gpu(ordered, AWQ, look)
    assert caught.value.code == Exit.ASKED
    assert time.monotonic() - began < 5


# -- the driver ---------------------------------------------------------------------------------


@pytest.mark.parametrize("cuda", ["12.8", "12.9", "13.0", "14.1"])
def test_a_driver_that_is_new_enough_is_fine(smi, ordered, cuda):
    smi(RTX_4090, cuda=cuda)

    fitness.check_gpu(ordered, AWQ, never)


@pytest.mark.parametrize("cuda", ["12.7", "12.4", "11.8", "9.2"])
def test_an_old_driver_is_told_with_both_versions(smi, ordered, cuda):
    smi(RTX_4090, cuda=cuda)

    told = unfit(ordered, None)

    assert told.code == Exit.DRIVER
    assert cuda in told.cause
    assert "12.8" in told.cause


def test_the_image_says_which_cuda_it_needs(smi, ordered):
    smi(RTX_4090, cuda="12.9")

    assert unfit(replace(ordered, cuda_min=(13, 0)), AWQ).code == Exit.DRIVER


@pytest.mark.parametrize(
    "script",
    [
        "echo 'Field \"compute_cap\" is not a valid field to query.'; exit 2",
        "echo 'Failed to initialize NVML: Driver/library version mismatch'; exit 18",
    ],
)
def test_a_driver_that_does_not_fit_its_tools_is_the_drivers_fault(smi, ordered, script):
    smi(script=script)

    assert unfit(ordered, AWQ).code == Exit.DRIVER


def test_a_driver_that_does_not_say_its_cuda_is_not_trusted(smi, ordered):
    smi(RTX_4090, cuda="N/A")

    assert unfit(ordered, AWQ).code == Exit.DRIVER


def test_the_newest_tables_way_to_name_the_version_is_read(smi, ordered):
    smi(script=f'case "$*" in *query*) echo "{RTX_4090}";; *) echo "CUDA UMD Version : 13.1";; esac')

    fitness.check_gpu(ordered, AWQ, never)


# -- whether the model fits ---------------------------------------------------------------------


@pytest.mark.parametrize(("gpu", "model"), [(GTX_1080, AWQ), (T4, BF16), (T4, FP8), (RTX_3070, FP8)])
def test_a_gpu_that_lacks_what_the_kernels_need_is_refused(smi, ordered, gpu, model):
    smi(gpu)

    told = unfit(ordered, model)

    assert told.code == Exit.GPU
    assert "compute capability" in told.cause


def test_the_weights_have_to_fit_the_memory(smi, ordered):
    smi(RTX_3070)

    told = unfit(ordered, BF16)

    assert told.code == Exit.GPU
    assert "larger GPU" in told.cause


def test_one_request_as_long_as_the_context_has_to_fit_beside_the_weights(smi, ordered):
    smi(RTX_3070)

    fitness.check_gpu(ordered, AWQ, never)
    long = replace(ordered, context=40_960)
    assert "40960 tokens" in unfit(long, AWQ).cause
    fitness.check_gpu(replace(long, extra_arguments=("--kv-cache-dtype", "fp8")), AWQ, never)


def test_memory_counts_together_only_when_the_model_is_split(smi, ordered):
    smi(RTX_3070, RTX_3070)

    assert unfit(ordered, BF16).code == Exit.GPU
    fitness.check_gpu(replace(ordered, extra_arguments=("--tensor-parallel-size=2",)), BF16, never)


def test_the_weakest_of_several_gpus_decides(smi, ordered):
    smi(RTX_4090, GTX_1080)

    assert "1080" in unfit(ordered, AWQ).cause


# -- disk and network ---------------------------------------------------------------------------

Usage = namedtuple("Usage", "total used free")


def test_the_disk_needs_what_is_missing_and_a_reserve(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**11, 0, 4_000_000_000))

    fitness.check_disk(tmp_path / "not" / "there" / "yet", 2_000_000_000)
    with pytest.raises(Unfit) as caught:
        fitness.check_disk(tmp_path, 2_000_000_001)
    assert caught.value.code == Exit.DISK
    assert "4.0 GB free" in caught.value.cause


def test_what_is_there_already_is_not_asked_for_again(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**11, 0, 2_500_000_000))
    with hub(200) as endpoint:
        with pytest.raises(Unfit) as caught:
            fitness.check_download(endpoint, tmp_path, AWQ, there=0, look=never)
        assert caught.value.code == Exit.DISK

        fitness.check_download(endpoint, tmp_path, AWQ, there=2_600_000_000, look=never)


class hub:
    """A real server that answers everything with one status."""

    def __init__(self, status: int) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                self.send_response(status)
                self.end_headers()

            def log_message(self, *args: object) -> None:
                pass

        self._server = HTTPServer(("127.0.0.1", 0), Handler)

    def __enter__(self) -> str:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return f"http://127.0.0.1:{self._server.server_port}"

    def __exit__(self, *args: object) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def silent_server() -> Iterator[str]:
    """It takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize("status", [200, 401, 404, 503])
def test_any_answer_shows_that_the_way_is_open(status):
    with hub(status) as endpoint:
        fitness.check_network(endpoint, never)


def test_a_refused_connection_is_told():
    endpoint = f"http://127.0.0.1:{free_port()}"

    with pytest.raises(Unfit) as caught:
        fitness.check_network(endpoint, never)

    assert caught.value.code == Exit.NETWORK
    assert endpoint in caught.value.cause
    assert "refused" in caught.value.cause


def test_silence_is_given_up(silent_server):
    began = time.monotonic()

    with pytest.raises(Unfit) as caught:
        fitness.check_network(silent_server, never, seconds=0.5)

    assert caught.value.code == Exit.NETWORK
    assert time.monotonic() - began < 5


# -- as a process -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "cuda", "model", "code"),
    [
        ((), "12.8", "Qwen/Qwen3-4B-AWQ", Exit.GPU),
        ((GTX_1080,), "12.8", "Qwen/Qwen3-4B-AWQ", Exit.GPU),
        ((RTX_4090,), "12.2", "Qwen/Qwen3-4B-AWQ", Exit.DRIVER),
    ],
)
def test_an_unfit_machine_ends_with_its_code_before_any_engine(smi, tmp_path, rows, cuda, model, code):
    smi(*rows, cuda=cuda)

    with running(tmp_path, variables(tmp_path, REGIA_CHECKS="on", REGIA_MODEL=model)) as machine:
        last = machine.end()

    assert last.values["code"] == str(int(code))
    assert not machine.told.exists()


def test_the_network_is_asked_for_only_when_something_has_to_be_downloaded(smi, tmp_path):
    smi(RTX_4090)
    nowhere = f"http://127.0.0.1:{free_port()}"
    environ = variables(tmp_path, REGIA_CHECKS="on", HF_ENDPOINT=nowhere, REGIA_ENGINE_COMMAND="")

    with running(tmp_path, environ) as machine:
        assert machine.end().values["code"] == str(int(Exit.NETWORK))

    folder = tmp_path / "state" / "models" / "acme--small" / COMMIT
    folder.mkdir(parents=True)
    (folder / ".complete").touch()
    with running(tmp_path, environ) as machine:
        # There is no vLLM here: it came as far as starting it.
        assert machine.end().values["code"] == str(int(Exit.STARTING))
