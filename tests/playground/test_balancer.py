"""A chat through RunPod's load balancer: the account's key for RunPod, the machine's for its door."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from django.test import Client
from django.urls import reverse

from deployments.models import Deployment, ProviderAccount
from deployments.tiers import BALANCED
from tests import factories
from tests.conftest import NOW
from tests.playground import rows
from tests.playground.fake_engine import FakeEngine

pytestmark = pytest.mark.django_db
RENTED = replace(rows.own_machine(), own_machine=False, serverless=True)


@pytest.fixture
def operator(client: Client, settings) -> Client:
    settings.ALLOW_INSECURE_ENDPOINTS = True
    client.force_login(factories.operator())
    return client


def sent(client: Client, engine: FakeEngine, tier: str) -> dict[str, str]:
    """The headers that the engine saw."""
    deployment: Deployment = rows.chatting_deployment(
        engine.url, now=NOW, key="machine-key", quote=replace(RENTED, tier=tier)
    )
    ProviderAccount.objects.update(credentials="account-key")
    body = json.dumps({"messages": [{"role": "user", "content": "Hello"}]})
    answer = client.post(reverse("chat_stream", args=[deployment.pk]), body, content_type="application/json")
    assert answer.status_code == 200
    return engine.headers[-1]


def test_each_of_the_two_doors_is_given_its_own_key(operator: Client, engine: FakeEngine) -> None:
    headers = sent(operator, engine, BALANCED)
    assert (headers["Authorization"], headers["X-Regia-Key"]) == ("Bearer account-key", "machine-key")


def test_no_queue_is_told_the_machines_key(operator: Client, engine: FakeEngine) -> None:
    headers = sent(operator, engine, "serverless-flex")
    assert headers["Authorization"] == "Bearer account-key"
    assert "X-Regia-Key" not in headers
