"""A person gets everything about them, no secret and nothing of others."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile

import pytest

from panel.accounts.models import SignInLink, User
from panel.alerts.models import Channel
from panel.audit import chain
from panel.notices.models import Notice
from panel.privacy import exporting
from tests import factories
from tests.conftest import NOW
from tests.privacy import made
from tests.privacy.test_erasing import everywhere

pytestmark = pytest.mark.django_db


@pytest.fixture
def ada() -> User:
    user = factories.user("operator", email="ada@example.com", password="a long enough password")
    everywhere(user)
    return user


def files(user: User) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(exporting.export(user, now=NOW).content)) as archive:
        assert archive.testzip() is None
        return {name: archive.read(name) for name in archive.namelist()}


def data(user: User) -> dict[str, dict]:
    return {part["model"]: part for part in json.loads(files(user)["data.json"])["data"]}


def test_the_manifest_holds_the_hash_of_each_file(ada):
    found = files(ada)
    manifest = json.loads(found.pop("manifest.json"))
    assert {f["name"]: f["sha256"] for f in manifest["files"]} == {
        name: hashlib.sha256(content).hexdigest() for name, content in found.items()
    }
    assert "ada@example.com" in found["data.html"].decode()


def test_it_finds_the_person_by_every_way_of_the_policy(ada):
    parts = data(ada)
    assert {
        "accounts.User", "accounts.SignInLink", "audit.AuditEvent", "audit.Origin", "audit.Pseudonym", "sessions.Session",
        "axes.AccessAttempt", "alerts.Channel", "alerts.Channel_people", "account.EmailAddress", "admin.LogEntry",
    } <= parts.keys()  # fmt: skip
    assert parts["accounts.User"]["rows"][0]["groups"] == ["operator"]
    assert parts["audit.Origin"]["rows"][0]["address"] == "192.0.2.7"


def test_a_secret_is_named_and_never_given(ada):
    text = b"".join(files(ada).values()).decode()
    parts = data(ada)
    assert parts["accounts.User"]["withheld"] == ["password"]
    assert parts["accounts.SignInLink"]["withheld"] == ["token_hash"]
    assert "password" not in parts["accounts.User"]["rows"][0]
    for secret in (ada.password, SignInLink.objects.get().token_hash):
        assert secret not in text


def test_nothing_of_other_people_is_in_it(ada):
    bob = factories.user("administrator", email="bob@example.com")
    User.objects.filter(pk=bob.pk).update(name="Bob Mortimer")
    Channel.objects.get().people.add(bob)
    Channel.objects.update(name="Ada and Bob Mortimer")
    chain.record("user.change", actor=bob, target=ada, reason="Bob Mortimer did it", now=NOW)
    made.plain(Notice, key="k2", acknowledged_by=chain.pseudonym_of(ada), title="bob@example.com is away")
    text = b"".join(files(ada).values()).decode()
    for word in ("bob@example.com", "Bob Mortimer", chain.pseudonym_of(bob)):
        assert word not in text
    event = data(ada)["audit.AuditEvent"]["rows"][-1]
    assert (event["actor"], event["reason"]) == (exporting.SOMEBODY, f"{exporting.SOMEBODY} did it")
    assert "ada@example.com" not in b"".join(files(factories.operator()).values()).decode()
