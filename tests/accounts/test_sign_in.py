"""Signing in and out through allauth's forms, throttled so that nobody locks out anybody else."""

from __future__ import annotations

import json

import pytest
from django.core.cache import cache
from django.test import AsyncClient, Client
from django.urls import reverse

from panel.audit import chain
from panel.audit.models import AuditEvent
from tests import asgi, factories

pytestmark = pytest.mark.django_db
PASSWORD = "a long enough password"  # not a real one
LOGIN = "/accounts/login/"


@pytest.fixture(autouse=True)
def _quick_hashes_and_fresh_limits(settings) -> None:
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
    cache.clear()


def somebody(email="ada@example.com"):
    return factories.user("operator", email=email, password=PASSWORD)


def sign_in(client: Client, email="ada@example.com", password=PASSWORD, address="192.0.2.1", **extra):
    return client.post(LOGIN, {"login": email, "password": password}, REMOTE_ADDR=address, **extra)


def test_a_password_signs_in_and_the_audit_knows(client):
    who = somebody()
    answer = sign_in(client)
    assert (answer.status_code, answer["Location"]) == (302, reverse("overview"))
    event = AuditEvent.objects.get()
    assert (event.action, event.after, event.actor) == (
        "account.sign_in",
        {"by": "password"},
        chain.pseudonym_of(who),
    )
    assert event.origin.address == "192.0.2.1"


def test_the_address_is_taken_in_any_case(client):
    somebody()
    assert sign_in(client, email="ADA@Example.COM").status_code == 302


def test_sign_in_leads_back_to_the_page_that_was_wanted_and_nowhere_else(client):
    somebody()
    for wanted, found in (("/spend/", "/spend/"), ("https://evil.example/", "/"), ("//evil.example", "/")):
        answer = Client().post(LOGIN, {"login": "ada@example.com", "password": PASSWORD, "next": wanted})
        assert answer["Location"] == found


def test_a_failed_sign_in_is_audited_without_what_was_typed(client):
    somebody()
    assert sign_in(client, password="wrong").status_code == 200
    assert sign_in(client, email="stranger@example.com", password="wrong").status_code == 200
    known, stranger = AuditEvent.objects.order_by("sequence")
    assert {known.action, stranger.action} == {"account.sign_in_failed"}
    assert (known.target_type, stranger.target_type) == ("accounts.user", "")
    kept = json.dumps(list(AuditEvent.objects.values()), default=str)
    assert "ada@" not in kept
    assert "stranger" not in kept
    assert "wrong" not in kept
    assert chain.verify().ok


def test_a_failed_sign_in_does_not_tell_who_exists(client):
    somebody()
    known, unknown = (
        sign_in(client, password="x"),
        sign_in(client, email="stranger@example.com", password="x"),
    )
    strip = lambda page, email: page.text.replace(email, "").split("csrfmiddlewaretoken")[1][100:]  # noqa: E731
    assert strip(known, "ada@example.com") == strip(unknown, "stranger@example.com")


def test_after_eight_failures_the_pair_of_account_and_address_is_locked(client):
    somebody()
    answers = [sign_in(client, password="wrong").status_code for _ in range(8)]
    assert answers == [200] * 7 + [429]
    refused = sign_in(client)
    assert refused.status_code == 429
    assert "Too many failed attempts" in refused.text
    assert "_auth_user_id" not in client.session


def test_a_locked_pair_locks_out_nobody_else(client):
    """One attacker hammers one account: its owner elsewhere and everybody beside the attacker still get in."""
    somebody()
    somebody("bob@example.com")
    for _ in range(30):
        sign_in(client, password="wrong")
    assert sign_in(client).status_code == 429
    assert sign_in(Client(), address="192.0.2.2").status_code == 302
    assert sign_in(Client(), email="bob@example.com").status_code == 302


def test_addresses_of_one_ipv6_network_count_together(client):
    """One customer has 2^64 of them: counted one by one, no limit would ever be met."""
    somebody()
    for n in range(8):
        sign_in(client, password="wrong", address=f"2001:db8:0:1::{n + 1:x}")
    assert sign_in(Client(), address="2001:db8:0:1:ffff::1").status_code == 429
    assert sign_in(Client(), address="2001:db8:0:2::1").status_code == 302


def test_ipv4_addresses_written_as_ipv6_count_each_for_itself(client):
    somebody()
    for _ in range(8):
        sign_in(client, password="wrong", address="::ffff:192.0.2.1")
    assert sign_in(Client(), address="192.0.2.1").status_code == 429
    assert sign_in(Client(), address="::ffff:192.0.2.2").status_code == 302


def test_an_attacker_who_tries_many_accounts_locks_out_nobody_at_the_same_address(client):
    somebody()
    for n in range(40):
        sign_in(client, email=f"guess{n}@example.com", password="wrong")
    assert sign_in(Client()).status_code == 302


def test_a_locked_account_is_open_again_after_the_cool_off(client, time_machine):
    from datetime import timedelta

    from tests.conftest import NOW

    time_machine.move_to(NOW)
    somebody()
    for _ in range(8):
        sign_in(client, password="wrong")
    time_machine.move_to(NOW + timedelta(minutes=14))
    assert sign_in(client).status_code == 429
    time_machine.move_to(NOW + timedelta(minutes=31))
    assert sign_in(client).status_code == 302


def test_a_one_time_link_opens_a_locked_account(client):
    from django.utils import timezone

    from panel.accounts.models import SignInLink

    who = somebody()
    for _ in range(9):
        sign_in(client, password="wrong")
    token = SignInLink.issue(who, now=timezone.now())
    assert client.post(reverse("sign_in_link", args=[token]), REMOTE_ADDR="192.0.2.1").status_code == 302


@pytest.mark.django_db(transaction=True)
def test_the_lock_is_shown_under_asgi_too():
    somebody()

    async def ten_failures():
        client = AsyncClient()
        return [
            (await client.post(LOGIN, {"login": "ada@example.com", "password": "wrong"})).status_code
            for _ in range(9)
        ]

    answers = asgi.run(ten_failures())
    assert answers == [200] * 7 + [429] * 2


def test_allauths_flood_limit_works_with_the_cache_that_we_have(client, settings):
    settings.ACCOUNT_RATE_LIMITS = {**settings.ACCOUNT_RATE_LIMITS, "login": "3/m/ip"}
    somebody()
    assert [sign_in(Client()).status_code for _ in range(5)] == [302, 302, 302, 429, 429]
    assert "Wait a minute and send it again" in sign_in(Client()).text
    assert sign_in(Client(), address="192.0.2.2").status_code == 302


def test_behind_a_trusted_proxy_the_clients_are_told_apart(client, settings):
    from ipaddress import ip_network

    settings.TRUSTED_PROXIES = [ip_network("10.0.0.0/8")]
    somebody()
    for _ in range(9):
        sign_in(client, password="wrong", address="10.0.0.1", headers={"X-Forwarded-For": "192.0.2.66"})
    through = {"address": "10.0.0.1"}
    assert sign_in(Client(), headers={"X-Forwarded-For": "192.0.2.66"}, **through).status_code == 429
    assert sign_in(Client(), headers={"X-Forwarded-For": "192.0.2.7"}, **through).status_code == 302


def test_a_deactivated_user_does_not_get_in(client):
    who = somebody()
    type(who).objects.update(is_active=False)
    sign_in(client)
    assert "_auth_user_id" not in client.session


def test_nobody_signs_up(client):
    page = client.get("/accounts/signup/")
    assert "made by an administrator" in page.text
    client.post(
        "/accounts/signup/", {"email": "new@example.com", "password1": PASSWORD, "password2": PASSWORD}
    )
    from panel.accounts.models import User

    assert not User.objects.exists()


def test_signing_out_takes_a_post_and_is_audited(client):
    who = somebody()
    client.force_login(who)
    client.get("/accounts/logout/")
    assert "_auth_user_id" in client.session
    client.post("/accounts/logout/")
    assert "_auth_user_id" not in client.session
    assert AuditEvent.objects.get().action == "account.sign_out"


def test_a_password_is_changed_with_the_old_one_and_audited(client):
    who = somebody()
    client.force_login(who)
    new = "another long password"
    form = {"oldpassword": "wrong", "password1": new, "password2": new}
    assert client.post("/accounts/password/change/", form).status_code == 200
    assert client.post("/accounts/password/change/", {**form, "oldpassword": PASSWORD}).status_code == 302
    who.refresh_from_db()
    assert who.check_password(new)
    assert AuditEvent.objects.latest("sequence").action == "account.password_change"
    assert new not in json.dumps(list(AuditEvent.objects.values()), default=str)
    assert "_auth_user_id" in client.session


def test_who_came_by_link_sets_a_password_of_twelve_characters(client):
    who = factories.operator()
    client.force_login(who)
    assert (
        client.post("/accounts/password/set/", {"password1": "short", "password2": "short"}).status_code
        == 200
    )
    assert (
        client.post("/accounts/password/set/", {"password1": PASSWORD, "password2": PASSWORD}).status_code
        == 302
    )
    who.refresh_from_db()
    assert who.check_password(PASSWORD)
    assert AuditEvent.objects.get().action == "account.password_set"


def test_a_password_is_not_changed_when_that_cannot_be_audited(client, monkeypatch):
    from django.db import OperationalError

    def refuse(*_, **__):
        raise OperationalError("disk is full")

    who = somebody()
    client.force_login(who)
    monkeypatch.setattr(chain, "_append", refuse)
    new = "another long password"
    form = {"oldpassword": PASSWORD, "password1": new, "password2": new}
    answer = client.post("/accounts/password/change/", form)
    assert answer.status_code == 503
    assert "not carried out" in answer.text
    who.refresh_from_db()
    assert who.check_password(PASSWORD)


def test_a_password_reset_is_offered_only_where_mail_is_sent(client, settings):
    assert client.get("/accounts/password/reset/").status_code == 404
    settings.MAIL_CONFIGURED = True
    assert client.get("/accounts/password/reset/").status_code == 200


def test_a_reset_mail_holds_a_link_that_works(client, settings, mailoutbox):
    settings.MAIL_CONFIGURED = True
    settings.MAILERS = {"default": {"BACKEND": "django.core.mail.backends.locmem.EmailBackend"}}
    who = somebody()
    client.post("/accounts/password/reset/", {"email": "ada@example.com"})
    (mail,) = mailoutbox
    path = next(w for w in mail.body.split() if "/password/reset/key/" in w).split("testserver")[1]
    form = client.get(path, follow=True)
    client.post(
        form.request["PATH_INFO"], {"password1": "a brand new password", "password2": "a brand new password"}
    )
    who.refresh_from_db()
    assert who.check_password("a brand new password")
    assert AuditEvent.objects.latest("sequence").action == "account.password_change"
