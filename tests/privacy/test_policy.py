"""The data map is true of every model, and cannot quietly stop being so."""

from __future__ import annotations

import copy

import pytest
from django.apps import apps
from django.core import checks
from django.core.management import call_command
from django.core.management.base import SystemCheckError
from django.db import models
from django.test.utils import isolate_apps

from panel.accounts.models import User
from panel.privacy import policy
from panel.privacy.policy import Category, Erase, Export, Problem, problems, rule_of

ALL = apps.get_models(include_auto_created=True)


@pytest.fixture
def written(monkeypatch) -> dict:
    """A copy of the policy that a test may change; the check reads it too."""
    changed = copy.deepcopy(policy.written())
    monkeypatch.setattr(policy, "written", lambda: changed)
    return changed


def ids() -> list[str]:
    return sorted(message.id for message in checks.run_checks(tags=["privacy"]))


def test_every_field_of_every_model_has_a_rule_and_every_rule_a_field():
    assert problems(ALL) == []
    call_command("check", tags=["privacy"])


@isolate_apps("tests")
def test_a_new_field_without_a_rule_fails_the_check():
    class Patient(models.Model):
        blood_group = models.CharField(max_length=3)

        class Meta:
            app_label = "tests"

        def __str__(self) -> str:
            return self.blood_group

    found = problems([*ALL, Patient])
    assert [(p.kind, p.where) for p in found] == [
        ("missing", "tests.Patient.blood_group"),
        ("missing", "tests.Patient.id"),
    ]


@pytest.mark.django_db
def test_the_command_line_check_fails_too(written):
    written["accounts.User"]["contact"].remove("email")
    with pytest.raises(SystemCheckError, match=r"privacy.E001\) accounts.User.email"):
        call_command("check")
    assert ids() == ["privacy.E001"]


def test_a_rule_for_a_field_or_model_that_is_gone_fails_the_check(written):
    written["accounts.User"]["none"] = ["shoe_size"]
    written["accounts.Gone"] = {"retention": "account", "none": ["id"]}
    assert ids() == ["privacy.E002", "privacy.E002"]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"retention": "for ever"}, "not in the table of retentions"),
        ({"erase": "shred"}, "is not one of"),
        ({"matches": "face"}, "is not one of"),
        ({"subject": "owner__aunt"}, "leads nowhere"),
        ({"subject": ""}, "holds personal data and names no subject"),
        ({"hobby": ["email"]}, "neither a category nor a setting"),
        ({"none": ["email"]}, "named more than once"),
    ],
)
def test_a_rule_that_makes_no_sense_fails_the_check(written, change, text):
    written["accounts.User"].update(change)
    found = problems(ALL)
    assert [p.kind for p in found] == ["wrong"]
    assert text in found[0].text


def test_a_person_must_have_an_answer_to_erasure(written):
    del written["accounts.User"]["erase"]
    assert problems(ALL) == [
        Problem("wrong", "accounts.User", "it is about a person and does not say what erasing them does.")
    ]


def test_a_rule_says_what_happens_on_request():
    email = rule_of(User._meta.get_field("email"))
    assert (email.category, email.subject, email.export, email.erase) == (
        Category.CONTACT, "self", Export.YES, Erase.DELETE,
    )  # fmt: skip
    assert policy.retention_text(email) == "as long as the account exists"


def test_secrets_are_never_exported():
    for model in ALL:
        for field in model._meta.local_fields:
            rule = rule_of(field)
            if rule.category is Category.SECRET:
                assert rule.export is not Export.YES, field


def test_whatever_is_encrypted_or_a_password_is_called_a_secret():
    from panel.fields import EncryptedTextField

    for model in ALL:
        for field in model._meta.local_fields:
            if isinstance(field, EncryptedTextField) or field.name in {
                "password",
                "token_hash",
                "session_key",
            }:
                assert rule_of(field).category is Category.SECRET, field
