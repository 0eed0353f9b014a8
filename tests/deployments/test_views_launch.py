"""The Launch page: one form is one launch, and a refusal loses nothing."""

import re
from datetime import timedelta
from decimal import Decimal

import pytest
from django.utils import timezone

from billing import budgets
from deployments.models import Deployment, Offer
from tests import factories
from tests.browser import scene

pytestmark = pytest.mark.django_db


@pytest.fixture
def made():
    return scene.build(now=timezone.now())


@pytest.fixture
def operator(client, made):
    client.force_login(factories.operator())
    return client


@pytest.fixture
def form(operator):
    """What a browser would send back of the fresh form."""
    page = operator.get("/launch/").content.decode()
    return {
        "launch_key": re.search(r'name="launch_key" value="(\w+)"', page)[1], "model": "smollm2-135m", "context": "4096",
        "policy": "reliability", "countries": ["CZ", "FR"], "name": "my model", "price_ceiling": "", "stop_at": "",
        "offer": str(Offer.objects.get(key="cpu").pk),
    }  # fmt: skip


def text(response):
    return response.content.decode()


def test_the_button_says_what_it_costs_before_it_is_clicked(operator):
    page = text(operator.get("/launch/"))
    assert re.search(
        r"Launch · \$0\.05/h · at most \$\d+\.\d\d by <time[^>]*>the end of \d+ \w+</time>", page
    )
    assert "$36.50" in page


def test_a_launch_leads_to_its_deployment(operator, form, rung):
    response = operator.post("/launch/", form, follow=True)
    assert "my model is being launched." in text(response)
    assert Deployment.objects.get(name="my model").instances.count() == 1


def test_the_same_form_sent_twice_is_one_launch(operator, form, rung):
    first, second = operator.post("/launch/", form), operator.post("/launch/", form)
    assert first.url == second.url
    assert Deployment.objects.filter(name="my model").count() == 1


def test_each_form_has_a_launch_key_of_its_own(operator):
    keys = {
        re.search(r'name="launch_key" value="(\w+)"', text(operator.get("/launch/")))[1] for _ in range(3)
    }
    assert len(keys) == 3


def test_an_offer_that_has_vanished_is_said_and_nothing_typed_is_lost(operator, form):
    response = operator.post("/launch/", {**form, "offer": "999999"})
    page = text(response)
    assert response.status_code == 422
    assert "This offer has vanished." in page
    assert 'value="my model"' in page
    assert form["launch_key"] in page


def test_an_offer_that_stopped_being_offered_is_refused(operator, form):
    Offer.objects.filter(key="cpu").update(available=False)
    assert "no longer offered" in text(operator.post("/launch/", form))


def test_a_launch_over_the_budget_is_refused_with_the_figures(operator, form, made):
    budgets.set_budget(Decimal(1), "month", True, actor=made.administrator, now=timezone.now())
    page = text(operator.post("/launch/", form))
    assert re.search(r"It needs \$[\d.]+ to the end of \w+, \$0\.00 is free of \$1\.00", page)
    assert not Deployment.objects.filter(name="my model").exists()


def test_what_does_not_fit_the_budget_cannot_be_clicked(operator, made):
    budgets.set_budget(Decimal(1), "month", True, actor=made.administrator, now=timezone.now())
    page = text(operator.get("/launch/"))
    assert "does not fit" in page
    assert re.search(r'<button class="button primary full" disabled>', page)


def test_an_unsuitable_offer_is_greyed_and_says_why(operator):
    page = text(operator.get("/launch/?model=qwen3-4b-fp8"))
    for reason in (
        "United States",
        "US is outside the EEA.",
        "The provider does not say in which country it stands.",
        "This model needs a GPU.",
    ):
        assert reason in page
    disabled = Offer.objects.get(key="us-3090").pk
    assert re.search(rf'id="offer-{disabled}" value="{disabled}" disabled', page)


def test_a_country_outside_the_allowed_ones_is_refused_by_the_server(operator, form):
    offer = Offer.objects.get(key="us-3090").pk
    page = text(operator.post("/launch/", {**form, "model": "qwen3-4b-fp8", "offer": str(offer)}))
    assert "US is outside the EEA." in page
    assert not Deployment.objects.filter(name="my model").exists()


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("model", "gpt", "This model is not in the catalogue."), ("context", "12", "greater than or equal to 256"),
        ("context", "999999", "takes at most 8,192 tokens"), ("context", "many", "Enter a whole number."),
        ("offer", "x", "This offer has vanished."), ("offer", "", "Choose an offer."), ("policy", "worst", "Select a valid choice"),
        ("countries", [], "Allow at least one country."), ("countries", ["US"], "Select a valid choice"),
        ("price_ceiling", "-1", "greater than or equal to 0"), ("price_ceiling", "0.01", "more than the ceiling"),
        ("stop_at", "yesterday", "Enter a valid date"), ("stop_at", "2020-01-01T00:00", "The stop date has passed."),
        ("launch_key", "", "did not arrive whole"), ("launch_key", "k" * 65, "was changed on its way"), ("name", "n" * 81, "at most 80 characters"),
    ],
)  # fmt: skip
def test_each_wrong_value_gets_its_sentence_and_keeps_the_rest(operator, form, field, value, sentence):
    response = operator.post("/launch/", {**form, field: value})
    page = text(response)
    assert response.status_code == 422
    assert sentence in page
    assert field == "name" or 'value="my model"' in page
    assert not Deployment.objects.filter(name="my model").exists()


def test_an_empty_post_is_answered_with_the_form(operator):
    assert operator.post("/launch/", {}).status_code == 422


def test_another_model_brings_its_own_context_length(operator):
    headers = {"HX-Request": "true", "HX-Target": "choice"}
    part = text(
        operator.get("/launch/?model=qwen3-4b-fp8&shown_model=smollm2-135m&context=4096", headers=headers)
    )
    assert 'id="context-field" hx-swap-oob="true"' in part
    assert 'value="8192"' in part


def test_a_stop_date_bounds_what_it_can_cost(operator, form):
    stop = (timezone.now() + timedelta(hours=10)).strftime("%Y-%m-%dT%H:%M")
    headers = {"HX-Request": "true", "HX-Target": "choice"}
    part = text(operator.get(f"/launch/?stop_at={stop}", headers=headers))
    cost = Decimal(re.search(r"at most \$(\d+\.\d+) by", part)[1])
    assert Decimal("0.45") < cost <= Decimal("0.50")


def test_to_look_at_offers_launches_nothing_and_keeps_the_token_out_of_the_address(operator, form):
    before = Deployment.objects.count()
    answer = operator.post("/launch/", form | {"look": "100", "csrfmiddlewaretoken": "secret"})
    assert answer.status_code == 302
    assert "secret" not in answer.url
    assert Deployment.objects.count() == before
    shown = operator.get(answer.url)
    assert shown.context["choice"].filters.show == 100
    assert form["name"] in shown.content.decode()


def test_a_viewer_cannot_launch(client, made):
    client.force_login(factories.viewer())
    assert client.post("/launch/", {}).status_code == 403
