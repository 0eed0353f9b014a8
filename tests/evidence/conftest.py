from __future__ import annotations

from pathlib import Path

import pytest

from panel.evidence import registry


@pytest.fixture(autouse=True)
def evidence_folder(settings, tmp_path) -> Path:
    """A data folder of the test's own."""
    settings.DATA_DIR = tmp_path
    return tmp_path / "evidence"


@pytest.fixture
def only(monkeypatch):
    """Have the pack hold nothing but these: name -> (header, rows)."""

    def put(**wanted) -> None:
        made = {
            name: registry.Section(name, name.title(), lambda start, end, w=w: w)
            for name, w in wanted.items()
        }
        monkeypatch.setattr(registry, "_sections", made)

    return put
