"""The pack: the same period and the same data give the same bytes, and whoever changes one is found out."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import subprocess
import tracemalloc
import zipfile
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from panel import evidence
from panel.audit import anchors, chain
from panel.audit.models import AuditEvent
from panel.context import RequestContext, request_context
from panel.evidence import pack, proof, registry
from tests import factories
from tests.browser import scene
from tests.conftest import NOW

pytestmark = pytest.mark.django_db
START, END = datetime(2026, 11, 1, tzinfo=UTC), datetime(2026, 12, 1, tzinfo=UTC)


def write(to, *, start=START, end=END):
    to.parent.mkdir(exist_ok=True)
    return pack.write(start, end, to, told=lambda section, rows: None)


def held(path) -> dict[str, str]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name).decode() for name in archive.namelist()}


def rows_of(path, section) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(held(path)[f"sections/{section}.csv"])))


def test_the_same_period_and_data_give_the_same_bytes(evidence_folder):
    who = factories.operator()
    for day in (1, 10, 40):
        chain.record("thing.done", actor=who, after={"day": day}, now=START + timedelta(days=day))
    anchors.anchor_head(now=NOW)
    first = write(evidence_folder / "a.zip")
    # What comes after the period, an export of it among that, changes nothing in it.
    chain.record("evidence.export", actor=who, now=END + timedelta(days=11))
    again = write(evidence_folder / "b.zip")
    assert first == again
    assert (evidence_folder / "a.zip").read_bytes() == (evidence_folder / "b.zip").read_bytes()
    assert first.sha256 == hashlib.sha256((evidence_folder / "a.zip").read_bytes()).hexdigest()
    assert first.head_sequence == 2
    chain.record("thing.done", actor=who, now=START)
    assert write(evidence_folder / "c.zip").whole != first.whole


def test_it_says_what_it_is_of_and_what_it_stands_on(evidence_folder):
    event = chain.record("thing.done", actor=None, now=NOW)
    made = write(evidence_folder / "a.zip")
    manifest = json.loads(held(evidence_folder / "a.zip")["manifest.json"])
    assert manifest["period"] == {"start": START.isoformat(), "end": END.isoformat()}
    assert manifest["audit_head"] == {"sequence": 1, "hash": event.hash}
    assert manifest["whole"] == made.whole
    told = {row["what"]: row["value"] for row in rows_of(evidence_folder / "a.zip", "audit-verification")}
    assert told["result"].startswith("whole")
    assert told["events walked, from the first"] == "1"


def test_every_room_contributes_and_no_secret_leaves_with_it(evidence_folder, settings):
    now = timezone.now()
    token = request_context.set(RequestContext("request-1", "192.0.2.7", "Browser/1"))
    made = scene.build(now=now)
    chain.record("residency.refused", actor=made.administrator, reason="US is outside the EEA.", now=now)
    request_context.reset(token)
    path = evidence_folder / "a.zip"
    write(path, start=now - timedelta(days=60), end=now + timedelta(seconds=1))
    expected = {
        "audit-events", "audit-verification", "data-map", "notices", "machines", "residency", "guard-refusals",
        "incidents", "month-closes", "reconciliation", "bills",
    }  # fmt: skip
    assert expected <= {section.name for section in evidence.sections()}
    for name in expected - {"month-closes", "residency"}:
        assert rows_of(path, name), name
        assert len(json.loads(held(path)[f"sections/{name}.json"])) == len(rows_of(path, name))
    assert rows_of(path, "guard-refusals")[0]["reason"] == "US is outside the EEA."
    whole = "".join(held(path).values())
    secrets = [settings.SECRET_KEY, settings.FIELD_KEYS[0], made.machine.api_key, made.account.credentials, made.channel.signing_key, "192.0.2.7"]  # fmt: skip
    assert [s for s in secrets if s and s in whole] == []
    assert "Machines and where they stood" in held(path)["report.html"]


def test_values_are_plain_and_no_cell_is_a_formula(evidence_folder, only):
    only(
        odd=(
            ("text", "amount", "at", "none", "nested"),
            [("=1+1", Decimal("0.10"), NOW, None, {"b": [1], "a": "<b>"})],
        )
    )
    path = evidence_folder / "a.zip"
    write(path)
    assert rows_of(path, "odd") == [
        {
            "text": "'=1+1",
            "amount": "0.10",
            "at": NOW.isoformat(),
            "none": "",
            "nested": '{"a": "<b>", "b": [1]}',
        }
    ]
    assert json.loads(held(path)["sections/odd.json"]) == [
        {
            "text": "=1+1",
            "amount": "0.10",
            "at": NOW.isoformat(),
            "none": None,
            "nested": {"a": "<b>", "b": [1]},
        }
    ]
    assert "<b>" not in held(path)["report.html"]


def test_an_empty_section_is_a_file_all_the_same(evidence_folder, only):
    only(nothing=(("a", "b"), []))
    write(evidence_folder / "a.zip")
    assert held(evidence_folder / "a.zip")["sections/nothing.csv"] == "a,b\r\n"
    assert json.loads(held(evidence_folder / "a.zip")["sections/nothing.json"]) == []


def test_rows_pass_through_and_are_not_gathered(evidence_folder, only):
    only(long=(("n", "text"), ((n, f"{n:0400d}") for n in range(20_000))))
    told = []
    evidence_folder.mkdir()
    tracemalloc.start()
    made = pack.write(START, END, evidence_folder / "a.zip", told=lambda section, rows: told.append(rows))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # Eight million characters went through it, twice.
    assert peak < 5_000_000
    assert made.rows == 20_000
    assert told == sorted(told)
    assert len(told) >= 40
    assert [p.name for p in evidence_folder.iterdir()] == ["a.zip"]


def test_a_section_has_one_name_that_a_file_can_have(only):
    only()
    same = lambda start, end: ((), [])  # noqa: E731
    evidence.contribute("my-section", "Mine", same)
    evidence.contribute("my-section", "Mine", same)
    with pytest.raises(ValueError, match="already"):
        evidence.contribute("my-section", "Another", lambda start, end: ((), []))
    with pytest.raises(ValueError, match="small letters"):
        evidence.contribute("../my section", "Mine", same)
    assert [s.name for s in registry.sections()] == ["my-section"]


# -- proving it -----------------------------------------------------------------------------------------


@pytest.fixture
def written(evidence_folder, only):
    chain.record("thing.done", actor=None, now=NOW)
    only(
        acts=(("who", "what"), [("ada", "launched"), ("bob", "stopped")]), other=(("a",), [("1",)]),
    )  # fmt: skip
    path = evidence_folder / "pack.zip"
    made = write(path)
    chain.record("evidence.ready", actor=None, after={"whole": made.whole}, now=NOW)
    return path


def rewrite(path, change) -> None:
    """Take the pack apart, let `change` have the files, and put it together."""
    files = held(path)
    change(files)
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)


def test_the_command_says_that_it_is_whole_and_what_it_stands_on(written, capsys):
    call_command("verify_evidence", written, audit=True)
    said = capsys.readouterr().out
    assert "The pack is whole: 5 files, 2026-11-01T00:00:00+00:00 to 2026-12-01T00:00:00+00:00." in said
    assert f"It stands on audit event 1, {AuditEvent.objects.get(sequence=1).hash}." in said
    assert "This panel wrote it: audit event 2" in said


def test_any_sha256sum_proves_it(written, tmp_path):
    with zipfile.ZipFile(written) as archive:
        archive.extractall(tmp_path / "out")
    check = ["sha256sum", "-c", "--strict", "SHA256SUMS"]
    done = subprocess.run(check, cwd=tmp_path / "out", text=True, capture_output=True, check=False)
    assert (done.returncode, done.stdout.count(": OK")) == (0, 6)
    (tmp_path / "out/sections/acts.csv").write_text("who,what\r\n")
    assert subprocess.run(check, cwd=tmp_path / "out", capture_output=True, check=False).returncode == 1


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda f: f.update({"sections/acts.csv": f["sections/acts.csv"].replace("ada", "eve")}), "sections/acts.csv is not what was written"),
        (lambda f: f.pop("sections/acts.json"), "sections/acts.json is missing"),
        (lambda f: f.update(extra="x"), "extra was added"),
        (lambda f: f.update({"SHA256SUMS": ""}), "SHA256SUMS does not say what the manifest says"),
        (lambda f: f.update({"manifest.json": f["manifest.json"].replace("2026-11-01", "2026-10-01")}), "SHA256SUMS does not say"),
        (lambda f: f.update({"manifest.json": "{}"}), "no manifest.json that can be read"),
        (lambda f: f.update({"manifest.json": f["manifest.json"].replace("evidence-1", "evidence-9")}), "of the format"),
    ],
)  # fmt: skip
def test_a_change_is_found(written, change, problem):
    rewrite(written, change)
    with pytest.raises(CommandError, match=problem):
        call_command("verify_evidence", written)


def test_a_file_that_was_cut_is_found_and_one_that_is_not_there_is_said(written, tmp_path):
    written.write_bytes(written.read_bytes()[:-40])
    with pytest.raises(CommandError, match="not a whole zip"):
        call_command("verify_evidence", written)
    with pytest.raises(CommandError, match="cannot be read: No such file"):
        call_command("verify_evidence", tmp_path / "nothing.zip")


def test_a_pack_whose_manifest_was_made_to_fit_is_found_by_the_audit_alone(written, capsys):
    def forge(files):
        files["sections/acts.csv"] = files["sections/acts.csv"].replace("ada", "eve")
        manifest = json.loads(files["manifest.json"])
        for file in manifest["files"]:
            text = files[file["name"]].encode()
            file["sha256"], file["bytes"] = hashlib.sha256(text).hexdigest(), len(text)
        lines = "".join(f"{f['sha256']}  {f['name']}\n" for f in manifest["files"])
        manifest["whole"] = hashlib.sha256(lines.encode()).hexdigest()
        files["manifest.json"] = json.dumps(manifest)
        of_manifest = hashlib.sha256(files["manifest.json"].encode()).hexdigest()
        files["SHA256SUMS"] = f"{lines}{of_manifest}  manifest.json\n"

    rewrite(written, forge)
    assert proof.check(written).problems == []
    with pytest.raises(CommandError, match="knows no pack with these contents"):
        call_command("verify_evidence", written, audit=True)
