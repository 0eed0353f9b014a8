"""RunPod's load balancer in the panel: off by itself, and like every serverless tier once it is switched on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from deployments import catalog, compare, offers, tiers
from deployments.models import Offer, ProviderAccount
from deployments.providers.runpod_offers import BALANCED
from tests import factories
from tests.emulators.runpod import RunPodEmulator

pytestmark = pytest.mark.django_db
NAME = "RunPod serverless load balancer"


@pytest.fixture
def cloud(settings: Any) -> Iterator[RunPodEmulator]:
    with RunPodEmulator() as emulator:
        settings.RUNPOD_API_BASE_URL = emulator.url
        settings.RUNPOD_BALANCER_URL_TEMPLATE = f"{emulator.url}/balancer/{{endpoint_id}}"
        yield emulator
    assert emulator.violations == []


@pytest.fixture
def offered(cloud: RunPodEmulator) -> Any:
    """Fetches the account's offers; returns those of the tier."""

    def fetch() -> list[Offer]:
        account, _ = ProviderAccount.objects.get_or_create(
            name="RunPod", defaults={"backend": "runpod", "credentials": cloud.keys[0]}
        )
        offers.refresh(account, now=timezone.now())
        return list(Offer.objects.select_related("account").filter(tier=BALANCED, available=True))

    return fetch


def judged(offer: Offer) -> tuple[str, ...]:
    model = catalog.get_model("qwen3-4b-awq")
    assert model
    return offers.judge(offer, model, context=4096, allowed=("RO", "SE", "CZ", "FR", "NL")).reasons


def page(client: Client, address: str) -> str:
    client.force_login(factories.operator())
    response = client.get(address)
    assert response.status_code == 200
    return str(response.content.decode())


def test_both_halves_of_the_panel_mean_the_same_tier() -> None:
    assert tiers.BALANCED == BALANCED
    assert tiers.described("runpod", BALANCED).name == NAME


def test_it_is_offered_and_named_only_where_it_is_switched_on(
    offered: Any, client: Client, settings: Any
) -> None:
    assert offered() == []
    assert NAME not in page(client, "/compare/")
    settings.RUNPOD_LOAD_BALANCER = True
    assert offered()
    assert NAME in page(client, "/compare/?context=4096")
    assert BALANCED in page(client, "/launch/?model=qwen3-4b-awq&context=4096&show=200")
    settings.RUNPOD_LOAD_BALANCER = False
    assert offered() == []


def test_it_is_judged_as_a_serverless_tier_that_runs_our_image(offered: Any, settings: Any) -> None:
    settings.RUNPOD_LOAD_BALANCER = True
    here = next(o for o in offered() if o.country == "RO" and (o.vram_mb or 0) >= 24_000)
    assert judged(here) == ()
    settings.INFERENCE_IMAGE_TLS = False
    assert judged(here) == (), "RunPod ends TLS before its door"
    settings.INFERENCE_IMAGE = ""
    assert [r for r in judged(here) if "INFERENCE_IMAGE" in r]
    flex = Offer.objects.select_related("account").get(key=here.key.replace(BALANCED, "serverless-flex"))
    assert judged(flex) == (), "RunPod's own worker needs none of ours"


def test_it_sleeps_in_the_comparison_as_flex_does(offered: Any, settings: Any) -> None:
    settings.RUNPOD_LOAD_BALANCER = True
    [first, *_] = offered()
    quote = offers.judge(first, catalog.MODELS[0], context=4096, allowed=("RO",)).quote
    candidate = compare.Candidate("runpod", quote, quote.usd_per_hour, "RunPod", place=None)  # type: ignore[arg-type]
    assert candidate.scales_to_zero
    assert not candidate.stays_on
