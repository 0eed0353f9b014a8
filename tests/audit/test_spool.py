"""A stop that could not be audited is audited later: in order, once, whatever dies in between."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from django.db import OperationalError

from panel.audit import chain, spool
from panel.audit.models import AuditEvent
from panel.context import RequestContext, request_context
from tests import factories
from tests.conftest import NOW

pytestmark = pytest.mark.django_db


def spool_act(action="deployment.stop", **act) -> None:
    spool.add({
        "id": str(chain.uuid.uuid4()), "at": NOW.isoformat(), "user": None, "action": action, "target_type": "", "target_id": "",
        "before": None, "after": None, "reason": "", "request_id": "", "address": "", "user_agent": "", **act,
    })  # fmt: skip


def actions() -> list[str]:
    return list(AuditEvent.objects.order_by("sequence").values_list("action", flat=True))


def test_spooled_acts_are_appended_in_their_order_and_the_chain_holds(spool_folder):
    chain.record("before", actor=None, now=NOW)
    who = factories.operator()
    spool_act("deployment.stop", user=who.pk, reason="too dear", address="192.0.2.1", request_id="abc")
    spool_act("deployment.terminate")
    assert spool.pending() == 2
    assert chain.drain_spool() == 2
    assert actions() == ["before", "deployment.stop", "deployment.terminate"]
    event = AuditEvent.objects.get(sequence=2)
    assert (event.actor, event.at, event.origin.address) == (chain.pseudonym_of(who), NOW, "192.0.2.1")
    assert chain.verify().ok
    assert spool.pending() == 0
    assert not list(spool_folder.glob("audit-*.jsonl"))


def test_draining_an_empty_spool_does_nothing():
    assert chain.drain_spool() == 0


def test_an_act_by_somebody_deleted_since_is_appended_all_the_same():
    spool_act(user=987654)
    assert chain.drain_spool() == 1
    assert AuditEvent.objects.get().actor == "unknown"


def test_a_drain_that_dies_in_the_middle_loses_nothing_and_repeats_nothing(monkeypatch):
    for n in range(4):
        spool_act(f"act.{n}")
    append, calls = chain._append_spooled, []

    def dies_after_two(line):
        if len(calls) == 2:
            raise OperationalError("gone")
        calls.append(line)
        append(line)

    monkeypatch.setattr(chain, "_append_spooled", dies_after_two)
    with pytest.raises(chain.AuditUnavailable):
        chain.drain_spool()
    spool_act("act.4")
    monkeypatch.setattr(chain, "_append_spooled", append)
    # The two that were appended are handed over again, and their ids keep them from standing twice.
    assert chain.drain_spool() == 5
    assert actions() == [f"act.{n}" for n in range(5)]
    assert chain.verify().ok


def test_a_half_written_line_does_not_swallow_the_next_and_is_kept(spool_folder, caplog):
    spool_act("first")
    with (spool_folder / "audit-spool.jsonl").open("a") as f:
        f.write('{"id": "torn", "act')
    spool_act("second")
    assert chain.drain_spool() == 2
    assert actions() == ["first", "second"]
    assert "damaged" in caplog.text
    (kept,) = (spool_folder / "audit-damaged.jsonl").read_text().splitlines()
    assert json.loads(kept)["damaged"] == '{"id": "torn", "act'


def test_the_spool_is_its_owners_alone(spool_folder):
    spool_act()
    assert (spool_folder / "audit-spool.jsonl").stat().st_mode & 0o777 == 0o600


def test_the_origin_of_a_spooled_act_is_kept(monkeypatch):
    def refuse(*_, **__):
        raise OperationalError("database is locked")

    token = request_context.set(RequestContext("req-1234", "192.0.2.9", "Browser/1"))
    with monkeypatch.context() as broken:
        broken.setattr(chain, "_append", refuse)
        assert chain.record("deployment.stop", actor=None, now=NOW, may_spool=True) is None
    request_context.reset(token)
    chain.drain_spool()
    event = AuditEvent.objects.get()
    assert (event.request_id, event.origin.address, event.origin.user_agent) == (
        "req-1234",
        "192.0.2.9",
        "Browser/1",
    )


def test_a_stop_goes_on_when_not_even_the_spool_can_be_written(settings, monkeypatch, caplog):
    def refuse(*_, **__):
        raise OperationalError("disk is full")

    settings.DATA_DIR = Path("/nowhere/at/all")
    monkeypatch.setattr(chain, "_append", refuse)
    assert chain.record("deployment.stop", actor=None, now=NOW, may_spool=True) is None
    assert "Neither the database nor the spool took deployment.stop" in caplog.text
    with pytest.raises(chain.AuditUnavailable):
        chain.record("deployment.launch", actor=None, now=NOW)


_WRITER = """
import sys
from django.conf import settings
settings.configure(DATA_DIR=sys.argv[1])
from panel.audit import spool
for n in range(50):
    spool.add({"id": f"{sys.argv[2]}-{n}", "at": "", "action": "x", "pad": "y" * 5000})
"""


def test_processes_that_spool_at_once_do_not_tear_each_others_lines(spool_folder):
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(spool_folder), str(n)], env={**os.environ, "PYTHONPATH": "."}
        )
        for n in range(4)
    ]
    assert [w.wait() for w in writers] == [0] * 4
    taken = []
    assert spool.drain(taken.append) == 200
    for n in range(4):
        mine = [line["id"] for line in taken if line["id"].startswith(f"{n}-")]
        assert mine == [f"{n}-{i}" for i in range(50)]


_FULL = """
import resource, sys
from django.conf import settings
settings.configure(DATA_DIR=sys.argv[1])
from panel.audit import spool
spool.add({"id": "first", "at": "", "action": "x"})
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
try:
    spool.add({"id": "second", "at": "", "action": "x", "pad": "y" * 5000})
except OSError:
    sys.exit(7)
"""


def test_a_line_that_a_full_disk_cut_spoils_no_other(spool_folder):
    done = subprocess.run(
        [sys.executable, "-c", _FULL, str(spool_folder)], env={**os.environ, "PYTHONPATH": "."}, check=False
    )
    assert done.returncode == 7
    assert (spool_folder / "audit-spool.jsonl").stat().st_size == 100
    spool.add({"id": "third", "at": "", "action": "x"})
    taken = []
    assert spool.drain(taken.append) == 2
    assert [line["id"] for line in taken] == ["first", "third"]
    kept = json.loads((spool_folder / "audit-damaged.jsonl").read_text())
    assert kept["damaged"].startswith('{"id": "second"')
