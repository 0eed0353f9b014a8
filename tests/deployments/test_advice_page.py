"""The Advice page: from samples and offers to a prepared page, dismissed with a reason; on either database."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from urllib.parse import parse_qs, urlsplit

import pytest
from django.utils import timezone

from deployments.advising import gather
from deployments.advising.case import Kind
from deployments.models import (
    Deployment,
    DismissedAdvice,
    Instance,
    Launch,
    Monitor,
    Offer,
    ProviderAccount,
    Sample,
)
from deployments.models.offer import freeze_quote, quote_values
from deployments.monitoring import profiles
from panel.audit.models import AuditEvent
from tests import factories
from tests.browser.scene import quote

pytestmark = pytest.mark.django_db
HOUR = timedelta(hours=1)
IDLE = {"running": 0.01, "waiting": 0.0, "kv_use": 0.02, "finished_stop": 0.2, "finished_length": 0.0}
"""An hour with nothing but the panel's own chats, one in five minutes."""
BUSY = IDLE | {"running": 1.5, "kv_use": 0.6, "finished_stop": 4.0}


@pytest.fixture
def now():
    return timezone.now()


@pytest.fixture
def account(settings, now):
    settings.INFERENCE_IMAGE, settings.INFERENCE_IMAGE_TLS, settings.EXPECTED_TRAFFIC_GB = "an/image", True, 0
    return ProviderAccount.objects.create(name="RunPod", backend="runpod", credentials="k", offers_at=now)


def secure(key="l4", price="0.43", **more):
    return quote(key, "NVIDIA L4", "CZ", price, sla=True, data_center="EU-CZ-1", **more)


def running(account, name="assistant", *, now, days=40, standing=None, **more) -> Instance:
    made = standing or secure()
    born = now - timedelta(days=days)
    state = more.pop("state", "ready")
    d = Deployment.objects.create(
        **{
            "name": name, "model_key": "qwen3-4b-awq", "context": 8192, "allowed_countries": ["CZ", "FR"], "desired": "running",
            "created_at": born, "launch_key": name, "owner": None,
        } | more
    )  # fmt: skip
    i = Instance.objects.create(
        deployment=d, account=account, attempt=1, label=f"l-{name}", quote=freeze_quote(made), usd_per_hour=made.usd_per_hour,
        state=state, state_since=born, created_at=born, ready_at=born, api_key="k", country="CZ", remote_id=f"r-{name}",
    )  # fmt: skip
    Launch.objects.create(
        instance=i, provider="runpod", tier="secure", model_key="m", began_at=born, total=240
    )
    return i


def tell(instance, values, *, now, days=28) -> None:
    """Hours of the last `days`; `values(moment)` gives each its own."""
    monitor, _ = Monitor.objects.get_or_create(instance=instance)
    last = int(now.timestamp()) // 3600
    Sample.objects.bulk_create(
        Sample(monitor=monitor, resolution=3600, bucket=n * 3600, **values(datetime.fromtimestamp(n * 3600, UTC)))
        for n in range(last - 24 * days, last)
    )  # fmt: skip


def office(moment):
    return BUSY if moment.isoweekday() < 6 and 8 <= moment.hour < 18 else IDLE


def offer(account, made, now):
    return Offer.objects.create(account=account, key=made.key, fetched_at=now, **quote_values(made))


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


# -- what was measured -----------------------------------------------------------------------------------


def test_hours_with_the_panels_own_chats_alone_are_idle_and_two_requests_make_one_busy(account, now):
    i = running(account, now=now)
    tell(i, lambda t: IDLE | {"finished_stop": 0.2 + 2 / 60} if t.hour == 9 else IDLE, now=now)
    load = profiles.loads([i.deployment_id], now=now)[i.deployment_id]
    first = datetime.fromtimestamp(load.first * 3600, UTC)
    busy = {(first + n * HOUR).hour for n in range(load.hours) if load.busy >> n & 1}
    assert (load.seen.bit_count(), busy, load.busy.bit_count()) == (28 * 24, {9}, 28)
    assert load.kv_p95 == pytest.approx(0.03, abs=0.011)


def test_a_machine_that_was_replaced_counts_for_the_same_deployment_and_one_long_gone_does_not(account, now):
    i = running(account, now=now)
    tell(i, office, now=now, days=2)
    before = Instance.objects.create(
        deployment=i.deployment, account=account, attempt=2, label="second", quote=i.quote, usd_per_hour=1, state="terminated",
        state_since=now, created_at=now, ended_at=now - timedelta(days=2), api_key="k",
    )  # fmt: skip
    Monitor.objects.create(instance=before)
    Sample.objects.create(
        monitor=before.monitor, resolution=3600, bucket=(int(now.timestamp()) // 3600 - 60) * 3600, **BUSY
    )
    assert profiles.loads([i.deployment_id], now=now)[i.deployment_id].seen.bit_count() == 49
    Instance.objects.filter(pk=before.pk).update(ended_at=now - timedelta(days=29))
    assert profiles.loads([i.deployment_id], now=now)[i.deployment_id].seen.bit_count() == 48


def test_a_full_cache_with_requests_waiting_is_crowded(account, now):
    i = running(account, now=now)
    tell(i, lambda t: BUSY | {"kv_use": 0.97, "waiting": 3.0} if t.hour < 6 else BUSY, now=now)
    load = profiles.loads([i.deployment_id], now=now)[i.deployment_id]
    assert profiles.crowded_share(load) == pytest.approx(0.25)
    assert load.kv_p95 > 0.95


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
