"""The dated price list of January 2026 on the Compare page itself: every figure, its row, and each verdict."""

from __future__ import annotations

import re
from decimal import Decimal

import pytest
from django.utils import timezone

from deployments import catalog, price_list, public_prices, services
from deployments.models import Deployment, Offer, ProviderAccount
from deployments.models.offer import quote_values
from tests import factories

pytestmark = pytest.mark.django_db
JANUARY = "prices=2026-01&where=eu&context=4096"
LIST = price_list.load("2026-01")


@pytest.fixture
def operator(client):
    client.force_login(factories.operator())
    return client


def page(client, query=JANUARY):
    response = client.get(f"/compare/?{query}")
    assert response.status_code == 200
    return response


def rows(html: str) -> list[str]:
    """The text of each row of the list's own table."""
    table = html[html.index('<table class="listed">') :]
    table = table[: table.index("</table>")]
    words = re.compile(r"<[^>]+>")
    return [" ".join(words.sub(" ", row).split()) for row in table.split("<tr>")[2:]]


@pytest.mark.parametrize(
    ("name", "tier", "line", "hour", "month"),
    [
        ("RTX 3090, direct comparison", "Vast.ai community", 145, "$0.11", "$80.30"),
        ("RTX 3090, direct comparison", "Vast.ai datacenter", 146, "$0.22", "$160.60"),
        ("RTX 3090, direct comparison", "RunPod community", 147, "$0.22", "$160.60"),
        ("RTX 4090, direct comparison", "Vast.ai community", 154, "$0.16", "$116.80"),
        ("RTX 4090, direct comparison", "Vast.ai datacenter", 155, "$0.31", "$226.30"),
        ("RTX 4090, direct comparison", "RunPod community", 156, "$0.34", "$248.20"),
        ("RTX 3090, recommendation", "RunPod secure", 533, "$0.30", "$219.00"),
        ("RTX 3090, budget alternative", "Vast.ai datacenter", 558, "$0.15", "$109.50"),
        ("RTX 4090, active worker", "RunPod serverless active", 115, "$2.77", "$2,022.10"),
    ],
)  # fmt: skip
def test_the_page_shows_the_documents_figure_in_a_row_with_its_own_name_and_line(
    operator, name, tier, line, hour, month
):
    text = page(operator).content.decode()
    mine = [r for r in rows(text) if f"line {line} " in r and r.startswith(name) and tier in r]
    assert len(mine) == 1
    assert f"{hour} /h" in mine[0]
    assert f" {month} " in mine[0]


def test_every_row_of_the_document_stands_on_the_page_once(operator):
    shown = rows(page(operator).content.decode())
    assert len(shown) == len(LIST.rows) == 20
    assert len(set(shown)) == 20


def test_it_is_marked_as_history_with_its_date_and_document_and_nothing_can_be_rented(operator):
    text = page(operator).content.decode()
    for said in ("Historical", "11 January 2026", LIST.document, "Nothing can be rented from them"):
        assert said in text
    assert "/launch/?" not in text
    assert "Historical" not in page(operator, "where=eu").content.decode()


def test_the_contradictions_are_told_with_their_figures_and_lines(operator):
    text = page(operator).content.decode()
    part = text[text.index("Where its figures disagree") :]
    for said in (
        "$0.22 an hour",
        "$0.15 an hour",
        "Both rows stay.",
        "$2,022.10",
        "$160.60",
        "20–30 %",
        "146",
        "558",
    ):
        assert said in part


def test_reliability_first_picks_runpod_in_an_eu_data_centre_and_cheapest_under_150_a_vast_datacenter(
    operator,
):
    for query, policy, name, month in (
        (JANUARY, "reliability", "RunPod secure", "219.00"),
        (f"{JANUARY}&budget=150", "cheapest", "Vast.ai datacenter", "109.50"),
    ):
        verdicts = {v.policy: v.pick for v, _ in page(operator, query).context["verdicts"]}
        pick = verdicts[policy]
        assert (pick.candidate.tier.name, pick.month) == (name, Decimal(month))
        assert pick.candidate.quote.country in {"FR", "AT"}
    assert "any country of the EU" in page(operator, f"{JANUARY}&budget=150").content.decode()


def test_production_leaves_out_community_and_development_may_have_it(operator):
    production = page(operator).content.decode()
    assert "for development and tests only" in production
    asked = page(operator, f"{JANUARY}&purpose=development").context["verdicts"]
    cheapest = next(v.pick for v, _ in asked if v.policy == "cheapest")
    assert (cheapest.candidate.tier.name, cheapest.month) == ("Vast.ai community", Decimal("80.30"))


def test_every_tier_that_is_advised_for_tests_only_says_so(operator):
    lines = page(operator).context["lines"]
    assert {line.tier.name for line in lines if line.tier.development_only} == {
        "RunPod community", "Vast.ai community", "Vast.ai interruptible",
    }  # fmt: skip


def test_a_price_of_a_dated_list_is_never_launched(settings):
    settings.INFERENCE_IMAGE = "an/image"
    account = ProviderAccount.objects.create(name="RunPod", backend="runpod", credentials="k")
    dated = next(q for q in public_prices.quotes("runpod") if q.country == "CZ")
    offer = Offer.objects.create(
        account=account, key=dated.key, fetched_at=timezone.now(), **quote_values(dated)
    )
    model = catalog.get_model("qwen3-4b-awq")
    request = services.LaunchRequest(
        "x", model.key, 4096, offer.pk, "key", allowed_countries=("CZ",), purpose="development"
    )
    with pytest.raises(services.LaunchRefused, match="not live: nothing can be rented from it"):
        services.launch(request, actor=factories.operator(), now=timezone.now())
    assert not Deployment.objects.exists()
