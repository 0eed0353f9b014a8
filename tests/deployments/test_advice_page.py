"""The Advice page: from samples and offers to a prepared page, dismissed with a reason; on either database."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from urllib.parse import parse_qs, urlsplit

import pytest
from django.utils import timezone

from deployments.advising import dismissing, gather
from deployments.advising.case import Kind
from deployments.models import (
    Deployment,
    DismissedAdvice,
    ProviderAccount,
)
from panel.audit.models import AuditEvent
from tests import factories
from tests.deployments.advice_rows import BUSY, IDLE, offer, office, running, secure, tell

pytestmark = pytest.mark.django_db


@pytest.fixture
def now():
    return timezone.now()


@pytest.fixture
def account(settings, now):
    settings.INFERENCE_IMAGE, settings.INFERENCE_IMAGE_TLS, settings.EXPECTED_TRAFFIC_GB = "an/image", True, 0
    return ProviderAccount.objects.create(name="RunPod", backend="runpod", credentials="k", offers_at=now)


@pytest.fixture
def operator(client):
    client.force_login(factories.operator())
    return client


def page(client, query=""):
    response = client.get(f"/spend/advice/{query}")
    assert response.status_code == 200
    return response.content.decode()


def act(client, instance, kind, action, **data):
    return client.post(f"/spend/advice/{instance.deployment_id}/{kind}/{action}/", data)


# -- the page --------------------------------------------------------------------------------------------


def test_without_anything_that_runs_it_says_what_will_stand_here(operator):
    assert "Nothing runs that could cost less" in page(operator)


def test_idle_nights_and_weekends_lead_to_the_settings_with_the_schedule_filled_in(operator, account, now):
    i = running(account, now=now)
    tell(i, office, now=now)
    text = page(operator)
    for said in (
        "Run it Mon–Fri, 07:00–19:00 UTC only", "108 of 168 h a week = 469.3 h of 730 h", "$198.98",
        "the median of 1 launch at RunPod secure in 90 days", "on at most one day in five",
    ):  # fmt: skip
        assert said in text
    led = operator.get(f"/spend/advice/{i.deployment_id}/schedule/prepare/")
    asked = parse_qs(urlsplit(led.url).query)
    assert (asked["tab"], asked["schedule_days"]) == (["settings"], ["1", "2", "3", "4", "5"])
    settings = operator.get(led.url)
    assert settings.status_code == 200
    assert [c.name for c in settings.context["planned"]] == [
        "schedule_days", "schedule_from", "schedule_until",
    ]  # fmt: skip
    assert not settings.context["form"].errors


def test_a_cheaper_offer_leads_to_the_launch_page_with_it_chosen(operator, account, now):
    i = running(account, now=now, price_ceiling=Decimal("0.60"))
    cheap = offer(account, secure("cheap", "0.33"), now)
    assert "The same costs less: NVIDIA L4, 24 GB, EU-CZ-1 at $0.33/h" in page(operator)
    led = operator.get(f"/spend/advice/{i.deployment_id}/move/prepare/")
    choice = operator.get(led.url).context["choice"]
    assert (choice.chosen.known.pk, choice.chosen.suitable) == (cheap.pk, True)
    assert (choice.wish.name, choice.wish.context) == ("assistant", 8192)
    assert choice.wish.price_ceiling == Decimal("0.60")
    assert set(choice.wish.allowed_countries) == {"CZ", "FR"}


def test_what_holds_no_longer_is_said_instead_of_prepared(operator, account, now):
    i = running(account, now=now)
    answer = operator.get(f"/spend/advice/{i.deployment_id}/move/prepare/", follow=True)
    assert "this advice no longer holds" in answer.content.decode()


def test_three_days_are_too_few_and_it_says_so(operator, account, now):
    i = running(account, now=now, days=3)
    tell(i, lambda _: IDLE, now=now, days=3)
    text = page(operator)
    assert "needs 14 days, has 3" in text
    assert "Nothing is advised now" in text


def test_old_offers_are_named_and_not_advised(operator, account, now):
    running(account, now=now)
    offer(account, secure("cheap", "0.33"), now)
    ProviderAccount.objects.update(offers_at=now - timedelta(hours=1))
    text = page(operator)
    assert "The offers of RunPod are older than 10 minutes" in text
    assert "The same costs less" not in text


def test_it_is_sorted_by_what_it_saves_and_the_best_of_each_is_summed(account, now):
    offer(account, secure("cheap", "0.33"), now)
    for name, price in (("a", "0.40"), ("b", "0.90"), ("c", "0.60")):
        running(account, name, now=now, standing=secure(f"own-{name}", price))
    board = gather.board(Deployment.objects.all(), now=now)
    assert [a.case.name for a in board.shown] == ["b", "c", "a"]
    assert board.saves == sum(a.saves for a in board.shown)


def test_a_stopped_machine_is_looked_at_for_its_disk_alone(account, now):
    i = running(account, now=now, state="stopped", desired="stopped")
    tell(i, lambda _: IDLE, now=now)
    offer(account, secure("cheap", "0.33"), now)
    assert [a.kind for a in gather.board(Deployment.objects.all(), now=now).shown] == [Kind.DISK]


def test_a_worker_that_the_ledger_says_is_always_busy_is_dearer_than_a_pod(account, now):
    flex = secure("flex", "1.20", tier="serverless-flex", serverless=True, disk_usd_per_hour=Decimal(0))
    i = running(account, now=now, standing=flex)
    offer(account, secure("pod", "0.44"), now)
    machine = factories.subject(scope=i.deployment_id, provider="runpod")
    from billing import ledger
    from billing.models import Component

    ledger.set_price(machine.pk, Component.COMPUTE, Decimal("1.20"), at=now - timedelta(days=20))
    found = gather.board(Deployment.objects.all(), now=now).shown
    assert [a.kind for a in found] == [Kind.ALWAYS_ON]
    assert found[0].sums[0].how.startswith("24.0 h a day")


# -- dismissing ------------------------------------------------------------------------------------------


def test_it_is_hidden_for_a_while_with_a_reason_and_audited_and_shown_again(operator, account, now):
    i = running(account, now=now)
    offer(account, secure("cheap", "0.33"), now)
    answer = act(operator, i, "move", "dismiss", days="30", reason="its address is in a contract")
    assert answer.url == "/spend/advice/"
    text = page(operator)
    assert "its address is in a contract" in text
    assert "Show again" in text
    assert "Prepare this launch" not in text
    told = AuditEvent.objects.get(action="advice.dismiss")
    assert (told.target_id, told.reason) == (str(i.deployment_id), "its address is in a contract")
    later = gather.board(Deployment.objects.all(), now=now + timedelta(days=31))
    assert later.dismissed == ()
    act(operator, i, "move", "restore")
    assert "Prepare this launch" in page(operator)
    assert AuditEvent.objects.filter(action="advice.restore").count() == 1


def test_dismissed_twice_the_newer_reason_holds(operator, account, now):
    i = running(account, now=now)
    act(operator, i, "move", "dismiss", days="7", reason="first")
    act(operator, i, "move", "dismiss", days="90", reason="second")
    row = DismissedAdvice.objects.get()
    assert row.reason == "second"
    assert row.until > now + timedelta(days=89)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"days": "30", "reason": " "}, "Say why"),
        ({"days": "9999", "reason": "no"}, "Choose for how long"),
        ({"days": "x"}, "Choose for how long"),
        ({"days": "7", "reason": "x" * 201}, "200 characters"),
    ],
)
def test_a_wrong_dismissal_is_answered_and_hides_nothing(operator, account, now, data, said):
    i = running(account, now=now)
    url = f"/spend/advice/{i.deployment_id}/move/dismiss/"
    assert said in operator.post(url, data, follow=True).content.decode()
    assert not DismissedAdvice.objects.exists()


@pytest.mark.parametrize("path", ["nothing/dismiss", "move/burn"])
def test_no_such_advice_is_not_found(operator, account, now, path):
    i = running(account, now=now)
    assert operator.post(f"/spend/advice/{i.deployment_id}/{path}/").status_code == 404


def test_a_viewer_reads_the_arithmetic_and_acts_on_nothing(client, account, now):
    client.force_login(factories.viewer())
    i = running(account, now=now)
    offer(account, secure("cheap", "0.33"), now)
    text = page(client)
    assert "The same costs less" in text
    assert "Prepare this launch" not in text
    assert act(client, i, "move", "dismiss", days="7", reason="x").status_code == 403


def test_the_cost_tab_has_a_line_with_the_best_advice(operator, account, now):
    i = running(account, now=now)
    url = f"/deployments/{i.deployment_id}/?tab=cost"
    assert "How it is reckoned" not in operator.get(url).content.decode()
    offer(account, secure("cheap", "0.33"), now)
    text = operator.get(url).content.decode()
    assert "saves $72.98 a month" in text
    assert "How it is reckoned" in text


@pytest.mark.django_db(transaction=True)
def test_an_open_cost_tab_reckons_anew_every_few_minutes_and_hides_what_is_dismissed_at_once(
    account, now, django_assert_num_queries
):
    i = running(account, now=now)
    offer(account, secure("cheap", "0.33"), now)
    assert gather.best_of(i.deployment, now=now).choice.hour == Decimal("0.33")
    offer(account, secure("cheaper", "0.23"), now)
    with django_assert_num_queries(1):
        assert gather.best_of(i.deployment, now=now + timedelta(minutes=4)).choice.hour == Decimal("0.33")
    later = now + timedelta(minutes=6)
    assert gather.best_of(i.deployment, now=later).choice.hour == Decimal("0.23")
    dismissing.dismiss(i.deployment, Kind.MOVE, days=7, reason="x", actor=factories.operator(), now=later)
    assert gather.best_of(i.deployment, now=later) is None


def test_it_asks_the_same_few_questions_whatever_the_number_of_deployments(
    operator, account, now, django_assert_num_queries, django_assert_max_num_queries
):
    offer(account, secure("cheap", "0.33"), now)
    tell(running(account, now=now), office, now=now)
    with django_assert_max_num_queries(17) as few:
        page(operator)
    for n in range(8):
        tell(running(account, f"more-{n}", now=now), lambda _: BUSY, now=now, days=1)
        offer(account, secure(f"offer-{n}", "0.5"), now)
    with django_assert_num_queries(len(few)):
        page(operator)
