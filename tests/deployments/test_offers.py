"""Offers as they are fetched, kept, judged and ranked."""

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

import pytest

from deployments import catalog, history, offers, public_prices, shelf
from deployments.management.commands import prepare
from deployments.models import Deployment, Instance, Offer, ProviderAccount
from deployments.models.account import ADAPTERS
from deployments.models.offer import freeze_quote
from deployments.providers.base import Unavailable
from tests import factories
from tests.conftest import NOW
from tests.providers.fakecloud import FakeCloud, fake_quote

pytestmark = pytest.mark.django_db

AWQ = catalog.get_model("qwen3-4b-awq")
DEVELOPMENT = Deployment.Purpose.DEVELOPMENT


@pytest.fixture
def account():
    return ProviderAccount.objects.create(name="Cloud", backend="runpod", credentials="key-of-a-test")


@pytest.fixture
def vast():
    return ProviderAccount.objects.create(name="Vast", backend="vast", credentials="key-of-a-test")


def judged(account, quote, **wishes):
    offers.store(account, [quote], now=NOW)
    offer = Offer.objects.select_related("account").get(account=account, key=quote.key)
    return offers.judge(offer, AWQ, **{"context": 8192, "allowed": ("DE", "FR"), **wishes})


# -- fetching


def test_what_vanished_is_kept_for_a_day_and_then_deleted(account):
    offers.store(account, [fake_quote("a"), fake_quote("b")], now=NOW)
    offers.store(account, [fake_quote("b")], now=NOW + timedelta(minutes=1))
    assert set(Offer.objects.filter(available=True).values_list("key", flat=True)) == {"b"}
    offers.store(account, [fake_quote("b")], now=NOW + timedelta(hours=23))
    assert Offer.objects.count() == 2
    offers.store(account, [fake_quote("b")], now=NOW + timedelta(days=1, minutes=2))
    assert list(Offer.objects.values_list("key", flat=True)) == ["b"]


def test_an_offer_that_comes_back_is_available_again(account):
    for quotes in ([fake_quote("a")], [], [fake_quote("a")]):
        offers.store(account, quotes, now=NOW)
    assert Offer.objects.get().available


def test_what_did_not_change_is_not_written_again(account, django_assert_num_queries):
    many = [fake_quote(f"o{i}", usd_per_hour=Decimal(1) / 3) for i in range(200)]
    offers.store(account, many, now=NOW)
    with django_assert_num_queries(
        5
    ):  # the rows, a savepoint and its end, what is gone for a day, the account
        offers.store(account, many, now=NOW + timedelta(minutes=1))
    account.refresh_from_db()
    assert account.offers_at == NOW + timedelta(minutes=1)
    assert set(Offer.objects.values_list("fetched_at", flat=True)) == {NOW}


def test_a_failure_keeps_what_was_known_and_says_so(account, monkeypatch):
    cloud = FakeCloud()
    monkeypatch.setitem(ADAPTERS, "runpod", lambda a: cloud)
    offers.refresh(account, now=NOW)
    monkeypatch.setattr(cloud, "quotes", _fails)
    with pytest.raises(Unavailable):
        offers.refresh(account, now=NOW + timedelta(minutes=11))
    account.refresh_from_db()
    assert Offer.objects.get().available
    assert account.offers_error == "It does not answer."
    [feed] = offers.feeds(ranked(now=NOW), now=NOW + timedelta(minutes=11))
    assert feed.failing
    assert feed.stale


def test_the_next_good_answer_clears_the_error(account, monkeypatch):
    monkeypatch.setitem(ADAPTERS, "runpod", lambda a: FakeCloud())
    ProviderAccount.objects.update(offers_error="It does not answer.")
    offers.refresh(account, now=NOW)
    account.refresh_from_db()
    assert account.offers_error == ""


def _fails():
    raise Unavailable("It does not answer.")


def test_an_odd_failure_tells_its_kind_and_never_its_text(account, monkeypatch):
    def odd():
        raise ValueError("Bearer secret-key")

    cloud = FakeCloud()
    monkeypatch.setattr(cloud, "quotes", odd)
    monkeypatch.setitem(ADAPTERS, "runpod", lambda a: cloud)
    with pytest.raises(ValueError):
        offers.refresh(account, now=NOW)
    account.refresh_from_db()
    assert account.offers_error == "Its answer cannot be read (ValueError)."


# -- without keys, without a network


@pytest.mark.parametrize("backend", ["runpod", "vast"])
def test_offline_there_are_dated_prices_that_nothing_can_be_rented_from(backend, monkeypatch):
    public = ProviderAccount.objects.create(name="Public", backend=backend)
    cloud = FakeCloud()
    monkeypatch.setattr(cloud, "quotes", _fails)
    monkeypatch.setitem(ADAPTERS, backend, lambda a: cloud)
    with pytest.raises(Unavailable):
        offers.refresh(public, now=NOW)
    views = ranked(now=NOW)
    assert views
    assert all("A price of 27 Aug 2026, not live: nothing can be rented from it." in v.reasons for v in views)
    assert offers.feeds(views, now=NOW)[0].dated


def test_live_prices_take_the_place_of_the_dated_ones():
    public = ProviderAccount.objects.create(name="Public", backend="runpod")
    offers.store_dated_prices(public)
    offers.store(public, [fake_quote()], now=NOW)
    assert list(Offer.objects.filter(available=True).values_list("key", flat=True)) == ["fake-4090"]
    [view] = ranked(now=NOW)
    assert view.reasons == ("These are public prices. Give this account a key to rent here.",)


def test_a_panel_without_keys_begins_with_an_account_of_public_prices_for_each_provider():
    prepare.make_public_accounts(now=NOW)
    prepare.make_public_accounts(now=NOW)
    assert set(ProviderAccount.objects.values_list("name", "credentials")) == {
        ("RunPod · public prices", ""), ("Vast.ai · public prices", ""),
    }  # fmt: skip
    assert Offer.objects.count() > 100


def test_a_provider_with_an_account_needs_none_of_public_prices(account):
    prepare.make_public_accounts(now=NOW)
    assert ProviderAccount.objects.filter(backend="runpod").count() == 1


def test_the_snapshot_has_every_price_in_every_eu_data_centre():
    pods = [q for q in public_prices.quotes("runpod") if q.tier == "secure"]
    assert len(pods) == 13 * 7
    assert {q.country for q in pods} == {"CZ", "DK", "FR", "NL", "RO", "SE"}
    assert public_prices.quotes("local") == ()


# -- judging


def test_what_suits_has_no_reason_against_it(account):
    assert judged(account, fake_quote()).suitable


@pytest.mark.parametrize(
    ("facts", "wishes", "sentence"),
    [
        ({"country": "US"}, {}, "US is outside the EEA."),
        ({"country": None}, {}, "The provider does not say in which country it stands."),
        ({"tier": "community"}, {}, "A community host, and nobody answers for its uptime: not for production."),
        ({"interruptible": True}, {}, "A higher bid takes it away at any moment: not for production."),
        ({"max_hours": 12.0}, {}, "It can be rented for 12 h at most; this run is to last 24 h."),
        ({"max_hours": 48.0}, {"hours": 100.0}, "It can be rented for 48 h at most; this run is to last 100 h."),
        ({}, {"price_ceiling": Decimal("0.3")}, "It costs more than the ceiling of $0.3 an hour."),
        ({"vram_mb": 6000}, {}, "It needs 8.0 GB of GPU memory; of 5.9 GB the engine can use 5.3 GB."),
    ],
)  # fmt: skip
def test_each_reason_is_a_sentence(account, facts, wishes, sentence):
    assert judged(account, fake_quote(**facts), **wishes).reasons == (sentence,)


@pytest.mark.parametrize("facts", [{"tier": "community"}, {"interruptible": True}])
def test_development_allows_what_production_excludes(account, facts):
    assert judged(account, fake_quote(**facts), purpose=DEVELOPMENT).suitable


def test_a_blocked_account_says_why(account):
    account.create_refused = "The key may read but not rent."
    account.save()
    assert judged(account, fake_quote()).reasons == ("The key may read but not rent.",)


def test_without_an_image_pods_say_what_to_set_and_serverless_is_not_concerned(account, settings):
    settings.INFERENCE_IMAGE = ""
    assert "INFERENCE_IMAGE" in judged(account, fake_quote()).reasons[0]
    assert judged(account, fake_quote("s", serverless=True)).suitable


def test_an_unencrypted_endpoint_is_refused_until_it_is_allowed(vast, account, settings):
    settings.INFERENCE_IMAGE_TLS = settings.ALLOW_INSECURE_ENDPOINTS = False
    assert "plain HTTP" in judged(vast, fake_quote()).reasons[0]
    assert judged(vast, fake_quote(), allow_plaintext=True).suitable
    assert judged(account, fake_quote()).suitable
    settings.ALLOW_INSECURE_ENDPOINTS = True
    settings.VAST_API_BASE_URL = "https://console.vast.ai"
    assert "plain HTTP" in judged(vast, fake_quote()).reasons[0], (
        "its address would be refused once it stands"
    )
    settings.VAST_API_BASE_URL = "http://127.0.0.1:9"
    assert judged(vast, fake_quote()).suitable, "what is rented from this computer stands on it"


def test_the_ceiling_counts_the_traffic_too(vast, settings):
    settings.EXPECTED_TRAFFIC_GB = 730
    quote = fake_quote(traffic_usd_per_gb=Decimal("0.1"))
    assert judged(vast, quote).known.price.hour == Decimal("0.50")
    assert not judged(vast, quote, price_ceiling=Decimal("0.45")).suitable


# -- ranking, and what is kept of it


def ranked(*, now, **wishes):
    return offers.for_model(AWQ, context=8192, allowed=("DE",), now=now, **wishes)


def test_the_suitable_ones_come_first_then_those_with_the_fewest_reasons(account):
    far = fake_quote("far", country="US")
    worse = fake_quote("worse", country="US", tier="community", usd_per_hour=Decimal("0.01"))
    offers.store(account, [worse, far, fake_quote("fits", usd_per_hour=Decimal(9))], now=NOW)
    assert [v.quote.key for v in ranked(now=NOW)] == ["fits", "far", "worse"]


def test_the_number_of_queries_does_not_grow_with_the_offers(account, django_assert_num_queries):
    offers.store(account, [fake_quote(f"o{i}") for i in range(300)], now=NOW)
    with django_assert_num_queries(4):
        assert len(ranked(now=NOW)) == 300


def test_our_own_history_with_a_host_counts(account):
    kept, bad = (fake_quote(name, host=name, sla=True) for name in ("good-host", "bad-host"))
    offers.store(account, [bad, kept], now=NOW)
    deployment = Deployment.objects.create(
        name="d", model_key=AWQ.key, context=8192, desired="running", created_at=NOW, launch_key="k", owner=factories.operator(),
    )  # fmt: skip
    for n, (quote, failure) in enumerate(
        [(bad, "It never came up."), (bad, "Its driver is broken."), (kept, "")]
    ):
        Instance.objects.create(
            deployment=deployment, account=account, attempt=n, label=f"l{n}", quote=freeze_quote(quote), usd_per_hour=1,
            state="terminated", state_since=NOW, created_at=NOW - timedelta(hours=1), create_sent_at=NOW, remote_id=f"r{n}",
            host=quote.host, failure=failure, ready_at=None if failure else NOW - timedelta(minutes=56),
        )  # fmt: skip
    assert [v.quote.host for v in ranked(now=NOW)] == ["good-host", "bad-host"]
    seen = history.recent(NOW).of(kept)
    assert (seen.worked, seen.failed, seen.seconds_to_ready) == (1, 0, 240.0)
    assert history.recent(NOW + timedelta(days=91)).of(kept) is None


@pytest.mark.django_db(transaction=True)
def test_a_ranking_that_is_kept_is_never_an_old_one(settings):
    account = ProviderAccount.objects.create(name="Cloud", backend="runpod", credentials="key-of-a-test")
    offers.store(account, [fake_quote("a"), fake_quote("b")], now=NOW)
    first = ranked(now=NOW)
    assert all(a is b for a, b in zip(first, ranked(now=NOW), strict=True))
    offers.store(
        account, [fake_quote("a", usd_per_hour=Decimal(1)), fake_quote("b")], now=NOW + timedelta(minutes=1)
    )
    second = ranked(now=NOW)
    assert [v.price.hour for v in second] == [Decimal("0.40"), Decimal(1)]
    assert (
        next(v for v in second if v.quote.key == "b").known
        is next(v for v in first if v.quote.key == "b").known
    )
    ProviderAccount.objects.update(creates_blocked="The key was revoked.")
    assert not any(v.suitable for v in ranked(now=NOW))
    ProviderAccount.objects.update(creates_blocked="")
    settings.INFERENCE_IMAGE = ""
    assert not any(v.suitable for v in ranked(now=NOW))
    Offer.objects.filter(key="a").update(available=False)
    assert [k.quote.key for k in shelf.known()] == ["b"]


def test_a_quote_is_stored_as_it_will_be_read(account):
    quote = fake_quote(usd_per_hour=Decimal(1) / 3, note="n" * 400)
    offers.store(account, [quote], now=NOW)
    [known] = shelf.known()
    assert known.quote == replace(
        quote,
        usd_per_hour=Decimal("0.333333333"),
        compute_usd_per_hour=Decimal("0.333333333"),
        note="n" * 300,
    )
