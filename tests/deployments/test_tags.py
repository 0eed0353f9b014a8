"""Tags are typed on Launch and in the settings, and what a machine costs carries them."""

import re

import pytest
from django.utils import timezone

from billing.models import Subject
from deployments import changes
from deployments.changes import Effect
from deployments.models import Deployment, Offer
from panel.audit.models import AuditEvent
from tests import factories
from tests.browser import scene

pytestmark = pytest.mark.django_db


@pytest.fixture
def made():
    return scene.build(now=timezone.now())


@pytest.fixture
def operator(client):
    client.force_login(factories.operator())
    return client


def test_a_launch_carries_its_tags_to_its_costs(made, operator, rung):
    page = operator.get("/launch/?tags=team%3Dsearch").content.decode()
    assert 'value="team=search"' in page
    form = {
        "launch_key": re.search(r'name="launch_key" value="(\w+)"', page)[1], "model": "smollm2-135m", "context": "4096",
        "countries": ["CZ"], "name": "tagged", "offer": str(Offer.objects.get(key="cpu").pk), "tags": "team=search, env=prod",
    }  # fmt: skip
    refused = operator.post("/launch/", {**form, "tags": "team"}).content.decode()
    assert "has no value" in refused
    assert not Deployment.objects.filter(name="tagged").exists()
    operator.post("/launch/", form)
    deployment = Deployment.objects.get(name="tagged")
    assert deployment.tags == {"team": "search", "env": "prod"}
    assert Subject.objects.get(scope=deployment.pk).tags == deployment.tags


def test_settings_change_them_for_the_next_machine(made, operator, rung):
    deployment = made.ready
    machine = Subject.objects.get(scope=deployment.pk)
    page = operator.get(f"/deployments/{deployment.pk}/?tab=settings").content.decode()
    assert 'value="env=prod, team=support"' in page
    (change,) = changes.plan(deployment, {"tags": {"team": "search"}})
    assert (change.effect, change.before, change.after) == (
        Effect.RELAUNCH,
        "env=prod, team=support",
        "team=search",
    )
    assert changes.plan(deployment, {"tags": {"team": "support", "env": "prod"}}) == ()
    changes.change_settings(
        deployment, {"tags": {"team": "search"}}, actor=factories.operator(), now=timezone.now()
    )
    assert Deployment.objects.get(pk=deployment.pk).tags == {"team": "search"}
    assert Subject.objects.get(pk=machine.pk).tags == machine.tags
    assert AuditEvent.objects.filter(action="deployment.settings").exists()
