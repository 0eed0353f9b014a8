"""What the header of every page tells of the panel itself: a dead clock, a round that fails, a silent provider."""

from __future__ import annotations

from datetime import timedelta

import pytest
from celery import signals
from django.db import OperationalError, connection
from django.urls import reverse
from django.utils import timezone

from deployments import calls
from deployments.models import Breaker, Heartbeat, ProviderAccount
from deployments.monitoring import rounds
from panel import health
from tests import factories

pytestmark = pytest.mark.django_db


def ago(**span: float):
    return timezone.now() - timedelta(**span)


def beat(**changed) -> None:
    """Everything beats, but for what is `changed`: name -> when."""
    for name in ("start", "beat", "reconcile", *(r.name for r in health.rounds())):
        at = changed.get(name.removeprefix("round:"), ago(seconds=2))
        if at is not None:
            Heartbeat.beat(name, at)


def keys() -> list[str]:
    return [p.key for p in health.problems(now=timezone.now())]


@pytest.fixture
def account() -> ProviderAccount:
    return ProviderAccount.objects.create(
        name="Cloud", backend="runpod", credentials="key-of-a-test", listed_at=ago(seconds=3)
    )


@pytest.fixture
def probe_task():
    from deployments import tasks

    return tasks.probe_due


def test_nothing_is_said_while_everything_goes_round(account):
    beat()
    assert keys() == []


def test_a_fresh_panel_is_given_time_to_start():
    Heartbeat.beat("start", ago(seconds=20))
    assert keys() == []
    Heartbeat.beat("start", ago(minutes=5))
    assert keys() == ["beat"]


def test_a_dead_clock_is_one_problem_not_ten():
    old = ago(minutes=10)
    beat(**dict.fromkeys(("beat", "reconcile", "probe", "observe", "meter"), old))
    assert keys() == ["beat"]


def test_the_loop_is_stale_when_readyz_says_so(client, settings):
    beat(reconcile=ago(seconds=settings.READY_MAX_AGE + 2))
    assert keys() == ["reconcile"]
    assert client.get("/readyz").json()["not_ready"] == ["reconcile"]


def test_a_round_may_miss_as_many_of_its_own_periods_as_a_slow_one_takes():
    by_name = {r.name: r for r in health.rounds()}
    assert by_name["round:probe"].max_age < by_name["round:offers"].max_age
    beat(probe=ago(seconds=100), offers=ago(seconds=100))
    assert keys() == ["round:probe"]


def test_a_clock_that_was_put_back_makes_nothing_look_young():
    beat(probe=timezone.now() + timedelta(hours=2))
    assert keys() == ["round:probe"]


def test_every_task_of_the_schedule_leaves_its_beat_and_no_other_task_does(probe_task):
    signals.task_success.send(sender=probe_task, result=None)
    assert Heartbeat.objects.filter(name="round:probe").exists()
    assert rounds.round_of("deployments.tasks.look") == ""
    assert all(rounds.round_of(r.task) == r.name for r in health.rounds())


def test_a_round_that_hangs_from_the_first_time_grows_old(probe_task, monkeypatch, django_assert_num_queries):
    monkeypatch.setattr(rounds, "_begun", set())
    signals.task_prerun.send(sender=probe_task, task=probe_task, task_id="1", args=[], kwargs={})
    Heartbeat.objects.filter(name="round:probe").update(at=ago(minutes=3))
    with django_assert_num_queries(0):
        signals.task_prerun.send(sender=probe_task, task=probe_task, task_id="2", args=[], kwargs={})
    beat(probe=None)
    assert keys() == ["round:probe"]


def test_a_task_that_really_runs_leaves_its_beat(probe_task):
    probe_task.apply()
    assert Heartbeat.objects.get(name="round:probe").failures == 0


def test_a_round_that_fails_is_told_with_its_kind_and_never_its_words(probe_task, monkeypatch):
    beat(probe=None)
    monkeypatch.setattr("deployments.monitoring.probe.probe_due", _raise)
    for _ in range(3):
        probe_task.apply()
    row = Heartbeat.objects.get(name="round:probe")
    assert (row.failures, row.failures_total, row.error) == (3, 3, "ZeroDivisionError")
    Heartbeat.objects.filter(name="round:probe").update(at=ago(minutes=3))
    [found] = health.problems(now=timezone.now())
    assert "probe" in found.sentence
    assert "hunter2" not in f"{found}"
    monkeypatch.undo()
    Heartbeat.went_round("round:probe", timezone.now())
    row.refresh_from_db()
    assert (row.failures, row.failures_total, row.error) == (0, 3, "")
    assert keys() == []


def _raise(**_):
    raise ZeroDivisionError("the password is hunter2")


def test_a_round_that_goes_well_each_second_writes_seldom(django_assert_num_queries):
    now = timezone.now()
    Heartbeat.went_round("round:due", now)
    with django_assert_num_queries(1):
        Heartbeat.went_round("round:due", now + timedelta(seconds=1))
    Heartbeat.went_round("round:due", now + timedelta(seconds=6))
    assert Heartbeat.objects.get(name="round:due").at == now + timedelta(seconds=6)


def test_a_database_that_fails_does_not_break_the_task_beside_it(probe_task):
    def refuse(*_, **__):
        raise OperationalError("gone")

    with connection.execute_wrapper(refuse):
        rounds.went_well(sender=probe_task)
        rounds.failed(sender=probe_task, exception=OperationalError("gone"))


def test_one_failed_list_is_no_news_and_a_silent_provider_is(account):
    beat()
    ProviderAccount.objects.update(list_error="500 Internal Server Error")
    assert keys() == []
    ProviderAccount.objects.update(listed_at=ago(minutes=3))
    assert [key.replace("-", "") for key in keys()] == [f"list:{account.pk.hex}"]
    ProviderAccount.objects.update(enabled=False)
    assert keys() == [], "switched off, and nothing of ours is there"


def test_a_kind_of_call_that_goes_on_failing_is_told(account):
    beat()
    Breaker.objects.create(account=account, call="create", failures=calls.FAILURES - 1, error="500")
    assert keys() == []
    Breaker.objects.update(failures=calls.FAILURES)
    [found] = health.problems(now=timezone.now())
    assert "nothing can be rented there" in found.sentence


@pytest.mark.parametrize("path", ["overview", "deployments", "launch", "radar", "provider_accounts", "spend"])
def test_every_page_tells_it_in_its_header(client, path):
    client.force_login(factories.administrator())
    beat(beat=ago(minutes=4))
    page = client.get(reverse(path)).content.decode()
    assert page.count("The clock was last seen") == 1
    assert page.index("The clock was last seen") < page.index("<h1")


def test_the_providers_own_words_are_for_those_who_see_the_accounts(client, account):
    beat()
    ProviderAccount.objects.update(list_error="team 4711 is suspended", listed_at=ago(minutes=3))
    client.force_login(factories.viewer())
    page = client.get(reverse("deployments")).content.decode()
    assert "Cloud last gave a good list" in page
    assert "4711" not in page
    client.force_login(factories.operator())
    assert "team 4711 is suspended" in client.get(reverse("deployments")).content.decode()


def test_an_open_page_asks_again_and_is_answered_304_while_nothing_is_new(client):
    client.force_login(factories.operator())
    beat(probe=ago(minutes=4))
    ask = {"HX-Request": "true", "HX-Target": "panel-health"}
    first = client.get(reverse("panel_health"), headers=ask)
    assert "“probe”" in first.content.decode()
    assert "<html" not in first.content.decode()
    again = client.get(reverse("panel_health"), headers=ask | {"If-None-Match": first["ETag"]})
    assert again.status_code == 304
    beat()
    well = client.get(reverse("panel_health"), headers=ask | {"If-None-Match": first["ETag"]})
    assert well.status_code == 200
    assert "“probe”" not in well.content.decode()


def test_it_costs_a_page_one_query(django_assert_num_queries, account):
    beat()
    with django_assert_num_queries(1):
        health.problems(now=timezone.now())


def test_a_stranger_is_told_nothing(client):
    beat(beat=ago(minutes=4))
    assert "The clock was last seen" not in client.get(reverse("account_login")).content.decode()
