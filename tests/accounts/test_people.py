"""People in the admin site: an administrator gives roles, and nobody gives what they do not have."""

from __future__ import annotations

import re

import pytest
from django.test import Client

from panel.accounts.models import SignInLink, User
from panel.accounts.roles import ADMINISTRATOR, OPERATOR, ROLES, VIEWER
from panel.audit import chain
from panel.audit.models import AuditEvent
from tests import factories

pytestmark = pytest.mark.django_db
ADD = "/admin/accounts/user/add/"


def change(user) -> str:
    return f"/admin/accounts/user/{user.pk}/change/"


def roles(user) -> list[str]:
    return sorted(user.groups.values_list("name", flat=True))


@pytest.fixture
def boss(client) -> User:
    """An administrator, signed in, who is no superuser."""
    boss = factories.administrator()
    client.force_login(boss)
    return boss


def fields(user, **changed) -> dict[str, str]:
    return {"email": user.email, "name": user.name, "role": roles(user)[0], "is_active": "on", **changed}


def test_an_administrator_makes_a_user_with_a_role_who_signs_in_by_link(client, boss):
    answer = client.post(ADD, {"email": "New@Example.com", "name": "New", "role": OPERATOR})
    assert answer.status_code == 302
    made = User.objects.get(email="new@example.com")
    assert (roles(made), made.is_staff, made.is_superuser, made.has_usable_password()) == (
        [OPERATOR],
        False,
        False,
        False,
    )
    event = AuditEvent.objects.get()
    assert (event.action, event.actor, event.target_id) == (
        "user.create",
        chain.pseudonym_of(boss),
        str(made.pk),
    )
    assert event.after == {"is_active": True, "role": OPERATOR}

    page = client.post(f"/admin/accounts/user/{made.pk}/sign-in-link/")
    assert "no-store" in page["Cache-Control"]
    link = re.search(r"http://testserver(/sign-in/[^\"]+)", page.text)[1]
    theirs = Client()
    assert theirs.post(link).status_code == 302
    assert theirs.session["_auth_user_id"] == str(made.pk)


def test_changing_a_role_is_audited_with_what_was_before(client, boss):
    who = factories.viewer()
    client.post(change(who), fields(who, role=ADMINISTRATOR))
    who.refresh_from_db()
    assert (roles(who), who.is_staff) == ([ADMINISTRATOR], True)
    event = AuditEvent.objects.get()
    assert (event.action, event.before, event.after) == (
        "user.change",
        {"role": VIEWER},
        {"role": ADMINISTRATOR},
    )
    client.post(change(who), fields(who, role=VIEWER))
    who.refresh_from_db()
    assert (roles(who), who.is_staff) == ([VIEWER], False)


def test_a_deactivated_user_is_out_at_once(client, boss):
    who = factories.operator()
    theirs = Client()
    theirs.force_login(who)
    assert theirs.get("/accounts/password/set/").status_code == 200
    changed = fields(who)
    del changed["is_active"]
    client.post(change(who), changed)
    assert theirs.get("/accounts/password/set/").status_code == 302
    assert AuditEvent.objects.get().after == {"is_active": False}


def test_an_administrator_cannot_make_themselves_or_anybody_a_superuser(client, boss):
    who = factories.viewer()
    for user in (boss, who):
        client.post(
            change(user), fields(user, is_superuser="on", user_permissions="1", groups="1", is_staff="on")
        )
        user.refresh_from_db()
        assert not user.is_superuser
        assert not user.user_permissions.exists()
    assert roles(who) == [VIEWER]
    assert not User.objects.get(pk=who.pk).is_staff


def test_an_administrator_cannot_touch_a_superuser_nor_sign_in_as_one(client, boss):
    root = User.objects.create_superuser("root@example.com")
    assert client.post(change(root), {"email": boss.email, "role": VIEWER}).status_code == 403
    assert client.post(f"/admin/accounts/user/{root.pk}/sign-in-link/").status_code == 403
    root.refresh_from_db()
    assert root.email == "root@example.com"
    assert not SignInLink.objects.exists()


def test_a_superuser_may_change_another(client):
    client.force_login(User.objects.create_superuser("root@example.com"))
    other = User.objects.create_superuser("other@example.com")
    assert client.post(f"/admin/accounts/user/{other.pk}/sign-in-link/").status_code == 200
    client.post(change(other), {"email": other.email, "role": VIEWER, "is_active": "on"})
    other.refresh_from_db()
    assert other.is_superuser
    assert other.is_staff


def test_the_last_administrator_cannot_resign(client, boss):
    answer = client.post(change(boss), fields(boss, role=VIEWER))
    assert "last active administrator" in answer.text
    assert roles(boss) == [ADMINISTRATOR]
    factories.administrator()
    assert client.post(change(boss), fields(boss, role=VIEWER)).status_code == 302


def test_nobody_is_deleted_here(client, boss):
    who = factories.viewer()
    assert client.post(f"/admin/accounts/user/{who.pk}/delete/", {"post": "yes"}).status_code == 403
    data = {"action": "delete_selected", "_selected_action": [who.pk], "post": "yes"}
    client.post("/admin/accounts/user/", data)
    assert User.objects.filter(pk=who.pk).exists()


def test_an_address_is_one_persons_whatever_its_case(client, boss):
    factories.user(VIEWER, email="ada@example.com")
    answer = client.post(ADD, {"email": "ADA@example.com", "name": "", "role": VIEWER})
    assert answer.status_code == 200
    assert User.objects.filter(email__iexact="ada@example.com").count() == 1


def test_a_change_that_cannot_be_audited_is_not_made(client, boss, monkeypatch):
    from django.db import OperationalError

    def refuse(*_, **__):
        raise OperationalError("disk is full")

    who = factories.viewer()
    monkeypatch.setattr(chain, "_append", refuse)
    assert client.post(change(who), fields(who, role=ADMINISTRATOR)).status_code == 503
    who = User.objects.get(pk=who.pk)
    assert (roles(who), who.is_staff) == ([VIEWER], False)


@pytest.mark.parametrize("role", [None, VIEWER, OPERATOR])
def test_other_roles_do_not_open_the_admin_site(client, role):
    client.force_login(factories.user(role))
    assert client.get("/admin/", follow=True).status_code == 403
    assert client.get("/admin/accounts/user/").status_code in {302, 403}


def test_each_role_holds_what_the_one_below_holds():
    viewer, operator, administrator = (set(ROLES[role]) for role in (VIEWER, OPERATOR, ADMINISTRATOR))
    assert viewer < operator < administrator


def test_every_permission_of_every_role_exists():
    for role, names in ROLES.items():
        user = User.objects.get(pk=factories.user(role).pk)
        missing = [name for name in names if not user.has_perm(name)]
        assert missing == []


def test_no_filter_of_the_list_tells_a_password_hash(client):
    boss = factories.administrator()
    factories.user(email="root@example.com", password="a-long-passphrase-of-root")
    client.force_login(boss)
    answer = client.get("/admin/accounts/user/?password__startswith=pbkdf2")
    assert "root@example.com" not in answer.text
