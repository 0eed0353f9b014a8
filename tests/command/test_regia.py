"""The script `./regia`: which Python it takes, and what it says before there is one."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.command.running import ROOT

TOOLS = ("sh", "dirname", "cat")
BAD_FLAG = ("up", "--port", "none")
"""Ends right after a Python was found and asked: nothing is installed."""


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A folder with the script and the modules it starts, whose absolute search paths lie under `tmp_path`."""
    home = tmp_path / "clone"
    (home / "panel").mkdir(parents=True)
    for name in ("__init__", "command", "holding", "install", "sandbox", "supervisor"):
        shutil.copy(ROOT / "panel" / f"{name}.py", home / "panel")
    script = (ROOT / "regia").read_text()
    for root in ("/opt/", "/usr/", "/home/linuxbrew/", "/Library/"):
        script = script.replace(f" {root}", f" {tmp_path}{root}")
    (home / "regia").write_text(script)
    (home / "regia").chmod(0o755)
    tools = tmp_path / "tools"
    tools.mkdir()
    for tool in TOOLS:
        (tools / tool).symlink_to(str(shutil.which(tool)))
    return home


def regia(clone: Path, *arguments: str, **extra: str) -> subprocess.CompletedProcess[str]:
    """Run the script with nothing but its tools on PATH and an empty HOME."""
    env = {"PATH": str(clone.parent / "tools"), "HOME": str(clone.parent / "home"), **extra}
    return subprocess.run(
        [str(clone / "regia"), *arguments], env=env, text=True, capture_output=True, check=False, timeout=120
    )


def put_python(path: Path, *, broken: bool = False) -> Path:
    """A Python at `path` that notes its use beside itself; a broken one fails as a pyenv shim does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    note = f"echo used >> {shlex.quote(f'{path}.used')}"
    run = (
        "echo 'pyenv: version not installed' >&2; exit 127"
        if broken
        else f'exec {shlex.quote(sys.executable)} "$@"'
    )
    path.write_text(f"#!{shutil.which('sh')}\n{note}\n{run}\n")
    path.chmod(0o755)
    return path


def used(python: Path) -> bool:
    return Path(f"{python}.used").exists()


def test_help_lists_the_verbs_and_needs_no_python(clone: Path) -> None:
    for arguments in (("help",), ("--help",), ()):
        shown = regia(clone, *arguments)
        assert shown.returncode == 0
        for verb in ("up", "down", "link", "verify", "test", "help"):
            assert f"./regia {verb}" in shown.stdout


def test_an_unknown_verb_is_one_sentence(clone: Path) -> None:
    refused = regia(clone, "fly")
    assert refused.returncode == 2
    assert refused.stderr.strip().splitlines() == ["regia: there is no verb 'fly'; ./regia help lists them."]


def test_a_missing_python_is_one_sentence(clone: Path) -> None:
    refused = regia(clone, "up")
    assert refused.returncode == 1
    assert len(refused.stderr.strip().splitlines()) == 1
    assert "Python 3.12 or newer" in refused.stderr
    assert not (clone / ".venv").exists()


def test_a_named_python_that_is_too_old_is_not_replaced_by_another(clone: Path) -> None:
    old = put_python(clone.parent / "old", broken=True)
    put_python(clone.parent / "tools" / "python3.13")
    refused = regia(clone, "up", REGIA_PYTHON=str(old))
    assert refused.returncode == 1
    assert refused.stderr.startswith(f"regia: REGIA_PYTHON={old} is no Python 3.12")


@pytest.mark.parametrize(
    "place",
    [
        "tools/python3.14",
        "tools/python3.13",
        "tools/python3.12",
        "tools/python3",
        "home/.pyenv/versions/3.13.1/bin/python3",
        "home/.local/share/uv/python/cpython-3.12.9-linux-x86_64-gnu/bin/python3",
        "opt/homebrew/bin/python3.13",
        "opt/homebrew/opt/python@3.12/bin/python3.12",
        "usr/local/bin/python3.14",
    ],
)
def test_it_finds_a_python_where_one_may_be(clone: Path, place: str) -> None:
    python = put_python(clone.parent / place)
    refused = regia(clone, *BAD_FLAG)
    assert refused.returncode == 2, refused.stderr
    assert used(python)


def test_a_shim_that_fails_is_passed_over(clone: Path) -> None:
    shim = put_python(clone.parent / "tools" / "python3.13", broken=True)
    real = put_python(clone.parent / "home/.pyenv/versions/3.13.0/bin/python3")
    refused = regia(clone, *BAD_FLAG)
    assert refused.returncode == 2, refused.stderr
    assert used(shim)
    assert used(real)


def test_a_bad_flag_is_told_before_anything_is_installed(clone: Path) -> None:
    put_python(clone.parent / "tools" / "python3")
    refused = regia(clone, *BAD_FLAG)
    assert refused.returncode == 2
    assert refused.stderr.startswith("regia: argument --port")
    assert len(refused.stderr.strip().splitlines()) == 1
    assert not (clone / ".venv").exists()


def test_it_may_be_called_from_any_folder(clone: Path) -> None:
    put_python(clone.parent / "tools" / "python3")
    env = {"PATH": str(clone.parent / "tools"), "HOME": "/nonexistent"}
    called = subprocess.run(
        ["../clone/regia", *BAD_FLAG], cwd=clone.parent / "tools", env=env, text=True, capture_output=True, check=False
    )  # fmt: skip
    assert called.returncode == 2, called.stderr


def test_the_script_is_executable() -> None:
    assert os.access(ROOT / "regia", os.X_OK)
