"""What the sandbox starts can be imported where only its own locks are installed, without the suite's tools."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
LOCKS = ("base.lock", "sandbox.lock", "engine.lock")
_IMPORTS = """
import importlib, sys
from importlib.metadata import packages_distributions

emulator, *locked = sys.argv[1:]
known = {
    name: {d.lower().replace("_", "-").replace(".", "-") for d in found}
    for name, found in packages_distributions().items()
}

class NothingElse:
    def find_spec(self, name, path=None, target=None):
        if known.get(name.partition(".")[0], set(locked)).isdisjoint(locked):
            raise ModuleNotFoundError(f"{name} is in no lock of the sandbox", name=name)

sys.meta_path.insert(0, NothingElse())
before = set(sys.modules)
importlib.import_module(emulator)
print(*{d for name in set(sys.modules) - before for d in known.get(name.partition(".")[0], ())})
"""


def _plain(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")


@pytest.mark.parametrize("emulator", ["tests.emulators.runpod", "tests.emulators.vast"])
def test_an_emulator_needs_nothing_that_only_the_suite_installs(emulator: str) -> None:
    locked = {
        _plain(line.split("==")[0])
        for lock in LOCKS
        for line in (ROOT / "requirements" / lock).read_text().splitlines()
        if "==" in line and not line.startswith((" ", "#"))
    }
    # What is installed besides is not to be had: an optional import goes without it.
    done = subprocess.run(
        [sys.executable, "-c", _IMPORTS, emulator, *locked],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    used = set(done.stdout.split())
    assert {"aiohttp", "jsonschema"} <= used
    assert used <= locked
