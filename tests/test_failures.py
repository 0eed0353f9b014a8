"""When the ground gives way the page says what happened and what to do: 503, no stack trace, nothing done by halves."""

from __future__ import annotations

import threading
from contextlib import contextmanager

import pytest
from django.db import DataError, IntegrityError, OperationalError, connection
from django.db.utils import InternalError
from django.test import AsyncClient

from panel.accounts.models import User
from panel.audit import chain
from panel.middleware import sentence_of
from tests import asgi, factories

PASSWORD_FORM = {"password1": "a long enough password", "password2": "a long enough password"}


@pytest.fixture
def client(client):
    """What a browser sees: the page of the error, not the error."""
    client.raise_request_exception = False
    return client


def gone(*_, **__):
    raise OperationalError("unable to open database file /secret/place/regia.sqlite3")


@contextmanager
def read_only_database():
    """The database's own refusal, not one made up."""
    on, off = {
        "sqlite": ("PRAGMA query_only = 1", "PRAGMA query_only = 0"),
        "postgresql": ("SET default_transaction_read_only = on", "SET default_transaction_read_only = off"),
    }[connection.vendor]
    with connection.cursor() as cursor:
        cursor.execute(on)
    try:
        yield
    finally:
        with connection.cursor() as cursor:
            cursor.execute(off)


@pytest.mark.django_db(transaction=True)
def test_a_read_only_database_refuses_a_change_in_a_sentence_and_keeps_everything(client):
    who = factories.operator()
    client.force_login(who)
    with read_only_database():
        assert client.get("/accounts/password/set/").status_code == 200
        answer = client.post("/accounts/password/set/", PASSWORD_FORM)
    assert answer.status_code == 503
    assert "The database is read-only. What you sent was not carried out." in answer.text
    assert "nothing you saved is lost" in answer.text
    assert "Traceback" not in answer.text
    assert answer["Retry-After"] == "10"
    assert not User.objects.get(pk=who.pk).has_usable_password()
    assert client.post("/accounts/password/set/", PASSWORD_FORM).status_code == 302


@pytest.mark.django_db
def test_a_database_that_is_gone_is_told_though_not_even_the_session_can_be_read(client, caplog):
    client.force_login(factories.operator())
    with connection.execute_wrapper(gone):
        answer = client.get("/")
    assert answer.status_code == 503
    assert "The database does not answer." in answer.text
    assert "/secret/place" not in answer.text
    assert "/secret/place" in caplog.text


@pytest.mark.django_db(transaction=True)
def test_it_is_told_under_asgi_too(monkeypatch):
    from django.db.backends.utils import CursorWrapper

    who = factories.operator()

    async def ask():
        client = AsyncClient(raise_request_exception=False)
        await client.aforce_login(who)
        # Every thread has a connection of its own: all of them are gone.
        with monkeypatch.context() as broken:
            broken.setattr(CursorWrapper, "execute", gone)
            return await client.get("/")

    answer = asgi.run(ask())
    assert answer.status_code == 503
    assert "The database does not answer." in answer.text


@pytest.mark.django_db
def test_htmx_gets_the_sentence_alone(client):
    client.force_login(factories.operator())
    with connection.execute_wrapper(gone):
        answer = client.post("/spend/budgets/add/", headers={"HX-Request": "true"})
    assert answer.status_code == 503
    assert answer["Content-Type"].startswith("text/plain")
    assert answer.text.startswith("The database does not answer. What you sent was not carried out.")


@pytest.mark.django_db(transaction=True)
def test_a_locked_database_is_waited_for_and_then_told(client):
    if connection.vendor != "sqlite":
        assert sentence_of(OperationalError("canceling statement due to lock timeout")).startswith(
            "The database is busy"
        )
        return
    client.force_login(factories.operator())
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA busy_timeout = 50")
    held, release = threading.Event(), threading.Event()

    def hold():
        with connection.cursor() as cursor:
            cursor.execute("BEGIN IMMEDIATE")
            held.set()
            release.wait(30)
            cursor.execute("ROLLBACK")
        connection.close()

    holder = threading.Thread(target=hold)
    holder.start()
    try:
        assert held.wait(10)
        answer = client.post("/accounts/password/set/", PASSWORD_FORM)
    finally:
        release.set()
        holder.join()
    assert answer.status_code == 503
    assert "The database is busy: another process holds it." in answer.text


@pytest.mark.django_db
def test_an_audit_that_cannot_be_written_is_told(client, monkeypatch):
    monkeypatch.setattr(chain, "_append", gone)
    client.force_login(factories.operator())
    answer = client.post("/accounts/password/set/", PASSWORD_FORM)
    assert answer.status_code == 503
    assert "The audit log cannot be written" in answer.text


def test_what_is_a_fault_of_the_program_stays_one(settings):
    for error in (
        IntegrityError("x"),
        DataError("x"),
        ValueError("x"),
        OSError(2, "gone", "/etc/passwd"),
        KeyError("x"),
    ):
        assert sentence_of(error) == ""
    assert sentence_of(FileNotFoundError(2, "gone", f"{settings.DATA_DIR}/broker/queue"))
    assert (
        sentence_of(InternalError("cannot execute UPDATE in a read-only transaction"))
        == "The database is read-only."
    )
    assert sentence_of(OperationalError("database or disk is full")) == "The disk of the database is full."


@pytest.mark.urls("tests.test_failures")
def test_an_unforeseen_error_is_a_plain_500_without_a_trace(client):
    answer = client.get("/broken/")
    assert answer.status_code == 500
    assert "Traceback" not in answer.text
    assert "hunter2" not in answer.text


def _broken(request):
    raise ValueError("the password is hunter2")


_broken.login_required = False

handler500 = "panel.middleware.server_error"


def _urls():
    from django.urls import path

    from panel.urls import urlpatterns as real

    return [path("broken/", _broken), *real]


urlpatterns = _urls()
