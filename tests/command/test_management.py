"""The management commands behind the two: prepare, signinlink, machines, down."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from decimal import Decimal
from io import StringIO
from pathlib import Path
from uuid import uuid4

import pytest
from django.apps import apps
from django.contrib import admin
from django.contrib.admin.widgets import AutocompleteSelect
from django.contrib.staticfiles.finders import get_finders
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import OperationalError
from django.template import Context, Template
from django.utils import timezone

from billing.models import Budget
from deployments import offers, reconcile, services
from deployments.lifecycle import State
from deployments.management.commands.machines import sentence
from deployments.management.commands.prepare import PLACEHOLDER, collect_static
from deployments.models import Deployment, Installation, Instance, Offer, ProviderAccount
from deployments.models.account import ADAPTERS
from deployments.providers.base import Unavailable
from panel.accounts.models import SignInLink, User
from panel.accounts.roles import ADMINISTRATOR
from panel.audit.models import AuditEvent
from panel.failures import database_sentence
from tests import factories
from tests.command.running import ROOT
from tests.providers.fakecloud import FakeCloud


def run(name: str, *arguments: str) -> str:
    out = StringIO()
    call_command(name, *arguments, stdout=out)
    return out.getvalue()


# -- prepare -----------------------------------------------------------------------------------------


def test_the_first_start_makes_one_administrator_without_a_password(db: None) -> None:
    assert run("prepare") == ""
    assert run("prepare") == ""
    user = User.objects.get()
    assert user.email == PLACEHOLDER
    assert (user.is_staff, user.is_superuser, user.has_usable_password()) == (True, True, False)
    assert [g.name for g in user.groups.all()] == [ADMINISTRATOR]
    assert AuditEvent.objects.filter(action="user.create").count() == 1


def test_the_first_administrator_has_the_address_that_was_named(
    db: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REGIA_ADMIN_EMAIL", "Ops@Example.com")
    run("prepare")
    assert User.objects.get().email == "ops@example.com"


def test_an_address_that_is_none_is_refused_and_nothing_is_made(
    db: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REGIA_ADMIN_EMAIL", "ops")
    with pytest.raises(CommandError, match="not an e-mail address"):
        run("prepare")
    assert not User.objects.exists()
    assert not ProviderAccount.objects.exists()


def test_a_later_start_makes_no_second_administrator(db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    run("prepare")
    User.objects.update(email="renamed@example.com")
    monkeypatch.setenv("REGIA_ADMIN_EMAIL", "somebody-else@example.com")
    run("prepare")
    assert User.objects.get().email == "renamed@example.com"


def test_this_computer_is_offered_from_the_first_start_and_its_rate_is_kept(db: None) -> None:
    run("prepare")
    account = ProviderAccount.objects.get(backend="local")
    assert Offer.objects.filter(account=account, available=True).exists()
    ProviderAccount.objects.update(local_usd_per_hour=Decimal("0.20"))
    run("prepare")
    assert ProviderAccount.objects.get(backend="local").local_usd_per_hour == Decimal("0.20")


def test_an_account_of_this_computer_that_was_disabled_stays_so(db: None) -> None:
    run("prepare")
    ProviderAccount.objects.filter(backend="local").update(enabled=False)
    run("prepare")
    assert not ProviderAccount.objects.get(backend="local").enabled


def test_the_first_budget_is_set_once(db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGIA_BUDGET_USD", "150")
    run("prepare")
    Budget.objects.update(amount_usd=Decimal(80))
    run("prepare")
    assert Budget.objects.get().amount_usd == 80


def test_without_a_wish_there_is_no_budget(db: None) -> None:
    run("prepare")
    assert not Budget.objects.exists()


@pytest.mark.parametrize("amount", ["much", "-1", "nan", "Infinity"])
def test_an_amount_that_is_none_is_refused(db: None, monkeypatch: pytest.MonkeyPatch, amount: str) -> None:
    monkeypatch.setenv("REGIA_BUDGET_USD", amount)
    with pytest.raises(CommandError, match="not an amount"):
        run("prepare")


def test_static_files_are_collected_only_when_they_have_changed(settings, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "a.css").write_text("a{}")
    settings.DATA_DIR, settings.STATIC_ROOT = tmp_path, tmp_path / "static"
    settings.STATICFILES_DIRS = [source]
    assert collect_static()
    assert not collect_static()
    (source / "a.css").write_text("a{color:red}")
    assert collect_static()
    assert (tmp_path / "static" / "a.css").read_text() == "a{color:red}"


def test_whatever_a_page_names_is_collected() -> None:
    left_out = apps.get_app_config("staticfiles").ignore_patterns
    collected = {path for finder in get_finders() for path, _ in finder.list(left_out)}
    templates = [path.read_text() for path in (ROOT / "templates").rglob("*.html")]
    named = {name for text in templates for name in re.findall(r"""{% static ['"]([^'"]+)""", text)}
    rendered = [Template("{% load django_htmx %}{% htmx_script %}").render(Context())]
    rendered += [str(kept.media) for kept in admin.site._registry.values()]
    rendered.append(str(AutocompleteSelect(None, admin.site, choices=()).media))
    named |= {name for text in rendered for name in re.findall(r'(?:src|href)="/static/([^"]+)"', text)}
    assert "admin/js/vendor/select2/select2.full.min.js" in named
    assert named - collected == set()


# -- signinlink, machines ------------------------------------------------------------------------------


def test_a_link_signs_its_administrator_in_and_its_issue_is_audited(db: None) -> None:
    user = factories.administrator()
    User.objects.update(is_superuser=True)
    token = run("signinlink").strip().strip("/").rpartition("/")[2]
    assert SignInLink.redeem(token, now=timezone.now()) == user
    event = AuditEvent.objects.get(action="sign_in_link.issue")
    assert token not in str(event.__dict__)


def test_a_link_for_somebody_who_is_not_there_is_refused(db: None) -> None:
    factories.administrator()
    with pytest.raises(CommandError, match=r"no active user nobody@example\.com"):
        run("signinlink", "--email", "nobody@example.com")
    with pytest.raises(CommandError, match="no active administrator"):
        run("signinlink")


@pytest.mark.parametrize(
    ("states", "said"),
    [
        ([], "No machine runs, and nothing bills."),
        (["ready"], "1 machine still runs, and $0.4 an hour is billed; ./regia down gives everything back."),
        (
            ["ready", "unknown"],
            "2 machines still run, and $0.4 an hour is billed; ./regia down gives everything back.",
        ),
        (
            ["ready", "stopped"],
            (
                "1 machine still runs and 1 machine is kept stopped, and $0.4 an hour is billed;"
                " ./regia down gives everything back."
            ),
        ),
    ],
)
def test_what_still_runs_is_said_with_what_it_bills(states: list[str], said: str) -> None:
    assert sentence(states, "0.4") == said


# -- down ----------------------------------------------------------------------------------------------


@pytest.fixture
def cloud(transactional_db: None, settings) -> Iterator[FakeCloud]:
    settings.ALLOW_INSECURE_ENDPOINTS = True
    cloud = FakeCloud()
    before = dict(ADAPTERS)
    ADAPTERS["runpod"] = lambda account: cloud
    account = ProviderAccount.objects.create(name="Cloud", backend="runpod", credentials="a-key")
    offers.refresh(account, now=timezone.now())
    yield cloud
    ADAPTERS.clear()
    ADAPTERS.update(before)


def launch() -> Deployment:
    request = services.LaunchRequest(
        name="chat", model_key="qwen3-4b-awq", context=4096, offer_id=Offer.objects.get().pk,
        launch_key=uuid4().hex, allowed_countries=("DE",),
    )  # fmt: skip
    deployment = services.launch(request, actor=factories.operator(), now=timezone.now())
    reconcile.step(deployment.pk, clock=timezone.now)
    return deployment


def test_down_gives_every_machine_back_and_proves_it(cloud: FakeCloud) -> None:
    launch()
    launch()
    assert len(cloud.list_machines().machines) == 2
    said = run("down")
    assert cloud.list_machines().machines == ()
    assert set(Instance.objects.values_list("state", flat=True)) == {State.TERMINATED}
    assert "Terminating 2 machines" in said
    assert "Proved: Cloud lists no machine of this installation." in said


def test_down_does_not_touch_a_machine_of_somebody_else(cloud: FakeCloud) -> None:
    cloud.place("somebody-elses-machine")
    launch()
    run("down")
    assert [m.label for m in cloud.list_machines().machines] == ["somebody-elses-machine"]


def test_down_gives_back_a_machine_under_our_label_that_nobody_knew(cloud: FakeCloud) -> None:
    launch()
    label = f"{Installation.own_key()}-{uuid4().hex}-1"
    cloud.place(label)
    run("down")
    assert cloud.list_machines().machines == ()


def test_down_names_what_it_cannot_prove(cloud: FakeCloud, monkeypatch: pytest.MonkeyPatch) -> None:
    deployment = launch()

    def refuse(remote_id: str) -> None:
        raise Unavailable("The cloud does not answer.")

    monkeypatch.setattr(cloud, "terminate", refuse)
    with pytest.raises(CommandError, match="NOT everything is confirmed gone") as refused:
        run("down", "--patience", "1")
    current = Deployment.objects.get(pk=deployment.pk).current
    assert current is not None
    assert current.label in str(refused.value)
    assert current.state == State.TERMINATING


def test_down_with_an_account_that_does_not_answer_proves_nothing(
    cloud: FakeCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> None:
        raise Unavailable("The cloud does not answer.")

    monkeypatch.setattr(cloud, "list_machines", refuse)
    with pytest.raises(CommandError, match="Cloud could not be asked"):
        run("down", "--patience", "0")


def test_down_with_nothing_running_is_proved_too(cloud: FakeCloud) -> None:
    assert run("down").splitlines() == [
        "No machine is known to run.",
        "Proved: Cloud lists no machine of this installation.",
    ]


# -- sentences -------------------------------------------------------------------------------------------


def sqlite_error(path: Path, *, mode: str) -> OperationalError:
    """What SQLite really says."""
    try:
        with sqlite3.connect(f"file:{path}?mode={mode}", uri=True) as connection:
            connection.execute("create table t (x)")
    except sqlite3.OperationalError as e:
        return OperationalError(str(e))
    raise AssertionError("it could be written")


def test_a_read_only_database_is_told_in_a_sentence(tmp_path: Path) -> None:
    sqlite3.connect(tmp_path / "db").close()
    (tmp_path / "db").touch()
    assert "is read-only" in database_sentence(sqlite_error(tmp_path / "db", mode="ro"))


def test_a_database_that_is_not_there_is_told_in_a_sentence(tmp_path: Path) -> None:
    assert "cannot be opened" in database_sentence(sqlite_error(tmp_path / "none" / "db", mode="rw"))
