"""What is edited in the admin site is audited with its difference; what is personal or secret is only named."""

from __future__ import annotations

import json

import pytest
from django.contrib import admin
from django.test import RequestFactory

from panel.accounts.models import User
from panel.alerts.models import Channel, Rule
from panel.audit import audited, chain
from panel.audit.audited import AuditedAdmin
from panel.audit.models import AuditEvent
from tests import factories
from tests.alerts import made
from tests.conftest import NOW

pytestmark = pytest.mark.django_db


def save(model, obj, form_data, *, who):
    """As the admin site saves a form."""
    site = AuditedAdmin(model, admin.site)
    site.fields = ("name", "severity", "channels", "enabled")
    request = RequestFactory().post("/")
    request.user = who
    change = obj is not None
    form = site.get_form(request, obj, change=change)(form_data, instance=obj)
    assert form.is_valid(), form.errors
    saved = form.save(commit=False)
    saved.created_at = NOW
    site.save_model(request, saved, form, change)
    site.save_related(request, form, [], change)
    return site, request, saved


def last() -> AuditEvent:
    return AuditEvent.objects.latest("sequence")


@pytest.fixture
def ada():
    ada = factories.administrator()
    # Nobody but a superuser may edit these rows in the admin site.
    User.objects.filter(pk=ada.pk).update(is_superuser=True)
    return User.objects.get(pk=ada.pk)


RULE = {"severity": "warning"}


def test_a_change_names_what_was_before_and_after_and_nothing_else(ada):
    hook, other = made.channel(), made.channel("other")
    rule = made.rule(hook, name="all")
    save(Rule, rule, {**RULE, "name": "nights", "channels": [other.pk], "enabled": "on"}, who=ada)
    event = last()
    assert (event.action, event.actor, event.target_id) == (
        "rule.change",
        chain.pseudonym_of(ada),
        str(rule.pk),
    )
    assert (event.before["name"], event.after["name"]) == ("all", "nights")
    # Also what many-to-many fields hold, which is saved after the row itself.
    assert (event.before["channels"], event.after["channels"]) == ([str(hook.pk)], [str(other.pk)])
    assert "enabled" not in event.after


def test_a_secret_and_a_mailbox_are_named_and_not_told(ada):
    hook = made.channel(mailbox="ada@example.com")
    site = AuditedAdmin(Channel, admin.site)
    request = RequestFactory().post("/")
    request.user = ada
    before = site.snapshot(Channel.objects.get(pk=hook.pk))
    hook.signing_key, hook.mailbox, hook.name = "whsec_new", "bob@example.com", "pager"
    hook.save()
    site._record(request, hook, "change", before)
    event = last()
    assert event.before == {"name": "hook"}
    assert event.after == {"name": "pager", audited.NOT_SHOWN: ["mailbox", "signing_key"]}
    everything = json.dumps([event.before, event.after])
    assert [s for s in ("whsec", "example.com", made.KEY) if s in everything] == []


def test_a_new_row_and_one_that_goes_are_told_likewise(ada):
    site, request, rule = save(Rule, None, {**RULE, "name": "days", "channels": [made.channel().pk]}, who=ada)
    assert (last().action, last().after["name"], last().before) == ("rule.create", "days", None)
    key = str(rule.pk)
    site.delete_queryset(request, Rule.objects.all())
    assert (last().action, last().target_id, last().before["name"]) == ("rule.delete", key, "days")


def test_the_policy_decides_what_is_personal():
    fields = {name: User._meta.get_field(name) for name in ("email", "name", "password", "is_active")}
    assert {name for name, field in fields.items() if audited.is_unsaid(field)} == {
        "email",
        "name",
        "password",
    }


def test_a_person_s_new_address_is_named_and_not_told(client, ada):
    client.force_login(ada)
    who = factories.operator()
    client.post(
        f"/admin/accounts/user/{who.pk}/change/",
        {"email": "new@example.com", "name": "New Name", "role": "operator", "is_active": "on"},
    )
    assert (last().action, last().before, last().after) == (
        "user.change",
        {},
        {audited.NOT_SHOWN: ["email", "name"]},
    )


def test_every_admin_that_edits_is_audited(rf):
    request = rf.get("/")
    request.user = User(is_superuser=True, is_active=True, is_staff=True)
    edits = [
        model._meta.label
        for model, site in admin.site._registry.items()
        if (site.has_add_permission(request) or site.has_change_permission(request) or site.has_delete_permission(request))
        and not isinstance(site, AuditedAdmin)
    ]  # fmt: skip
    assert edits == []
