"""The models that Regia serves and the memory they need, as inference_image/models.toml names them.

The file is read once, at import. A commit that whoever runs the panel names for a model stands over the file's:
INFERENCE_REVISION_QWEN3_4B_FP8 for `qwen3-4b-fp8`.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

GIB = 1024**3
OVERHEAD_BYTES = GIB
"""Activations, CUDA graphs and the engine itself."""
PATH = Path(__file__).resolve().parent.parent / "inference_image" / "models.toml"

_KEY = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_REQUIRED = frozenset({
    "key", "name", "precision", "repository", "served_name", "weights_bytes", "kv_bytes_per_token", "max_context",
    "default_context", "needs_gpu", "sampling",
})  # fmt: skip
_OPTIONAL = frozenset({"revision", "sampling_thinking", "note", "min_compute_capability", "min_cuda"})


class CatalogueError(Exception):
    """The catalogue cannot be used. The text names the place and what to do, for whoever runs the panel."""


@dataclass(frozen=True, slots=True)
class Sampling:
    temperature: float
    top_p: float
    top_k: int | None = None


@dataclass(frozen=True, slots=True)
class Model:
    """One model in one precision. Sizes in bytes; `revision` None: no commit is known, so it is never rented."""

    key: str
    name: str
    precision: str
    repository: str
    revision: str | None
    weights_bytes: int
    kv_bytes_per_token: int
    max_context: int
    default_context: int
    served_name: str
    thinks: bool
    needs_gpu: bool
    sampling: Sampling
    sampling_thinking: Sampling | None = None
    note: str = ""
    min_compute_capability: float = 0.0
    """The oldest GPUs whose kernels run this precision."""
    min_cuda: float = 0.0
    """What the engine's image needs of the driver."""

    @property
    def title(self) -> str:
        return f"{self.name} · {self.precision}"

    @property
    def unpinned(self) -> str:
        """Why it cannot be rented, and what to do, in a sentence; empty: its commit is known."""
        if self.revision is not None:
            return ""
        return (
            f"The commit of {self.title} is not known, so nothing is rented for it: set "
            f"{revision_setting(self.key)} to the commit of {self.repository} that you trust."
        )

    def memory_needed(self, context: int, *, sequences: int = 4) -> int:
        """Bytes of (GPU) memory to serve `sequences` contexts of `context` tokens, 1 GiB of overhead included."""
        return self.weights_bytes + self.kv_bytes_per_token * context * sequences + OVERHEAD_BYTES


def revision_setting(key: str) -> str:
    """The environment variable that names the commit of the model `key`."""
    return f"INFERENCE_REVISION_{key.upper().replace('-', '_')}"


def load(path: Path, environ: Mapping[str, str]) -> tuple[Model, ...]:
    """The models of the file, in its order. Raises CatalogueError."""
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8")).get("model")
    except (OSError, ValueError) as e:
        raise CatalogueError(f"The catalogue {path} cannot be read: {e}") from e
    if not isinstance(tables, list) or not tables:
        raise CatalogueError(f"The catalogue {path} has no [[model]].")
    models = tuple(_model(table, n, environ) for n, table in enumerate(tables, start=1))
    keys = [m.key for m in models]
    if twice := {key for key in keys if keys.count(key) > 1}:
        raise CatalogueError(f"The catalogue {path} has {sorted(twice)[0]} twice.")
    return models


def _model(table: Any, number: int, environ: Mapping[str, str]) -> Model:
    if not isinstance(table, dict):
        raise CatalogueError(f"[[model]] number {number} of the catalogue is no table.")
    where = f"The catalogue's model {table.get('key', f'number {number}')}"
    _check_names(table, where)

    def text(name: str) -> str:
        return _text(table, name, where)

    def size(name: str) -> int:
        return _size(table, name, where)

    on_gpu = table["needs_gpu"]
    if not isinstance(on_gpu, bool):
        raise CatalogueError(f"{where}: needs_gpu must be true or false.")
    if not _KEY.fullmatch(text("key")):
        raise CatalogueError(f"{where}: a key has small letters, digits and single dashes.")
    if size("default_context") > size("max_context"):
        raise CatalogueError(f"{where}: default_context is more than max_context.")
    thinking = _sampling(table, "sampling_thinking", where) if "sampling_thinking" in table else None
    return Model(
        key=text("key"), name=text("name"), precision=text("precision"), repository=text("repository"),
        revision=_revision(table, where, environ), weights_bytes=size("weights_bytes"),
        kv_bytes_per_token=size("kv_bytes_per_token"), max_context=size("max_context"),
        default_context=size("default_context"), served_name=text("served_name"), thinks=thinking is not None,
        needs_gpu=on_gpu, sampling=_sampling(table, "sampling", where), sampling_thinking=thinking,
        note=_text(table, "note", where, default=""), min_cuda=_number(table, "min_cuda", where, default=0.0),
        min_compute_capability=_number(table, "min_compute_capability", where, default=0.0),
    )  # fmt: skip


def _check_names(table: dict[str, Any], where: str) -> None:
    if missing := _REQUIRED - set(table):
        raise CatalogueError(f"{where} lacks {', '.join(sorted(missing))}.")
    if unknown := set(table) - _REQUIRED - _OPTIONAL:
        raise CatalogueError(f"{where} has what no model has: {', '.join(sorted(unknown))}.")


def _revision(table: dict[str, Any], where: str, environ: Mapping[str, str]) -> str | None:
    """A commit, for what is downloaded from Hugging Face; a package's version for what comes with the panel."""
    setting = revision_setting(table["key"])
    named = environ.get(setting, "").strip()
    if named and not (table["needs_gpu"] and _COMMIT.fullmatch(named)):
        raise CatalogueError(
            f"{setting} must be the commit of {table['repository']}, 40 hexadecimal digits in small letters."
            if table["needs_gpu"]
            else f"{setting} has no use: {table['key']} comes with the panel. Remove it."
        )
    if named or "revision" not in table:
        return named or None
    revision = _text(table, "revision", where)
    if table["needs_gpu"] and not _COMMIT.fullmatch(revision):
        raise CatalogueError(
            f"{where}: revision must be a commit, 40 hexadecimal digits; leave it out if unknown."
        )
    return revision


def _sampling(table: dict[str, Any], name: str, where: str) -> Sampling:
    given = table[name]
    if not isinstance(given, dict) or set(given) - {"top_k"} != {"temperature", "top_p"}:
        raise CatalogueError(f"{where}: {name} needs temperature and top_p, and may have top_k.")
    top_k = _size(given, "top_k", f"{where}, {name}") if "top_k" in given else None
    return Sampling(_number(given, "temperature", where), _number(given, "top_p", where), top_k)


def _text(table: dict[str, Any], name: str, where: str, *, default: str | None = None) -> str:
    value = table.get(name, default)
    if not isinstance(value, str) or (default is None and not value.strip()):
        raise CatalogueError(f"{where}: {name} must be a text.")
    return value


def _size(table: dict[str, Any], name: str, where: str) -> int:
    value = table[name]
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise CatalogueError(f"{where}: {name} must be a whole number above 0.")
    return value


def _number(table: dict[str, Any], name: str, where: str, *, default: float | None = None) -> float:
    value = table.get(name, default)
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < 1000:
        raise CatalogueError(f"{where}: {name} must be a number, 0 or more.")
    return float(value)


MODELS: tuple[Model, ...] = load(PATH, os.environ)
_BY_KEY = {m.key: m for m in MODELS}


def get_model(key: str) -> Model | None:
    """The model of `key`, or None."""
    return _BY_KEY.get(key)
