"""Every kind of tampering is found, on both databases, and the first problem is named."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest
from django.core.management import CommandError, call_command
from django.db import connection

from panel.audit import chain, keeping, triggers, verification
from panel.audit.anchors import anchor_head, anchors_in
from panel.audit.link import digest
from panel.audit.models import AuditEvent, Head
from panel.audit.verification import Point, last_verified, verify_and_keep
from panel.notices.notify import open_notices
from tests.conftest import NOW

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _five_events(monkeypatch) -> None:
    monkeypatch.setattr(verification, "CHUNK", 2)
    for n in range(5):
        chain.record("thing.done", actor=None, after={"n": n}, reason=f"reason {n}", now=NOW)


def tamper(*statements: str) -> None:
    """What somebody does who owns the database: the triggers go, the rows change, the triggers come back."""
    with connection.cursor() as cursor:
        for statement in [
            *triggers.remove(connection.vendor),
            *statements,
            *triggers.install(connection.vendor),
        ]:
            cursor.execute(statement)


def rebuild(*, reason: str) -> None:
    """The whole chain written anew around another history, its head included: it is consistent in itself."""
    events = list(AuditEvent.objects.order_by("sequence"))
    tamper("DELETE FROM audit_auditevent")
    previous = "0" * 64
    for event in events:
        event.previous, event.reason = previous, reason
        event.hash = previous = digest(event)
        AuditEvent(**{f.attname: getattr(event, f.attname) for f in AuditEvent._meta.fields}).save()
    Head.objects.update(hash=previous)


def test_a_chain_that_nobody_touched_holds():
    assert chain.verify() == chain.Verification(ok=True, checked=5, problem="", head_sequence=5)


@pytest.mark.parametrize(
    "change",
    [
        "reason = 'another'", "actor = 'somebody'", "action = 'thing.undone'", "target_id = '7'", "before = '{}'",
        "after = '{\"n\": 9}'", "request_id = 'x'", "at = '2020-01-01 00:00:00+00:00'",
    ],
)  # fmt: skip
def test_an_edited_event_is_found(change):
    tamper(f"UPDATE audit_auditevent SET {change} WHERE sequence = 3")  # noqa: S608
    found = chain.verify()
    assert (found.ok, found.checked) == (False, 2)
    assert found.problem == "event 3 was edited: it no longer has its hash."


def test_an_edited_event_with_a_new_hash_is_found_by_the_next_one():
    event = AuditEvent.objects.get(sequence=3)
    event.reason = "another"
    tamper(f"UPDATE audit_auditevent SET reason = 'another', hash = '{digest(event)}' WHERE sequence = 3")  # noqa: S608
    assert chain.verify().problem.startswith("event 4 does not follow the one before it")


def test_a_removed_event_is_found():
    tamper("DELETE FROM audit_auditevent WHERE sequence = 3")
    assert chain.verify().problem == "event 3 is missing."


def test_a_removed_event_is_found_when_the_rest_closes_ranks():
    tamper(
        "DELETE FROM audit_auditevent WHERE sequence = 3",
        "UPDATE audit_auditevent SET sequence = 3 WHERE sequence = 4",
        "UPDATE audit_auditevent SET sequence = 4 WHERE sequence = 5",
        "UPDATE audit_head SET sequence = 4",
    )
    assert chain.verify().problem.startswith("event 3 does not follow the one before it")


def test_a_cut_tail_is_found_by_the_head():
    tamper("DELETE FROM audit_auditevent WHERE sequence > 3")
    assert chain.verify().problem == "the chain ends at event 3, the head is at 5: its tail was cut."


def test_a_cut_tail_is_found_by_the_anchor_when_the_head_was_set_back_too():
    anchor_head(now=NOW)
    third = AuditEvent.objects.get(sequence=3).hash
    tamper(
        "DELETE FROM audit_auditevent WHERE sequence > 3",
        f"UPDATE audit_head SET sequence = 3, hash = '{third}'",  # noqa: S608
    )
    assert chain.verify().problem == "the anchor has seen event 5, the chain ends at 3: its tail was cut."


def test_a_chain_built_anew_is_found_by_the_anchor_alone():
    anchor_head(now=NOW)
    chain.record("thing.done", actor=None, now=NOW)
    rebuild(reason="nothing happened")
    assert chain.verify().problem == "event 5 is not what the anchor holds: the chain was built anew."


def test_a_later_line_in_the_anchor_does_not_excuse_a_chain_built_anew(spool_folder):
    anchor_head(now=NOW)
    rebuild(reason="nothing happened")
    with (spool_folder / "audit-anchor.jsonl").open("a") as f:
        f.write(json.dumps({"sequence": 5, "hash": Head.objects.get().hash, "at": ""}) + "\n")
    assert not chain.verify().ok


def test_a_chain_that_was_emptied_is_found():
    tamper("DELETE FROM audit_auditevent")
    assert not chain.verify().ok
    Head.objects.all().delete()
    assert chain.verify().ok  # without an anchor nothing tells it from a new panel
    anchor_head(now=NOW)
    assert chain.verify().ok


def test_an_emptied_chain_and_head_are_found_by_the_anchor():
    anchor_head(now=NOW)
    tamper("DELETE FROM audit_auditevent")
    Head.objects.all().delete()
    assert chain.verify().problem == "the anchor has seen event 5, the chain ends at 0: its tail was cut."


def test_a_removed_head_is_found():
    Head.objects.all().delete()
    assert chain.verify().problem == "event 1 stands beyond the head: the head row was set back or removed."


def test_an_edited_head_is_found():
    Head.objects.update(hash="f" * 64)
    assert chain.verify().problem.startswith("the head's hash is not that of event 5")


def test_the_anchor_grows_only_when_the_head_has_moved_and_survives_a_torn_line(spool_folder):
    path = spool_folder / "audit-anchor.jsonl"
    assert anchor_head(now=NOW)
    assert not anchor_head(now=NOW)
    with path.open("a") as f:
        f.write('{"sequence": 6, "ha')
    chain.record("thing.done", actor=None, now=NOW)
    assert anchor_head(now=NOW)
    assert chain.verify().ok
    assert sorted(anchors_in([path])) == [5, 6]
    assert path.stat().st_mode & 0o777 == 0o600


def test_the_command_says_that_the_chain_is_whole(capsys):
    call_command("verify_audit")
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "The audit is whole: 5 events, each follows the one before it."
    assert said[1].startswith("No anchor was compared")
    assert last_verified().found.ok
    anchor_head(now=NOW)
    call_command("verify_audit")
    assert "1 anchors agree with it." in capsys.readouterr().out


def test_the_command_fails_with_the_first_problem():
    tamper("UPDATE audit_auditevent SET reason = 'x' WHERE sequence IN (2, 4)")
    with pytest.raises(
        CommandError, match=r"tampered with: event 2 was edited.* 1 events before it are whole"
    ):
        call_command("verify_audit")
    assert CommandError("").returncode == 1


def test_housekeeping_anchors_and_walks_the_whole_chain_every_night(spool_folder):
    keeping.keep(now=NOW)
    assert (spool_folder / "audit-anchor.jsonl").exists()
    assert not open_notices().exists()
    tamper("UPDATE audit_auditevent SET reason = 'x' WHERE sequence = 2")
    # Every hour only what is new is walked; at two in the night all of it.
    keeping.keep(now=NOW + keeping.VERIFY_EVERY)
    assert last_verified().found.since == 5
    assert not open_notices().exists()
    keeping.keep(now=NOW.replace(hour=1) + timedelta(days=1))
    assert not open_notices().exists()
    keeping.keep(now=NOW.replace(hour=2) + timedelta(days=1))
    (notice,) = open_notices()
    assert (notice.severity, "event 2 was edited" in notice.detail) == ("critical", True)


def test_what_is_new_is_walked_every_hour_and_what_is_found_stays_told():
    keeping.keep(now=NOW)
    chain.record("thing.done", actor=None, now=NOW)
    keeping.keep(now=NOW + timedelta(minutes=59))
    assert last_verified().found.checked == 5
    tamper("UPDATE audit_auditevent SET reason = 'x' WHERE sequence = 6")
    keeping.keep(now=NOW + keeping.VERIFY_EVERY)
    assert open_notices().get().detail == "Verification found: event 6 was edited: it no longer has its hash."
    # The next round does not go on from a chain that is broken: it walks all of it and finds the same.
    keeping.keep(now=NOW + 2 * keeping.VERIFY_EVERY)
    assert (last_verified().found.since, last_verified().found.ok) == (0, False)
    assert open_notices().count() == 1


def test_it_goes_on_only_from_an_event_that_still_is_what_was_verified():
    verify_and_keep(now=NOW)
    chain.record("thing.done", actor=None, now=NOW)
    assert verify_and_keep(now=NOW, whole=False) == chain.Verification(
        ok=True, checked=6, problem="", head_sequence=6, since=5
    )
    rebuild(reason="nothing happened")
    found = verify_and_keep(now=NOW, whole=False)
    assert found.problem == "event 6 is not what was verified before: it was replaced or removed."
    assert verification.walk(Point(5, "f" * 64), Point(6, ""), {})[1].startswith("event 5 is not what was")


def test_one_walk_at_a_time():
    with verification.only_one() as first, verification.only_one() as second:
        assert (first, second) == (True, False)
        keeping.keep(now=NOW)
        assert last_verified() is None
    keeping.keep(now=NOW)
    assert last_verified().found.ok


def test_the_clock_rings_for_the_housekeeping(settings):
    from panel.celery import app

    app.loader.import_default_modules()
    assert settings.CELERY_BEAT_SCHEDULE["audit"]["task"] in app.tasks
