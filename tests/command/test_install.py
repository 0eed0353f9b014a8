"""`.venv`: installed once, by hashes, from an index of files; begun anew after an interruption."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from panel import install as installer
from tests.command.running import ROOT

LOCKS = ("base", "engine", "sandbox", "dev")


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the installer and one small wheel for each lock."""
    home = tmp_path_factory.mktemp("clone")
    (home / "panel").mkdir()
    (home / "requirements").mkdir()
    (home / "wheels").mkdir()
    shutil.copy(ROOT / "panel" / "install.py", home / "panel")
    for name in LOCKS:
        write_lock(home, name, "1.0")
    return home


def write_lock(home: Path, name: str, version: str) -> None:
    """A wheel `regia_<name>` in `wheels`, and a lock that names it and its hash."""
    wheel = home / "wheels" / f"regia_{name}-{version}-py3-none-any.whl"
    info = f"regia_{name}-{version}.dist-info"
    with zipfile.ZipFile(wheel, "w") as z:
        z.writestr(f"regia_{name}.py", f"version = {version!r}\n")
        z.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: regia_{name}\nVersion: {version}\n")
        z.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: hand\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        z.writestr(f"{info}/RECORD", "")
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    lock = f"regia_{name}=={version} --hash=sha256:{digest}\n"
    (home / "requirements" / f"{name}.lock").write_text(lock)


def install(home: Path, *flags: str, **extra: str) -> subprocess.CompletedProcess[str]:
    env = {k: v for k, v in os.environ.items() if not k.startswith("PIP_")}
    env |= {
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(home / "wheels"),
        **extra,
    }
    return subprocess.run(
        [sys.executable, "-P", "-S", str(home / "panel" / "install.py"), *flags],
        env={k: v for k, v in env.items() if v}, text=True, capture_output=True, check=False, timeout=300,
    )  # fmt: skip


def version_of(home: Path, name: str) -> str:
    asked = subprocess.run(
        [home / ".venv/bin/python", "-c", f"import regia_{name} as m; print(m.version)"],
        text=True, capture_output=True, check=False,
    )  # fmt: skip
    return asked.stdout.strip()


def test_the_life_of_an_environment(clone: Path) -> None:
    """In one story, since each step stands on the one before and each environment takes its time to make."""
    # No network at the first start is one sentence.
    refused = install(
        clone, PIP_NO_INDEX="", PIP_FIND_LINKS="", PIP_INDEX_URL="http://127.0.0.1:9/simple", NO_PROXY="127.0.0.1"
    )  # fmt: skip
    assert refused.returncode == 1
    assert len(refused.stderr.strip().splitlines()) == 1
    assert "the package index cannot be reached" in refused.stderr

    # What was interrupted is begun anew, from an empty environment.
    assert (clone / ".venv" / "regia-installing").exists()
    (clone / ".venv" / "leftover").touch()
    first = install(clone)
    assert first.returncode == 0, first.stderr
    assert "Making .venv" in first.stdout
    assert not (clone / ".venv" / "leftover").exists()
    assert [version_of(clone, name) for name in LOCKS] == ["1.0", "1.0", "", ""]

    # A second start installs nothing and says nothing, with no index at all.
    second = install(clone, PIP_FIND_LINKS="")
    assert (second.returncode, second.stdout) == (0, "")

    # What the emulators need comes on top, and so do the suite's tools.
    assert install(clone, "--sandbox").returncode == 0
    assert [version_of(clone, name) for name in LOCKS] == ["1.0", "1.0", "1.0", ""]
    assert install(clone, "--tools").returncode == 0
    assert version_of(clone, "dev") == "1.0"

    # A changed lock is installed, and nothing else.
    write_lock(clone, "base", "2.0")
    changed = install(clone)
    assert changed.returncode == 0, changed.stderr
    assert "requirements/base.lock" in changed.stdout
    assert "engine.lock" not in changed.stdout
    assert version_of(clone, "base") == "2.0"

    # A wheel that is not what the lock says is refused, and the next start does not take it for installed.
    write_lock(clone, "base", "3.0")
    lock = clone / "requirements" / "base.lock"
    honest = lock.read_text()
    lock.write_text(honest[:-8] + "0000000\n")
    for _ in range(2):
        refused = install(clone)
        assert refused.returncode == 1
        assert refused.stderr.startswith("regia: requirements/base.lock could not be installed")
        assert len(refused.stderr.strip().splitlines()) == 1
    lock.write_text(honest)
    assert install(clone).returncode == 0
    assert version_of(clone, "base") == "3.0"

    # No engine for this platform: said in one sentence, and the panel goes on without it.
    (clone / "requirements" / "engine.lock").write_text(f"no_such_engine==1.0 --hash=sha256:{'0' * 64}\n")
    without = install(clone)
    assert without.returncode == 0, without.stderr
    assert "Regia goes on without it" in without.stdout
    assert install(clone).stdout == ""


def test_an_install_that_was_interrupted_is_not_taken_for_done(tmp_path: Path, monkeypatch) -> None:
    """Also when every stamp is of the lock: a change of it had begun."""
    monkeypatch.setattr(installer, "_venv_version", installer._our_version)
    monkeypatch.setattr(installer, "STAMPS", tmp_path)
    monkeypatch.setattr(installer, "HALF_DONE", tmp_path / "regia-installing")
    (tmp_path / "base.lock").write_text(installer._content(installer.BASE))
    assert installer._is_done([installer.BASE])
    installer.HALF_DONE.touch()
    assert not installer._is_done([installer.BASE])
