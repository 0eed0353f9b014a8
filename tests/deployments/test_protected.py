"""A protected deployment is ended by administrators alone, and stopped by whoever operates."""

import pytest
from django.urls import reverse
from django.utils import timezone

from deployments.lifecycle import Desired
from deployments.models import Deployment
from tests import factories
from tests.browser import scene
from tests.deployments.test_changes import form

pytestmark = pytest.mark.django_db


@pytest.fixture
def kept():
    deployment = scene.build(now=timezone.now()).ready
    Deployment.objects.filter(pk=deployment.pk).update(protected=True)
    deployment.refresh_from_db()
    return deployment


@pytest.fixture
def operator(client):
    client.force_login(factories.operator())
    return client


def act(deployment, action):
    return reverse("deployment_action", args=[deployment.pk, action])


def desired(deployment):
    return Deployment.objects.get(pk=deployment.pk).desired


@pytest.mark.parametrize("headers", [{}, {"HX-Request": "true"}])
def test_an_operator_cannot_terminate_it(operator, kept, headers):
    for ask in (operator.get, operator.post):
        answer = ask(act(kept, "terminate"), headers=headers)
        assert answer.status_code == 403
        assert "only an administrator can terminate it" in answer.text
    assert desired(kept) == Desired.RUNNING
    assert act(kept, "terminate") not in operator.get(kept.get_absolute_url()).text


def test_an_operator_can_stop_it(operator, kept):
    assert operator.post(act(kept, "stop")).status_code == 302
    assert desired(kept) == Desired.STOPPED


def test_an_administrator_can_terminate_it(client, kept):
    client.force_login(factories.administrator())
    assert act(kept, "terminate") in client.get(kept.get_absolute_url()).text
    assert client.post(act(kept, "terminate")).status_code == 302
    assert desired(kept) == Desired.TERMINATED


def test_an_operator_does_not_take_the_protection_away(operator, kept):
    data = form(kept)
    data.pop("protected", None)
    for change in (data, form(kept) | {"protected": "on", "delete_at": "2099-01-01T00:00"}):
        answer = operator.post(reverse("deployment_settings", args=[kept.pk]), change)
        assert answer.status_code == 422
        assert "only an administrator can change this" in answer.text
    now = Deployment.objects.get(pk=kept.pk)
    assert (now.protected, now.delete_at) == (True, None)


def test_an_operator_protects_and_changes_the_rest(operator, kept):
    change = form(kept) | {"protected": "on", "name": "renamed"}
    assert operator.post(reverse("deployment_settings", args=[kept.pk]), change).status_code == 302
    now = Deployment.objects.get(pk=kept.pk)
    assert (now.protected, now.name) == (True, "renamed")
