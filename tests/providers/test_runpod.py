"""RunPod keeps what every provider must keep: pods and serverless endpoints, against the emulator."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from deployments.providers.base import Order, Provider, Quote
from deployments.providers.runpod import RunPodProvider
from tests.emulators.runpod import RunPodEmulator
from tests.providers.contract import ProviderContract, new_label
from tests.providers.runpod import IMAGE, adapter, usual_quote


@pytest.fixture
def cloud() -> Iterator[RunPodEmulator]:
    with RunPodEmulator() as emulator:
        yield emulator
    assert emulator.violations == []


@pytest.fixture
def provider(cloud: RunPodEmulator) -> RunPodProvider:
    return adapter(cloud)


class RunPodContract(ProviderContract):
    """RunPod has no rule about names, and its bills name ids and come some minutes late."""

    tier = "secure"
    refuses_a_used_label = False

    def order(self, provider: Provider, label: str, **changes: Any) -> Order:
        return replace(super().order(provider, label), image=IMAGE, **changes)

    def quote(self, provider: Provider) -> Quote:
        assert isinstance(provider, RunPodProvider)
        return usual_quote(provider, self.tier)

    def ran(self, provider: Provider, cloud: RunPodEmulator) -> tuple[str, datetime]:
        """The remote id of a machine that ran for half an hour and was billed, and when it began."""
        start = datetime.now(UTC)
        remote_id = self.running(provider, new_label())
        cloud.advance(1800)
        provider.terminate(remote_id)
        cloud.advance(600)
        return remote_id, start

    def test_charges_agree_with_the_time_it_ran(self, provider: Provider, cloud: RunPodEmulator) -> None:
        remote_id, start = self.ran(provider, cloud)
        day = timedelta(days=1)
        charges = provider.charges(start - day, start + day)
        assert {c.remote_id for c in charges} == {remote_id}
        assert all(c.usd >= 0 and c.start <= c.end for c in charges)
        charged = sum(c.usd for c in charges)
        assert abs(charged - cloud.bill()) < Decimal("0.000001")
        rate = self.quote(provider).usd_per_hour
        assert rate * 1800 / 3600 * Decimal("0.98") < charged <= rate * 1810 / 3600
        assert provider.charges(start - 2 * day, start - day) == []

    def test_the_parts_of_a_span_cost_as_much_as_the_whole(
        self, provider: Provider, cloud: RunPodEmulator
    ) -> None:
        _, start = self.ran(provider, cloud)
        first, last = start - timedelta(hours=2), start + timedelta(hours=3)
        whole = sum(c.usd for c in provider.charges(first, last))
        for cut in (start + timedelta(minutes=7), start + timedelta(minutes=29, seconds=11)):
            parts = [*provider.charges(first, cut), *provider.charges(cut, last)]
            assert abs(sum(c.usd for c in parts) - whole) < Decimal("0.000000001")


class TestSecure(RunPodContract):
    pass


class TestCommunity(RunPodContract):
    tier = "community"

    def quote(self, provider: Provider) -> Quote:
        assert isinstance(provider, RunPodProvider)
        return usual_quote(provider, self.tier, "EU-CZ-1")


class TestServerlessActive(RunPodContract):
    tier = "serverless-active"


class TestServerlessFlex(RunPodContract):
    """At rest it has no worker and bills nothing."""

    tier = "serverless-flex"

    def test_charges_agree_with_the_time_it_ran(self, provider: Provider, cloud: RunPodEmulator) -> None:
        _, start = self.ran(provider, cloud)
        assert provider.charges(start - timedelta(days=1), start + timedelta(days=1)) == []
        assert cloud.bill() == 0
