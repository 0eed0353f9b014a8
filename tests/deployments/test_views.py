"""The overview, the list, one deployment and its acts."""

import re
from datetime import timedelta
from decimal import Decimal
from uuid import uuid4

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from billing import ledger
from deployments import money
from deployments.lifecycle import Desired, State
from deployments.models import Deployment, Event, Heartbeat, Instance
from tests import factories
from tests.browser import scene

pytestmark = pytest.mark.django_db


@pytest.fixture
def made():
    return scene.build(now=timezone.now())


@pytest.fixture
def admin(client, made):
    client.force_login(made.administrator)
    return client


def text(response):
    return response.content.decode()


def queries(client, path):
    with CaptureQueriesContext(connection) as captured:
        assert client.get(path).status_code == 200
    return len(captured)


def multiply(deployment, count):
    """`count` copies of a deployment with their attempts, events, subjects and price segments."""
    now = timezone.now()
    instance = deployment.instances.get()
    for i in range(count):
        copy = Deployment.objects.create(
            name=f"copy-{i}", model_key=deployment.model_key, context=4096, desired=Desired.RUNNING,
            owner=deployment.owner, created_at=now, launch_key=uuid4().hex,
        )  # fmt: skip
        twin = Instance.objects.create(
            deployment=copy, account=instance.account, attempt=1, label=uuid4().hex, quote=instance.quote,
            usd_per_hour=instance.usd_per_hour, state=State.READY, state_since=now, created_at=now, api_key="sk-test",
            country="CZ",
        )  # fmt: skip
        Event.objects.create(deployment=copy, instance=twin, at=now, kind="state", to_state=State.READY)
        money.open_subject(twin, now=now)
        ledger.set_price(twin.id, "compute", Decimal("0.01"), at=now - timedelta(hours=30))


def test_the_overview_asks_at_most_18_queries_and_as_many_with_more_rows(admin, made):
    few = queries(admin, "/")
    multiply(made.ready, 60)
    assert queries(admin, "/") == few <= 18


def test_the_list_and_a_deployment_ask_as_many_queries_with_more_rows(admin, made):
    paths = ("/deployments/", f"/deployments/{made.ready.pk}/", "/spend/")
    few = [queries(admin, path) for path in paths]
    multiply(made.ready, 40)
    assert [queries(admin, path) for path in paths] == few
    assert [n <= most for n, most in zip(few, (10, 14, 22), strict=True)] == [True] * 3, few


def test_the_overview_shows_what_burns_what_is_left_and_what_is_wrong(admin):
    page = text(admin.get("/"))
    for words in ("Burn", "of $1,200.00", "2 unhealthy", "contract-search answers slowly", "forecast"):
        assert words in page


def test_what_still_bills_on_its_way_out_stands_first(admin, made):
    multiply(made.ready, 12)
    Deployment.objects.filter(pk=made.ready.pk).update(desired=Desired.TERMINATED)
    rows = text(admin.get("/")).split("<tbody>")[1]
    assert rows.index("support-assistant") < rows.index("copy-")


def test_a_silent_control_loop_is_said_aloud(admin):
    Heartbeat.beat("reconcile", timezone.now() - timedelta(minutes=5))
    assert "control loop was last seen" in text(admin.get("/"))


def test_an_empty_panel_says_what_to_do_next(client):
    client.force_login(factories.operator())
    assert "Launch a model" in text(client.get("/"))
    assert "No deployments yet" in text(client.get("/deployments/"))


def test_a_viewer_sees_everything_and_may_do_nothing(client, made):
    client.force_login(factories.viewer())
    page = text(client.get(f"/deployments/{made.ready.pk}/"))
    assert "support-assistant" in page
    assert "Terminate" not in page
    assert 'href="/launch/"' not in text(client.get("/"))
    assert client.post(f"/deployments/{made.ready.pk}/stop/").status_code == 403


@pytest.mark.parametrize("path", ["", "logs/", "terminate/"])
def test_an_unknown_deployment_is_404(admin, path):
    assert admin.get(f"/deployments/{uuid4()}/{path}").status_code == 404


@pytest.mark.parametrize("path", ["", "logs/", "?tab=cost"])
def test_somebody_without_a_role_sees_no_deployment(client, made, path):
    client.force_login(factories.user())
    assert client.get(f"/deployments/{made.ready.pk}/{path}").status_code in (403, 404)


def test_an_ended_deployment_is_found_under_ended(admin):
    assert "load-test" not in text(admin.get("/deployments/"))
    assert "load-test" in text(admin.get("/deployments/?show=ended"))
    assert "Terminated (confirmed)" in text(admin.get("/deployments/?show=ended"))


def test_a_search_without_a_hit_says_so_and_keeps_the_words(admin):
    page = text(admin.get("/deployments/?q=no+such+name"))
    assert "None fits" in page
    assert 'value="no such name"' in page


@pytest.mark.parametrize("query", ["?page=abc", "?page=999", "?show=nonsense", "?q=%00", "?tab=nonsense"])
def test_a_strange_address_is_answered_with_the_page(admin, made, query):
    assert admin.get(f"/deployments/{query}").status_code == 200
    assert admin.get(f"/deployments/{made.ready.pk}/{query}").status_code == 200


def test_the_waterfall_shows_how_long_each_phase_took(admin, made):
    page = text(admin.get(f"/deployments/{made.ready.pk}/"))
    for words in ("ready in 2 min 54 s", "Pulling image", "1 min 14 s", "Loading weights"):
        assert words in page


def test_a_failed_attempt_says_why(admin, made):
    page = text(admin.get(f"/deployments/{made.failed.pk}/"))
    assert "No capacity" in page
    assert "bills nothing" in page


def test_only_what_is_valid_now_is_offered(admin, made):
    Deployment.objects.filter(pk=made.ready.pk).update(desired=Desired.STOPPED)
    page = text(admin.get(f"/deployments/{made.ready.pk}/"))
    assert 'id="a-start"' in page
    assert 'id="a-stop"' not in page


def test_a_destructive_act_names_the_thing_and_its_cost_before_it_is_done(admin, made):
    page = text(admin.get(f"/deployments/{made.ready.pk}/terminate/"))
    assert "Terminate support-assistant?" in page
    assert "bills $0.69/h" in page
    assert "has cost $" in page
    made.ready.refresh_from_db()
    assert made.ready.desired == Desired.RUNNING


def test_a_second_click_is_answered_with_a_sentence(admin, made, rung):
    path = f"/deployments/{made.ready.pk}/terminate/"
    assert "is being terminated" in text(admin.post(path, follow=True))
    assert "already" in text(admin.post(path, follow=True)) or "on its way" in text(
        admin.post(path, follow=True)
    )
    assert made.ready.events.filter(kind="terminate").count() == 1


@pytest.mark.parametrize("action", ["delete", "logs2", "STOP"])
def test_an_act_that_does_not_exist_is_404(admin, made, action):
    assert admin.post(f"/deployments/{made.ready.pk}/{action}/").status_code == 404


def test_a_log_that_cannot_be_had_says_why(admin, made):
    local = Deployment.objects.get(name="first-try")
    page = text(admin.get(f"/deployments/{local.pk}/logs/"))
    assert "This computer has no such machine any more" in page
    assert "RunPod did not give the log" in text(admin.get(f"/deployments/{made.ready.pk}/logs/"))


def test_the_key_of_an_endpoint_never_reaches_a_page(admin, made):
    for tab in ("overview", "events", "cost", "settings"):
        assert "sk-test" not in text(admin.get(f"/deployments/{made.ready.pk}/?tab={tab}"))


def test_who_did_it_is_named_and_forgotten_when_erased(admin, made):
    admin.post(f"/deployments/{made.ready.pk}/stop/")
    path = f"/deployments/{made.ready.pk}/?tab=events"
    assert "admin@example.com</td>" in text(admin.get(path))
    from panel.audit.models import Pseudonym

    Pseudonym.objects.all().delete()
    assert "erased person</td>" in text(admin.get(path))


# -- what providers do to a machine ------------------------------------------------------------------


def test_an_outbid_machine_says_since_when_and_what_would_win(admin, made):
    page = text(admin.get(f"/deployments/{made.outbid.pk}/"))
    for words in (
        "Outbid for",
        "12 min",
        "Its bid is $0.14/h",
        "wins now $0.19/h",
        "$0.25/h",
        "its disk bills $0.006/h",
    ):
        assert words in page


def test_an_unencrypted_endpoint_is_labelled_but_for_the_own_machine(admin, made):
    assert "Unencrypted endpoint" in text(admin.get(f"/deployments/{made.outbid.pk}/"))
    assert "Unencrypted endpoint" not in text(admin.get(f"/deployments/{made.ready.pk}/"))
    local = Deployment.objects.get(name="first-try")
    local.instances.update(endpoint_url="http://127.0.0.1:8001")
    assert "Unencrypted endpoint" not in text(admin.get(f"/deployments/{local.pk}/"))


def test_a_locked_machine_says_who_must_unlock_it(admin, made):
    made.ready.instances.update(locked=True)
    assert "RunPod refuses to stop or end it" in text(admin.get(f"/deployments/{made.ready.pk}/"))


def test_drift_is_shown_and_one_click_has_it_mended(admin, made, rung):
    assert 'id="a-mend"' not in text(admin.get(f"/deployments/{made.ready.pk}/"))
    made.ready.instances.update(drift="RunPod scaled the idle endpoint to no workers.")
    page = text(admin.get(f"/deployments/{made.ready.pk}/"))
    assert "scaled the idle endpoint" in page
    assert 'id="a-mend"' in page
    assert "Mend support-assistant?" in text(admin.get(f"/deployments/{made.ready.pk}/mend/"))
    assert "is being mended" in text(admin.post(f"/deployments/{made.ready.pk}/mend/", follow=True))
    assert made.ready.events.filter(kind="mend").count() == 1


def test_where_it_stood_is_shown_with_its_evidence(admin, made):
    made.ready.instances.update(places=[["EU-CZ-1", "CZ"], ["", None]])
    page = text(admin.get(f"/deployments/{made.ready.pk}/"))
    for words in (
        "US is outside the EEA.",
        "Refused",
        "United States",
        "workers:",
        "Czechia (EU-CZ-1)",
        "country unknown",
    ):
        assert words in page


@pytest.mark.parametrize(
    ("quote", "words"),
    [
        ({}, "The disk goes on at $0.006/h."),
        ({"stopped_usd_per_hour": "0"}, "A stop saves nothing here: the container disk is wiped"),
        ({"stopped_usd_per_hour": "0", "serverless": True}, "scaled to no workers; it bills nothing"),
        ({"own_machine": True}, "The engine ends and this computer is free"),
    ],
)
def test_a_stop_says_what_it_means_here_and_costs(admin, made, quote, words):
    instance = made.ready.instances.get()
    Instance.objects.filter(pk=instance.pk).update(quote=instance.quote | quote)
    assert words in text(admin.get(f"/deployments/{made.ready.pk}/"))
    assert words in text(admin.get(f"/deployments/{made.ready.pk}/stop/"))


def test_the_next_edge_of_a_schedule_stands_on_the_clock_of_its_zone(admin, made):
    page = text(admin.get(f"/deployments/{made.outbid.pk}/"))
    assert re.search(r"(Starts|Stops) next</dt><dd><time [^>]*>\w{3} \d+ \w{3}, (08|20):00</time>", page)
    assert "Europe/Berlin" in page


def test_a_machine_that_nobody_asked_for_leads_to_the_radar(admin, made):
    found = Deployment.objects.get(launch_key="found-1")
    page = text(admin.get(found.get_absolute_url()))
    assert "Nobody here asked for this machine" in page
    assert 'href="/radar/"' in page
