"""The head is noted outside: in a file and by a receiver. What they hold tells of a chain that was built anew."""

from __future__ import annotations

import base64
import json
from datetime import timedelta

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone
from standardwebhooks import Webhook

from deployments.models import Installation
from panel.audit import anchors, chain, keeping
from panel.audit.models import AnchorMessage, Head
from panel.command import parse
from panel.notices.notify import open_notices
from tests.alerts import made
from tests.audit.test_verify import rebuild
from tests.conftest import NOW

pytestmark = pytest.mark.django_db
KEY = "whsec_" + base64.b64encode(b"a key of the tests, 32 bytes....").decode()


def record(n: int = 1) -> None:
    for _ in range(n):
        chain.record("thing.done", actor=None, now=NOW)


def kept(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "audit-anchor.jsonl").read_text().splitlines() if line]


def test_a_line_says_sequence_hash_time_and_installation(spool_folder):
    record()
    keeping.keep(now=NOW)
    (line,) = kept(spool_folder)
    assert line == {
        "sequence": 1, "hash": Head.objects.get().hash, "at": NOW.isoformat(), "installation": Installation.own_key(),
    }  # fmt: skip


def test_it_is_anchored_every_hour_or_every_hundred_events(spool_folder, monkeypatch):
    monkeypatch.setattr(anchors, "EVERY_EVENTS", 3)
    record()
    for minutes, events, lines in ((0, 0, 1), (1, 2, 1), (2, 1, 2), (61, 1, 2), (62, 0, 3), (200, 0, 3)):
        record(events)
        keeping.keep(now=NOW + timedelta(minutes=minutes))
        assert len(kept(spool_folder)) == lines, minutes


def test_the_file_may_stand_elsewhere(settings, tmp_path):
    settings.AUDIT_ANCHOR_FILE = str(tmp_path / "elsewhere.jsonl")
    record()
    keeping.keep(now=NOW)
    assert (tmp_path / "elsewhere.jsonl").exists()
    assert not (tmp_path / "audit-anchor.jsonl").exists()
    rebuild(reason="nothing happened")
    assert "the anchor holds" in chain.verify().problem


def test_a_file_that_cannot_be_written_is_told_and_keeps_nothing_else_from_happening(settings, tmp_path):
    settings.AUDIT_ANCHOR_FILE = str(tmp_path / "not-mounted" / "anchor.jsonl")
    record()
    keeping.keep(now=NOW)
    assert open_notices().get().title == "The audit's anchor file cannot be used"
    (tmp_path / "not-mounted").mkdir()
    keeping.keep(now=NOW)
    assert not open_notices().exists()


@pytest.fixture
def receiver(settings):
    settings.ALERTS_ALLOW_PRIVATE = True
    settings.AUDIT_ANCHOR_KEY = KEY
    with made.receiver() as started:
        settings.AUDIT_ANCHOR_URL = started.url
        yield started


def test_a_receiver_gets_each_anchor_signed(receiver):
    now = timezone.now()
    record()
    keeping.keep(now=now)
    keeping.keep(now=now)
    ((headers, body),) = receiver.got
    told = Webhook(KEY).verify(body, headers)
    assert told["type"] == "audit.anchor"
    assert (told["data"]["sequence"], told["data"]["hash"]) == (1, Head.objects.get().hash)
    assert told["data"]["installation"]


def test_what_did_not_arrive_is_tried_again_in_order_and_told(receiver):
    receiver.statuses = [500, 500, 204]
    record()
    keeping.keep(now=NOW)
    assert not open_notices().exists()  # once is no news
    keeping.keep(now=NOW + timedelta(seconds=30))
    assert len(receiver.got) == 1  # not yet again
    keeping.keep(now=NOW + timedelta(minutes=1))
    notice = open_notices().get()
    assert notice.title == "The audit's anchors do not arrive"
    assert "It answered 500." in notice.detail
    assert "token-in" not in notice.detail
    record()
    keeping.keep(now=NOW + timedelta(minutes=90))
    assert not open_notices().exists()
    assert [json.loads(body)["data"]["sequence"] for _, body in receiver.got] == [1, 1, 1, 2]
    assert receiver.ids[0] == receiver.ids[1] == receiver.ids[2]
    assert list(AnchorMessage.objects.values_list("sequence", flat=True)) == [2]


def test_nothing_is_sent_into_a_private_network_unless_that_is_allowed(receiver, settings):
    settings.ALERTS_ALLOW_PRIVATE = False
    record()
    for minutes in (0, 5):
        keeping.keep(now=NOW + timedelta(minutes=minutes))
    assert receiver.got == []
    assert "private network" in open_notices().get().detail


def test_a_key_that_is_none_is_told(receiver, settings):
    settings.AUDIT_ANCHOR_KEY = "short"
    record()
    for minutes in (0, 5):
        keeping.keep(now=NOW + timedelta(minutes=minutes))
    assert "A signing key" in open_notices().get().detail
    assert receiver.got == []


def test_without_a_receiver_nothing_waits():
    record()
    keeping.keep(now=NOW)
    assert not AnchorMessage.objects.exists()


def test_what_the_receiver_has_kept_finds_a_chain_and_an_anchor_file_that_were_both_built_anew(
    receiver, spool_folder, tmp_path, capsys
):
    record(3)
    keeping.keep(now=NOW)
    copy = tmp_path / "received.jsonl"
    copy.write_bytes(receiver.got[0][1] + b"\n")
    call_command("verify_audit", anchors=[copy])
    assert "1 anchors agree" in capsys.readouterr().out
    rebuild(reason="nothing happened")
    (spool_folder / "audit-anchor.jsonl").unlink()
    anchors.anchor_head(now=NOW)
    call_command("verify_audit")
    assert "The audit is whole" in capsys.readouterr().out  # nothing here can tell
    with pytest.raises(CommandError, match="event 3 is not what the anchor holds: the chain was built anew"):
        call_command("verify_audit", anchors=[copy])
    with pytest.raises(CommandError, match="cannot be read: No such file"):
        call_command("verify_audit", anchors=[tmp_path / "nothing"])


def test_regia_verify_takes_the_files_of_anchors():
    assert parse(["verify", "--anchors", "a.jsonl", "--anchors", "b.jsonl"]).anchors == ["a.jsonl", "b.jsonl"]
    assert parse(["verify"]).anchors == []
