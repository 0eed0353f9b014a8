"""`./regia up --sandbox`: emulators beside the panel, on data that no real panel touches."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from panel import holding, supervisor
from panel import sandbox as sandbox_rules
from tests.command.engines import rows
from tests.command.running import PATIENCE, Panel, command, until

pytestmark = pytest.mark.engine


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A sandbox's folder; whatever of it still runs afterwards is ended."""
    yield tmp_path / "data"
    for process in emulators(tmp_path / "data"):
        process.kill()


def emulators(folder: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        words = process.info["cmdline"] or []
        if str(folder) in " ".join(words) and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(process)
    return found


def test_the_sandbox_offers_both_providers_outlives_the_panel_and_ends_with_down(folder: Path) -> None:
    panel = Panel(folder, "--sandbox")
    try:
        panel.wait_for("leaves machines running")
        assert "Sandbox: no real machine, no real money." in panel.output
        accounts = "select backend, name from deployments_provideraccount where backend != 'local' order by 1"
        assert rows(folder, accounts) == [("runpod", "RunPod (sandbox)"), ("vast", "Vast.ai (sandbox)")]
        until(
            lambda: len(rows(folder, "select distinct account_id from deployments_offer")) == 3,
            message="not every account has offers",
            patience=3 * PATIENCE,
        )
        assert rows(folder, "select list_error from deployments_provideraccount where list_error != ''") == []
        before = json.loads((folder / "sandbox.json").read_text())
        assert panel.end() == 0
    finally:
        panel.close()
    assert len([p for p in emulators(folder) if "tests.emulators" in " ".join(p.cmdline())]) == 2

    again = Panel(folder, "--sandbox")
    try:
        again.wait_for("leaves machines running")
        assert json.loads((folder / "sandbox.json").read_text()) == before
        down = command("down", "--data-dir", str(folder))
        assert down.returncode == 0, down.stdout + down.stderr
        until(lambda: emulators(folder) == [], message="an emulator outlived ./regia down")
    finally:
        again.close()


def test_a_real_panels_data_and_a_sandboxs_are_never_mixed(tmp_path: Path) -> None:
    real, sandbox = tmp_path / "real", tmp_path / "sandbox"
    real.mkdir()
    (real / "regia.sqlite3").touch()
    refused = command("up", "--sandbox", "--data-dir", str(real))
    assert (refused.returncode, "holds a real panel's data" in refused.stderr) == (1, True)
    assert not (real / "sandbox.json").exists()

    gone = command("down", "--sandbox", "--data-dir", str(real))
    assert (gone.returncode, "holds a real panel's data" in gone.stderr) == (1, True)

    # With PostgreSQL a real panel leaves no database in its folder, but its keys.
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "field_keys").touch()
    refused = command("up", "--sandbox", "--data-dir", str(elsewhere))
    assert (refused.returncode, "holds a real panel's data" in refused.stderr) == (1, True)

    sandbox.mkdir()
    (sandbox / "sandbox.json").write_text("{}")
    refused = command("up", "--data-dir", str(sandbox))
    assert (refused.returncode, "add --sandbox" in refused.stderr) == (1, True)


def test_what_was_started_before_a_failure_is_known_as_a_sandboxs(tmp_path: Path, monkeypatch) -> None:
    def start(folder: Path, name: str) -> str:
        if name == "vast":
            raise holding.Refused("the vast emulator does not start.")
        return "http://127.0.0.1:1"

    monkeypatch.setattr(sandbox_rules, "_start", start)
    with pytest.raises(holding.Refused):
        sandbox_rules.begin(tmp_path)
    assert sandbox_rules.is_sandbox(tmp_path)
    assert "127.0.0.1:9" in sandbox_rules.environment(tmp_path)["VAST_API_BASE_URL"]


def test_a_real_panels_keys_do_not_reach_the_sandbox(tmp_path: Path, monkeypatch) -> None:
    for name in sandbox_rules.FOREIGN:
        monkeypatch.setenv(name, "a-real-one")
    sandbox_rules.mark_of(tmp_path).write_text("{}")
    ours = supervisor.environment_for(argparse.Namespace(data_dir=tmp_path))
    assert "a-real-one" not in ours.values()
    assert "a-real-one" not in sandbox_rules.without_foreign().values()
