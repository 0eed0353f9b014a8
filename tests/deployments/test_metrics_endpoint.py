"""/metrics: for whoever has the token alone, read from rows, without names, and as many series as there are things."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
import yaml
from django.conf import settings
from django.db import OperationalError, connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_text

from billing import budgets
from billing.models import Budget
from deployments.models import Breaker, Deployment, Drill, Heartbeat, Instance, ProviderAccount
from deployments.monitoring import exporter
from panel import health
from tests.browser import scene
from tests.deployments.test_views import multiply

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.django_db


@pytest.fixture
def made():
    made = scene.build(now=timezone.now())
    for name in ("beat", *(r.name for r in health.rounds())):
        Heartbeat.beat(name, timezone.now())
    Breaker.objects.create(account=made.account, call="create", failures=2)
    Instance.objects.filter(deployment=made.ready).update(
        lease_expires_at=timezone.now() + timedelta(minutes=90), lease_seconds=7200
    )
    ProviderAccount.objects.filter(pk=made.account.pk).update(balance_usd="12.5", listed_at=timezone.now())
    drill(made, at=timezone.now() - timedelta(days=2), seconds=40)
    return made


def drill(made, *, at, seconds, **values) -> Drill:
    """Killed a second after it was asked for, detected after so many, relaunched and Ready again."""
    killed = at + timedelta(seconds=1)
    moments = {
        name: killed + timedelta(seconds=s)
        for name, s in (("detected_at", seconds), ("relaunched_at", 70), ("ready_at", 250), ("over_at", 255))
    }
    return Drill.objects.create(
        **{"deployment": made.ready, "instance": made.ready.instances.first(), "actor": "someone", "asked_at": at,
           "killed_at": killed, "outcome": "ready", **moments, **values}
    )  # fmt: skip


def ask(client, token=None, **headers):
    token = settings.METRICS_TOKEN if token is None else token
    return client.get("/metrics", headers={"Authorization": f"Bearer {token}", **headers})


def samples(client) -> dict[tuple[str, frozenset], float]:
    found = {}
    for family in read_text(ask(client).content.decode()):
        for s in family.samples:
            key = (s.name, frozenset(s.labels.items()))
            assert key not in found, f"{s.name} is told twice"
            found[key] = s.value
    return found


def value(client, name, **labels):
    return samples(client).get((name, frozenset(labels.items())))


# -- who may read it ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        {}, {"Authorization": ""}, {"Authorization": "Bearer"}, {"Authorization": "Bearer "},
        {"Authorization": "Bearer wrong"}, {"Authorization": "Bearer gr\u00fc\u00dfe"},
        {"Authorization": "Basic {token}"}, {"Authorization": "{token}"}, {"Authorization": "Bearer {token}x"},
    ],
)  # fmt: skip
def test_without_the_token_there_is_nothing_to_read(client, made, headers):
    headers = {k: v.replace("{token}", settings.METRICS_TOKEN) for k, v in headers.items()}
    answer = client.get("/metrics", headers=headers)
    assert answer.status_code == 401
    assert answer["WWW-Authenticate"].startswith("Bearer")
    assert b"regia_" not in answer.content


def test_a_session_is_no_token_and_a_token_is_no_session(client, made):
    client.force_login(made.administrator)
    assert client.get("/metrics").status_code == 401
    client.logout()
    answer = ask(client)
    assert answer.status_code == 200
    assert not answer.cookies
    assert client.get("/", headers={"Authorization": f"Bearer {settings.METRICS_TOKEN}"}).status_code == 302


def test_a_token_of_the_address_or_the_body_is_no_token(client, made):
    assert client.get("/metrics", {"token": settings.METRICS_TOKEN}).status_code == 401


def test_it_is_not_kept_by_anybody_on_the_way(client, made):
    assert "no-store" in ask(client)["Cache-Control"]


def _settings(tmp_path, **environment):
    kept = {k: v for k, v in os.environ.items() if not k.startswith("REGIA_")}
    code = "from panel import settings; print(settings.METRICS_TOKEN)"
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True,
        env={**kept, "REGIA_DATA_DIR": str(tmp_path / "data"), **environment},
    )  # fmt: skip


def test_the_token_is_made_once_and_is_its_owners_alone(tmp_path):
    first, second = _settings(tmp_path), _settings(tmp_path)
    assert len(first.stdout.strip()) >= 50
    assert first.stdout == second.stdout
    assert stat.S_IMODE((tmp_path / "data" / "metrics_token").stat().st_mode) == 0o600


def test_the_environments_token_comes_first_and_a_short_one_is_refused(tmp_path):
    own = "a-token-of-some-length"
    assert _settings(tmp_path, REGIA_METRICS_TOKEN=own).stdout.strip() == own
    assert not (tmp_path / "data" / "metrics_token").exists()
    assert "at least 16" in _settings(tmp_path, REGIA_METRICS_TOKEN="short").stderr


# -- what it says ------------------------------------------------------------------------------------


def test_it_tells_what_the_rows_say(client, made):
    found = samples(client)

    def of(name, **labels):
        return found[name, frozenset(labels.items())]

    assert of("regia_database_up") == of("regia_broker_up") == 1
    assert of("regia_loop_age_seconds", loop="reconcile") < 60
    assert of("regia_loop_max_age_seconds", loop="reconcile") == settings.READY_MAX_AGE
    assert of("regia_round_max_age_seconds", round="probe") == settings.READY_MAX_AGE + 6
    assert of("regia_instances", state="degraded", provider="runpod") == 1
    assert of("regia_instances", state="unknown", provider="vast") == 0
    assert of("regia_deployments", desired="terminated") == 2
    assert of("regia_deployment_up", deployment=str(made.ready.pk)) == 1
    assert of("regia_deployment_up", deployment=str(made.failed.pk)) == 0
    assert 5300 < of("regia_deployment_lease_seconds", deployment=str(made.ready.pk)) <= 5400
    account = {"account": str(made.account.pk), "provider": "runpod"}
    assert of("regia_account_balance_usd", **account) == 12.5
    assert of("regia_call_failing", call="create", **account) == 2
    main = {"budget": str(budgets.current().pk), "scope": "everything", "period": "month"}
    assert of("regia_budget_usd", part="amount", **main) == 1200
    assert of("regia_burn_usd_per_hour") > 0
    assert of("regia_notices_open", severity="warning") >= 1


def test_each_budget_is_told_with_what_it_is_about(client, made):
    Budget.objects.all().delete()
    made_for = {"provider": {"provider": "runpod"}, "account": {"account": made.account.pk}, "deployment": {"scope": made.ready.pk}}  # fmt: skip
    told = {
        scope: Budget.objects.create(name=scope, period="day", amount_usd=n, **whom)
        for n, (scope, whom) in enumerate(made_for.items(), start=1)
    }
    found = samples(client)
    for n, (scope, budget) in enumerate(told.items(), start=1):
        labels = {"budget": str(budget.pk), "scope": scope, "period": "day", "part": "amount"}
        assert found["regia_budget_usd", frozenset(labels.items())] == n
    assert found["regia_burn_usd_per_hour", frozenset()] > 0, "without a budget of everything too"


def test_only_what_is_to_run_is_told_one_by_one(client, made):
    Deployment.objects.filter(pk=made.ready.pk).update(desired="stopped")
    assert value(client, "regia_deployment_up", deployment=str(made.ready.pk)) is None


def test_of_the_last_drill_it_tells_what_came_of_it(client, made):
    of = {"deployment": str(made.ready.pk)}
    assert value(client, "regia_drill_detection_seconds", **of) == 40
    assert value(client, "regia_drill_detection_goal_seconds") == 30
    drill(made, at=timezone.now() - timedelta(hours=1), seconds=6)
    told = {
        name: value(client, f"regia_drill_{name}_seconds", **of)
        for name in ("detection", "relaunch", "ready")
    }
    assert told == {"detection": 6, "relaunch": 70, "ready": 250}
    # One that nothing was killed in says nothing; one that is under way not yet; one that failed does.
    drill(made, at=timezone.now() - timedelta(minutes=30), seconds=9, killed_at=None, outcome="aborted")
    drill(made, at=timezone.now() - timedelta(minutes=20), seconds=9, over_at=None, outcome="")
    assert (value(client, "regia_drill_detection_seconds", **of), value(client, "regia_drill_ok", **of)) == (
        6,
        1,
    )
    drill(made, at=timezone.now() - timedelta(minutes=10), seconds=9, ready_at=None, outcome="failed")
    assert (value(client, "regia_drill_ready_seconds", **of), value(client, "regia_drill_ok", **of)) == (
        None,
        0,
    )
    Deployment.objects.filter(pk=made.ready.pk).update(desired="terminated")
    assert value(client, "regia_drill_ok", **of) is None


def test_failures_are_counted_by_rows_and_so_by_every_process(client, made):
    for _ in range(2):
        Heartbeat.failed("round:probe", "OperationalError", timezone.now())
    assert value(client, "regia_round_failing", round="probe") == 2
    Heartbeat.went_round("round:probe", timezone.now())
    assert value(client, "regia_round_failing", round="probe") == 0
    assert value(client, "regia_round_failures_total", round="probe") == 2


def test_no_label_and_no_line_holds_a_name_or_a_secret(client, made):
    text = ask(client).content.decode()
    names = [
        *Deployment.objects.values_list("name", flat=True),
        made.administrator.email,
        "This computer",
        "RunPod",
    ]
    secrets = ["key-of-a-scene", "sk-test", settings.METRICS_TOKEN, "proxy.example.com"]
    told = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    assert [word for word in (*names, *secrets) if word in told] == []


def test_openmetrics_is_spoken_to_who_asks_for_it(client, made):
    answer = ask(client, Accept="application/openmetrics-text; version=1.0.0; charset=utf-8")
    assert answer["Content-Type"].startswith("application/openmetrics-text")
    names = {family.name for family in read_openmetrics(answer.content.decode())}
    assert "regia_deployment_up" in names


def test_a_database_that_does_not_answer_is_a_figure_not_an_error(client, made):
    def refuse(*_, **__):
        raise OperationalError("connection to 10.0.0.5 failed for hunter2")

    with connection.execute_wrapper(refuse):
        answer = ask(client)
    told = answer.content.decode()
    assert answer.status_code == 200
    assert "regia_database_up 0.0" in told
    assert "regia_deployment_up" not in told
    assert "hunter2" not in told


def test_a_dead_broker_is_a_figure(client, made, settings, tmp_path):
    settings.CELERY_BROKER_URL, settings.BROKER_DIR = "filesystem://", tmp_path / "gone"
    assert value(client, "regia_broker_up") == 0


def test_a_spool_that_waits_is_a_figure(client, made, settings, tmp_path):
    settings.DATA_DIR = tmp_path
    assert value(client, "regia_audit_spool_bytes") == 0
    (tmp_path / "audit-spool.jsonl").write_text("{}\n")
    assert value(client, "regia_audit_spool_bytes") == 3


def test_there_is_a_bound_on_the_series_and_on_the_queries(client, made, monkeypatch):
    def queries():
        with CaptureQueriesContext(connection) as captured:
            ask(client)
        return len(captured)

    few = queries()
    multiply(made.ready, 30)
    assert queries() <= few + 1, "one more counts what is left out"
    monkeypatch.setattr(exporter, "MOST_DEPLOYMENTS", 10)
    found = samples(client)
    assert sum(name == "regia_deployment_up" for name, _ in found) == 10
    wanted = Deployment.objects.filter(desired="running").count()
    assert found["regia_deployments_left_out", frozenset()] == wanted - 10


# -- the rules and the page beside it ---------------------------------------------------------------------


def exported(client) -> set[str]:
    return {name for name, _ in samples(client)}


def test_every_metric_of_the_example_rules_is_really_told(client, made):
    groups = yaml.safe_load((ROOT / "docs/alerts.rules.yml").read_text())["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    used = {name for rule in rules for name in re.findall(r"\bregia_[a-z_]+", rule["expr"])}
    assert len(rules) > 15
    assert used - exported(client) == set()
    assert len({rule["alert"] for rule in rules}) == len(rules)
    assert {rule["labels"]["severity"] for rule in rules} == {"warning", "critical"}


def test_every_label_of_the_example_rules_is_one_that_its_metric_has(client, made):
    labels: dict[str, set[str]] = {}
    for name, pairs in samples(client):
        labels.setdefault(name, set()).update(label for label, _ in pairs)
    for group in yaml.safe_load((ROOT / "docs/alerts.rules.yml").read_text())["groups"]:
        for rule in group["rules"]:
            own = set().union(*(labels[n] for n in re.findall(r"\bregia_[a-z_]+", rule["expr"])), set())
            asked = set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]))
            asked |= set(re.findall(r"(\w+)=\"", rule["expr"])) - {"job"}
            assert asked <= own, rule["alert"]


def test_every_metric_has_a_line_in_the_handbook_and_every_line_a_metric(client, made):
    page = (ROOT / "docs/monitoring.md").read_text()
    assert set(re.findall(r"`(regia_[a-z_]+)", page)) == exported(client)
