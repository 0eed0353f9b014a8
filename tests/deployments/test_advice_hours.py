"""What the hours of a month say of a deployment's load: read the same way on either database."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from django.utils import timezone

from deployments.advising import gather
from deployments.advising.case import Kind
from deployments.models import Deployment, Instance, Monitor, ProviderAccount, Sample
from deployments.monitoring import profiles
from tests.deployments.advice_rows import BUSY, IDLE, office, running, tell

pytestmark = pytest.mark.django_db
HOUR = timedelta(hours=1)


@pytest.fixture
def now():
    return timezone.now()


@pytest.fixture
def account(settings, now):
    settings.INFERENCE_IMAGE, settings.INFERENCE_IMAGE_TLS, settings.EXPECTED_TRAFFIC_GB = "an/image", True, 0
    return ProviderAccount.objects.create(name="RunPod", backend="runpod", credentials="k", offers_at=now)


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


def test_office_hours_in_the_rows_become_a_schedule(account, now):
    tell(running(account, now=now), office, now=now)
    found = gather.board(Deployment.objects.all(), now=now).shown
    assert [(a.kind, a.schedule.days) for a in found] == [(Kind.SCHEDULE, "12345")]
    assert found[0].saves > Decimal(100)
