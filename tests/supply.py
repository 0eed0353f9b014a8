"""What Regia is made of: its SBOM, the licences of its packages, and what is known to be wrong with them.

python -m tests.supply sbom FOLDER       regia.cdx.json (CycloneDX 1.6, the same bytes for the same lock), validated
python -m tests.supply licences          writes docs/licences.md from the installed packages' own metadata
python -m tests.supply audit             asks the vulnerability service about the lock; 3 when that cannot be reached
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements" / "base.lock"
LICENCES = ROOT / "docs" / "licences.md"
NOT_REACHED = 3
_PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", re.MULTILINE)


def pins(lock: Path = LOCK) -> dict[str, str]:
    """name -> version, as the lock pins them."""
    return dict(_PIN.findall(lock.read_text()))


# -- the SBOM -------------------------------------------------------------------------------------------


def sbom(folder: Path, lock: Path = LOCK) -> Path:
    """Write and validate it. Raises CalledProcessError for one that is not valid."""
    folder.mkdir(parents=True, exist_ok=True)
    out = folder / "regia.cdx.json"
    subprocess.run(
        [sys.executable, "-m", "cyclonedx_py", "requirements", str(lock), "--pyproject", str(ROOT / "pyproject.toml"),
         "--spec-version", "1.6", "--output-reproducible", "--validate", "-o", str(out)],
        check=True,
    )  # fmt: skip
    return out


# -- the licences -----------------------------------------------------------------------------------------

_HEAD = """# Licences

What Regia installs (`requirements/base.lock`) and the licence that each package names in its own metadata. Made by
`python -m tests.supply licences`; a test holds that it is current. Regia itself is under the Apache License 2.0.

Not installed: `borb`, which Vast.ai's SDK names (AGPL, or a commercial licence): its one use, invoices as PDF, is none of
ours. It is left out of the locks, never imported, and a test holds both
([decisions/0008](decisions/0008-what-of-the-providers-sdks-is-installed.md)).

| package | licence |
|---|---|
"""


def licences(lock: Path = LOCK) -> str:
    """The page. Packages for another platform or Python are named without a licence."""
    rows = [f"| {name} | {_licence_of(name)} |" for name in sorted(pins(lock), key=str.lower)]
    return _HEAD + "\n".join(rows) + "\n"


def _licence_of(name: str) -> str:
    try:
        found = distribution(name)
    except PackageNotFoundError:
        return "not installed here"
    return " ".join(_named(found).replace("|", "/").split())[:120]


def _named(found: Distribution) -> str:
    """The SPDX expression; else the classifiers' words; else the first line of the old field."""
    told = found.metadata
    if expression := told.get("License-Expression"):
        return str(expression)
    classifiers = [
        c.rpartition(" :: ")[2] for c in told.get_all("Classifier") or [] if c.startswith("License ::")
    ]
    words = [word for word in classifiers if word != "OSI Approved"]
    old = str(told.get("License") or "").strip().splitlines()
    return ", ".join(words) or (old[0] if old else "not named")


# -- what is known to be wrong ----------------------------------------------------------------------------


def audit(lock: Path = LOCK) -> int:
    """1 when something is known to be wrong; NOT_REACHED when not every package was looked up, which is no good result."""
    done = subprocess.run(
        [sys.executable, "-m", "pip_audit", "--disable-pip", "--require-hashes", "--progress-spinner", "off", "--timeout", "10",
         "--format", "json", "-r", str(lock)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    said, code = judged(done.stdout, done.stderr)
    print(said)
    return code


def judged(out: str, err: str) -> tuple[str, int]:
    """What pip-audit found, in a sentence, and our code. It ends with 0 for packages that its service did not know."""
    try:
        packages = json.loads(out)["dependencies"]
    except (ValueError, KeyError):
        last = (err.strip().splitlines() or ["it did not say why"])[-1]
        return f"not run: pip-audit did not get an answer ({last[:200]})", NOT_REACHED
    if bad := [f"{p['name']} {p['version']}: {v['id']}" for p in packages for v in p.get("vulns", [])]:
        return "\n".join(bad), 1
    skipped = sum("skip_reason" in p for p in packages)
    if skipped or not packages:
        return f"not run: {skipped} of {len(packages)} packages could not be looked up", NOT_REACHED
    return f"nothing is known to be wrong with {len(packages)} packages", 0


def main(argv: list[str]) -> int:
    match argv:
        case ["sbom", folder]:
            print(sbom(Path(folder)))
        case ["licences"]:
            LICENCES.write_text(licences())
        case ["audit"]:
            return audit()
        case _:
            print(__doc__, file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
