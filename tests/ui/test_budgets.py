"""The Budgets page and its forms."""

import re
from datetime import timedelta
from decimal import Decimal

import pytest
from django.utils import timezone

from billing import budgets, forecast
from billing.models import Budget
from deployments import runway
from deployments.models import ProviderAccount
from panel.notices.models import Notice
from tests import factories
from tests.browser import scene

pytestmark = pytest.mark.django_db
FORM = {
    "name": "One day", "target": "provider:runpod", "amount": "40", "period": "day", "rungs": "50 %, 90",
    "hard_stop": "on", "blocks": "on",
}  # fmt: skip


@pytest.fixture
def made():
    return scene.build(now=timezone.now())


def test_it_shows_each_budget_its_bound_and_its_lift(client, made):
    client.force_login(factories.viewer())
    page = client.get("/spend/budgets/").content.decode()
    for words in (
        "held for what runs",
        "may be spent beyond the budget",
        "Lifted until",
        "The load test.",
        "Run-rate",
    ):
        assert words in page
    assert "Add a budget" not in page
    assert "/remove/" not in page


def test_an_administrator_adds_changes_and_removes_a_budget(client, made):
    client.force_login(made.administrator)
    said = client.post("/spend/budgets/add/", FORM, follow=True).content.decode()
    assert "The budget One day is $40.00 a day." in said
    budget = Budget.objects.get(name="One day")
    assert (budget.provider, budget.target_label, budget.rungs) == ("runpod", "RunPod", [50, 90])
    assert not budget.warns_of_forecast
    client.post(f"/spend/budgets/{budget.pk}/", {**FORM, "amount": "41", "target": "everything"})
    budget.refresh_from_db()
    assert (budget.amount_usd, budget.provider) == (41, "runpod"), "what it is about stays"
    client.post(f"/spend/budgets/{budget.pk}/remove/")
    assert not Budget.objects.filter(name="One day").exists()


def test_a_lift_is_set_and_ended(client, made):
    client.force_login(made.administrator)
    path = f"/spend/budgets/{made.budget.pk}"
    assert client.post(f"{path}/lift/", {"hours": "6", "reason": ""}).status_code == 422
    client.post(f"{path}/lift/", {"hours": "6", "reason": "A demonstration."})
    assert Budget.objects.get(pk=made.budget.pk).is_lifted(timezone.now())
    client.post(f"{path}/hold/")
    assert not Budget.objects.get(pk=made.budget.pk).is_lifted(timezone.now())


@pytest.mark.parametrize(
    ("field", "value"),
    [("amount", v) for v in ("", "a lot", "-5", "NaN", "1e999", "12345678901234")]
    + [("name", ""), ("name", "everything"), ("rungs", "half"), ("rungs", "0"), ("rungs", "999"), ("target", "x:y")],
)  # fmt: skip
def test_a_wrong_value_comes_back_with_a_sentence_and_what_was_typed(client, made, field, value):
    client.force_login(made.administrator)
    response = client.post("/spend/budgets/add/", {**FORM, field: value})
    page = response.content.decode()
    assert response.status_code == 422
    assert f'id="id_{field}_error"' in page
    assert not Budget.objects.filter(name="One day").exists()


def test_without_a_budget_it_says_that_spending_is_unlimited(client):
    client.force_login(factories.administrator())
    page = client.get("/spend/budgets/").content.decode()
    assert "spending is unlimited" in page
    assert "no account tells a prepaid balance" in page


def test_the_launch_page_says_which_budget_would_be_exhausted_and_when(client, made):
    client.force_login(made.administrator)
    assert 'id="after-this"' not in client.get("/launch/?model=qwen3-4b-fp8").content.decode()
    spent = budgets.status(now=timezone.now()).spent
    Budget.objects.filter(pk=made.budget.pk).update(amount_usd=spent + Decimal("0.5"))
    page = client.get("/launch/?model=qwen3-4b-fp8").content.decode()
    after = re.search(r'id="after-this">(.*?)</dd>', page, re.DOTALL)[1]
    assert re.search(r"exhausted <time[^>]*>(Mon|Tue|Wed|Thu|Fri|Sat|Sun) ", after)
    assert "Everything" in after
    assert re.search(r"It needs \$[\d.,]+ .*, \$0\.00 is free of \$[\d.,]+ in the budget Everything", page)


def test_the_overview_shows_the_budget_that_binds_first_by_name(client, made):
    client.force_login(made.administrator)
    assert "which binds first" not in client.get("/").content.decode()
    Budget.objects.create(name="RunPod alone", provider="runpod", amount_usd=Decimal("0.5"))
    page = client.get("/").content.decode()
    assert re.search(r"exhausted <time.*RunPod alone</a>, which binds first", page)
    assert '<span class="unit">of $0.50</span>' in page


def test_spend_foresees_the_month_with_a_budget_and_without(client, made):
    client.force_login(made.administrator)
    for budget in ("a month", "a day", "none"):
        if budget == "a day":
            Budget.objects.filter(pk=made.budget.pk).update(period="day")
        elif budget == "none":
            Budget.objects.all().delete()
        page = client.get("/spend/").content.decode()
        now = timezone.now()
        assert forecast.month(now=now).expected == (foreseen := forecast.of(now=now).expected)
        shown = re.search(r"<dt>Forecast</dt><dd>\$([\d.,]+)</dd>", page)[1].replace(",", "")
        assert abs(Decimal(shown) - foreseen) < 1


def test_an_account_that_runs_dry_is_told_once_at_a_day_and_worse_at_six_hours(client, made):
    now = timezone.now()
    burn = runway.forecast.burn_by_account()[made.account.pk]

    def left(hours):
        ProviderAccount.objects.filter(pk=made.account.pk).update(balance_usd=burn * hours, balance_at=now)
        runway.watch(now=now)
        return Notice.objects.filter(key=f"runway:{made.account.pk}", cleared_at=None)

    assert not left(25)
    assert left(23).get().severity == "warning"
    assert left(5).get().severity == "critical"
    assert Notice.objects.filter(key=f"runway:{made.account.pk}").count() == 1
    client.force_login(made.administrator)
    page = client.get("/spend/budgets/").content.decode()
    assert "At $0 RunPod terminates pods" in page
    ProviderAccount.objects.filter(pk=made.account.pk).update(balance_at=now - timedelta(hours=1))
    assert ", old" in client.get("/spend/budgets/").content.decode()
    assert not left(100)
