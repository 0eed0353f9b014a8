"""Whoever is erased is gone from every table, with a receipt of what stays; a restored backup brings nobody back."""

from __future__ import annotations

import hashlib
import json
import logging
import sqlite3
from contextlib import closing
from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
from allauth.account.models import EmailAddress
from axes.models import AccessAttempt
from django.contrib.admin.models import LogEntry
from django.contrib.sessions.backends.db import SessionStore
from django.contrib.sessions.models import Session
from django.core.management import call_command
from django.db import connection
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from panel import logs
from panel.accounts.models import SignInLink, User
from panel.alerts.models import Channel, Window
from panel.audit import chain
from panel.audit.models import AuditEvent, Origin, Pseudonym
from panel.audit.verification import verify
from panel.context import RequestContext, request_context
from panel.notices.models import Notice
from panel.privacy import erasing, receipts
from panel.privacy.models import ErasureReceipt, LegalHold
from tests import factories
from tests.conftest import NOW
from tests.privacy import made

HERE = RequestContext(request_id="request-1", address="192.0.2.7", user_agent="Browser of hers")


def everywhere(user: User) -> None:
    """Rows of many apps that are about the person or name them in words."""
    word = user.name or user.email
    other = factories.administrator()
    token = request_context.set(HERE)
    chain.record("thing.done", actor=user, target=user, reason=f"for {user.email}", now=NOW)
    request_context.reset(token)
    SignInLink.issue(user, now=NOW)
    EmailAddress.objects.create(user=user, email=user.email)
    AccessAttempt.objects.create(username=user.email.upper(), post_data=user.email, failures_since_start=1)
    session = SessionStore()
    session["_auth_user_id"] = str(user.pk)
    session.create()
    Channel.objects.create(
        name=f"Mail to {word}", kind="mail", mailbox=user.email, created_at=NOW
    ).people.add(user)
    Window.objects.create(
        starts_at=NOW,
        ends_at=NOW,
        reason=f"{word} asked, see {user.email}.",
        created_by=chain.pseudonym_of(other),
    )
    made.plain(Notice, key=f"k:{user.pk}", title=f"Ask {word}", detail=user.email, touches=[{"who": word}])
    LogEntry.objects.create(user=other, object_repr=str(user), action_flag=2)
    LogEntry.objects.create(user=user, object_repr="something", action_flag=2)


def cells() -> dict[str, list[str]]:
    """The text of every column of every table."""
    found = {}
    with connection.cursor() as cursor:
        for table in connection.introspection.table_names(cursor):
            cursor.execute(f'SELECT * FROM "{table}"')  # noqa: S608
            names = [column[0] for column in cursor.description]
            for row in cursor.fetchall():
                for name, value in zip(names, row, strict=True):
                    found.setdefault(f"{table}.{name}", []).append(_text(value))
    return found


def _text(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    # JSON in a database may have its letters escaped.
    return text + (json.dumps(json.loads(text), ensure_ascii=False) if "\\u" in text else "")


def where(*words: str) -> set[str]:
    """The columns in which a word stands, in any case."""
    wanted = [word.lower() for word in words if word]
    return {at for at, texts in cells().items() for text in texts if any(w in text.lower() for w in wanted)}


NAMES = st.text(alphabet="abcdefgäöëñ'- ", max_size=12).map(lambda tail: f"Zwö {tail}q")
EMAILS = st.from_regex(r"zw[a-z0-9]{1,10}(\.[a-z]{1,5}|\+[a-z]{1,5})?@[a-z]{2,8}\.example", fullmatch=True)


@pytest.mark.django_db
@given(name=st.one_of(st.just(""), NAMES), email=EMAILS)
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_after_an_erasure_no_cell_of_any_table_names_the_person(name, email):
    user = User.objects.create_user(email, name=name)
    everywhere(user)
    assert "accounts_user.email" in where(email)
    boss = factories.administrator()
    receipt = erasing.erase(user, reason="asked for it", actor=boss, now=NOW)
    assert where(email, name.strip()) == set()
    assert verify().ok, "the chain is whole"
    assert not mentions_in(receipt, email, name)


def mentions_in(receipt: ErasureReceipt, *words: str) -> bool:
    text = receipt.document + receipt.page + receipt.reason
    return any(word in text for word in words if word)


@pytest.mark.django_db
def test_an_erasure_takes_the_persons_rows_and_leaves_everybody_elses():
    user, other = factories.user("operator", email="ada@example.com"), factories.operator()
    User.objects.filter(pk=user.pk).update(name="Ada Lovelace")
    user.refresh_from_db()
    everywhere(user)
    theirs = chain.pseudonym_of(other)
    SignInLink.issue(other, now=NOW)
    plan = erasing.plan_of(user, now=NOW)
    assert not plan.blocked
    receipt = erasing.erase(user, reason="by letter", actor=factories.administrator(), now=NOW)
    assert not User.objects.filter(pk=user.pk).exists()
    assert not Origin.objects.filter(address=HERE.address).exists()
    assert not Session.objects.exists()
    assert list(SignInLink.objects.values_list("user", flat=True)) == [other.pk]
    assert Pseudonym.objects.filter(pk=theirs).exists()
    assert Channel.objects.get().mailbox == ""
    assert Channel.objects.get().name.startswith("Mail to [erased")
    told = json.loads(receipt.document)
    planned = {(s.told["model"], s.act): s.rows for s in plan.going}
    assert {(s["model"], s["act"]): s["rows"] for s in told["done"]}.items() <= planned.items() | {
        (("alerts.Channel", "words"), 1)
    }
    (kept,) = [s for s in told["kept"] if s["model"] == "audit.AuditEvent"][:1]
    assert "names nobody" in kept["why"]
    assert receipt.document_sha256 == hashlib.sha256(receipt.document.encode()).hexdigest()
    assert receipt.page_sha256 == hashlib.sha256(receipt.page.encode()).hexdigest()
    (event,) = AuditEvent.objects.filter(action="privacy.erase")
    assert event.after["receipt"] == str(receipt.pk)


@pytest.mark.django_db
def test_whoever_erases_themselves_leaves_no_address_behind():
    user = factories.operator()
    token = request_context.set(HERE)
    try:
        erasing.erase(user, reason="my wish", actor=user, now=NOW)
    finally:
        request_context.reset(token)
    assert not Origin.objects.exists()
    assert AuditEvent.objects.get(action="privacy.erase").after["themselves"] is True


@pytest.mark.django_db
def test_the_last_administrator_stays_and_is_told_what_to_do():
    boss = factories.administrator()
    with pytest.raises(erasing.Blocked, match="make another administrator"):
        erasing.erase(boss, reason="x", actor=boss, now=NOW)
    assert User.objects.filter(pk=boss.pk).exists()
    assert not AuditEvent.objects.filter(action="privacy.erase").exists()
    factories.administrator()
    erasing.erase(boss, reason="x", actor=boss, now=NOW)


@pytest.mark.django_db
def test_a_legal_hold_keeps_a_person_until_it_ends():
    user = factories.operator()
    hold = LegalHold.objects.create(person=user, reason="a dispute", since=NOW - timedelta(days=1))
    with pytest.raises(erasing.Blocked, match="legal hold"):
        erasing.erase(user, reason="x", actor=None, now=NOW)
    LegalHold.objects.filter(pk=hold.pk).update(until=NOW)
    erasing.erase(user, reason="x", actor=None, now=NOW)
    hold.refresh_from_db()
    assert hold.person_id is None


@pytest.mark.django_db
def test_a_name_that_two_people_have_stays_in_text_and_the_receipt_says_so():
    one, two = (User.objects.create_user(f"{n}@example.com", name="Ada Lovelace") for n in ("a1", "b2"))
    made.plain(Notice, key="k", title="Ask Ada Lovelace", detail="a1@example.com")
    receipt = erasing.erase(one, reason="x", actor=None, now=NOW)
    assert (Notice.objects.get().title, Notice.objects.get().detail) == ("Ask Ada Lovelace", "[erased]")
    assert "same name" in receipt.document
    two.refresh_from_db()
    assert two.name == "Ada Lovelace"


@pytest.mark.django_db
def test_the_audit_takes_no_address_into_what_is_hashed():
    chain.record(
        "thing.done",
        actor=None,
        reason="Ada <ada@example.com> asked",
        after={"note": ["to ada@example.com"]},
        now=NOW,
    )
    event = AuditEvent.objects.get()
    assert (event.reason, event.after) == ("Ada <[address]> asked", {"note": ["to [address]"]})


def test_no_address_stands_in_a_log():
    record = logging.LogRecord(
        "axes", 30, "", 0, "failure by {username: '%s'}", ("ada.b+c@mail.example.com",), None
    )
    logs.RedactLinks().filter(record)
    assert record.getMessage() == "failure by {username: '[address]'}"
    assert logs.clean("redis://user@host:6379/0 stays") == "redis://user@host:6379/0 stays"


# -- after a restore ----------------------------------------------------------------------------------


@pytest.mark.django_db(transaction=True)
@pytest.mark.skipif("connection.vendor != 'sqlite'", reason="a copy of a SQLite file")
def test_a_restored_backup_is_erased_again_and_only_once(tmp_path):
    user = factories.user("operator", email="ada@example.com")
    stays = factories.user("operator", email="bob@example.com")
    everywhere(user)
    backup = tmp_path / "backup.sqlite3"
    copy(live(), backup)
    receipt = erasing.erase(user, reason="by letter", actor=factories.administrator(), now=NOW)
    copy(backup, live())
    assert where("ada@example.com"), "the backup has brought them back"
    assert not ErasureReceipt.objects.exists()
    told = StringIO()
    call_command("reapply_erasures", stdout=told)
    assert "1 erased again" in told.getvalue()
    assert where("ada@example.com") == set()
    again = ErasureReceipt.objects.get()
    assert (again.pk, again.document, again.reapplied) == (receipt.pk, receipt.document, 1)
    assert User.objects.filter(pk=stays.pk).exists()
    assert AuditEvent.objects.filter(action="privacy.reapply").count() == 1
    assert erasing.reapply(now=NOW) == []
    assert ErasureReceipt.objects.get().reapplied == 1


def live() -> str:
    connection.close()
    return str(connection.settings_dict["NAME"])


def copy(source: Any, target: Any) -> None:
    with closing(sqlite3.connect(source)) as a, closing(sqlite3.connect(target)) as b:
        a.backup(b)


@pytest.mark.django_db
def test_who_was_let_in_again_with_the_same_address_is_not_erased():
    user = factories.user("operator", email="ada@example.com")
    erasing.erase(user, reason="x", actor=None, now=NOW)
    factories.user("operator", email="ada@example.com")
    assert erasing.reapply(now=NOW) == []
    assert [r.reason for r in receipts.of_email("ADA@example.com")] == ["x"]


@pytest.mark.django_db
def test_the_file_names_nobody_knows_older_keys_and_survives_damage(settings, data_folder, caplog):
    from cryptography.fernet import Fernet

    user = factories.user("operator", email="ada@example.com")
    pk, joined = user.pk, user.date_joined
    erasing.erase(user, reason="x", actor=None, now=NOW)
    file = data_folder / "erasures.jsonl"
    assert "ada" not in file.read_text()
    assert file.stat().st_mode & 0o777 == 0o600
    with file.open("a") as f:
        f.write('{"id": "half a li')
    assert receipts.keep_outside() == 0
    assert len(receipts.lines()) == 1
    settings.FIELD_KEYS = [Fernet.generate_key().decode(), *settings.FIELD_KEYS]
    User.objects.create(pk=pk, email="ada@example.com", date_joined=joined)
    assert len(erasing.reapply(now=NOW)) == 1
    assert not User.objects.filter(pk=pk).exists()
