"""The weights: those that are there are taken, others are downloaded at exactly one commit, and no token is told."""

from __future__ import annotations

import importlib.util
import os
import signal
import stat
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from regia_machine import environment, weights
from regia_machine.environment import Settings
from regia_machine.exits import Ending, Exit
from regia_machine.models import Model
from regia_machine.report import Report

from tests.image.hub_server import FILES, REPOSITORY, Hub
from tests.image.running import COMMIT, ENGINE_SERVER, KEY, is_alive, parsed, running, variables

TOKEN = "hf_aVerySecretToken0123456789"
HUB_CLIENT = Path(__file__).with_name("hub_client")
MODEL = Model("small", REPOSITORY, COMMIT, len(FILES["model.safetensors"]), 1000, (7, 5), (12, 8))
NEEDED = {"config.json", "tokenizer.json", "model.safetensors"}


def never() -> None:
    """Nothing ends the machine."""


def hub_path() -> str:
    """The real huggingface_hub where it is installed, else what stands in for it."""
    return "" if importlib.util.find_spec("huggingface_hub") else str(HUB_CLIENT)


@pytest.fixture(autouse=True)
def _hub_client(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", hub_path())


@pytest.fixture
def ordered(tmp_path) -> Settings:
    return environment.read({**variables(tmp_path), "HF_TOKEN": TOKEN})


@pytest.fixture
def report(ordered) -> Report:
    return Report(ordered.secrets, started_at=0)


def download(ordered: Settings, report: Report, hub: Hub, *, model: Model | None = MODEL) -> Path:
    return weights.Download(replace(ordered, hf_endpoint=hub.endpoint), model, report).run(never)


def failure(ordered: Settings, report: Report, hub: Hub) -> str:
    with pytest.raises(Ending) as caught:
        download(ordered, report, hub)
    assert caught.value.code == Exit.DOWNLOAD
    return caught.value.cause


# -- what is there already ----------------------------------------------------------------------


def test_a_folder_is_taken_as_it_is(ordered, tmp_path):
    assert weights.present(replace(ordered, model=str(tmp_path)), None) == tmp_path


def bake(ordered: Settings) -> Path:
    folder = ordered.weights_dir / MODEL.key
    folder.mkdir(parents=True)
    (folder / "config.json").touch()
    return folder


def test_weights_of_the_image_are_taken_when_they_are_of_the_commit(ordered):
    folder = bake(ordered)

    assert weights.present(ordered, MODEL) == folder
    assert weights.present(ordered, replace(MODEL, revision="f" * 40)) is None
    assert weights.present(ordered, None) is None


def test_a_folder_of_the_image_without_a_model_is_not_taken(ordered):
    (ordered.weights_dir / MODEL.key).mkdir(parents=True)

    assert weights.present(ordered, MODEL) is None


def test_only_a_download_that_came_to_its_end_is_taken_again(ordered, report):
    with Hub() as hub:
        folder = download(ordered, report, hub)

    assert weights.present(ordered, MODEL) == folder
    (folder / ".complete").unlink()
    assert weights.present(ordered, MODEL) is None
    assert weights.present(replace(ordered, revision="f" * 40), MODEL) is None


# -- the download -------------------------------------------------------------------------------


def test_every_file_of_the_commit_arrives_and_no_other_form_of_the_weights(ordered, report):
    with Hub() as hub:
        folder = download(ordered, report, hub)

    assert {name: (folder / name).read_bytes() for name in NEEDED} == {name: FILES[name] for name in NEEDED}
    assert hub.fetched() == NEEDED
    assert {p.name for p in folder.iterdir()} == {*NEEDED, ".complete"}


def test_the_token_goes_to_the_hub_and_nowhere_else(ordered, report, capfd):
    with Hub() as hub:
        folder = download(ordered, report, hub)

    assert {authorization for _, _, authorization in hub.asked} == {f"Bearer {TOKEN}"}
    assert TOKEN not in capfd.readouterr().out
    assert not any(TOKEN.encode() in p.read_bytes() for p in folder.rglob("*") if p.is_file())


def test_without_a_token_none_is_sent(ordered, report):
    with Hub() as hub:
        download(replace(ordered, hf_token=""), report, hub)

    assert {authorization for _, _, authorization in hub.asked} == {""}


def test_progress_is_told_from_the_growing_folder(ordered, report, capfd, monkeypatch):
    monkeypatch.setattr(weights, "TELL_SECONDS", 0.3)
    with Hub(seconds=2) as hub:
        download(ordered, report, hub)

    told = [parsed(line) for line in capfd.readouterr().out.splitlines()]
    assert {p.phase for p in told} == {"downloading"}
    counts = [int(p.values["bytes"]) for p in told]
    assert counts == sorted(counts)
    assert len(set(counts)) >= 4
    assert told[-1].values == {
        "bytes": str(MODEL.weights_bytes),
        "of": str(MODEL.weights_bytes),
        "percent": "100",
    }
    assert all(0 <= int(p.values["percent"]) <= 100 for p in told)


def test_a_model_of_unknown_size_tells_bytes_alone(ordered, report, capfd):
    with Hub() as hub:
        download(ordered, report, hub, model=None)

    assert all(set(parsed(line).values) == {"bytes"} for line in capfd.readouterr().out.splitlines())


@pytest.mark.parametrize(
    ("refusal", "sentence"),
    [
        ((403, "GatedRepo"), "gated"),
        ((404, "RepoNotFound"), "no such repository"),
        ((404, "RevisionNotFound"), "no such commit"),
    ],
)
def test_a_refusal_is_told_with_its_reason(ordered, report, refusal, sentence):
    with Hub(refusal=refusal) as hub:
        told = failure(ordered, report, hub)

    assert sentence in told
    assert REPOSITORY in told
    assert COMMIT[:12] in told


def test_a_refusal_that_repeats_the_token_does_not_tell_it(ordered, report, capfd):
    with Hub(refusal=(418, "")) as hub:
        told = failure(ordered, report, hub)

    assert TOKEN not in told
    assert TOKEN not in capfd.readouterr().out


def test_after_a_broken_connection_the_next_run_brings_the_rest(ordered, report):
    with Hub(breaks=True) as hub:
        failure(ordered, report, hub)
    assert not (weights.download_folder(ordered) / ".complete").exists()

    with Hub() as hub:
        folder = download(ordered, report, hub)

    assert (folder / "model.safetensors").read_bytes() == FILES["model.safetensors"]


def test_a_repository_without_a_configuration_is_no_model(ordered, report):
    with Hub(files={"model.safetensors": b"x"}) as hub:
        assert "no config.json" in failure(ordered, report, hub)


def test_a_download_that_stands_still_is_given_up(ordered, report, monkeypatch):
    monkeypatch.setattr(weights, "TELL_SECONDS", 0.1)
    monkeypatch.setattr(weights, "STALL_SECONDS", 1.5)
    with Hub(seconds=200) as hub:
        told = failure(ordered, report, hub)

    assert "brought nothing" in told


def test_without_huggingface_hub_that_is_the_reason(ordered, report, monkeypatch, tmp_path):
    (tmp_path / "empty" / "huggingface_hub").mkdir(parents=True)
    (tmp_path / "empty" / "huggingface_hub" / "__init__.py").write_text("raise ImportError")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "empty"))
    with Hub() as hub:
        assert "not installed" in failure(ordered, report, hub)


def test_a_download_that_is_killed_is_told_as_it_was(ordered, report, monkeypatch, tmp_path):
    (tmp_path / "killed").mkdir()
    (tmp_path / "killed" / "huggingface_hub.py").write_text("import os; os.kill(os.getpid(), 9)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "killed"))
    with Hub() as hub:
        assert "SIGKILL" in failure(ordered, report, hub)


# -- as a process -------------------------------------------------------------------------------


def fake_vllm(folder: Path) -> str:
    """A command named vllm that is the small server; returns the PATH that has it."""
    (folder / "bin").mkdir()
    script = folder / "bin" / "vllm"
    script.write_text(
        f'#!/bin/sh\nfor a; do [ "$last" = --port ] && port=$a; last=$a; done\n'
        f'echo "$@" > {folder}/vllm-arguments\n'
        f"exec {sys.executable} {ENGINE_SERVER} --port $port --tell {folder}/told.json\n"
    )
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return f"{folder / 'bin'}:{os.environ['PATH']}"


def order(folder: Path, hub: Hub, **changes: str) -> dict[str, str]:
    return variables(
        folder, REGIA_ENGINE_COMMAND="", HF_ENDPOINT=hub.endpoint, HF_TOKEN=TOKEN, PATH=fake_vllm(folder),
        PYTHONPATH=os.pathsep.join(filter(None, (variables(folder)["PYTHONPATH"], hub_path()))), **changes,
    )  # fmt: skip


@pytest.mark.image
def test_the_engine_is_given_the_downloaded_folder_and_is_offline(tmp_path):
    with Hub() as hub, running(tmp_path, order(tmp_path, hub)) as machine:
        machine.wait_for("ready")
        engine = machine.engine()
        arguments = (tmp_path / "vllm-arguments").read_text().split()

    folder = tmp_path / "state" / "models" / "acme--small" / COMMIT
    assert arguments[:2] == ["serve", str(folder)]
    assert "--revision" not in arguments
    assert engine["environment"]["HF_HUB_OFFLINE"] == "1"
    assert "HF_TOKEN" not in engine["environment"]
    assert TOKEN not in machine.output
    phases = list(dict.fromkeys(machine.phases()))
    assert phases[:5] == ["checking", "downloading", "loading", "warming", "ready"]


def test_a_failed_download_ends_the_process_with_69_before_any_engine(tmp_path):
    with Hub(refusal=(403, "GatedRepo")) as hub, running(tmp_path, order(tmp_path, hub)) as machine:
        last = machine.end()

    assert last.values["code"] == "69"
    assert "gated" in last.values["cause"]
    assert not (tmp_path / "vllm-arguments").exists()
    assert TOKEN not in machine.output
    assert KEY not in machine.output


def test_a_stop_while_it_downloads_ends_the_download(tmp_path):
    with Hub(seconds=200) as hub, running(tmp_path, order(tmp_path, hub)) as machine:
        machine.wait_for("downloading")
        fetching = _fetching(tmp_path)
        began = time.monotonic()
        machine.process.send_signal(signal.SIGTERM)
        last = machine.end()

    assert last.values["code"] == "0"
    assert time.monotonic() - began < 5
    assert not is_alive(fetching)


def _fetching(folder: Path, *, seconds: float = 10) -> int:
    """The pid of the process that downloads into this folder."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and _is_fetching(entry, folder):
                return int(entry.name)
        time.sleep(0.05)
    raise AssertionError("nothing downloads")


def _is_fetching(entry: Path, folder: Path) -> bool:
    try:
        words = (entry / "cmdline").read_bytes()
    except OSError:
        return False
    return b"regia_machine.fetch" in words and str(folder).encode() in words
