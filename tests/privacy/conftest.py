from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def data_folder(settings, tmp_path) -> Path:
    """A data folder of the test's own for the receipts' file."""
    settings.DATA_DIR = tmp_path
    return tmp_path
