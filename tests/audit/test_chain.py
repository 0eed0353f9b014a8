"""The chain: one order, no gaps, nothing secret, and an act commits with its audit event or not at all."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal

import pytest
from django.db import DatabaseError, connection, transaction

from panel.accounts.models import User
from panel.audit import chain
from panel.audit.models import AppendOnly, AuditEvent, Head, Origin, Pseudonym
from panel.context import RequestContext, request_context
from tests import factories
from tests.audit.broken import unwritable
from tests.conftest import NOW

HERE = RequestContext(request_id="abc-123", address="192.0.2.7", user_agent="Browser/1")


def _record(action="thing.done", **kwargs):
    return chain.record(action, **{"actor": None, "now": NOW, **kwargs})


@pytest.mark.django_db
def test_events_stand_in_one_order_and_each_carries_the_hash_of_the_one_before():
    first, second, third = _record(), _record(), _record()
    assert [e.sequence for e in (first, second, third)] == [1, 2, 3]
    assert first.previous == "0" * 64
    assert (second.previous, third.previous) == (first.hash, second.hash)
    head = Head.objects.get()
    assert (head.sequence, head.hash) == (3, third.hash)


@pytest.mark.django_db
def test_what_is_read_back_has_the_hash_that_was_written():
    awkward = {
        "amount": Decimal("0.10"), "ratio": 1e16, "small": 0.1, "when": NOW, "text": "nul\0 and \ud800 and é",
        "nested": [{"b": 1, "a": None}], "big": 10**30, "odd": float("inf"), 7: "number as key",
    }  # fmt: skip
    _record(before=awkward, after={}, reason="x\0" * 400)
    assert chain.verify() == chain.Verification(ok=True, checked=1, problem="", head_sequence=1)
    assert len(AuditEvent.objects.get().reason) <= 500


@pytest.mark.django_db
def test_it_names_the_target_and_hides_the_actor_behind_a_pseudonym():
    who = factories.operator()
    event = _record(actor=who, target=who, reason="because")
    assert (event.target_type, event.target_id) == ("accounts.user", str(who.pk))
    assert event.actor == chain.pseudonym_of(who)
    assert who.email not in json.dumps([event.actor, event.before, event.after, event.reason])
    assert chain.name_of(event.actor) == str(who)


@pytest.mark.django_db
def test_the_address_stands_beside_the_chain_and_can_be_erased():
    token = request_context.set(HERE)
    try:
        event = _record()
    finally:
        request_context.reset(token)
    assert event.request_id == "abc-123"
    origin = Origin.objects.get(event=event)
    assert (origin.address, origin.user_agent) == ("192.0.2.7", "Browser/1")
    Origin.objects.all().delete()
    assert chain.verify().ok


@pytest.mark.django_db
def test_erasing_a_person_leaves_the_chain_whole():
    who = factories.operator()
    event = _record(actor=who)
    who.delete()
    assert chain.name_of(event.actor) == str(who)
    Pseudonym.objects.all().delete()
    assert chain.name_of(event.actor) == "erased person"
    assert chain.verify().ok


@pytest.mark.parametrize(
    "payload",
    [
        {"password": "x"}, {"api_key": "x"}, {"apiKey": "x"}, {"new": {"credentials": "x"}}, {"list": [{"Token": "x"}]},
        {"client-secret": "x"}, {"Authorization": "x"}, {"FIELD_KEYS": "x"}, {"session_cookie": ""},
    ],
)  # fmt: skip
@pytest.mark.django_db
def test_a_secret_never_enters_not_even_masked(payload):
    for may_spool in (False, True):
        with pytest.raises(chain.SecretInAudit) as raised:
            _record(after=payload, may_spool=may_spool)
        assert "x" not in str(raised.value).replace("never", "").replace("enters", "").split(":")[1]
    assert not AuditEvent.objects.exists()


@pytest.mark.django_db
def test_words_that_only_look_like_secrets_are_taken():
    assert _record(
        after={"model_key": "m", "max_tokens": 5, "launch_key": "k", "offer": "key", "tokens_in": 1}
    )


@pytest.mark.django_db
def test_events_are_never_edited_or_deleted_through_the_models():
    event = _record()
    for change in (
        lambda: event.save(),
        lambda: event.delete(),
        lambda: AuditEvent.objects.all().delete(),
        lambda: AuditEvent.objects.update(reason="changed"),
        lambda: AuditEvent.objects.bulk_update([event], ["reason"]),
        lambda: AuditEvent.objects.bulk_create([event]),
        lambda: AuditEvent._base_manager.update(reason="changed"),
    ):
        with pytest.raises(AppendOnly):
            change()


@pytest.mark.parametrize(
    "statement",
    ["UPDATE audit_auditevent SET reason = 'changed'", "DELETE FROM audit_auditevent"],
)
@pytest.mark.django_db
def test_the_database_itself_refuses_to_change_an_event(statement):
    _record()
    with (
        pytest.raises(DatabaseError, match="append-only"),
        transaction.atomic(),
        connection.cursor() as cursor,
    ):
        cursor.execute(statement)
    assert chain.verify().checked == 1


@pytest.mark.django_db
def test_postgresql_refuses_to_truncate_too():
    _record()
    if connection.vendor == "postgresql":
        with (
            pytest.raises(DatabaseError, match="append-only"),
            transaction.atomic(),
            connection.cursor() as c,
        ):
            c.execute("TRUNCATE audit_auditevent CASCADE")
    assert AuditEvent.objects.count() == 1


@pytest.mark.django_db(transaction=True)
def test_an_act_that_rolls_back_takes_its_event_with_it():
    class Refused(Exception):
        pass

    @transaction.atomic
    def refused():
        _record()
        raise Refused

    _record()
    with pytest.raises(Refused):
        refused()
    assert _record().sequence == 2
    assert chain.verify() == chain.Verification(ok=True, checked=2, problem="", head_sequence=2)


@pytest.fixture
def broken_audit() -> Iterator[None]:
    with unwritable():
        yield


@pytest.mark.django_db(transaction=True)
def test_an_act_that_cannot_be_audited_does_not_happen(broken_audit):
    @transaction.atomic
    def make_somebody():
        who = factories.operator()
        _record(actor=who, target=who)

    with pytest.raises(chain.AuditUnavailable):
        make_somebody()
    assert not Pseudonym.objects.exists()
    assert not User.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_a_stop_that_cannot_be_audited_happens_and_is_spooled(broken_audit, spool_folder):
    with transaction.atomic():
        who = factories.operator()
        assert _record("deployment.stop", actor=who, target=who, may_spool=True) is None
    assert type(who).objects.filter(pk=who.pk).exists()
    (line,) = (spool_folder / "audit-spool.jsonl").read_text().splitlines()
    assert json.loads(line)["action"] == "deployment.stop"


@pytest.mark.django_db(transaction=True)
def test_parallel_appends_leave_no_gap_and_no_duplicate():
    threads, each = 8, 12
    who = factories.operator()
    start, failures = threading.Barrier(threads), []

    def append():
        try:
            start.wait()
            for n in range(each):
                with transaction.atomic():
                    _record(actor=who, after={"n": n}, now=NOW + timedelta(seconds=n))
        except Exception as e:
            failures.append(e)
        finally:
            connection.close()

    running = [threading.Thread(target=append) for _ in range(threads)]
    for t in running:
        t.start()
    for t in running:
        t.join()
    assert failures == []
    assert list(AuditEvent.objects.order_by("sequence").values_list("sequence", flat=True)) == list(
        range(1, threads * each + 1)
    )
    assert Pseudonym.objects.count() == 1
    assert chain.verify() == chain.Verification(ok=True, checked=96, problem="", head_sequence=96)


@pytest.mark.django_db(transaction=True)
def test_a_stop_does_not_wait_for_a_transaction_that_holds_the_chain(spool_folder, monkeypatch):
    if connection.vendor != "postgresql":
        # On SQLite the writer's lock is the whole database's; its bound is the connection's `timeout`.
        assert connection.settings_dict["OPTIONS"]["timeout"] == 20
        return
    monkeypatch.setattr(chain, "_WAIT_MS_STOP", 50)
    held, release = threading.Event(), threading.Event()

    def hold():
        try:
            with transaction.atomic():
                _record("held")
                held.set()
                release.wait(30)
        finally:
            connection.close()

    holder = threading.Thread(target=hold)
    holder.start()
    try:
        assert held.wait(10)
        assert _record("deployment.stop", may_spool=True) is None
    finally:
        release.set()
        holder.join()
    assert chain.drain_spool() == 1
    assert [e.action for e in AuditEvent.objects.order_by("sequence")] == ["held", "deployment.stop"]
