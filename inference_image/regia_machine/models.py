"""What models.toml knows of the models that this image is made for."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CATALOGUE = Path(__file__).resolve().parent.parent / "models.toml"


@dataclass(frozen=True, slots=True)
class Model:
    """0 and (0, 0): not known."""

    key: str
    repository: str
    revision: str
    weights_bytes: int
    kv_bytes_per_token: int
    min_compute_capability: tuple[int, int]
    min_cuda: tuple[int, int]


def known(repository: str, *, catalogue: Path = CATALOGUE) -> Model | None:
    """None for a repository that the file does not name, and when there is no such file."""
    try:
        tables = tomllib.loads(catalogue.read_text(encoding="utf-8")).get("model", [])
    except FileNotFoundError:
        return None
    found = (table for table in tables if table.get("repository") == repository)
    return next(map(_model, found), None)


def _model(table: Mapping[str, Any]) -> Model:
    return Model(
        key=str(table.get("key", "")),
        repository=str(table["repository"]),
        revision=str(table.get("revision", "")),
        weights_bytes=int(table.get("weights_bytes", 0)),
        kv_bytes_per_token=int(table.get("kv_bytes_per_token", 0)),
        min_compute_capability=_version(table.get("min_compute_capability", "0.0")),
        min_cuda=_version(table.get("min_cuda", "0.0")),
    )


def _version(value: object) -> tuple[int, int]:
    major, _, minor = str(value).partition(".")
    return int(major), int(minor or 0)
