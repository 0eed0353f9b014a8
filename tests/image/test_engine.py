"""The engine's process: how it is called, what it may know, and how its end is told."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from regia_machine import children, engine, environment
from regia_machine.engine import Engine
from regia_machine.environment import Settings
from regia_machine.exits import Ending, Exit
from regia_machine.report import Report

from tests.image.running import KEY, engine_command, is_alive, soon_gone, variables


@pytest.fixture
def ordered(tmp_path) -> Settings:
    (tmp_path / "run" / "tmp").mkdir(parents=True)
    return environment.read(variables(tmp_path))


@pytest.fixture
def started(ordered) -> Iterator[list[Engine]]:
    """Engines that are stopped after the test."""
    engines: list[Engine] = []
    yield engines
    for one in engines:
        if one.process is not None:
            children.kill_group(one.process)


def start(started: list[Engine], ordered: Settings, *options: object) -> Engine:
    told = ordered.run_dir.parent / "told.json"
    command = engine_command("--tell", told, *options)
    ordered = replace(ordered, engine_command=environment.read(
        {**variables(ordered.run_dir.parent), "REGIA_ENGINE_COMMAND": command}
    ).engine_command)  # fmt: skip
    one = Engine(ordered, Report(ordered.secrets, started_at=0))
    started.append(one)
    one.start(None)
    return one


def watching(one: Engine):
    def look() -> None:
        if (words := one.ended()) is not None:
            raise Ending(Exit.STARTING, words)

    return look


# -- vLLM's command line ------------------------------------------------------------------------


def vllm(ordered: Settings, **changes: object) -> list[str]:
    return engine.command(
        replace(ordered, engine_command=(), engine_port=4711, **changes), Path("/models/small")
    )


def test_vllm_serves_the_folder_on_this_machine_alone(ordered):
    assert vllm(ordered) == [
        "vllm", "serve", "/models/small", "--served-model-name", "small", "--host", "127.0.0.1", "--port", "4711",
        "--max-model-len", "2048", "--gpu-memory-utilization", "0.9", "--uvicorn-log-level", "warning",
    ]  # fmt: skip


def test_what_was_ordered_is_on_the_command_line(ordered):
    command = vllm(
        ordered, max_sequences=32, quantization="awq_marlin", reasoning_parser="qwen3", gpu_memory=0.85,
        extra_arguments=("--enable-prefix-caching", "--default-chat-template-kwargs", '{"enable_thinking": false}'),
    )  # fmt: skip

    def value(option: str) -> str:
        return command[command.index(option) + 1]

    assert value("--max-num-seqs") == "32"
    assert value("--quantization") == "awq_marlin"
    assert value("--reasoning-parser") == "qwen3"
    assert value("--gpu-memory-utilization") == "0.85"
    assert command[-3:] == [
        "--enable-prefix-caching",
        "--default-chat-template-kwargs",
        '{"enable_thinking": false}',
    ]


def test_no_key_is_on_the_command_line(ordered):
    assert not any(KEY in word for word in vllm(ordered))


def test_another_engine_is_told_its_port_and_its_weights(ordered):
    other = replace(ordered, engine_command=("serve", "--at={port}", "{model}"), engine_port=4711)

    assert engine.command(other, Path("/models/small")) == ["serve", "--at=4711", "/models/small"]
    assert engine.command(other, None)[-1] == "acme/small"


# -- what it may know ---------------------------------------------------------------------------


def test_the_engine_gets_no_secret_and_nothing_of_regias(ordered):
    given = {
        "PATH": "/bin", "CUDA_VISIBLE_DEVICES": "0", "NVIDIA_VISIBLE_DEVICES": "all", "LD_LIBRARY_PATH": "/usr/lib",
        "VLLM_ATTENTION_BACKEND": "FLASHINFER", "LC_ALL": "C.UTF-8", "HF_HOME": "/cache", "LANG": "C.UTF-8",
    }  # fmt: skip
    secret = {
        "REGIA_API_KEY": KEY, "REGIA_TLS_KEY": "x", "REGIA_LEASE_SECONDS": "7200", "HF_TOKEN": "hf_x",
        "CONTAINER_API_KEY": "x", "RUNPOD_API_KEY": "x", "CONTAINER_ID": "1", "RUNPOD_POD_ID": "1",
        "VLLM_API_KEY": "x", "AWS_SECRET_ACCESS_KEY": "x", "JUPYTER_TOKEN": "x", "SSH_CONNECTION": "x",
        "VLLM_DEBUG_LOG_API_SERVER_RESPONSE": "true", "VLLM_LOGGING_LEVEL": "DEBUG", "VLLM_SERVER_DEV_MODE": "1",
    }  # fmt: skip

    result = engine.environment(ordered, {**given, **secret})

    assert given.items() <= result.items()
    assert not secret.keys() & result.keys()


def test_the_engine_tells_nobody_and_asks_nobody(ordered):
    result = engine.environment(ordered, {"HF_HUB_OFFLINE": "0"})

    for name in ("VLLM_NO_USAGE_STATS", "DO_NOT_TRACK", "HF_HUB_DISABLE_TELEMETRY", "HF_HUB_OFFLINE"):
        assert result[name] == "1"
    assert result["TMPDIR"] == str(ordered.run_dir / "tmp")


# -- its life -----------------------------------------------------------------------------------


def test_it_is_healthy_when_it_answers_and_not_before(ordered, started, capsys):
    began = time.monotonic()
    one = start(started, ordered, "--load-seconds", 0.7)

    one.wait_until_healthy(watching(one))

    assert time.monotonic() - began >= 0.7
    assert "regia phase=loading seconds=0" in capsys.readouterr().out


def test_loading_is_told_again_and_again(ordered, started, capsys, monkeypatch):
    monkeypatch.setattr(engine, "TELL_SECONDS", 0.3)
    one = start(started, ordered, "--load-seconds", 1.5)

    one.wait_until_healthy(watching(one))

    assert capsys.readouterr().out.count("regia phase=loading") >= 4


def test_a_death_while_it_loads_is_told_with_its_last_words(ordered, started):
    one = start(started, ordered, "--die-loading", 3, "--say", "loading weights")

    with pytest.raises(Ending) as caught:
        one.wait_until_healthy(watching(one))

    assert caught.value.code == Exit.STARTING
    assert "exit code 3" in caught.value.cause
    assert caught.value.cause.endswith("loading weights | ValueError: the engine cannot load this model")


def test_only_the_last_twenty_lines_are_kept(ordered, started, tmp_path):
    (tmp_path / "words").write_text("".join(f"line {n}\n" for n in range(50)))
    one = start(started, ordered, "--die-loading", 1, "--say-file", tmp_path / "words")

    with pytest.raises(Ending) as caught:
        one.wait_until_healthy(watching(one))

    assert "line 30" not in caught.value.cause
    assert "line 31 |" in caught.value.cause


def test_what_triton_leaked_does_not_hide_the_last_words(ordered, started, tmp_path):
    words = tmp_path / "words.txt"
    leaked = [' - leaked function "create_cat"', " - ... skipped remainder"] * 20
    words.write_text("\n".join(["EngineDeadError", "nanobind: leaked 514 functions!", *leaked]) + "\n")
    one = start(started, ordered, "--say-file", words, "--die-loading", 1)
    with pytest.raises(Ending) as e:
        one.wait_until_healthy(watching(one), seconds=10)
    assert "EngineDeadError | " in e.value.cause
    assert "leaked" not in e.value.cause


def test_an_engine_that_does_not_come_up_is_given_up(ordered, started):
    one = start(started, ordered, "--load-seconds", 60)

    with pytest.raises(Ending) as caught:
        one.wait_until_healthy(watching(one), seconds=0.6)

    assert caught.value.code == Exit.STARTING
    assert "within 0.6 seconds" in caught.value.cause


def test_a_command_that_is_not_there_is_told(ordered, started):
    one = Engine(replace(ordered, engine_command=("no-such-engine", "{port}")), Report((), started_at=0))

    with pytest.raises(Ending) as caught:
        one.start(None)

    assert caught.value.code == Exit.STARTING
    assert "no-such-engine" in caught.value.cause


def test_the_warm_up_is_one_real_answer(ordered, started, capsys):
    one = start(started, ordered)
    one.wait_until_healthy(watching(one))

    one.warm_up(watching(one))

    assert "regia phase=warming" in capsys.readouterr().out


@pytest.mark.parametrize(("how", "words"), [("fail", "500: "), ("empty", "200: ")])
def test_a_warm_up_without_an_answer_fails(ordered, started, how, words):
    one = start(started, ordered, "--warmup", how)
    one.wait_until_healthy(watching(one))

    with pytest.raises(Ending) as caught:
        one.warm_up(watching(one))

    assert caught.value.code == Exit.WARMUP
    assert words in caught.value.cause


def test_a_death_of_the_first_request_is_told_as_a_death(ordered, started):
    one = start(started, ordered, "--warmup", "die")
    one.wait_until_healthy(watching(one))

    with pytest.raises(Ending) as caught:
        one.warm_up(watching(one))

    assert caught.value.code == Exit.STARTING
    assert "illegal memory access" in caught.value.cause


def test_a_deaf_engine_is_killed_after_its_grace(ordered, started):
    one = start(started, ordered, "--deaf")
    one.wait_until_healthy(watching(one))
    assert one.process is not None
    began = time.monotonic()

    children.stop(one.process, seconds=0.5)

    assert 0.5 <= time.monotonic() - began < 5
    assert one.process.returncode == -signal.SIGKILL


def test_an_engine_is_ended_gently(ordered, started):
    one = start(started, ordered)
    one.wait_until_healthy(watching(one))

    one.stop()

    assert one.process is not None
    assert one.process.returncode == 0


def test_an_engine_dies_with_the_process_that_started_it(tmp_path):
    """Even when that is killed and can end nothing any more."""
    starter = (
        "import sys, time; from regia_machine import children;"
        "p = children.start(['sleep', '300'], {'PATH': '/usr/bin:/bin'});"
        "print(p.pid, flush=True); time.sleep(300)"
    )
    process = children.start(
        [sys.executable, "-c", starter],
        {"PATH": os.environ["PATH"], "PYTHONPATH": variables(tmp_path)["PYTHONPATH"]},
    )
    assert process.stdout is not None
    engine_pid = int(process.stdout.readline())
    time.sleep(0.5)  # The command has to be on its leash.
    assert is_alive(engine_pid)

    process.kill()
    process.wait()

    assert soon_gone(engine_pid)
