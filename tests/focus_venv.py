"""Make `.venv-focus` hold requirements/focus.lock: the open FOCUS validator, on a Python of its own.

It pins what the panel has newer, so it is kept apart. The lock's text is kept in it when it is installed whole;
with another text, or none, it is made anew.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv-focus"
BIN = VENV / "bin"
LOCK = ROOT / "requirements" / "focus.lock"
STAMP = VENV / "regia-installed"
VERSIONS = ("3.12", "3.13")
_FITS = "import sys, ensurepip, venv; assert sys.version_info[:2] in ((3, 12), (3, 13))"
CRITERIA = (
    "ACCOUNT_NAMING_SUPPORTED", "USAGE_MEASUREMENT_SUPPORTED", "PUBLIC_PRICE_LIST_SUPPORTED", "UNIT_PRICING_SUPPORTED",
    "REGION_SUPPORTED", "TAGGING_SUPPORTED", "BILLING_BASED_ON_PROVISIONED_RESOURCES_SUPPORTED",
    "RESOURCE_TYPE_ASSIGNMENT_SUPPORTED", "MULTIPLE_PRICING_CATEGORIES_SUPPORTED", "NEGOTIATED_PRICING_SUPPORTED",
    "PRICING_BILLING_CURRENCY_DIFFERENCES_SUPPORTED", "MULTIPLE_BILLING_ACCOUNT_TYPES_SUPPORTED",
    "AVAILABILITY_ZONE_SUPPORTED",
)  # fmt: skip


def missing() -> str:
    """What it needs that is not here, as a sentence; empty: it can be made, or is."""
    there = is_made() or find_python()
    return "" if there else f"no Python {' or '.join(VERSIONS)}: the FOCUS validator is for those; install one"  # fmt: skip


def is_made() -> bool:
    return STAMP.exists() and STAMP.read_text() == LOCK.read_text()


def find_python() -> str:
    """A Python that the validator takes and that can make an environment; empty: there is none."""
    return next(filter(_fits, _pythons()), "")


def _pythons() -> Iterator[str]:
    home = Path.home()
    pyenv = Path(os.environ.get("PYENV_ROOT") or home / ".pyenv") / "versions"
    uv = Path(os.environ.get("UV_PYTHON_INSTALL_DIR") or home / ".local/share/uv/python")
    yield os.environ.get("REGIA_PYTHON") or sys.executable
    for version in VERSIONS:
        if found := shutil.which(f"python{version}"):
            yield found
        yield from map(str, [*pyenv.glob(f"{version}*/bin/python3"), *uv.glob(f"cpython-{version}*/bin/python3")])  # fmt: skip


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
    # The validator comes as source: what builds it is installed first, by its hash as all else.
    blocks = re.split(r"^(?=[a-z])", LOCK.read_text(), flags=re.MULTILINE)
    source = [block for block in blocks if block.startswith("focus-validator==")]
    wheels = [block for block in blocks if block not in source]
    done = _install(wheels, "--only-binary", ":all:") or _install(source, "--no-build-isolation")
    if done == 0:
        STAMP.write_text(LOCK.read_text())
    return done


def _install(blocks: list[str], *more: str) -> int:
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as requirements:
        requirements.write("".join(blocks))
        requirements.flush()
        # The lock is whole: what it leaves out must not be fetched after all.
        pip = [
            str(BIN / "python"),
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-compile",
            "--no-input",
            "--no-deps",
        ]
        pip += ["--disable-pip-version-check", "--require-hashes", *more, "-r", requirements.name]
        return subprocess.run(pip, check=False).returncode


def validate(file: Path) -> tuple[int, list[str]]:
    """How many rules of FOCUS 1.2 the file fails, and the lines that name them.

    The validator exits 0 even then, and looks for its own files in the folder that it is run in.
    """
    [packages] = VENV.glob("lib/python3.*/site-packages")
    command = [str(BIN / "focus-validator"), "--data-file", str(file.resolve()), "--validate-version", "1.2"]
    command += ["--block-download", "--focus-dataset", "CostAndUsage"]
    command += ["--applicability-criteria", ",".join(CRITERIA)]
    run = subprocess.run(command, cwd=packages, capture_output=True, text=True, check=False)
    counted = re.search(r"\| Fail: (\d+) \|", run.stdout)
    if counted is None:
        raise RuntimeError(f"The validator said nothing: {run.stdout[-500:]} {run.stderr[-1500:]}")
    return int(counted[1]), re.findall(r"^\S* ?([A-Za-z]+-[A-Z]-\d+-[MCO]): FAIL", run.stdout, re.MULTILINE)


if __name__ == "__main__":
    sys.exit(make())
