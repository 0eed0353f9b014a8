"""A new field key: everything is written with it, from wherever it was stopped, and nothing is lost on the way."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path

import pytest
from cryptography.fernet import Fernet
from django.core.management import CommandError, call_command
from django.utils import timezone

from deployments.models import ProviderAccount
from panel import datadir, fields, rotation
from panel.audit.models import AuditEvent
from panel.privacy import erasing
from tests import factories

pytestmark = pytest.mark.django_db
KEYS = {f"cloud {n}": f"rpa_secret-number-{n}" for n in range(7)}


@pytest.fixture
def keyfile(settings, tmp_path) -> Path:
    settings.DATA_DIR = tmp_path
    settings.FIELD_KEYS_FILE = str(tmp_path / "field_keys")
    settings.FIELD_KEYS = datadir.fernet_keys(tmp_path / "field_keys")
    return tmp_path / "field_keys"


@pytest.fixture
def accounts(keyfile) -> list[ProviderAccount]:
    return [
        ProviderAccount.objects.create(name=n, backend="runpod", credentials=key) for n, key in KEYS.items()
    ]


def run(*flags: str) -> str:
    out = StringIO()
    call_command("rotate_field_keys", *flags, stdout=out)
    return out.getvalue()


def tokens() -> list[str]:
    rows = ProviderAccount.objects.annotate(t=fields.tokens("credentials")).exclude(t="")
    return list(rows.order_by("name").values_list("t", flat=True))


def readable() -> dict[str, str]:
    return dict(ProviderAccount.objects.exclude(name="").values_list("name", "credentials"))


def test_every_secret_is_written_with_the_new_key_and_the_old_one_goes(accounts, keyfile):
    old = keyfile.read_text().strip()
    said = run("--new-key")
    new = keyfile.read_text().split()[0]
    assert new != old
    assert all(rotation.opens(new, t) and not rotation.opens(old, t) for t in tokens())
    assert "7  deployments.ProviderAccount.credentials" in said
    run("--finish")
    assert keyfile.read_text().split() == [new]
    assert keyfile.with_name("field_keys.retired").read_text().split() == [old]
    assert readable() == KEYS
    assert {
        keyfile.stat().st_mode & 0o777,
        keyfile.with_name("field_keys.retired").stat().st_mode & 0o777,
    } == {0o600}


def test_who_was_erased_is_known_after_a_restore_also_by_a_key_that_was_retired(keyfile):
    ada, joined = factories.user("operator", email="ada@example.com"), timezone.now()
    erasing.erase(ada, reason="by letter", actor=None, now=joined)
    run("--new-key")
    run("--finish")
    ada.save(force_insert=True)
    assert [r.reason for r in erasing.reapply(now=joined)] == ["by letter"]


def test_killed_in_the_middle_it_is_run_again(accounts, monkeypatch):
    monkeypatch.setattr(rotation, "SLICE", 2)
    rotation.add_key(now=timezone.now())
    swap, done = rotation.FieldStore.swap, []

    def dies(self, *args):
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(swap(self, *args))
        return done[-1]

    with monkeypatch.context() as killing:
        killing.setattr(rotation.FieldStore, "swap", dies)
        with pytest.raises(KeyboardInterrupt):
            rotation.rewrite(now=timezone.now())
    assert readable() == KEYS
    with pytest.raises(CommandError, match="still need an older key"):
        run("--finish")
    report = rotation.rewrite(now=timezone.now())
    assert sum(report.rewritten.values()) + report.current == len(KEYS)
    assert report.is_clean
    run("--finish")
    assert readable() == KEYS


def test_a_key_that_is_saved_meanwhile_stays(accounts, monkeypatch):
    rotation.add_key(now=timezone.now())
    swap = rotation.FieldStore.swap

    def overtaken(self, pk, old, new):
        if pk == accounts[3].pk:
            ProviderAccount.objects.filter(pk=pk).update(credentials="entered meanwhile")
        return swap(self, pk, old, new)

    monkeypatch.setattr(rotation.FieldStore, "swap", overtaken)
    report = rotation.rewrite(now=timezone.now())
    assert report.overtaken == 1
    assert readable() == {**KEYS, "cloud 3": "entered meanwhile"}


def test_a_running_process_takes_the_new_key_up_without_a_restart(accounts, keyfile):
    assert readable() == KEYS
    new = Fernet.generate_key().decode()
    datadir.replace(keyfile, f"{new}\n{keyfile.read_text()}")
    ProviderAccount.objects.filter(pk=accounts[0].pk).update(credentials="a later one")
    [token] = [t for t in tokens() if rotation.opens(new, t)]
    assert Fernet(new).decrypt(token.encode()) == b"a later one"


def test_what_no_key_opens_is_told_and_left_alone(accounts, keyfile):
    lost = Fernet(Fernet.generate_key()).encrypt(b"x").decode()
    rotation.FieldStore(ProviderAccount, "credentials").swap(accounts[0].pk, tokens()[0], lost)
    stray = [t for t in tokens() if not rotation.opens(keyfile.read_text().strip(), t)]
    assert stray == [lost]
    with pytest.raises(CommandError, match=r"credentials \(1\)"):
        run("--new-key")
    assert lost in tokens()
    with pytest.raises(CommandError, match="1 stored values still need"):
        run("--finish")


def test_keys_that_stand_in_the_environment_are_not_ours_to_change(accounts, settings):
    settings.FIELD_KEYS_FILE = ""
    with pytest.raises(CommandError, match="given from outside"):
        run("--new-key")
    settings.FIELD_KEYS = [Fernet.generate_key().decode(), *settings.FIELD_KEYS]
    assert "7 written again" in run()
    assert readable() == KEYS


def test_the_audit_tells_each_step_and_no_key(accounts, keyfile):
    run("--new-key")
    run("--finish")
    told = list(AuditEvent.objects.order_by("sequence").values("action", "before", "after"))
    assert [t["action"] for t in told] == ["field_keys.add", "field_keys.rewrite", "field_keys.finish"]
    text = json.dumps(told) + run()
    assert not any(
        key in text
        for key in keyfile.read_text().split() + keyfile.with_name("field_keys.retired").read_text().split()
    )


def test_every_encrypted_field_of_every_app_is_found():
    found = {f"{model._meta.label}.{name}" for model, name in rotation.encrypted_fields()}
    assert found >= {
        "deployments.ProviderAccount.credentials", "deployments.Instance.api_key", "deployments.Instance.tls_key",
        "deployments.Instance.birth_key", "deployments.Instance.next_key", "alerts.Channel.address",
        "alerts.Channel.signing_key", "alerts.Channel.old_signing_key",
    }  # fmt: skip
