"""What Regia is made of: pinned, listed, licensed, and without what it leaves out."""

from __future__ import annotations

import ast
import importlib.util
import json
from pathlib import Path

from django.conf import settings

from tests import supply

ROOT = Path(settings.BASE_DIR)


def test_the_sbom_names_every_package_of_the_lock_and_is_the_same_twice(tmp_path):
    one, two = (supply.sbom(tmp_path / name).read_bytes() for name in ("one", "two"))
    assert one == two
    made = json.loads(one)
    assert (made["bomFormat"], made["specVersion"]) == ("CycloneDX", "1.6")
    assert {c["name"]: c["version"] for c in made["components"]} == supply.pins()
    assert all(c["purl"].startswith("pkg:pypi/") for c in made["components"])
    assert str(ROOT) not in one.decode()


def test_the_page_of_licences_is_current():
    written, fresh = supply.LICENCES.read_text().splitlines(), supply.licences().splitlines()
    # What is not installed on this platform is not known here.
    same = [new for new in fresh if not new.endswith("| not installed here |")]
    assert [line for line in same if line not in written] == [], "run: python -m tests.supply licences"
    assert {line.split(" | ")[0] for line in written} == {line.split(" | ")[0] for line in fresh}


def test_every_installed_package_names_a_licence_and_none_is_a_network_copyleft():
    rows = [line for line in supply.LICENCES.read_text().splitlines() if line.startswith("| ")]
    assert not [row for row in rows if row.endswith("| not named |") or "AGPL" in row or "Affero" in row]


def test_borb_is_neither_installed_nor_locked_nor_imported():
    assert importlib.util.find_spec("borb") is None
    assert not [lock.name for lock in (ROOT / "requirements").glob("*.lock") if "borb" in supply.pins(lock)]
    named = []
    for room in ("panel", "billing", "deployments", "inference_image"):
        for path in (ROOT / room).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
                names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                named += [path.name for name in names if name.split(".")[0] == "borb"]
    assert named == []


def test_an_audit_without_an_answer_is_no_good_result():
    assert supply.judged("", "requests.exceptions.ConnectionError: no way")[1] == supply.NOT_REACHED
    good, unknown = {"name": "a", "version": "1", "vulns": []}, {"name": "b", "skip_reason": "not found"}
    bad = {"name": "c", "version": "2", "vulns": [{"id": "PYSEC-1"}]}
    for packages, code in (([good], 0), ([good, unknown], 3), ([], 3), ([good, bad, unknown], 1)):
        assert supply.judged(json.dumps({"dependencies": packages}), "")[1] == code
