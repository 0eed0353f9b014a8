"""The way to `vllm serve` on this computer's GPU, with programs that stand in for vLLM and nvidia-smi."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

import psutil
import pytest

from deployments.providers import local_commands, local_process
from deployments.providers.base import MachineStatus, NoCapacity, Rejected
from deployments.providers.local import LocalProvider
from deployments.providers.local_computer import CPU_KEY, Gpu, parse_gpus
from tests.providers import fake_vllm
from tests.providers.contract import API_KEY, ProviderContract, found, wait_for
from tests.providers.local import QWEN, ask, create, state_of

GPU_KEY = f"{CPU_KEY}-gpu-0"
ONE_GPU = "0, NVIDIA GeForce RTX 4090, 24564, 23900\n"


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in front of PATH for programs that stand in for real ones."""
    folder = tmp_path / "tools"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


def program(path: Path, script: str) -> None:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def with_gpus(tools: Path, csv: str) -> None:
    program(tools / "nvidia-smi", f"printf '%s' {shlex.quote(csv)}")


def with_vllm(tools: Path) -> None:
    program(tools / "vllm", f'exec {shlex.quote(sys.executable)} {shlex.quote(fake_vllm.__file__)} "$@"')


@pytest.mark.engine
class TestLocalContractOnAGpu(ProviderContract):
    model = QWEN

    @pytest.fixture(autouse=True)
    def _gpu(self, tools: Path) -> None:
        with_gpus(tools, ONE_GPU)
        with_vllm(tools)

    def quote(self, provider):
        return next(q for q in provider.quotes() if q.key == GPU_KEY)


@pytest.mark.engine
def test_vllm_serves_the_catalogues_model_with_the_machines_key(provider: LocalProvider, tools: Path) -> None:
    with_gpus(tools, ONE_GPU)
    with_vllm(tools)
    label = "regia-a-1"
    create(provider, label, model=QWEN, quote=GPU_KEY)
    machine = wait_for(provider, label, MachineStatus.RUNNING, also=lambda m: m.detail == "ready")
    url = machine.endpoint_url or ""
    assert ask(url, "/v1/models", key=None)[0] == 401
    served = ask(url, "/v1/models")[1]["data"][0]
    core = served.pop("core")
    assert served == {"id": "qwen3-4b", "max_model_len": 4096, "root": "Qwen/Qwen3-4B-AWQ"}
    processes = local_process.find(provider._folder, label, state_of(provider, label))
    assert core in {p.pid for p in processes}  # Its environment is empty; its group tells.
    assert not any(API_KEY in " ".join(p.cmdline()) for p in processes)
    assert "key ***" in " ".join(line.text for line in provider.logs(label))
    provider.terminate(label)
    assert not psutil.pid_exists(core) or psutil.Process(core).status() == psutil.STATUS_ZOMBIE
    assert found(provider, label) == []


def test_the_command_pins_the_revision_and_binds_to_this_computer_alone() -> None:
    command = local_commands.vllm_command("vllm", QWEN, port=8123, gpu_memory_utilization=0.9)
    assert command == [
        "vllm", "serve", "Qwen/Qwen3-4B-AWQ",
        "--revision", QWEN["revision"], "--tokenizer-revision", QWEN["revision"],
        "--served-model-name", "qwen3-4b", "--max-model-len", "4096",
        "--host", "127.0.0.1", "--port", "8123", "--gpu-memory-utilization", "0.90",
        "--reasoning-parser", "qwen3", "--uvicorn-log-level", "warning",
    ]  # fmt: skip


def test_a_model_without_a_known_revision_is_served_unpinned() -> None:
    command = local_commands.vllm_command("vllm", {**QWEN, "revision": None}, port=1)
    assert "--revision" not in command
    assert "--tokenizer-revision" not in command


def test_the_key_of_vllm_is_in_its_environment_and_it_reports_to_nobody() -> None:
    environment = local_commands.vllm_environment("secret", gpu_index=1)
    assert environment["VLLM_API_KEY"] == "secret"
    assert environment["VLLM_NO_USAGE_STATS"] == environment["DO_NOT_TRACK"] == "1"
    assert environment["CUDA_VISIBLE_DEVICES"] == "1"


def test_an_engine_gets_only_what_it_needs_of_the_panels_environment() -> None:
    parent = {"PATH": "/bin", "HF_HOME": "/models", "REGIA_SECRET_KEY": "x", "DATABASE_URL": "y", "A": "b"}
    environment = local_commands.engine_environment(
        parent, mark={"REGIA_MACHINE": "m"}, extra={"HF_TOKEN": "t"}
    )
    assert environment == {
        "PATH": "/bin", "HF_HOME": "/models", "PYTHONUNBUFFERED": "1", "HF_TOKEN": "t", "REGIA_MACHINE": "m",
    }  # fmt: skip


def test_nvidia_smi_is_read_line_by_line_and_nonsense_left_out() -> None:
    text = (
        ONE_GPU
        + "1, NVIDIA A100-SXM4-80GB, 81920, 81000\n2, NVIDIA GB10, [N/A], [N/A]\nNo devices were found\n\n"
    )
    assert parse_gpus(text) == [
        Gpu(0, "NVIDIA GeForce RTX 4090", 24564, 23900),
        Gpu(1, "NVIDIA A100-SXM4-80GB", 81920, 81000),
    ]


def test_every_gpu_is_an_offer_of_its_own(provider: LocalProvider, tools: Path) -> None:
    with_gpus(tools, ONE_GPU + "1, NVIDIA A100-SXM4-80GB, 81920, 1000\n")
    with_vllm(tools)
    plain, first, second = provider.quotes()
    assert (plain.gpu_count, plain.vram_mb, plain.key) == (0, 0, CPU_KEY)
    assert (first.gpu_name, first.gpu_count, first.vram_mb) == ("NVIDIA GeForce RTX 4090", 1, 24564)
    assert (first.stock, second.stock) == ("high", "none")
    assert first.tier == "local"
    assert first.own_machine


def test_a_gpu_without_vllm_says_so(provider: LocalProvider, tools: Path) -> None:
    with_gpus(tools, ONE_GPU)
    quote = provider.quotes()[1]
    assert quote.stock == "none"
    assert "vLLM is not installed" in quote.note
    with pytest.raises(Rejected, match="vLLM is not installed"):
        create(provider, "regia-a-1", model=QWEN, quote=GPU_KEY)
    assert found(provider, "regia-a-1") == []


def test_a_broken_nvidia_smi_is_no_gpu(provider: LocalProvider, tools: Path) -> None:
    program(tools / "nvidia-smi", "echo 'Failed to initialize NVML'; exit 9")
    assert [q.key for q in provider.quotes()] == [CPU_KEY]


def test_a_model_that_needs_a_gpu_is_refused_without_one(provider: LocalProvider) -> None:
    with pytest.raises(Rejected, match="needs an NVIDIA GPU"):
        create(provider, "regia-a-1", model=QWEN)
    assert found(provider, "regia-a-1") == []


@pytest.mark.parametrize(
    ("csv", "words"),
    [("0, NVIDIA GeForce RTX 4090, 24564, 900\n", "GPU memory"), ("", "does not show that GPU")],
)
def test_a_gpu_that_is_full_or_gone_meanwhile_is_no_capacity(
    provider: LocalProvider, tools: Path, monkeypatch: pytest.MonkeyPatch, csv: str, words: str
) -> None:
    with_gpus(tools, ONE_GPU)
    with_vllm(tools)
    quotes = provider.quotes()
    with_gpus(tools, csv)
    monkeypatch.setattr(provider, "quotes", lambda: quotes)
    with pytest.raises(NoCapacity, match=words):
        create(provider, "regia-a-1", model=QWEN, quote=GPU_KEY)
    assert found(provider, "regia-a-1") == []
