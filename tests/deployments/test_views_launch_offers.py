"""The Launch page's offers: filters, sorting, all wishes within reach, and how the prices came."""

import re
from datetime import UTC, datetime, time, timedelta
from decimal import Decimal

import pytest
from django.utils import timezone

from deployments import offers
from deployments.models import Deployment, Offer, ProviderAccount
from tests import factories
from tests.browser.scene import quote

pytestmark = pytest.mark.django_db

PART = {"HX-Request": "true", "HX-Target": "choice"}
SOON = timezone.now() + timedelta(days=3)


@pytest.fixture
def now():
    return timezone.now()


@pytest.fixture
def market(now):
    """Two accounts and what they offer for a model that needs a GPU."""
    runpod = ProviderAccount.objects.create(name="RunPod", backend="runpod", credentials="key-of-a-test")
    vast = ProviderAccount.objects.create(name="Vast.ai", backend="vast", credentials="key-of-a-test")
    offers.store(runpod, [
        quote("cz-4090", "RTX 4090", "CZ", "0.69", data_center="EU-CZ-1", sla=True, reliability=None),
        quote("nl-l4", "L4", "NL", "0.43", data_center="EU-NL-1", sla=True, reliability=None),
        quote("us-l4", "L4", "US", "0.40", data_center="US-DE-1", sla=True, reliability=None),
    ], now=now)  # fmt: skip
    offers.store(vast, [
        quote("fr-3090", "RTX 3090", "FR", "0.22", tier="datacenter", certification="ISO 27001", max_hours=1440.0),
        quote("de-4090", "RTX 4090", "DE", "0.30", tier="community", reliability=0.95),
        quote("fr-bid", "RTX 3090", "FR", "0.106", tier="interruptible", interruptible=True),
    ], now=now)  # fmt: skip
    return {o.key: o.pk for o in Offer.objects.all()}


@pytest.fixture
def operator(client, market):
    client.force_login(factories.operator())
    return client


def part(client, query=""):
    return client.get(f"/launch/?model=qwen3-4b-awq&{query}", headers=PART).content.decode()


def order(page, market):
    names = {pk: key for key, pk in market.items()}
    return [names[int(pk)] for pk in re.findall(r'id="offer-(\d+)"', page)]


def form(operator, **values):
    page = operator.get("/launch/?model=qwen3-4b-awq").content.decode()
    key = re.search(r'name="launch_key" value="(\w+)"', page)[1]
    return {"launch_key": key, "model": "qwen3-4b-awq", "context": "8192", "countries": ["CZ", "FR", "NL", "DE"], "name": "mine", **values}  # fmt: skip


def test_reliability_comes_first_and_production_takes_no_single_hosts(operator, market):
    page = part(operator)
    assert order(page, market)[:3] == ["nl-l4", "cz-4090", "fr-3090"]
    assert page.count("not for production") == 2


def test_development_takes_them_and_the_cheapest_first(operator, market):
    assert order(part(operator, "purpose=development&policy=cheapest"), market)[:3] == [
        "fr-bid",
        "fr-3090",
        "de-4090",
    ]


@pytest.mark.parametrize(
    ("query", "kept"),
    [
        ("provider=vast", {"fr-3090", "de-4090", "fr-bid"}), ("tier=datacenter", {"fr-3090"}), ("gpu=L4", {"nl-l4", "us-l4"}),
        ("vram=48", set()), ("country=FR", {"fr-3090", "fr-bid"}), ("country=EEA&gpu=L4", {"nl-l4"}),
        ("max_price=0.25", {"fr-3090", "fr-bid"}), ("certified=certified", {"fr-3090"}), ("certified=sla", {"cz-4090", "nl-l4", "us-l4"}),
        ("suitable=1", {"cz-4090", "nl-l4", "fr-3090"}), ("max_price=cheap&vram=x&sort=?&show=-1&country=", None),
    ],
)  # fmt: skip
def test_each_filter_keeps_what_it_says(operator, market, query, kept):
    assert set(order(part(operator, query), market)) == (set(market) if kept is None else kept)


@pytest.mark.parametrize(
    ("sort", "first"),
    [
        ("price", "fr-3090"), ("price&reverse=1", "cz-4090"), ("gpu", "nl-l4"), ("country", "cz-4090"), ("place", "cz-4090"),
        ("provider", "nl-l4"), ("tier", "fr-3090"), ("reliability", "fr-3090"), ("rental&reverse=1", "fr-3090"),
        ("certification", "nl-l4"), ("vram", "nl-l4"), ("stock", "nl-l4"), ("ready", "nl-l4"), ("held", "nl-l4"),
    ],
)  # fmt: skip
def test_it_sorts_by_everything_a_row_shows(operator, market, sort, first):
    assert order(part(operator, f"sort={sort}"), market)[0] == first


def test_the_choice_follows_the_filters_until_somebody_chooses(operator, market):
    usual = market["nl-l4"]
    followed = part(operator, f"offer={usual}&usual={usual}&country=FR")
    assert re.search(rf'id="offer-{market["fr-3090"]}"[^>]* checked', followed)
    by_hand = part(operator, f"offer={market['cz-4090']}&usual={usual}")
    assert re.search(rf'id="offer-{market["cz-4090"]}"[^>]* checked', by_hand)


def test_fifty_are_shown_and_the_chosen_one_among_them(operator, market, now):
    account = ProviderAccount.objects.get(name="RunPod")
    offers.store(account, [quote(f"o{i}", "L4", "NL", f"0.{100 + i}", sla=True) for i in range(120)], now=now)
    last = Offer.objects.get(key="o119").pk
    page = part(operator, f"offer={last}")
    shown = re.findall(r'id="offer-(\d+)"', page)
    assert len(shown) == 51
    assert shown[0] == str(last)
    assert "Show 50 more" in page
    assert len(re.findall(r'id="offer-(\d+)"', part(operator, "show=50&show=100"))) == 100


def test_the_number_of_queries_does_not_grow_with_the_offers(
    operator, market, now, django_assert_max_num_queries
):
    account = ProviderAccount.objects.get(name="RunPod")
    offers.store(account, [quote(f"o{i}", "L4", "NL", "0.4", sla=True) for i in range(300)], now=now)
    with django_assert_max_num_queries(18):
        part(operator)


def test_the_summary_says_what_comes_next_if_it_fails(operator, market):
    assert re.search(
        r"If it fails: next <strong>RTX 4090</strong> at RunPod.*, then <strong>RTX 3090</strong>",
        part(operator),
    )
    assert "nothing else is tried: plan B is 0" in part(operator, "plan_b=0")


def test_a_provider_that_fails_is_said_and_the_others_stay(operator, market, now):
    ProviderAccount.objects.filter(name="Vast.ai").update(
        offers_error="Vast.ai answers 503.", offers_at=now - timedelta(minutes=12)
    )
    page = part(operator)
    assert "could not be asked: Vast.ai answers 503." in page
    assert "stale" in page
    assert len(order(page, market)) == 6


def test_dated_prices_say_so(operator, market):
    offers.store_dated_prices(ProviderAccount.objects.create(name="Public", backend="vast"))
    assert "Prices of 27 Aug 2026, not live; nothing can be rented from them." in part(operator)


def test_bid_fields_are_there_for_an_interruptible_offer_alone(operator, market):
    assert 'name="bid_usd_per_hour"' not in part(operator)
    page = part(operator, f"purpose=development&offer={market['fr-bid']}&bid_policy=raise&bid_ceiling=0.5")
    assert "The lowest that wins now is $0.10/h." in page
    # It may come to the ceiling of its bid, with the disk beside it; the price shown is that of the first bid.
    wait = part(operator, f"purpose=development&offer={market['fr-bid']}&bid_policy=wait&bid_ceiling=0.5")
    first, most = (Decimal(re.search(r"at most \$(\d+\.\d+) by", p)[1]) for p in (wait, page))
    assert abs(most - first * Decimal("0.506") / Decimal("0.106")) < Decimal("0.05")


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"bid_usd_per_hour": "0.05"}, "The lowest bid that wins now is $0.10/h."),
        ({"bid_usd_per_hour": "0.3", "bid_ceiling": "0.2"}, "The ceiling is below the first bid."),
        ({"bid_policy": "raise"}, "To raise the bid, it must be known up to where."),
        ({"plan_b": "99"}, "less than or equal to 10"), ({"purpose": "fun"}, "Select a valid choice"),
        ({"delete_at": "2020-01-01T00:00"}, "This date has passed."), ({"time_zone": "Mars/Base"}, "There is no such time zone."),
        ({"stop_at": f"{SOON:%Y-%m-%dT12:00}", "delete_at": f"{SOON:%Y-%m-%dT11:00}"}, "It would be deleted before its stop date."),
        ({"schedule_days": ["1"]}, "A schedule needs this hour, or no day."), ({"schedule_from": "08:00"}, "Choose the days on which it runs"),
        ({"stop_at": "2027-03-28T02:30", "time_zone": "Europe/Berlin"}, "may not exist"),
    ],
)  # fmt: skip
def test_each_wrong_wish_gets_its_sentence(operator, market, values, sentence):
    sent = form(operator, offer=market["fr-bid"], **{"purpose": "development", **values})
    response = operator.post("/launch/", sent)
    assert response.status_code == 422
    assert sentence in response.content.decode()
    assert not Deployment.objects.exists()


def test_every_wish_reaches_the_deployment(operator, market, rung):
    stop, delete = SOON.replace(hour=12, minute=0), SOON.replace(hour=18, minute=0)
    sent = form(
        operator, offer=market["fr-bid"], purpose="development", policy="cheapest", plan_b="1", price_ceiling="0.9", time_zone="Europe/Athens",
        stop_at=f"{stop:%Y-%m-%dT%H:%M}", delete_at=f"{delete:%Y-%m-%dT%H:%M}", schedule_days=["5", "1"], schedule_from="08:00",
        schedule_until="20:00", bid_usd_per_hour="0.2", bid_ceiling="0.4", bid_policy="raise", allow_plaintext="on", concurrency="2",
    )  # fmt: skip
    response = operator.post("/launch/", sent)
    assert response.status_code == 302, response.content.decode()
    made = Deployment.objects.get()
    assert (made.purpose, made.policy, made.plan_b, made.allow_plaintext) == (
        "development",
        "cheapest",
        1,
        True,
    )
    assert (made.bid_policy, made.bid_ceiling) == ("raise", Decimal("0.4"))
    assert (made.schedule_days, made.schedule_from, made.schedule_until) == ("15", time(8), time(20))
    # Athens is two or three hours ahead of UTC.
    assert made.time_zone == "Europe/Athens"
    assert datetime(stop.year, stop.month, stop.day, 12, tzinfo=UTC) - made.stop_at in {
        timedelta(hours=2),
        timedelta(hours=3),
    }
    assert made.delete_at - made.stop_at == timedelta(hours=6)


def test_the_schedule_is_shown_with_its_zone_and_what_it_costs(operator, market):
    page = part(
        operator,
        "schedule_days=1&schedule_days=2&schedule_from=08:00&schedule_until=20:00&time_zone=Europe/Berlin",
    )
    assert "Mon, Tue 08:00–20:00" in page
    assert "Europe/Berlin" in page
    assert re.search(r"about \$\d+\.\d\d a month", page)


def test_plaintext_is_asked_only_when_it_matters(operator, market, settings):
    assert 'name="allow_plaintext"' not in operator.get("/launch/").content.decode()
    settings.INFERENCE_IMAGE_TLS = False
    page = operator.get("/launch/?model=qwen3-4b-awq").content.decode()
    assert 'name="allow_plaintext"' in page
    assert "plain HTTP" in page
    settings.ALLOW_INSECURE_ENDPOINTS, settings.VAST_API_BASE_URL = True, "http://127.0.0.1:9"
    assert 'name="allow_plaintext"' not in operator.get("/launch/").content.decode()


def test_serverless_says_what_it_cannot_promise(operator, market, now):
    account = ProviderAccount.objects.get(name="RunPod")
    offers.store(
        account,
        [quote("flex", "L4", "NL", "0.7", tier="serverless-flex", serverless=True, sla=True)],
        now=now,
    )
    page = part(operator)
    assert "checked after the launch" in page
    assert "no watchdog" in page
