"""Whether a pack is what was written: every file's SHA-256 against its manifest. Needs nothing but the file."""

from __future__ import annotations

import hashlib
import json
import zipfile
import zlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from panel.evidence.pack import FORMAT, MANIFEST, PIECE, SUMS


@dataclass(frozen=True, slots=True)
class Proof:
    """`problems` are sentences, none when all holds. `files` counts those that were compared."""

    problems: list[str]
    files: int = 0
    whole: str = ""
    start: str = ""
    end: str = ""
    head_sequence: int = 0
    head_hash: str = ""


def check(path: Path) -> Proof:
    """Compare every file of the pack. Raises OSError when it cannot be opened."""
    try:
        with zipfile.ZipFile(path) as archive:
            return _check(archive)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError):
        return Proof(["It is not a whole zip file: it was cut or changed."])


def _check(archive: zipfile.ZipFile) -> Proof:
    try:
        manifest = json.loads(archive.read(MANIFEST))
        told: dict[str, Any] = {file["name"]: file for file in manifest["files"]}
        proof = Proof(
            [], len(told), manifest["whole"], manifest["period"]["start"], manifest["period"]["end"],
            manifest["audit_head"]["sequence"], manifest["audit_head"]["hash"],
        )  # fmt: skip
    except (KeyError, ValueError, TypeError):
        return Proof(
            [f"It has no {MANIFEST} that can be read, so it is not an evidence pack or was changed."]
        )
    if manifest.get("format") != FORMAT:
        return Proof([f"It is of the format {manifest.get('format')!r}; this command knows {FORMAT}."])
    proof.problems.extend(_names(archive, set(told)))
    found = {name: _digest(archive, name) for name in sorted(told) if name in archive.namelist()}
    proof.problems.extend(
        f"{name} is not what was written: its SHA-256 differs."
        for name, digest in found.items()
        if digest != told[name]["sha256"]
    )
    lines = "".join(f"{told[name]['sha256']}  {name}\n" for name in sorted(told))
    if hashlib.sha256(lines.encode()).hexdigest() != proof.whole:
        proof.problems.append("The manifest's own sum of all files differs: the manifest was changed.")
    sums = lines + f"{_digest(archive, MANIFEST)}  {MANIFEST}\n"
    if SUMS in archive.namelist() and archive.read(SUMS).decode(errors="replace") != sums:
        proof.problems.append(f"{SUMS} does not say what the manifest says.")
    return proof


def _names(archive: zipfile.ZipFile, told: set[str]) -> list[str]:
    held = Counter(archive.namelist())
    known = told | {MANIFEST, SUMS}
    return [
        *(f"{name} is missing." for name in sorted(known - set(held))),
        *(f"{name} was added: the manifest does not know it." for name in sorted(set(held) - known)),
        *(f"{name} is in it more than once." for name, n in sorted(held.items()) if n > 1),
    ]


def _digest(archive: zipfile.ZipFile, name: str) -> str:
    found = hashlib.sha256()
    with archive.open(name) as f:
        while piece := f.read(PIECE):
            found.update(piece)
    return found.hexdigest()
