"""Marked secrets are planted wherever one may stand, the panel is used from end to end, and nothing shows one."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.apps import apps
from django.conf import settings
from django.core.serializers import serialize
from django.test import Client
from django.utils import timezone

from deployments.models import Instance, ProviderAccount
from panel import logs, throttle
from panel.accounts.models import SignInLink, User
from panel.alerts.models import Channel
from panel.audit import chain
from tests import urls
from tests.browser import scene
from tests.security.test_fuzz import ask
from tests.test_urls_by_role import path_of, table

PASSWORD = "canary-of-a-password-11"
HUB = "hf_canaryOfAHub12"


def canaries() -> dict[str, str]:
    """name -> the secret. Each is marked, long, and stands nowhere else."""
    return {
        "the provider's key": "canary-of-a-provider-01", "the machine's key": "canary-of-a-machine-02",
        "the certificate's key": "canary-of-a-certificate-03", "the birth key": "canary-of-a-birth-04",
        "the next key": "canary-of-a-next-05", "the channel's address": "canary-of-an-address-06",
        "the signing key": "whsec_Y2FuYXJ5LW9mLXNpZ25pbmctMDctMDctMDc=", "the old signing key": "whsec_Y2FuYXJ5LW9mLW9sZC0wOC0wOC0wOC0wOA==",
    }  # fmt: skip


def plant(made: scene.Scene) -> dict[str, str]:
    told = canaries()
    ProviderAccount.objects.exclude(backend="local").update(credentials=told["the provider's key"])
    for instance in Instance.objects.all():
        Instance.objects.filter(pk=instance.pk).update(
            api_key=told["the machine's key"], tls_key=told["the certificate's key"],
            birth_key=told["the birth key"], next_key=told["the next key"],
        )  # fmt: skip
    Channel.objects.update(
        address=f"https://hooks.example.com/{told["the channel's address"]}", signing_key=told["the signing key"],
        old_signing_key=told["the old signing key"],
    )  # fmt: skip
    made.administrator.set_password(PASSWORD)
    made.administrator.save()
    told |= {
        "the password": PASSWORD, "the secret key": settings.SECRET_KEY, "the field key": settings.FIELD_KEYS[0],
        "the metrics token": settings.METRICS_TOKEN,
        "the sign-in link": SignInLink.issue(made.administrator, now=timezone.now()), "the hub's token": HUB,
    }  # fmt: skip
    return told


@pytest.fixture
def written(caplog, monkeypatch) -> Iterator[pytest.LogCaptureFixture]:
    monkeypatch.setenv("HF_TOKEN", HUB)
    logs._own_secrets.cache_clear()
    caplog.set_level(logging.DEBUG)
    caplog.handler.addFilter(logs.RedactLinks())
    yield caplog
    logs._own_secrets.cache_clear()


def rows() -> Iterator[tuple[str, str]]:
    """What a dump of every table holds, and how each object speaks of itself."""
    for model in apps.get_models():
        some = list(model._default_manager.all()[:50])
        yield f"{model._meta.label}, dumped", serialize("json", some)
        yield f"{model._meta.label}, spoken of", "".join(f"{one!r}{one}" for one in some)


def boom(*args: object, **kwargs: object) -> None:
    accounts = list(ProviderAccount.objects.all())
    raise RuntimeError(f"it broke at {accounts}, {list(Channel.objects.all())}")


@pytest.mark.django_db
def test_no_planted_secret_shows_anywhere(written, monkeypatch, client):
    monkeypatch.setattr(throttle, "exports", throttle.Often(10**9, 1.0))
    chain.record("thing.done", actor=None, now=timezone.now())
    made = scene.build(now=timezone.now())
    told = plant(made)
    stranger = Client(raise_request_exception=False)
    stranger.post("/accounts/login/", {"login": made.administrator.email, "password": f"{PASSWORD}x"})
    seen: dict[str, str] = {"a wrong password": stranger.get("/accounts/login/").text}
    client.raise_request_exception = False
    client.force_login(made.administrator)
    session, paths = client.session.session_key, table(made)
    for address in urls.addresses():
        if address.name in {"account_logout", "admin:logout", "sign_in_link"}:
            continue
        path = path_of(address, paths[address.name])
        for method in ("get", "post"):
            answer = ask(client, method, path)
            body = b"" if answer.streaming else answer.content
            seen[f"{method} {address.name}"] = body.decode(errors="replace") + str(dict(answer.items()))
    seen["/metrics"] = client.get(
        "/metrics", headers={"Authorization": f"Bearer {settings.METRICS_TOKEN}"}
    ).text
    assert "regia_" in seen["/metrics"]
    client.get(f"/sign-in/{told['the sign-in link']}x/")
    with monkeypatch.context() as broken:
        broken.setattr("deployments.views.reads.poll_seconds", boom)
        failed = client.get(f"/deployments/{made.ready.pk}/")
        assert failed.status_code == 500
        seen["a page that failed"] = failed.text
    logging.getLogger("some.library").debug("token %s at https://u:canary-of-a-url-99@x/", HUB)
    seen["the logs"] = written.text
    seen |= dict(rows())
    told |= {"the session": session, "a password in a URL": "canary-of-a-url-99"}
    # The row of the session itself, whose key Django says as its name; neither is ever shown.
    own = {"the session": {"sessions.Session, dumped", "sessions.Session, spoken of"}}
    wrong = [
        f"{name} shows in {place}"
        for name, secret in told.items()
        for place, text in seen.items()
        if secret in text and place not in own.get(name, ())
    ]
    assert not wrong, "\n".join(wrong)
    assert len(seen) > 150


@pytest.mark.django_db
def test_nothing_that_lies_on_the_disk_holds_one():
    """The folder of the data: bells, logs and drafts; the database holds tokens alone (tests/test_security.py)."""
    told = {**canaries(), "the password": PASSWORD}
    keys = {"secret_key", "field_keys", "metrics_token", "field_keys.retired"}
    for folder, _, names in os.walk(settings.DATA_DIR):
        for name in names:
            data = (Path(folder) / name).read_bytes() if name not in keys else b""
            assert not [what for what, secret in told.items() if secret.encode() in data], (folder, name)


def test_json_of_the_audit_refuses_a_secrets_name():
    with pytest.raises(chain.SecretInAudit):
        chain.payload_of({"api_key": "x"})
    assert json.dumps(chain.payload_of({"name": "x"}))
    assert User._meta.get_field("password")
