"""What is RunPod's own: orders as sent, stop and drift of endpoints, locks, workers, logs, money, quota, secrets."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator
from decimal import Decimal

import pytest

from deployments.providers import runpod_sdk
from deployments.providers.base import (
    Balance,
    Gone,
    MachineStatus,
    NoCapacity,
    RateLimited,
    Rejected,
    Unauthorized,
    Unknown,
)
from deployments.providers.runpod import RunPodProvider
from tests.emulators import runpod
from tests.emulators.common import Clock, Fault
from tests.emulators.conftest import NOON
from tests.emulators.runpod import RunPodEmulator
from tests.emulators.runpod_catalogue import DATA_CENTERS, DataCenter
from tests.providers.contract import API_KEY, found, new_label, soon, wait_for
from tests.providers.runpod import IMAGE, WORKER_IMAGE, adapter, create, order_of, quote_of

HF_TOKEN = "hf_PlantedTokenOfTheOperator0123456789"


@pytest.fixture
def cloud() -> Iterator[RunPodEmulator]:
    with RunPodEmulator() as emulator:
        yield emulator
    assert emulator.violations == []


@pytest.fixture
def provider(cloud: RunPodEmulator) -> RunPodProvider:
    return adapter(cloud)


# -- orders ---------------------------------------------------------------------------------------


def test_a_pod_is_ordered_where_and_as_the_quote_says(
    cloud: RunPodEmulator, provider: RunPodProvider
) -> None:
    quote = quote_of(provider, "secure", "EU-RO-1", "L4")
    label = new_label()
    provider.create(order_of(quote, label, environment={"HF_TOKEN": HF_TOKEN}, port=8443), deadline=soon())
    [sent] = cloud.seen("create")
    assert sent.body == {
        "name": label, "cloud": "SECURE", "image": IMAGE, "disk": 40, "ports": ["8443/http"],
        "gpu": {"id": "NVIDIA L4", "count": 1, "minCudaVersion": "13.0"}, "dataCenterIds": ["EU-RO-1"],
        "env": {
            "HF_TOKEN": HF_TOKEN, "REGIA_API_KEY": API_KEY, "REGIA_SERVED_NAME": "qwen3-4b",
            "REGIA_MODEL": "Qwen/Qwen3-4B-AWQ", "REGIA_REVISION": "136f16ffdca9c9e49527391169e042634b9ad0d6",
            "REGIA_CONTEXT": "4096", "REGIA_PORT": "8443",
        },
    }  # fmt: skip
    machine = wait_for(provider, label, MachineStatus.RUNNING)
    assert machine.endpoint_url == f"{cloud.url}/proxy/{machine.remote_id}-8443"
    assert (machine.country, machine.data_center, machine.usd_per_hour) == (
        "RO",
        "EU-RO-1",
        quote.usd_per_hour,
    )


def test_a_pod_without_an_image_is_refused_unsent(cloud: RunPodEmulator, provider: RunPodProvider) -> None:
    order = order_of(quote_of(provider, "secure"), new_label(), image="")
    with pytest.raises(Rejected, match="INFERENCE_IMAGE"):
        provider.create(order, deadline=soon())
    assert cloud.seen("create") == []


@pytest.mark.parametrize(("tier", "least"), [("serverless-flex", 0), ("serverless-active", 1)])
def test_an_endpoint_is_ordered_with_one_worker_at_most(
    cloud: RunPodEmulator, provider: RunPodProvider, tier: str, least: int
) -> None:
    quote = quote_of(provider, tier, "EU-RO-1", "L4")
    provider.create(order_of(quote, new_label(), image=""), deadline=soon())
    body = cloud.seen("create")[0].body
    env = body.pop("env")
    body.pop("name")
    assert body == {
        "type": "QUEUE", "image": WORKER_IMAGE, "disk": 40, "dataCenterIds": ["EU-RO-1"], "flashboot": "FLASHBOOT",
        "gpu": {
            "pools": ["AMPERE_24"], "count": 1, "minCudaVersion": "13.0",
            "excludedTypes": ["NVIDIA RTX A5000", "NVIDIA GeForce RTX 3090"],
        },
        "workers": {"min": least, "max": 1}, "scaling": {"type": "REQUEST_COUNT", "requestCount": 8},
        "timeout": 300_000,
    }  # fmt: skip
    assert env["MODEL_NAME"] == "Qwen/Qwen3-4B-AWQ"
    assert env["OPENAI_SERVED_MODEL_NAME_OVERRIDE"] == "qwen3-4b"
    assert env["MAX_MODEL_LEN"] == "4096"
    assert API_KEY not in env.values(), "the machine's key has no use there"
    assert all(isinstance(value, str) for value in env.values())


def test_a_label_is_found_behind_flashboots_suffix(cloud: RunPodEmulator, provider: RunPodProvider) -> None:
    label = new_label()
    create(provider, label, "serverless-flex")
    assert cloud.fb_suffix
    assert len(found(provider, label)) == 1


def test_an_offer_that_is_sold_out_is_no_capacity(cloud: RunPodEmulator, provider: RunPodProvider) -> None:
    quote = quote_of(provider, "secure", "EU-RO-1", "L4")
    cloud.sell_out("NVIDIA L4")
    with pytest.raises(NoCapacity):
        provider.create(order_of(quote, new_label()), deadline=soon())


def test_a_site_that_no_table_knows_is_placed_by_runpods_own_filter(
    cloud: RunPodEmulator, provider: RunPodProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    for site, country in (("COM-A-1", "CZ"), ("COM-B-1", "US")):
        monkeypatch.setitem(DATA_CENTERS, site, DataCenter(site, site, country, "EUROPE"))
        cloud.set_stock("NVIDIA RTX A5000", site, "HIGH", cloud="COMMUNITY")
    quotes = {q.data_center: q.country for q in provider.quotes() if q.tier == "community"}
    assert (quotes["COM-A-1"], quotes["COM-B-1"]) == ("CZ", None)


# -- stop, start, drift, locks ---------------------------------------------------------------------


@pytest.mark.parametrize(("tier", "least"), [("serverless-flex", 0), ("serverless-active", 1)])
def test_a_stopped_endpoint_has_no_workers_and_gets_back_what_was_ordered(
    cloud: RunPodEmulator, provider: RunPodProvider, tier: str, least: int
) -> None:
    label = new_label()
    remote_id = create(provider, label, tier)
    provider.stop(remote_id)
    [stopped] = found(provider, label)
    assert (stopped.status, stopped.drift, stopped.endpoint_url) == (MachineStatus.STOPPED, "", None)
    assert provider.inspect(remote_id).billed_workers == 0
    with pytest.raises(Rejected, match="stopped here"):
        provider.mend(remote_id)
    provider.start(remote_id)
    [started] = found(provider, label)
    assert (started.status, started.drift) == (MachineStatus.RUNNING, "")
    assert cloud.seen("start")[-1].body["workers"] == {"min": least, "max": 1}


def test_an_endpoint_that_runpod_scaled_down_shows_it_and_is_mended(
    cloud: RunPodEmulator, provider: RunPodProvider
) -> None:
    label = new_label()
    remote_id = create(provider, label, "serverless-active")
    cloud.idle_scale_down(remote_id.removeprefix("serverless-"))
    [machine] = found(provider, label)
    assert "outside this panel" in machine.drift
    assert machine.status is MachineStatus.STOPPED
    provider.mend(remote_id)
    [machine] = found(provider, label)
    assert (machine.status, machine.drift) == (MachineStatus.RUNNING, "")
    with pytest.raises(Rejected):
        provider.mend(remote_id)


def test_an_endpoint_of_somebody_else_has_no_drift(cloud: RunPodEmulator, provider: RunPodProvider) -> None:
    theirs = cloud.place("their-endpoint", kind="endpoint", workers={"min": 0, "max": 0})
    [machine] = found(provider, "their-endpoint")
    assert (machine.remote_id, machine.drift) == (f"serverless-{theirs}", "")


def test_a_locked_pod_says_so(cloud: RunPodEmulator, provider: RunPodProvider) -> None:
    label = new_label()
    remote_id = create(provider, label)
    wait_for(provider, label, MachineStatus.RUNNING)
    cloud.lock_pod(remote_id)
    assert found(provider, label)[0].locked
    for call in (provider.stop, provider.terminate):
        with pytest.raises(Rejected, match="unlock it there"):
            call(remote_id)
    cloud.unlock_pod(remote_id)
    provider.terminate(remote_id)
    assert found(provider, label) == []


def test_a_lock_is_found_behind_a_bare_refusal(
    cloud: RunPodEmulator, provider: RunPodProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote_id = create(provider, new_label())
    cloud.lock_pod(remote_id)
    monkeypatch.setattr("deployments.providers.runpod_api._LOCK", __import__("re").compile("never said"))
    with pytest.raises(Rejected, match="unlock it there"):
        provider.terminate(remote_id)


def test_a_pod_whose_host_is_full_cannot_start(cloud: RunPodEmulator, provider: RunPodProvider) -> None:
    label = new_label()
    remote_id = create(provider, label)
    provider.stop(remote_id)
    [stopped] = found(provider, label)
    assert (stopped.status, stopped.usd_per_hour) == (MachineStatus.STOPPED, 0)
    cloud.fill_host(remote_id)
    with pytest.raises(NoCapacity):
        provider.start(remote_id)


def test_a_stop_of_a_pod_saves_nothing_and_the_offer_says_so(provider: RunPodProvider) -> None:
    quote = quote_of(provider, "secure")
    assert quote.held_usd_per_hour == 0
    assert "saves nothing over terminate" in quote.note


def test_an_id_that_cannot_be_one_is_never_sent(cloud: RunPodEmulator, provider: RunPodProvider) -> None:
    for remote_id in ("", "serverless-", "../pods", "a/b", "a b", "x" * 65):
        for call in (provider.terminate, provider.stop, provider.start, provider.logs):
            with pytest.raises(Rejected) as caught:
                call(remote_id)
            assert not isinstance(caught.value, Gone)
    assert cloud.requests == []


# -- workers --------------------------------------------------------------------------------------


def test_an_endpoint_at_rest_serves_and_bills_nothing(provider: RunPodProvider) -> None:
    remote_id = create(provider, new_label(), "serverless-flex")
    seen = provider.inspect(remote_id)
    assert (seen.serves, seen.billed_workers, seen.data_centers) == (True, 0, ())


def test_a_worker_abroad_is_seen(cloud: RunPodEmulator, provider: RunPodProvider) -> None:
    remote_id = create(provider, new_label(), "serverless-active")
    cloud.move(remote_id.removeprefix("serverless-"), "US-DE-1")
    seen = provider.inspect(remote_id)
    assert (seen.data_centers, seen.countries, seen.billed_workers) == (("US-DE-1",), ("US",), 1)


def test_unhealthy_workers_do_not_serve(cloud: RunPodEmulator, provider: RunPodProvider) -> None:
    remote_id = create(provider, new_label(), "serverless-active")
    cloud.fail(remote_id.removeprefix("serverless-"))
    seen = provider.inspect(remote_id)
    assert not seen.serves
    assert "1 unhealthy" in seen.detail


def test_only_endpoints_are_inspected_and_nothing_takes_bids(provider: RunPodProvider) -> None:
    remote_id = create(provider, new_label())
    for call in (provider.inspect, provider.mend, lambda i: provider.change_bid(i, Decimal(1))):
        with pytest.raises(Rejected):
            call(remote_id)


# -- logs -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("tier", ["secure", "serverless-active"])
def test_logs_show_no_value_of_the_environment(
    cloud: RunPodEmulator, provider: RunPodProvider, tier: str
) -> None:
    remote_id = create(
        provider, new_label(), tier, environment={"HF_TOKEN": HF_TOKEN, "MINE": "a plain passphrase"}
    )
    spoken = f"token={HF_TOKEN} pass='a plain passphrase' account={cloud.keys[0]} model=Qwen/Qwen3-4B-AWQ"
    cloud.say(remote_id.removeprefix("serverless-"), spoken)
    text = "\n".join(line.text for line in provider.logs(remote_id))
    assert "token=***" in text
    assert "model=Qwen/Qwen3-4B-AWQ" in text
    assert not [secret for secret in (HF_TOKEN, "plain passphrase", cloud.keys[0]) if secret in text]


def test_the_newest_lines_come_oldest_first(cloud: RunPodEmulator, provider: RunPodProvider) -> None:
    label = new_label()
    remote_id = create(provider, label)
    wait_for(provider, label, MachineStatus.RUNNING)
    for n in range(20):
        cloud.say(remote_id, f"line {n}")
    lines = [line.text for line in provider.logs(remote_id, tail=10)]
    assert len(lines) == 10
    spoken = [text for text in lines if text.startswith("line ")]
    assert spoken == [f"line {n}" for n in range(20 - len(spoken), 20)]
    assert len(spoken) >= 8


# -- money and rights ------------------------------------------------------------------------------


def test_the_balance_is_read_by_the_sdk_at_our_address(
    cloud: RunPodEmulator, provider: RunPodProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNPOD_API_BASE_URL", "http://127.0.0.1:9")
    create(provider, new_label())
    balance = provider.balance()
    assert balance.usd is not None
    assert 249 < balance.usd <= 250
    assert balance.usd_per_hour
    assert os.environ["RUNPOD_API_BASE_URL"] == "http://127.0.0.1:9"
    cloud.set_balance("-1.5")
    assert provider.balance().usd == Decimal("-1.5")


def test_two_accounts_at_two_addresses_never_mix() -> None:
    with RunPodEmulator(keys=("rpa_first",)) as one, RunPodEmulator(keys=("rpa_second",)) as two:
        one.set_balance(11)
        two.set_balance(22)
        providers, told = [adapter(one), adapter(two)] * 6, list[tuple[int, Balance]]()
        endpoints = [create(p, new_label(), "serverless-flex") for p in providers[:2]]

        def ask(n: int, provider: RunPodProvider) -> None:
            told.append((n % 2, provider.balance()))
            assert "not told" not in provider.inspect(endpoints[n % 2]).detail

        threads = [threading.Thread(target=ask, args=(n, p)) for n, p in enumerate(providers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert {(n, balance.usd) for n, balance in told} == {(0, Decimal(11)), (1, Decimal(22))}
        assert len(told) == 12


def test_the_sdk_leaves_logging_as_it_was(caplog: pytest.LogCaptureFixture) -> None:
    root = logging.getLogger()
    before = (root.level, list(root.handlers))
    runpod_sdk._load()
    assert (root.level, list(root.handlers)) == before


def test_rights_say_what_is_missing(cloud: RunPodEmulator, provider: RunPodProvider) -> None:
    assert [(r.name, r.ok) for r in provider.rights()] == [
        ("catalogue", True), ("balance", True), ("instances", True),
    ]  # fmt: skip
    cloud.faults.always("list", Fault.FORBIDDEN)
    missing = provider.rights()[2]
    assert not missing.ok
    assert "lacks a right" in missing.detail


def test_without_a_key_there_are_public_prices_and_nothing_else(cloud: RunPodEmulator) -> None:
    provider = adapter(cloud, None)
    quotes = provider.quotes()
    keyed = {q.key: q for q in adapter(cloud).quotes()}
    secure = [q for q in quotes if q.tier == "secure"]
    assert {q.tier for q in quotes} == {"secure", "community"}
    assert all(q.usd_per_hour == keyed[q.key].usd_per_hour for q in secure)
    assert all(q.country is None for q in quotes if q.tier == "community"), "the guard refuses them"
    calls = [
        provider.list_machines, provider.balance, lambda: provider.terminate("abc"), lambda: provider.logs("abc"),
        lambda: provider.create(order_of(quotes[0], new_label()), deadline=soon()),
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(Unauthorized):
            call()
    assert [r.ok for r in provider.rights()] == [False, False, False]
    assert not [seen for seen in cloud.requests if seen.key and seen.key != cloud.keys[0]]


@pytest.mark.parametrize("key", ["with space", "schlüssel", "two\nlines"])
def test_a_key_that_cannot_be_one_is_refused_without_being_shown(cloud: RunPodEmulator, key: str) -> None:
    with pytest.raises(Unauthorized) as caught:
        adapter(cloud, key).list_machines()
    assert key not in str(caught.value)
    assert cloud.requests == []


# -- quota and deadline ----------------------------------------------------------------------------


def test_the_last_requests_of_a_minute_are_kept_for_giving_back() -> None:
    with RunPodEmulator(quota=12, clock=Clock(NOON)) as cloud:
        provider = adapter(cloud)
        remote_id = create(provider, new_label())
        waits = []
        for _ in range(10):
            try:
                provider.list_machines()
            except RateLimited as e:
                waits.append(e.retry_after)
        assert waits
        assert all(0 < wait <= 60 for wait in waits)
        sent = len(cloud.requests)
        assert sent < 12
        for call in (provider.list_machines, lambda: provider.stop(remote_id), provider.quotes):
            with pytest.raises(RateLimited):
                call()
        assert len(cloud.requests) == sent, "nothing was sent"
        adapter(cloud).terminate(remote_id)
        assert cloud.machines() == []


def test_a_retry_after_is_obeyed_by_everything_but_terminate(
    cloud: RunPodEmulator, provider: RunPodProvider
) -> None:
    remote_id = create(provider, new_label())
    cloud.faults.retry_after = 30
    cloud.faults.add("list", Fault.RATE_LIMITED_AFTER)
    for _ in range(2):
        with pytest.raises(RateLimited) as caught:
            provider.list_machines()
        assert 29 < (caught.value.retry_after or 0) <= 30
    assert len(cloud.seen("list")) == 1
    provider.terminate(remote_id)


def test_a_worker_that_slept_sends_nothing(cloud: RunPodEmulator, provider: RunPodProvider) -> None:
    order = order_of(quote_of(provider, "secure"), new_label())
    deadline = time.monotonic() + 0.05
    time.sleep(0.1)
    with pytest.raises(Exception, match="deadline"):
        provider.create(order, deadline=deadline)
    assert cloud.seen("create") == []


# -- secrets --------------------------------------------------------------------------------------


def test_no_error_repr_or_log_holds_a_secret(
    cloud: RunPodEmulator,
    provider: RunPodProvider,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """RunPod's own texts repeat what was sent."""
    secrets = (cloud.keys[0], API_KEY, HF_TOKEN)
    order = order_of(quote_of(provider, "secure"), new_label(), environment={"HF_TOKEN": HF_TOKEN})
    told = runpod._REFUSED | {Fault.REJECTED: (422, " and ".join(secrets)), Fault.FORBIDDEN: (403, API_KEY)}
    monkeypatch.setattr(runpod, "_REFUSED", told)
    said: list[str] = [repr(provider), repr(provider._api), repr(order)]
    with caplog.at_level(logging.DEBUG):
        for fault in (Fault.REJECTED, Fault.FORBIDDEN, Fault.HTML, Fault.LOST, Fault.ERROR_AFTER):
            cloud.faults.add("create", fault)
            with pytest.raises((Rejected, Unknown)) as caught:
                provider.create(order, deadline=soon())
            said += [str(caught.value), repr(caught.value), repr(caught.value.__cause__)]
        cloud.faults.always("balance", Fault.UNAUTHORIZED)
        said += [repr(provider.list_machines()), repr(provider.balance()), repr(provider.rights())]
    printed = "\n".join([*said, caplog.text])
    assert not [secret for secret in secrets if secret in printed]
