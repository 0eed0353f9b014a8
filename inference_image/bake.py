"""Puts one model of models.toml into the image, at exactly its commit. Runs while the image is built.

    python3 bake.py <key> <commit, or nothing> <folder>

It leaves `weights/` and a `models.toml` that names the commit in the folder. Without a commit it downloads nothing.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
_COMMIT = re.compile(r"[0-9a-f]{40}")
_CHUNK = 1024 * 1024


class Refused(Exception):
    """No image is built. The text says what to do."""


def main(key: str, commit: str, folder: Path, *, catalogue: Path = HERE / "models.toml") -> None:
    """Raises Refused, and leaves nothing that a later stage could copy."""
    text = catalogue.read_text(encoding="utf-8")
    model = find(text, key)
    revision = commit_of(model, commit)
    pinned = pin(text, key, revision)
    weights = folder / "weights"
    weights.mkdir(parents=True)
    _download(model["repository"], revision, weights)
    shutil.rmtree(weights / ".cache", ignore_errors=True)
    expected = _expected(model["repository"], revision)
    if not any(name.endswith(".safetensors") for name in expected):
        raise Refused(f"{model['repository']} has no weights in safetensors at {revision}.")
    if wrong := wrong_files(weights, expected):
        raise Refused(f"{model['repository']} did not arrive as its commit says: {', '.join(wrong)}.")
    _make_readable(folder)
    (folder / "models.toml").write_text(pinned, encoding="utf-8")
    print(f"{model['repository']} at {revision}: {sum(1 for _ in _files(weights))} files.")  # noqa: T201


def find(text: str, key: str) -> Mapping[str, Any]:
    """The model's table. Raises Refused for one that cannot be built in."""
    tables = {table["key"]: table for table in tomllib.loads(text)["model"]}
    model: Mapping[str, Any] | None = tables.get(key)
    if model is None or not model["needs_gpu"]:
        known = ", ".join(k for k, table in tables.items() if table["needs_gpu"])
        raise Refused(f"MODEL_KEY is {key!r}. It must be one of {known}.")
    return model


def commit_of(model: Mapping[str, Any], named: str) -> str:
    """The commit that is wanted: the one that was named, else the catalogue's."""
    revision = named.strip() or str(model.get("revision", ""))
    if not _COMMIT.fullmatch(revision):
        raise Refused(
            f"No commit of {model['repository']} is known: name one in MODEL_REVISION, 40 hexadecimal digits in small "
            "letters. What a branch happens to hold is never built in."
        )
    return revision


def pin(text: str, key: str, revision: str) -> str:
    """The catalogue with this commit for the model, so that the machine finds the weights that it has."""
    tables = re.split(r"(?m)^(?=\[\[model\]\])", text)
    place = next(n for n, table in enumerate(tables) if re.search(rf'(?m)^key = "{re.escape(key)}"$', table))
    without = re.sub(r"(?m)^revision = .*\n", "", tables[place])
    tables[place] = re.sub(r"(?m)^(key = .*)$", rf'\1\nrevision = "{revision}"', without, count=1)
    pinned = "".join(tables)
    if find(pinned, key).get("revision") != revision:
        raise Refused(f"The commit of {key} could not be written into models.toml.")
    return pinned


def wrong_files(folder: Path, expected: Mapping[str, str]) -> list[str]:
    """Names of the files that are missing or have another SHA-256, of those that the repository gives one for."""
    kept = {name: digest for name, digest in expected.items() if name.endswith((".safetensors", ".json"))}
    return [n for n, digest in kept.items() if not (folder / n).is_file() or _sha256(folder / n) != digest]


def _download(repository: str, revision: str, folder: Path) -> None:
    # The machine's own way, so that both leave the same files.
    from regia_machine import fetch

    if fetch.main(repository, revision, str(folder)):
        raise Refused(f"{repository} could not be downloaded at {revision}.")


def _expected(repository: str, revision: str) -> dict[str, str]:
    """name -> SHA-256 of the large files, as the repository states them for that commit."""
    from huggingface_hub import HfApi

    told = HfApi().model_info(repository, revision=revision, files_metadata=True)
    if told.sha != revision:
        raise Refused(f"Hugging Face answered with the commit {told.sha} of {repository}, not {revision}.")
    return {f.rfilename: f.lfs.sha256 for f in told.siblings or () if f.lfs is not None}


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def _make_readable(folder: Path) -> None:
    """For every user of the machine, and writable for none that starts the engine."""
    for path in folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)


if __name__ == "__main__":
    try:
        main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
    except Refused as e:
        sys.exit(f"bake: {e}")
