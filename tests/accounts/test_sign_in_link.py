"""The one-time link: once, for a while, and its token is nowhere to be read."""

from __future__ import annotations

import logging
import re
import threading
from datetime import timedelta

import pytest
from django.db import connection
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from panel.accounts.models import SignInLink
from panel.audit.models import AuditEvent
from panel.logs import RedactLinks
from tests import factories


def link_for(user, *, age=timedelta(0)) -> str:
    return reverse("sign_in_link", args=[SignInLink.issue(user, now=timezone.now() - age)])


@pytest.mark.django_db
def test_it_signs_in_and_leads_to_the_overview(client):
    who = factories.operator()
    answer = client.post(link_for(who))
    assert (answer.status_code, answer["Location"]) == (302, reverse("overview"))
    assert (answer["Cache-Control"], answer["Referrer-Policy"]) == ("no-store", "no-referrer")
    assert client.session["_auth_user_id"] == str(who.pk)
    event = AuditEvent.objects.get()
    assert (event.action, event.target_id, event.after) == ("account.sign_in", str(who.pk), {"by": "link"})


@pytest.mark.django_db
def test_it_works_once(client):
    link = link_for(factories.operator())
    assert client.post(link).status_code == 302
    answer = Client().post(link)
    assert answer.status_code == 410
    assert (answer["Cache-Control"], answer["Referrer-Policy"]) == ("no-store", "no-referrer")
    assert "This sign-in link does not work" in answer.text
    assert "Ask an administrator for a new one" in answer.text


@pytest.mark.django_db
def test_an_expired_link_is_gone(client):
    link = link_for(factories.operator(), age=timedelta(minutes=31))
    assert client.post(link).status_code == 410
    assert "_auth_user_id" not in client.session


@pytest.mark.django_db
def test_a_link_of_a_deactivated_user_is_gone(client):
    who = factories.operator()
    link = link_for(who)
    type(who).objects.update(is_active=False)
    assert client.post(link).status_code == 410


@pytest.mark.django_db
def test_a_token_that_never_was_is_not_found(client):
    answer = client.post(reverse("sign_in_link", args=["wrong"]))
    assert answer.status_code == 404
    assert "This sign-in link does not work" in answer.text


@pytest.mark.parametrize("method", ["head", "put", "delete", "options"])
@pytest.mark.django_db
def test_other_methods_do_not_spend_a_link(client, method):
    link = link_for(factories.operator())
    assert getattr(client, method)(link).status_code == 405
    assert SignInLink.objects.get().used_at is None
    assert client.post(link).status_code == 302


@pytest.mark.django_db
def test_looking_at_a_link_shows_a_button_and_spends_nothing():
    """What scans mail opens links, and must not burn them."""
    browser = Client(enforce_csrf_checks=True)
    link = link_for(factories.operator())
    page = [browser.get(link) for _ in range(2)][1]
    assert (page.status_code, page["Cache-Control"], page["Referrer-Policy"]) == (
        200, "no-store", "strict-origin",
    )  # fmt: skip
    assert "_auth_user_id" not in browser.session
    assert SignInLink.objects.get().used_at is None
    assert browser.post(link).status_code == 403, "no other site presses the button"
    token = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', page.text)[1]
    assert browser.post(link, {"csrfmiddlewaretoken": token})["Location"] == reverse("overview")


@pytest.mark.parametrize(("age", "status"), [(timedelta(minutes=31), 410), (None, 404)])
@pytest.mark.django_db
def test_a_link_that_does_not_work_says_so_before_the_button(client, age, status):
    link = link_for(factories.operator(), age=age) if age else reverse("sign_in_link", args=["wrong"])
    page = client.get(link)
    assert page.status_code == status
    assert "This sign-in link does not work" in page.text


@pytest.mark.django_db
def test_the_session_of_whoever_was_there_before_is_not_kept(client):
    client.force_login(factories.viewer())
    session = client.session
    session["theirs"] = "secret"
    session.save()
    before = session.session_key
    who = factories.operator()
    client.post(link_for(who))
    assert client.session.session_key != before
    assert "theirs" not in client.session
    assert client.session["_auth_user_id"] == str(who.pk)


@pytest.mark.django_db
def test_an_anonymous_sessions_key_is_rotated(client):
    client.get(reverse("account_login"))
    session = client.session
    session["x"] = 1
    session.save()
    before = session.session_key
    client.post(link_for(factories.operator()))
    assert client.session.session_key != before


@pytest.mark.django_db
def test_the_token_is_neither_stored_nor_logged(client, caplog):
    caplog.set_level(logging.DEBUG)
    caplog.handler.addFilter(RedactLinks())
    who = factories.operator()
    link = link_for(who)
    token = link.split("/")[-2]
    client.post(link)
    client.post(link)
    client.post(link[:-2] + "/")
    row = SignInLink.objects.values().get()
    assert token not in str(row)
    assert token not in repr(SignInLink.objects.get())
    assert "/sign-in/[redacted]" in caplog.text
    assert token[:-1] not in caplog.text
    assert token not in str(list(AuditEvent.objects.values()))
    assert token not in str(dict(client.session))


@pytest.mark.django_db(transaction=True)
def test_two_browsers_that_open_it_at_once_get_one_session():
    link = link_for(factories.operator())
    start, statuses = threading.Barrier(4), []

    def open_it():
        try:
            start.wait()
            statuses.append(Client().post(link).status_code)
        finally:
            connection.close()

    threads = [threading.Thread(target=open_it) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert sorted(statuses) == [302, 410, 410, 410]
    assert AuditEvent.objects.filter(action="account.sign_in").count() == 1


@pytest.mark.django_db(transaction=True)
def test_a_link_is_not_spent_when_the_sign_in_cannot_be_audited(client, monkeypatch):
    from django.db import OperationalError

    from panel.audit import chain

    def refuse(*_, **__):
        raise OperationalError("disk is full")

    link = link_for(factories.operator())
    with monkeypatch.context() as broken:
        broken.setattr(chain, "_append", refuse)
        answer = client.post(link)
    assert answer.status_code == 503
    assert "audit log cannot be written" in answer.text
    assert "_auth_user_id" not in client.session
    assert client.post(link).status_code == 302
