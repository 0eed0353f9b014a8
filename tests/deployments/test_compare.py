"""The comparison: January 2026's figures and verdicts, and the same code over live offers."""

from dataclasses import replace
from decimal import Decimal

import pytest
from django.utils import timezone

from deployments import catalog, compare, price_list, rank
from deployments.compare import Candidate, Need
from deployments.models import Offer, ProviderAccount
from deployments.models.offer import quote_values
from deployments.residency import EU
from deployments.tiers import TIERS
from tests import factories
from tests.browser.scene import quote

QWEN = catalog.get_model("qwen3-4b-awq")
JANUARY = price_list.load("2026-01")
PRODUCTION, DEVELOPMENT = Need(production=True), Need(production=False)


def january(**changes):
    values = {"context": 4096, "concurrency": 4, "allowed": EU} | changes
    return price_list.candidates(JANUARY, values.pop("model", QWEN), **values)


def candidate(provider, made):
    return Candidate(provider, made, made.usd_per_hour, "an account", rank.place(made))


def month(key):
    return next(p.month for p in compare.price(PRODUCTION, january()) if p.candidate.quote.key == key)


def verdict(policy, need, candidates):
    return next(v for v in compare.verdicts(need, compare.price(need, candidates)) if v.policy == policy)


def picked(policy, need, candidates):
    c = verdict(policy, need, candidates).pick.candidate
    return c.provider, c.quote.tier, c.quote.gpu_name


def line(provider, tier, need, candidates):
    found = compare.lines(need, compare.price(need, candidates), missing={})
    return next(row for row in found if (row.tier.provider, row.tier.key) == (provider, tier))


# -- the document's figures ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "usd"),
    [
        ("vast-community-3090-direct", "80.30"),
        ("vast-datacenter-3090-direct", "160.60"),
        ("runpod-community-3090-direct", "160.60"),
        ("vast-community-4090-direct", "116.80"),
        ("vast-datacenter-4090-direct", "226.30"),
        ("runpod-community-4090-direct", "248.20"),
        ("runpod-secure-3090-advice", "219.00"),
        ("vast-datacenter-3090-budget", "109.50"),
        ("runpod-active-4090-list", "2022.10"),
    ],
)
def test_a_month_costs_what_the_document_of_january_says(key, usd):
    assert month(key) == Decimal(usd)


def test_every_month_that_the_document_writes_is_its_own_hour_times_730():
    stated = [r for r in JANUARY.rows if r.month is not None]
    assert len(stated) == 9
    assert all(r.usd_per_hour * compare.HOURS == r.month for r in stated)


def test_every_row_has_a_name_of_its_own_and_the_line_that_says_its_figure():
    named = {(r.name, r.provider, r.tier, r.gpu) for r in JANUARY.rows}
    assert len(named) == len({r.id for r in JANUARY.rows}) == len(JANUARY.rows)
    assert all(f"${r.usd_per_hour}" in r.source and r.line and r.section for r in JANUARY.rows)


def test_where_the_document_contradicts_itself_both_rows_stay_and_it_is_said():
    both = {
        r.usd_per_hour
        for r in JANUARY.rows
        if (r.provider, r.tier, r.gpu) == ("vast", "datacenter", "RTX 3090")
    }
    assert both == {Decimal("0.22"), Decimal("0.15")}
    said = [c.text for c in JANUARY.contradictions]
    assert any("$0.22" in text and "$0.15" in text for text in said)
    assert any("$2,022.10" in text and "$160.60" in text for text in said)


# -- its verdicts ----------------------------------------------------------------------------------------


def test_reliability_first_for_production_in_the_eu_picks_runpod_in_an_eu_data_centre():
    made = verdict("reliability", PRODUCTION, january()).pick
    assert picked("reliability", PRODUCTION, january()) == ("runpod", "secure", "RTX 3090")
    assert made.candidate.quote.sla
    assert made.candidate.quote.country in EU
    assert made.month == Decimal("219.00")


def test_cheapest_for_production_under_150_dollars_picks_a_vast_datacenter_machine_in_the_eu():
    need = Need(production=True, budget=Decimal(150))
    made = verdict("cheapest", need, january())
    assert picked("cheapest", need, january()) == ("vast", "datacenter", "RTX 3090")
    assert made.pick.candidate.quote.country in EU
    assert made.pick.month == Decimal("109.50")
    assert any("for development and tests only" in text for text in made.excluded)


def test_production_never_gets_a_community_or_an_interruptible_machine():
    bid = quote(
        "bid", "RTX 4090", "CZ", "0.05", tier="interruptible", interruptible=True, certification="ISO 27001"
    )
    offered = [*january(), candidate("vast", bid)]
    for made in compare.verdicts(PRODUCTION, compare.price(PRODUCTION, offered)):
        assert made.pick.candidate.quote.tier in {"secure", "datacenter"}
    assert picked("cheapest", DEVELOPMENT, offered) == ("vast", "interruptible", "RTX 4090")


def test_development_may_take_the_community_at_its_price():
    assert verdict("cheapest", DEVELOPMENT, january()).pick.month == Decimal("80.30")


# -- the tiers' lines ------------------------------------------------------------------------------------


def test_a_line_has_the_cheapest_and_the_median_of_what_fits():
    found = line("vast", "datacenter", PRODUCTION, january())
    assert (found.cheapest.hour, found.median.hour) == (Decimal("0.15"), Decimal("0.22"))
    assert (found.fitting, found.offers) == (5, 5)


def test_where_nothing_fits_the_price_is_shown_with_the_reason():
    found = line("runpod", "community", DEVELOPMENT, january())
    assert found.cheapest is None
    assert found.nearest.month == Decimal("160.60")
    assert "does not say in which country" in found.why


def test_every_known_tier_has_a_line_and_says_why_it_is_empty():
    found = compare.lines(PRODUCTION, [], missing={"vast": "No account is set up."})
    assert {(row.tier.provider, row.tier.key) for row in found} == {(t.provider, t.key) for t in TIERS}
    assert {row.why for row in found if row.tier.provider == "vast"} == {"No account is set up."}
    assert all(row.why and row.tier.pros and row.tier.cons for row in found)


def test_a_tier_that_is_not_described_is_shown_all_the_same():
    offered = quote("new", "B200", "CZ", "2.00", tier="spot")
    found = line("runpod", "spot", PRODUCTION, [candidate("runpod", offered)])
    assert found.cheapest.month == Decimal(1460)


def test_a_flex_worker_costs_its_busy_hours_and_says_where_it_breaks_even():
    half = Need(production=True, busy_hours=Decimal(12))
    found = line("runpod", "serverless-flex", half, january())
    assert found.cheapest.month == Decimal("0.40") * 365
    assert found.break_even.than == "Vast.ai datacenter"
    at = replace(half, busy_hours=found.break_even.hours)
    assert round(line("runpod", "serverless-flex", at, january()).cheapest.month, 6) == Decimal("109.50")


def test_production_breaks_even_against_what_production_may_rent():
    assert line("runpod", "serverless-flex", DEVELOPMENT, january()).break_even.than == "Vast.ai community"


def test_nothing_breaks_even_against_a_machine_that_a_bid_takes_away():
    bid = quote("bid", "RTX 4090", "CZ", "0.05", tier="interruptible", interruptible=True)
    found = line("runpod", "serverless-flex", DEVELOPMENT, [*january(), candidate("vast", bid)])
    assert found.break_even.than == "Vast.ai community"


def test_over_the_budget_is_said_and_the_best_of_it_named():
    need = Need(production=True, budget=Decimal(150))
    assert line("runpod", "secure", need, january()).over_budget
    assert any(
        "RunPod secure at $219.00" in text for text in verdict("reliability", need, january()).excluded
    )


def test_with_no_money_there_is_no_pick_and_a_reason():
    made = verdict("cheapest", Need(production=True, budget=Decimal(1)), january())
    assert made.pick is None
    assert made.reasons


def test_a_larger_need_rules_out_the_small_gpu():
    small = january(concurrency=24, context=4096)
    t4 = next(c for c in small if c.quote.gpu_name == "T4")
    assert "GPU memory" in t4.reasons[0]


# -- the page --------------------------------------------------------------------------------------------


@pytest.fixture
def accounts(db):
    now = timezone.now()
    return {
        backend: ProviderAccount.objects.create(
            name=name, backend=backend, credentials="a-key", offers_at=now
        )
        for backend, name in (("runpod", "RunPod"), ("vast", "Vast.ai"), ("local", "This computer"))
    }


def offer(account, key, gpu, country, price, **more):
    made = quote(key, gpu, country, price, **more)
    return Offer.objects.create(account=account, key=key, fetched_at=timezone.now(), **quote_values(made))


@pytest.fixture
def offered(accounts, settings):
    """The document's rows as live offers."""
    settings.EXPECTED_TRAFFIC_GB, settings.INFERENCE_IMAGE_TLS = 0, True
    for row in JANUARY.rows:
        made = row.quote(EU)
        Offer.objects.create(
            account=accounts[row.provider], fetched_at=timezone.now(), key=row.id, **quote_values(made)
        )
    return accounts


@pytest.fixture
def operator(client, db):
    client.force_login(factories.operator())
    return client


def page(client, query=""):
    response = client.get(f"/compare/?{query}")
    assert response.status_code == 200
    return response


def test_live_offers_at_the_prices_of_january_get_the_verdicts_of_january(operator, offered):
    got = page(operator, "where=eu&context=4096").context["verdicts"]
    assert {v.policy: v.pick.month for v, _ in got} == {
        "reliability": Decimal("219.00"), "balanced": Decimal("109.50"), "cheapest": Decimal("109.50"),
    }  # fmt: skip


def test_a_verdict_leads_to_the_prepared_launch(operator, offered):
    text = page(operator, "where=eu&context=4096&concurrency=2").content.decode()
    pk = Offer.objects.get(key="runpod-secure-3090-advice").pk
    assert f"offer={pk}" in text
    for part in ("policy=reliability", "concurrency=2", "context=4096", "purpose=production", "countries=FR"):
        assert part in text


def test_a_viewer_sees_the_comparison_and_no_launch(client, offered):
    client.force_login(factories.viewer())
    assert "Prepare this launch" not in page(client).content.decode()


def test_the_list_of_january_is_shown_with_its_date_its_lines_and_its_contradictions(operator, db):
    text = page(operator, "prices=2026-01&where=eu&context=4096").content.decode()
    for said in (
        "11 January 2026",
        "$219.00",
        "$2,022.10",
        "line 558",
        "Where its figures disagree",
        "Both rows stay.",
    ):
        assert said in text
    assert "Prepare this launch" not in text


def test_no_account_no_offers_and_a_failed_fetch_are_said(operator, accounts):
    accounts["vast"].delete()
    accounts["local"].offers_error = "It timed out."
    accounts["local"].save()
    text = page(operator).content.decode()
    assert "No account is set up, so its prices are not known." in text
    assert "It answers and offers nothing now." in text
    assert "The last fetch failed: It timed out." in text


def test_what_stands_in_the_way_of_renting_is_said_beside_the_verdict(operator, offered, settings):
    settings.INFERENCE_IMAGE = ""
    text = page(operator, "where=eu&context=4096").content.decode()
    assert "No image is set for rented machines" in text
    assert "$219.00" in text


def test_wrong_values_are_answered_and_the_page_stands(operator, offered):
    bad = "model=nothing&concurrency=0&context=999999&countries=US&budget=NaN&busy_hours=99&prices=1999-01&purpose=%00"
    text = page(operator, bad).content.decode()
    assert "This model is not in the catalogue." in text
    assert "US is outside the EEA" in text


def test_the_fragment_says_its_own_address_and_what_was_wrong(operator, offered):
    headers = {"HX-Request": "true", "HX-Target": "comparison"}
    response = operator.get("/compare/?where=eu&budget=150&concurrency=0", headers=headers)
    assert "<html" not in response.content.decode()
    assert "Requests at once:" in response.content.decode()
    assert "budget=150" in response["HX-Replace-Url"]


def test_it_costs_the_same_queries_with_many_offers(
    operator, offered, django_assert_num_queries, django_assert_max_num_queries
):
    with django_assert_max_num_queries(14) as few:
        page(operator)
    for n in range(60):
        offer(offered["vast"], f"more-{n}", "RTX 3090", "FR", "0.5", tier="datacenter")
    with django_assert_num_queries(len(few)):
        page(operator)
