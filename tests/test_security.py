"""What leaves the panel: strict headers on every page, safe cookies, and no secret anywhere."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from django.conf import settings
from django.core.management import call_command
from django.urls import reverse
from django.utils import timezone

from billing.models import Subject
from deployments import services
from deployments.models import Deployment, Event, Instance, ProviderAccount
from panel.accounts.models import SignInLink, User
from panel.audit import chain
from panel.audit.models import AuditEvent
from panel.logs import RedactLinks
from panel.notices.models import Notice
from tests import factories
from tests.browser import scene
from tests.deployments.conftest import endpoint, world  # noqa: F401  (fixtures)

ROOT = Path(settings.BASE_DIR)


class Page(HTMLParser):
    """Collects what a strict policy forbids in a page: inline script, inline style, event handlers."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.forbidden: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        is_data = given.get("type") in {"application/json", "importmap"}
        if tag == "style" or (tag == "script" and "src" not in given and not is_data):
            self.forbidden.append(self.get_starttag_text() or tag)
        for name, value in attrs:
            if name == "style" or name.startswith(("on", "hx-on")) or (value or "").startswith("javascript:"):
                self.forbidden.append(self.get_starttag_text() or tag)


def pages(made: scene.Scene) -> list[str]:
    user = made.administrator
    changelists = [
        reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_changelist")
        for model in (AuditEvent, User, Notice, ProviderAccount, Deployment, Instance, Event, Subject)
    ]
    instance = made.ready.instances.get()
    return [
        reverse("overview"), reverse("launch"), reverse("deployments"), reverse("deployment", args=[made.ready.pk]),
        reverse("deployment", args=[made.failed.pk]), reverse("spend"), reverse("playground"),
        reverse("playground_for", args=[made.ready.pk]), reverse("account_change_password"), reverse("account_logout"),
        reverse("alerts"), reverse("alert_channel", args=[made.channel.pk]), reverse("alert_rule", args=[made.rule.pk]),
        reverse("admin:index"), *changelists, reverse("admin:accounts_user_change", args=[user.pk]),
        reverse("admin:deployments_instance_change", args=[instance.pk]),
        reverse("admin:deployments_provideraccount_change", args=[instance.account_id]),
        reverse("admin:audit_auditevent_change", args=[1]), "/nowhere/",
    ]  # fmt: skip


@pytest.fixture
def made(db) -> scene.Scene:
    return scene.build(now=timezone.now())


@pytest.fixture
def signed_in(client, made):
    client.force_login(made.administrator)
    return client


def test_every_page_carries_the_strict_headers_and_nothing_inline(signed_in, made):
    for path in pages(made):
        answer = signed_in.get(path)
        assert answer.status_code in {200, 404}, path
        policy = answer["Content-Security-Policy"]
        assert "unsafe" not in policy, path
        for part in ("default-src 'none'", "base-uri 'none'", "frame-ancestors 'none'", "form-action 'self'"):
            assert part in policy, (path, part)
        assert answer["X-Content-Type-Options"] == "nosniff", path
        assert answer["X-Frame-Options"] == "DENY", path
        assert answer["Referrer-Policy"] == "same-origin", path
        assert answer["Cross-Origin-Opener-Policy"] == "same-origin", path
        assert answer["X-Request-ID"], path
        assert Page(answer.text).forbidden == [], path


@pytest.mark.django_db
def test_the_pages_of_nobody_are_as_strict(client):
    for path in ("/accounts/login/", "/accounts/signup/", "/sign-in/wrong/"):
        answer = client.get(path)
        assert "unsafe" not in answer["Content-Security-Policy"]
        assert Page(answer.text).forbidden == []


def test_a_nonce_is_never_used_twice(signed_in):
    nonces = {signed_in.get("/")["Content-Security-Policy"] for _ in range(3)}
    assert all("'nonce-" not in policy for policy in nonces) or len(nonces) == 3


@pytest.mark.django_db
def test_cookies_are_kept_from_scripts_and_from_other_sites(client):
    factories.user("operator", email="ada@example.com", password="a long enough password")
    client.get("/accounts/login/")
    client.post("/accounts/login/", {"login": "ada@example.com", "password": "a long enough password"})
    assert set(client.cookies) == {"regia_session", "regia_csrf"}
    for cookie in client.cookies.values():
        assert (cookie["httponly"], cookie["samesite"]) == (True, "Lax")


PRODUCTION = {"REGIA_HTTPS": "1", "REGIA_ALLOWED_HOSTS": "panel.example.com", "REGIA_DEBUG": "0"}


def in_production(*command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **PRODUCTION, "REGIA_DATA_DIR": str(folder), "DATABASE_URL": ""}
    return subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


def test_djangos_own_deployment_check_finds_nothing(tmp_path):
    done = in_production("manage.py", "check", "--deploy", "--fail-level", "WARNING", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "no issues" in done.stdout


_OVER_TLS = """
import django, json
django.setup()
from django.core.management import call_command
call_command("migrate", verbosity=0)
call_command("collectstatic", verbosity=0, interactive=False)
from django.test import Client
client = Client(headers={"Host": "panel.example.com"})
plain = client.get("/accounts/login/")
page = client.get("/accounts/login/", secure=True)
health = client.get("/healthz")
print(json.dumps({
    "plain": [plain.status_code, plain["Location"]], "hsts": page["Strict-Transport-Security"], "health": health.status_code,
    "secure": [bool(c["secure"]) for c in client.cookies.values()], "names": list(client.cookies),
    "lied": client.get("/accounts/login/", headers={"X-Forwarded-Proto": "https"}).status_code,
    "foreign": client.get("/accounts/login/", secure=True, headers={"Host": "evil.example"}).status_code,
}))
"""


def test_in_production_everything_goes_over_tls(tmp_path):
    done = in_production("-W", "ignore", "-c", _OVER_TLS, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["plain"] == [301, "https://panel.example.com/accounts/login/"]
    assert found["hsts"].startswith("max-age=31536000; includeSubDomains")
    assert found["secure"] == [True]
    assert found["names"] == ["__Host-regia_csrf"]
    assert found["lied"] == 301
    assert found["health"] == 200
    assert found["foreign"] == 400


# -- secrets ------------------------------------------------------------------------------------------


@pytest.fixture
def logged(caplog):
    caplog.set_level(logging.DEBUG)
    caplog.handler.addFilter(RedactLinks())
    return caplog


def test_no_secret_shows_during_a_launch(world, client, logged, capsys):  # noqa: F811
    ProviderAccount.objects.filter(pk=world.account.pk).update(credentials="provider-key-4711")
    token = SignInLink.issue(User.objects.create_superuser("root@example.com"), now=timezone.now())
    client.post(reverse("sign_in_link", args=[token]))
    deployment = world.launch()
    world.run()
    instance = deployment.instances.get()
    assert instance.state == "ready"
    account = ProviderAccount.objects.get(pk=world.account.pk)
    services.stop(deployment, actor=world.owner, now=world.now)
    world.run()
    account_page = reverse("admin:deployments_provideraccount_change", args=[account.pk])
    client.post(account_page, {"name": "Cloud 2", "enabled": "on", "local_usd_per_hour": "0.05"})
    call_command("verify_audit")

    secrets = {
        "api key": instance.api_key, "door's key": instance.tls_key, "provider's key": account.credentials, "secret key": settings.SECRET_KEY,
        "field key": settings.FIELD_KEYS[0], "link": token, "session": client.session.session_key,
        "metrics token": settings.METRICS_TOKEN,
    }  # fmt: skip
    assert all(len(secret) > 8 for secret in secrets.values())
    audit = json.dumps(list(AuditEvent.objects.values()), default=str)
    assert "deployment.launch" in audit
    assert "provideraccount.change" in audit
    seen = {
        "the audit": audit,
        "the events": str(list(Event.objects.values())),
        "the notices": str(list(Notice.objects.values())),
        "repr": "".join(map(repr, (instance, account, deployment, settings, *SignInLink.objects.all()))),
        "str": "".join(map(str, (instance, account, deployment))),
        "the logs": logged.text,
        "the terminal": "".join(capsys.readouterr()),
        "the pages": "".join(
            client.get(path).text
            for path in (
                "/", "/deployments/", "/spend/", reverse("deployment", args=[deployment.pk]), account_page,
                reverse("admin:deployments_provideraccount_changelist"), reverse("admin:deployments_instance_changelist"),
                reverse("admin:deployments_instance_change", args=[instance.pk]),
                reverse("admin:deployments_deployment_change", args=[deployment.pk]),
                reverse("admin:deployments_instance_history", args=[instance.pk]), f"{account_page[:-7]}history/",
            )
        ),
    }  # fmt: skip
    for place, text in seen.items():
        assert text, place
        for name, secret in secrets.items():
            assert secret not in text, f"the {name} shows in {place}"


def test_secrets_stand_in_the_database_only_encrypted(world):  # noqa: F811
    from django.db import connection

    ProviderAccount.objects.filter(pk=world.account.pk).update(credentials="provider-key-4711")
    deployment = world.launch()
    instance = deployment.instances.get()
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT api_key FROM deployments_instance UNION SELECT tls_key FROM deployments_instance "
            "UNION SELECT credentials FROM deployments_provideraccount"
        )
        stored = [row[0] for row in cursor.fetchall()]
    assert all(text.startswith("gAAAA") for text in stored)
    assert len(stored) == 3
    assert not {instance.api_key, instance.tls_key, "provider-key-4711"} & set(stored)


def test_the_admin_site_does_not_even_read_an_instances_key(signed_in, made):
    from django.db import connection
    from django.test.utils import CaptureQueriesContext

    instance = made.ready.instances.get()
    with CaptureQueriesContext(connection) as captured:
        for model in ("instance", "event", "offer", "deployment", "provideraccount"):
            signed_in.get(reverse(f"admin:deployments_{model}_changelist"))
        signed_in.get(reverse("admin:deployments_instance_change", args=[instance.pk]))
        signed_in.get(reverse("admin:deployments_event_change", args=[instance.events.first().pk]))
        signed_in.get(reverse("admin:deployments_provideraccount_change", args=[instance.account_id]))
    secret = ('"api_key"', '"tls_key"', '"credentials"')
    assert [q["sql"] for q in captured if any(name in q["sql"] for name in secret)] == []


def test_changing_an_account_is_audited_with_what_was_before(signed_in, made):
    account = ProviderAccount.objects.get(backend="local")
    page = reverse("admin:deployments_provideraccount_change", args=[account.pk])
    signed_in.post(page, {"name": account.name, "local_usd_per_hour": "0.12"})
    account.refresh_from_db()
    assert (account.enabled, str(account.local_usd_per_hour.normalize())) == (False, "0.12")
    event = AuditEvent.objects.latest("sequence")
    assert (event.action, event.target_id) == ("provideraccount.change", str(account.pk))
    assert event.before == {"enabled": True, "local_usd_per_hour": "0.050000000"}
    assert event.after == {"enabled": False, "local_usd_per_hour": "0.120000000"}
    assert event.actor == chain.pseudonym_of(made.administrator)


def test_only_this_computer_has_a_rate_of_its_own(signed_in, made):
    account = ProviderAccount.objects.get(name="Vast.ai")
    before = account.local_usd_per_hour
    page = reverse("admin:deployments_provideraccount_change", args=[account.pk])
    signed_in.post(
        page, {"name": account.name, "enabled": "on", "local_usd_per_hour": "9", "backend": "local"}
    )
    account.refresh_from_db()
    assert (account.local_usd_per_hour, account.backend) == (before, "vast")
