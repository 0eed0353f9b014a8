"""What every provider must keep. A provider's tests inherit `ProviderContract` and give it `provider`."""

from __future__ import annotations

import itertools
import secrets
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from deployments.providers.base import (
    Gone,
    Machine,
    MachineStatus,
    Order,
    Provider,
    ProviderError,
    Quote,
    Rejected,
    Secret,
    Traits,
    Unavailable,
)

API_KEY = "sk-regia-contract-0123456789abcdef"
PATIENCE = 90.0
"""Seconds after which a machine that has not come counts as never coming; no promise about speed."""
_numbers = itertools.count(1)


def new_label(kind: str = "contract") -> str:
    """A label nobody has used."""
    return f"regia{secrets.token_hex(4)}-{kind}-{next(_numbers)}"


def found(provider: Provider, label: str) -> list[Machine]:
    """What a complete list shows under exactly this label."""
    listing = provider.list_machines()
    assert listing.complete
    return [m for m in listing.machines if m.label == label]


def wait_for(
    provider: Provider, label: str, *statuses: MachineStatus, also: Callable[[Machine], bool] | None = None
) -> Machine:
    """The one machine under the label, once it has one of the statuses (and `also` holds)."""
    give_up = time.monotonic() + PATIENCE
    seen: list[Machine] = []
    while time.monotonic() < give_up:
        seen = found(provider, label)
        if len(seen) == 1 and seen[0].status in statuses and (also is None or also(seen[0])):
            return seen[0]
        time.sleep(0.05)
    raise AssertionError(f"{label} never became {statuses}; last seen: {seen}")


def soon() -> float:
    """A deadline that has not passed."""
    return time.monotonic() + 60


class ProviderContract:
    """Inherit, and define the fixture `provider` (and `model_key` and friends where they matter)."""

    model: dict[str, Any] = {
        "model_key": "qwen3-4b-awq", "repository": "Qwen/Qwen3-4B-AWQ",
        "revision": "136f16ffdca9c9e49527391169e042634b9ad0d6", "served_name": "qwen3-4b", "context": 4096,
    }  # fmt: skip

    def order(self, provider: Provider, label: str, **changes: Any) -> Order:
        order = Order(label=label, quote=self.quote(provider), api_key=Secret(API_KEY), **self.model)
        return replace(order, **changes)

    def quote(self, provider: Provider) -> Quote:
        return provider.quotes()[0]

    def running(self, provider: Provider, label: str) -> str:
        """A machine under the label that runs and has an address. Returns its remote id."""
        remote_id = provider.create(self.order(provider, label), deadline=soon())
        wait_for(provider, label, MachineStatus.RUNNING, also=lambda m: bool(m.endpoint_url))
        return remote_id

    # -- traits and offers ----------------------------------------------------------------------

    def test_its_traits_say_how_it_behaves(self, provider: Provider) -> None:
        traits = provider.traits
        assert isinstance(traits, Traits)
        assert traits.backend
        assert traits.title
        assert traits.list_interval >= 0
        assert traits.unknown_grace >= 0
        assert traits.start_timeout > 0

    def test_every_quote_is_complete_and_priced(self, provider: Provider) -> None:
        quotes = provider.quotes()
        assert quotes
        assert len({q.key for q in quotes}) == len(quotes)
        for q in quotes:
            assert q.key
            assert q.tier
            assert q.gpu_count >= 0
            assert (q.vram_mb > 0) == (q.gpu_count > 0)
            assert q.cpu_count >= 0
            assert q.memory_mb >= 0
            assert isinstance(q.usd_per_hour, Decimal)
            assert q.usd_per_hour >= q.compute_usd_per_hour >= 0
            assert q.disk_usd_per_hour >= 0
            assert q.traffic_usd_per_gb >= 0
            assert q.country is None or (len(q.country) == 2 and q.country.isupper())
            assert q.reliability is None or 0 <= q.reliability <= 1
            assert q.max_hours is None or q.max_hours > 0

    # -- create ---------------------------------------------------------------------------------

    def test_a_created_machine_is_listed_under_exactly_its_label(self, provider: Provider) -> None:
        label = new_label()
        before = datetime.now(UTC) - timedelta(minutes=1)
        remote_id = provider.create(self.order(provider, label), deadline=soon())
        machines = found(provider, label)
        assert [m.remote_id for m in machines] == [remote_id]
        assert found(provider, f"{label}0") == []
        assert found(provider, label[:-1]) == []
        created = machines[0].created_at
        assert created is None or before < created <= datetime.now(UTC) + timedelta(minutes=1)

    def test_a_running_machine_tells_its_address_and_its_price(self, provider: Provider) -> None:
        label = new_label()
        self.running(provider, label)
        machine = found(provider, label)[0]
        assert machine.endpoint_url
        assert machine.endpoint_url.startswith(("http://", "https://"))
        assert not machine.endpoint_url.endswith(("/", "/v1"))
        assert machine.usd_per_hour is None or machine.usd_per_hour >= 0

    def test_the_same_label_twice_never_makes_two_machines(self, provider: Provider) -> None:
        label = new_label()
        provider.create(self.order(provider, label), deadline=soon())
        if self.refuses_a_used_label:
            with pytest.raises(Rejected):
                provider.create(self.order(provider, label), deadline=soon())
            assert len(found(provider, label)) == 1

    refuses_a_used_label = True
    """False where the provider itself knows no such rule: there the reconciler alone keeps it."""

    def test_creates_of_one_label_at_once_make_one_machine(self, provider: Provider) -> None:
        if not self.refuses_a_used_label:
            return
        label = new_label()
        order = self.order(provider, label)
        answers: list[object] = []

        def create() -> None:
            try:
                answers.append(provider.create(order, deadline=soon()))
            except ProviderError as e:
                answers.append(e)

        threads = [threading.Thread(target=create) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len([a for a in answers if isinstance(a, str)]) == 1, answers
        assert len([a for a in answers if isinstance(a, Rejected)]) == 3, answers
        assert len(found(provider, label)) == 1

    def test_past_the_deadline_nothing_is_sent(self, provider: Provider) -> None:
        label = new_label()
        with pytest.raises(Unavailable):
            provider.create(self.order(provider, label), deadline=time.monotonic() - 0.001)
        assert found(provider, label) == []

    # -- stop, start, terminate -----------------------------------------------------------------

    def test_a_stopped_machine_is_kept_and_comes_back(self, provider: Provider) -> None:
        label = new_label()
        remote_id = self.running(provider, label)
        if not provider.traits.can_stop:
            with pytest.raises(Rejected):
                provider.stop(remote_id)
            return
        provider.stop(remote_id)
        wait_for(provider, label, MachineStatus.STOPPED)
        provider.stop(remote_id)  # again: still stopped, no error
        assert found(provider, label)[0].status is MachineStatus.STOPPED
        provider.start(remote_id)
        machine = wait_for(provider, label, MachineStatus.RUNNING, also=lambda m: bool(m.endpoint_url))
        assert machine.remote_id == remote_id

    def test_a_terminated_machine_is_absent_from_two_complete_lists(self, provider: Provider) -> None:
        label = new_label()
        remote_id = self.running(provider, label)
        assert provider.stands(remote_id)
        provider.terminate(remote_id)
        give_up = time.monotonic() + PATIENCE
        while found(provider, label) and time.monotonic() < give_up:
            time.sleep(0.05)
        assert found(provider, label) == []
        assert found(provider, label) == []
        assert not provider.stands(remote_id), "asked for by its id it is gone too"

    def test_a_killed_machine_runs_no_more_and_can_be_given_back(self, provider: Provider) -> None:
        label = new_label()
        remote_id = self.running(provider, label)
        give_up = time.monotonic() + PATIENCE
        while True:
            try:
                provider.kill(remote_id)
                break
            except Rejected:
                # Its engine is about to run, or between two starts.
                assert time.monotonic() < give_up, "nothing of it can be killed"
                time.sleep(0.05)
        while any(m.status is MachineStatus.RUNNING for m in found(provider, label)):
            assert time.monotonic() < give_up, "it runs on"
            time.sleep(0.05)
        with suppress(Gone):
            provider.terminate(remote_id)
        assert found(provider, label) == []

    def test_terminating_again_is_gone_or_fine(self, provider: Provider) -> None:
        label = new_label()
        remote_id = provider.create(self.order(provider, label), deadline=soon())
        provider.terminate(remote_id)
        try:
            provider.terminate(remote_id)
        except ProviderError as e:
            assert isinstance(e, Gone)  # noqa: PT017
        assert found(provider, label) == []

    def test_a_stopped_machine_can_be_terminated(self, provider: Provider) -> None:
        if not provider.traits.can_stop:
            return
        label = new_label()
        remote_id = self.running(provider, label)
        provider.stop(remote_id)
        wait_for(provider, label, MachineStatus.STOPPED)
        provider.terminate(remote_id)
        assert found(provider, label) == []

    def test_an_unknown_id_is_gone(self, provider: Provider) -> None:
        calls: list[Callable[[str], object]] = [
            provider.terminate,
            provider.kill,
            provider.start,
            provider.logs,
        ]
        if provider.traits.can_stop:
            calls.append(provider.stop)
        for call in calls:
            with pytest.raises(Gone):
                call("no-such-machine-0")

    def test_other_machines_are_left_alone(self, provider: Provider) -> None:
        ours, other = new_label(), new_label("foreign")
        other_id = self.running(provider, other)
        before = found(provider, other)
        remote_id = provider.create(self.order(provider, ours), deadline=soon())
        provider.terminate(remote_id)
        after = found(provider, other)
        assert [(m.remote_id, m.status, m.endpoint_url) for m in after] == [
            (m.remote_id, m.status, m.endpoint_url) for m in before
        ]
        assert after[0].remote_id == other_id

    # -- logs and charges -----------------------------------------------------------------------

    def test_logs_are_bounded_and_hold_no_key(self, provider: Provider) -> None:
        label = new_label()
        remote_id = self.running(provider, label)
        lines = provider.logs(remote_id, tail=200)
        assert len(lines) <= 200
        assert len(provider.logs(remote_id, tail=1)) <= 1
        assert provider.logs(remote_id, tail=0) == ()
        assert provider.system_logs(remote_id, tail=0) == ()
        of_system = provider.system_logs(remote_id, tail=200)
        assert {line.source for line in of_system} <= {"system"}
        assert not any(API_KEY in line.text for line in of_system)
        assert {line.source for line in lines} <= {"container", "system"}
        assert not any(API_KEY in line.text for line in lines)
        times = [line.at for line in lines if line.at]
        assert times == sorted(times)

    def test_charges_agree_with_the_time_it_ran(self, provider: Provider) -> None:
        label = new_label()
        start = datetime.now(UTC)
        remote_id = self.running(provider, label)
        provider.terminate(remote_id)
        end = datetime.now(UTC)
        day = timedelta(days=1)
        charges = [c for c in provider.charges(start - day, end + day) if c.label == label]
        assert charges
        rate = self.quote(provider).usd_per_hour
        longest = Decimal(str((end - start + timedelta(seconds=5)).total_seconds()))
        assert all(c.usd >= 0 and c.start <= c.end for c in charges)
        assert all(c.remote_id == remote_id for c in charges)
        assert sum(c.usd for c in charges) <= rate * longest / 3600
        assert [c for c in provider.charges(start - 2 * day, start - day) if c.label == label] == []

    def test_the_parts_of_a_span_cost_as_much_as_the_whole(self, provider: Provider) -> None:
        label = new_label()
        start = datetime.now(UTC) - timedelta(hours=1)
        remote_id = self.running(provider, label)
        provider.terminate(remote_id)
        end = datetime.now(UTC) + timedelta(hours=1)
        whole = [c for c in provider.charges(start, end) if c.label == label]
        middle = whole[0].start + (whole[0].end - whole[0].start) / 2
        parts = [*provider.charges(start, middle), *provider.charges(middle, end)]
        of_parts = sum((c.usd for c in parts if c.label == label), Decimal(0))
        assert abs(of_parts - sum(c.usd for c in whole)) < Decimal("0.000001")

    # -- secrets --------------------------------------------------------------------------------

    def test_the_key_shows_in_nothing_that_is_printed(
        self, provider: Provider, caplog: pytest.LogCaptureFixture
    ) -> None:
        label = new_label()
        order = self.order(provider, label)
        with caplog.at_level("DEBUG"):
            provider.create(order, deadline=soon())
            machines = found(provider, label)
        assert API_KEY not in repr(order)
        assert API_KEY not in repr(provider)
        assert API_KEY not in repr(machines)
        assert API_KEY not in caplog.text
