"""A page serves its own fragments, and says nothing when there is no news."""

import pytest
from django.utils import timezone

from deployments.lifecycle import State
from tests.browser import scene

pytestmark = pytest.mark.django_db


def ask(client, path, target, tag=""):
    return client.get(path, headers={"HX-Request": "true", "HX-Target": target, "If-None-Match": tag})


@pytest.fixture
def idle(client, administrator):
    """Signed in, and nothing runs: no figure changes by itself."""
    client.force_login(administrator)
    return client


@pytest.fixture
def administrator():
    from tests import factories

    return factories.administrator()


@pytest.mark.parametrize(
    ("path", "target"),
    [("/", "fleet"), ("/deployments/", "fleet"), ("/spend/", "money"), ("/launch/", "choice")],
)
def test_a_fragment_is_a_part_of_its_page(idle, path, target):
    page, part = idle.get(path).content.decode(), ask(idle, path, target).content.decode()
    assert "<html" in page
    assert f'id="{target}"' in page
    assert "<html" not in part
    assert part.lstrip().startswith("<")
    assert f'id="{target}"' in part


@pytest.mark.parametrize(
    ("path", "target"), [("/", "fleet"), ("/deployments/", "fleet"), ("/spend/", "money")]
)
def test_a_poll_without_news_answers_304(idle, path, target):
    first = ask(idle, path, target)
    again = ask(idle, path, target, first["ETag"])
    assert (first.status_code, again.status_code) == (200, 304)
    assert not again.content


def test_ages_alone_are_no_news(client):
    made = scene.build(now=timezone.now())
    client.force_login(made.administrator)
    path = f"/deployments/{made.failed.pk}/"
    first = ask(client, path, "panel")
    assert "<time" in first.content.decode()
    assert ask(client, path, "panel", first["ETag"]).status_code == 304


def test_a_change_is_news(client):
    made = scene.build(now=timezone.now())
    client.force_login(made.administrator)
    path = f"/deployments/{made.starting.pk}/"
    tag = ask(client, path, "status")["ETag"]
    instance = made.starting.instances.get()
    instance.advance(State.WARMING, reason="", now=timezone.now())
    assert ask(client, path, "status", tag).status_code == 200


def test_a_fragment_that_the_page_does_not_name_is_the_whole_page(idle):
    assert "<html" in ask(idle, "/", "anything").content.decode()


def test_a_fragment_never_stays_in_a_cache(idle):
    response = ask(idle, "/", "fleet")
    assert "no-store" in response["Cache-Control"]
    assert "HX-Request" in response["Vary"]
