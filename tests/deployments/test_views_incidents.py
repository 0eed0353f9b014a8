"""The pages of incidents and of the month's reliability: what they say, to whom, and what they let out."""

from __future__ import annotations

import csv
import io
from datetime import timedelta

import pytest
from django.urls import reverse
from django.utils import timezone

from deployments.lifecycle import State
from deployments.models import Deployment, Event, Incident
from deployments.monitoring import incidents
from deployments.views.incident_story import markdown
from tests import factories
from tests.browser import scene

pytestmark = pytest.mark.django_db


@pytest.fixture
def made():
    return scene.build(now=timezone.now())


@pytest.fixture
def operator(client, made):
    client.force_login(factories.operator())
    return client


def text(response):
    return response.content.decode()


def act(client, incident, action, **data):
    return client.post(reverse("incident_action", args=[incident.pk, action]), data, follow=True)


# -- the list -----------------------------------------------------------------------------------------


def test_the_list_shows_what_is_open_and_filters_by_kind(operator, made):
    page = text(operator.get(reverse("incidents")))
    assert "contract-search is down" in page
    assert "mail-triage was outbid" in page
    only = text(operator.get(reverse("incidents"), {"kind": "outbid", "show": "all"}))
    assert "mail-triage was outbid" in only
    assert "contract-search is down" not in only
    assert "No incident is open" not in page


def test_an_odd_filter_shows_what_is_open(operator, made):
    page = operator.get(reverse("incidents"), {"kind": "'; --", "show": "\0", "page": "x"})
    assert page.status_code == 200
    assert "contract-search is down" in text(page)


def test_a_panel_without_incidents_says_what_will_stand_here(client):
    client.force_login(factories.viewer())
    assert "Nothing is wrong" in text(client.get(reverse("incidents")))


def test_a_merged_one_stands_only_in_what_it_became_part_of(operator, made):
    other = Incident.objects.exclude(pk=made.incident.pk).first()
    Incident.objects.filter(pk=made.incident.pk).update(merged_into=other, over_at=timezone.now())
    assert "contract-search is down" not in text(operator.get(reverse("incidents"), {"show": "all"}))
    assert f"#{other.pk} {other.title}" in text(operator.get(made.incident.get_absolute_url()))


def test_the_list_asks_as_many_queries_with_more_incidents(operator, made, django_assert_max_num_queries):
    def ask():
        with django_assert_max_num_queries(14) as asked:
            operator.get(reverse("incidents"), {"show": "all"})
        return len(asked)

    few = ask()
    for n in range(15):
        Incident.objects.create(
            cause=f"test:{n}", kind="slow", severity="warning", title=f"slow {n}", opened_at=timezone.now(),
            deployment=made.ready,
        )  # fmt: skip
    assert ask() == few


# -- one ----------------------------------------------------------------------------------------------


def test_an_incident_tells_its_cause_its_story_and_whom_it_touches(operator, made):
    page = text(operator.get(made.incident.get_absolute_url()))
    for said in (
        "What probably caused it",
        "contract-search",
        "is now Degraded",
        "Its host is overheating",
        "Acknowledge",
    ):
        assert said in page


def test_the_page_of_the_deployment_names_its_open_incident(operator, made):
    page = text(operator.get(made.incident.deployment.get_absolute_url()))
    assert f"Incident #{made.incident.pk}: contract-search is down" in page
    assert made.incident.get_absolute_url() in page


def test_a_comment_is_shown_as_text_and_by_name(operator, made):
    act(operator, made.incident, "comment", text="<script>alert(1)</script>\nsecond line")
    page = text(operator.get(made.incident.get_absolute_url()))
    assert "<script>alert(1)" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;<br>second line" in page
    assert "operator" in page


def test_a_refused_comment_comes_back_with_what_was_typed(operator, made):
    answer = act(operator, made.incident, "comment", text="  ")
    assert answer.status_code == 422
    assert "Write something first." in text(answer)
    long = act(operator, made.incident, "comment", text="y" * 5000)
    assert long.status_code == 422
    assert "y" * 5000 in text(long)


def test_acknowledged_and_closed_are_seen_and_cannot_be_done_twice(operator, made):
    assert "Acknowledged" in text(act(operator, made.incident, "acknowledge"))
    assert "closed it already" in text(act(operator, made.incident, "acknowledge"))
    page = text(act(operator, made.incident, "close"))
    assert "It was closed while its cause stands." in page
    assert 'id="a-close"' not in page
    assert "closed already" in text(act(operator, made.incident, "close"))


def test_a_viewer_reads_and_does_nothing(client, made):
    client.force_login(factories.viewer())
    page = text(client.get(made.incident.get_absolute_url()))
    assert 'id="a-close"' not in page
    assert 'name="text"' not in page
    assert act(client, made.incident, "close").status_code == 403
    assert made.incident.pk in Incident.objects.open().values_list("pk", flat=True)


def test_who_has_no_role_sees_none(client, made):
    client.force_login(factories.user())
    for name, args in (("incidents", []), ("incident", [made.incident.pk]), ("reliability", [])):
        assert client.get(reverse(name, args=args)).status_code == 403


def test_an_unknown_incident_or_act_is_404(operator, made):
    assert operator.get(reverse("incident", args=[10**9])).status_code == 404
    assert operator.post(reverse("incident_action", args=[made.incident.pk, "delete"])).status_code == 404


def test_a_poll_without_news_is_304(operator, made):
    ask = {"HX-Request": "true", "HX-Target": "incident"}
    first = operator.get(made.incident.get_absolute_url(), headers=ask)
    assert "<html" not in text(first)
    again = operator.get(made.incident.get_absolute_url(), headers=ask | {"If-None-Match": first["ETag"]})
    assert again.status_code == 304


# -- as Markdown --------------------------------------------------------------------------------------


def test_the_export_stands_by_itself_and_no_text_becomes_markup(operator, made):
    Deployment.objects.filter(pk=made.incident.deployment_id).update(name="[click](http://evil) | x")
    incidents.comment(
        made.incident, "# not a heading\n| not | a table", actor=factories.operator(), now=timezone.now()
    )
    answer = operator.get(reverse("incident_export", args=[made.incident.pk]))
    assert answer["Content-Type"].startswith("text/markdown")
    assert f'filename="incident-{made.incident.pk}.md"' in answer["Content-Disposition"]
    told = text(answer)
    for heading in ("# Incident", "## What probably caused it", "## What it touched", "## Timeline"):
        assert heading in told
    assert r"\[click\](http://evil) \| x" in told
    assert r"\# not a heading \| not \| a table" in told
    assert told.count("\n# ") == 0
    assert "is now Degraded" in told


def test_who_does_not_see_money_exports_none(made):
    assert "Its cost" in markdown(made.incident, money=True, now=timezone.now())
    assert "Its cost" not in markdown(made.incident, money=False, now=timezone.now())


# -- reliability --------------------------------------------------------------------------------------


def test_the_month_shows_each_provider_and_tier_and_each_goal(operator, made):
    page = text(operator.get(reverse("reliability")))
    for said in ("RunPod", "secure", "datacenter", "contract-search", "99.5 %", "Error budget left"):
        assert said in page


def rows(client, **query) -> list[dict[str, str]]:
    answer = client.get(reverse("reliability_csv"), query)
    return list(csv.DictReader(io.StringIO(b"".join(answer).decode())))


def test_the_csv_has_the_figures_of_the_page(operator, made):
    now = timezone.now()
    ready = made.ready.instances.get()
    born = max(made.ready.created_at, now.replace(day=1, hour=0, minute=0, second=0, microsecond=0))
    Event.objects.filter(deployment=made.ready).update(at=born)
    for minutes, state in ((30, State.DEGRADED), (12, State.READY)):
        Event.objects.create(
            deployment=made.ready, instance=ready, at=now - timedelta(minutes=minutes), kind="state", to_state=state
        )  # fmt: skip
    found = {row["deployment"]: row for row in rows(operator) if row["scope"] == "deployment"}
    mine = found["support-assistant"]
    assert float(mine["down_minutes"]) == pytest.approx(18, abs=0.05)
    wanted = (now - born) / timedelta(minutes=1)
    assert float(mine["uptime_percent"]) == pytest.approx(100 * (1 - 18 / wanted), abs=0.1)
    assert mine["goal_percent"] == "99.5"
    places = {(row["provider"], row["tier"]): row for row in rows(operator) if row["scope"] == "provider"}
    secure = places["RunPod", "secure"]
    assert float(secure["down_minutes"]) >= 18
    assert int(secure["incidents"]) >= 1
    assert 0 < float(secure["mean_minutes_to_ready"]) < 10
    assert int(places["Vast.ai", "datacenter"]["interruptions"]) >= 1


def test_a_cell_that_a_spreadsheet_would_run_is_defused(operator, made):
    Deployment.objects.filter(pk=made.ready.pk).update(name='=HYPERLINK("http://evil")')
    found = [row["deployment"] for row in rows(operator)]
    assert '\'=HYPERLINK("http://evil")' in found


@pytest.mark.parametrize("month", ["2026-13", "x", "", "9999-99", "2199-01"])
def test_an_odd_or_future_month_is_this_one(operator, made, month):
    page = text(operator.get(reverse("reliability"), {"month": month}))
    assert f"{timezone.now():%B %Y}" in page


def test_a_month_before_anything_ran_says_so(operator, made):
    page = text(operator.get(reverse("reliability"), {"month": "2020-02"}))
    assert "Nothing ran in February 2020" in page


def test_the_report_asks_as_many_queries_with_more_deployments(operator, made, django_assert_max_num_queries):
    def ask():
        with django_assert_max_num_queries(14) as asked:
            operator.get(reverse("reliability"))
        return len(asked)

    few = ask()
    quote = made.ready.instances.get().quote
    for n in range(10):
        d = Deployment.objects.create(
            name=f"more-{n}", model_key="qwen3-4b-awq", context=1, desired="running", created_at=timezone.now(), launch_key=f"m{n}",
        )  # fmt: skip
        i = d.instances.create(
            account=made.account, attempt=1, label=f"more-{n}", quote=quote, usd_per_hour=1, state="ready",
            state_since=timezone.now(), created_at=timezone.now(),
        )  # fmt: skip
        Event.objects.create(deployment=d, instance=i, at=timezone.now(), kind="state", to_state="ready")
    assert ask() == few


def test_the_goal_stands_on_the_deployments_page_and_is_changed_in_its_settings(operator, made, rung):
    page = text(operator.get(made.ready.get_absolute_url()))
    assert "of a goal of 99.5 %" in page
    form = operator.get(made.ready.get_absolute_url() + "?tab=settings").context["form"]
    values = {name: form[name].value() for name in form.fields}
    sent = {k: v for k, v in values.items() if v not in (None, False)} | {"slo_percent": "99.9"}
    seen = operator.get(made.ready.get_absolute_url() + "?tab=settings").context["seen"]
    operator.post(reverse("deployment_settings", args=[made.ready.pk]), sent | {"seen": seen})
    made.ready.refresh_from_db()
    assert f"{made.ready.slo_percent:f}" == "99.900"
    assert "99.5 % to 99.9 %" in Event.objects.get(deployment=made.ready, kind="settings").reason
