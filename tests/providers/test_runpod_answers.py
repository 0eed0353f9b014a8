"""Whatever RunPod answers, each call ends in a value or in one of our errors, and never in a wrong belief."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from deployments.providers import http, runpod
from deployments.providers.base import (
    Balance,
    Gone,
    Inspection,
    MachineStatus,
    NoCapacity,
    ProviderError,
    RateLimited,
    Rejected,
    Unauthorized,
    Unavailable,
    Unknown,
)
from deployments.providers.runpod import RunPodProvider
from deployments.providers.runpod_api import refusal
from tests.emulators.common import Fault
from tests.emulators.runpod import RunPodEmulator
from tests.providers.contract import found, new_label
from tests.providers.runpod import adapter, create, order_of, quote_of, usual_quote

UNCLEAR = [
    Fault.ERROR_BEFORE, Fault.ERROR_AFTER, Fault.GATEWAY_AFTER, Fault.LOST, Fault.HANG_BEFORE, Fault.HANG_AFTER,
    Fault.HTML, Fault.EMPTY_BODY, Fault.WRONG_TYPE, Fault.LOST_LATE,
]  # fmt: skip
REFUSED = {
    Fault.UNAUTHORIZED: Unauthorized, Fault.FORBIDDEN: Unauthorized, Fault.RATE_LIMITED: RateLimited,
    Fault.RATE_LIMITED_AFTER: RateLimited, Fault.NO_CAPACITY: NoCapacity, Fault.REJECTED: Rejected,
}  # fmt: skip
ODD = [Fault.UNKNOWN_FIELDS, Fault.NULLS, Fault.UNKNOWN_STATE]
TIERS = ["secure", "serverless-active"]


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch) -> Iterator[RunPodEmulator]:
    monkeypatch.setattr(http, "READ_SECONDS", 0.5)
    monkeypatch.setattr(http, "CHANGE_SECONDS", 0.5)
    monkeypatch.setattr(runpod, "LOG_QUIET", 0.3)
    with RunPodEmulator() as emulator:
        yield emulator
    assert emulator.violations == []


@pytest.fixture
def provider(cloud: RunPodEmulator) -> RunPodProvider:
    return adapter(cloud)


def changes(provider: RunPodProvider, remote_id: str, tier: str) -> dict[str, Callable[[], object]]:
    """kind -> the call. A serverless start reads before it writes."""
    order = order_of(usual_quote(provider, tier), new_label())
    return {
        "create": lambda: provider.create(order, deadline=time.monotonic() + 60),
        "stop": lambda: provider.stop(remote_id),
        "start": lambda: provider.start(remote_id),
        "terminate": lambda: provider.terminate(remote_id),
    }


def reads(provider: RunPodProvider, pod: str, endpoint: str) -> list[tuple[str, Callable[[], Any]]]:
    day, now = timedelta(days=1), datetime.now(UTC)
    return [
        ("quotes", provider.quotes),
        ("list", provider.list_machines),
        ("inspect", lambda: provider.inspect(endpoint)),
        ("inspect", lambda: provider.logs(pod)),
        ("inspect", lambda: provider.stands(pod)),
        ("inspect", lambda: provider.stands(endpoint)),
        ("charges", lambda: provider.charges(now - day, now + day)),
        ("quotes", adapter_without_key(provider).quotes),
    ]


def adapter_without_key(provider: RunPodProvider) -> RunPodProvider:
    return RunPodProvider(
        None,
        addresses=provider._addresses,
        worker_image="w",
        active_discount=Decimal(0),
        disk_gb=40,
        port=8000,
    )


# -- calls that change something ------------------------------------------------------------------


@pytest.mark.parametrize("fault", UNCLEAR)
@pytest.mark.parametrize("tier", TIERS)
def test_a_change_without_a_clean_yes_is_unknown(
    cloud: RunPodEmulator, provider: RunPodProvider, fault: Fault, tier: str
) -> None:
    remote_id = create(provider, new_label(), tier)
    for kind, call in changes(provider, remote_id, tier).items():
        if (kind, fault) == ("terminate", Fault.WRONG_TYPE):
            continue  # A 204 has no body that could be wrong.
        cloud.faults.add(kind, fault)
        with pytest.raises(Unknown):
            call()
        assert len(cloud.seen(kind)) == (2 if kind == "create" else 1), "one request, never repeated"


@pytest.mark.parametrize("fault", REFUSED)
@pytest.mark.parametrize("tier", TIERS)
def test_a_definite_no_is_told_as_what_it_is(
    cloud: RunPodEmulator, provider: RunPodProvider, fault: Fault, tier: str
) -> None:
    label = new_label()
    order = order_of(quote_of(provider, tier), label)
    cloud.faults.add("create", fault)
    with pytest.raises(ProviderError) as caught:
        provider.create(order, deadline=time.monotonic() + 60)
    assert type(caught.value) is REFUSED[fault]
    assert cloud.ever(label) == 0


@pytest.mark.parametrize("fault", [Fault.OK, *ODD])
def test_a_create_needs_only_the_id(cloud: RunPodEmulator, provider: RunPodProvider, fault: Fault) -> None:
    cloud.faults.add("create", fault)
    label = new_label()
    remote_id = create(provider, label)
    assert [m["id"] for m in cloud.machines()] == [remote_id]


def test_a_create_that_names_no_id_is_unknown(
    cloud: RunPodEmulator, provider: RunPodProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cloud, "spoil", lambda fault, kind, payload: {**payload, "id": None})
    cloud.faults.add("create", Fault.NULLS)
    with pytest.raises(Unknown):
        create(provider, new_label())


def test_what_the_provider_says_of_waiting_is_kept(cloud: RunPodEmulator, provider: RunPodProvider) -> None:
    quote = quote_of(provider, "secure")
    cloud.faults.retry_after = 17
    cloud.faults.add("create", Fault.RATE_LIMITED_AFTER)
    with pytest.raises(RateLimited) as caught:
        provider.create(order_of(quote, new_label()), deadline=time.monotonic() + 60)
    assert caught.value.retry_after == 17


def test_nothing_listens_there(monkeypatch: pytest.MonkeyPatch) -> None:
    with RunPodEmulator() as emulator:
        provider = adapter(emulator)
        order = order_of(quote_of(provider, "secure"), new_label())
        pod, endpoint = create(provider, new_label()), create(provider, new_label(), "serverless-flex")
        calls = [*changes(provider, pod, "secure").values(), *(c for _, c in reads(provider, pod, endpoint))]
    for call in [*calls, provider.balance, lambda: provider.mend(endpoint)]:
        with pytest.raises(Unavailable):
            call()
    with pytest.raises(Unavailable):
        provider.create(order, deadline=time.monotonic() + 60)


# -- calls that read ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault",
    [
        Fault.ERROR_BEFORE, Fault.LOST, Fault.HANG_BEFORE, Fault.HTML, Fault.EMPTY_BODY, Fault.WRONG_TYPE,
        Fault.GATEWAY_AFTER,
    ],
)  # fmt: skip
def test_a_bad_answer_to_a_read_is_unavailable(
    cloud: RunPodEmulator, provider: RunPodProvider, fault: Fault
) -> None:
    pod, endpoint = create(provider, new_label()), create(provider, new_label(), "serverless-active")
    for kind, call in reads(provider, pod, endpoint):
        cloud.faults.always(kind, fault)
        with pytest.raises(Unavailable):
            call()
        cloud.faults.clear()


@pytest.mark.parametrize("fault", [Fault.UNAUTHORIZED, Fault.FORBIDDEN, Fault.RATE_LIMITED])
def test_a_refused_read_says_why(cloud: RunPodEmulator, provider: RunPodProvider, fault: Fault) -> None:
    pod, endpoint = create(provider, new_label()), create(provider, new_label(), "serverless-active")
    for kind, call in reads(provider, pod, endpoint)[:-1]:
        cloud.faults.always(kind, fault)
        with pytest.raises(REFUSED[fault]):
            call()
        cloud.faults.clear()
    cloud.faults.always("quotes", fault)
    with pytest.raises(ProviderError):
        adapter_without_key(provider).quotes()


@pytest.mark.parametrize("fault", ODD)
def test_odd_fields_crash_no_read(cloud: RunPodEmulator, provider: RunPodProvider, fault: Fault) -> None:
    pod, endpoint = create(provider, new_label()), create(provider, new_label(), "serverless-active")
    for kind, call in reads(provider, pod, endpoint):
        cloud.faults.always(kind, fault)
        with suppress(Unavailable):
            call()
        cloud.faults.clear()


@pytest.mark.parametrize("fault", ODD)
def test_odd_rows_stay_in_the_list(cloud: RunPodEmulator, provider: RunPodProvider, fault: Fault) -> None:
    labels = {new_label(), new_label()}
    ids = {create(provider, label, tier) for label, tier in zip(labels, TIERS, strict=True)}
    cloud.faults.always("list", fault)
    listing = provider.list_machines()
    assert listing.complete
    assert {m.remote_id for m in listing.machines} == ids
    assert {m.label for m in listing.machines} == labels
    if fault is Fault.UNKNOWN_STATE:
        assert {m.status for m in listing.machines} == {MachineStatus.UNKNOWN, MachineStatus.RUNNING}


@pytest.mark.parametrize("nth", [0, 1])
@pytest.mark.parametrize("fault", [Fault.ERROR_BEFORE, Fault.HTML, Fault.RATE_LIMITED, Fault.UNAUTHORIZED])
def test_half_a_list_is_no_list(
    cloud: RunPodEmulator, provider: RunPodProvider, fault: Fault, nth: int
) -> None:
    create(provider, new_label())
    cloud.faults.add("list", *[Fault.OK] * nth, fault)
    with pytest.raises(ProviderError):
        provider.list_machines()


def test_a_revoked_key_is_refused_everywhere(cloud: RunPodEmulator, provider: RunPodProvider) -> None:
    pod, endpoint = create(provider, new_label()), create(provider, new_label(), "serverless-active")
    calls = [*changes(provider, pod, "secure").values(), *(c for _, c in reads(provider, pod, endpoint)[:-1])]
    cloud.revoke()
    for call in calls:
        with pytest.raises(Unauthorized):
            call()
    assert [r.ok for r in provider.rights()] == [False, False, False]


@pytest.mark.parametrize("status", [301, 400, 402, 403, 404, 409, 422, 500, 502, 524])
def test_a_page_in_html_is_no_definite_answer(status: int) -> None:
    answer = http.Answer(status, {}, b"<html><title>Attention required</title></html>")
    assert type(refusal(answer, changes=True, machine="abc")) is Unknown
    assert type(refusal(answer, changes=False, machine="abc")) is Unavailable


@pytest.mark.parametrize(
    ("status", "detail", "error"),
    [
        (400, "There are no longer any instances available with the requested specifications.", NoCapacity),
        (400, "There are not enough free GPUs on the host machine to start this pod.", NoCapacity),
        (400, "Max workers must not exceed your quota of 5 workers.", Rejected),
        (402, "Insufficient balance.", Rejected),
        (403, "Your account cannot access the requested pool.", Rejected),
        (403, "access denied", Unauthorized),
        (404, "pod not found", Gone),
        (409, "Cannot stop a pod that is EXITED.", Rejected),
        (409, "The pod is locked.", Rejected),
        (410, "This API has been shut down.", Rejected),
        (422, "Request validation failed.", Rejected),
        (429, "Rate limit exceeded.", RateLimited),
        (500, "capacity", Unknown),
    ],
)
def test_a_problem_says_what_it_is(status: int, detail: str, error: type[ProviderError]) -> None:
    content = json.dumps({"title": "x", "status": status, "detail": detail}).encode()
    assert type(refusal(http.Answer(status, {}, content), changes=True, machine="abc")) is error


# -- the SDK's calls ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault",
    [
        Fault.ERROR_BEFORE, Fault.HTML, Fault.EMPTY_BODY, Fault.LOST, Fault.GATEWAY_AFTER, Fault.WRONG_TYPE,
        Fault.RATE_LIMITED,
    ],
)  # fmt: skip
def test_a_balance_that_cannot_be_read_is_unavailable(
    cloud: RunPodEmulator, provider: RunPodProvider, fault: Fault
) -> None:
    cloud.faults.always("balance", fault)
    with pytest.raises(Unavailable):
        provider.balance()
    assert not next(r for r in provider.rights() if r.name == "balance").ok


@pytest.mark.parametrize("fault", [Fault.UNAUTHORIZED, Fault.FORBIDDEN, Fault.MISSING_BALANCE])
def test_a_refused_balance_is_not_told(cloud: RunPodEmulator, provider: RunPodProvider, fault: Fault) -> None:
    cloud.faults.always("balance", fault)
    assert provider.balance() == Balance(usd=None)


def test_without_health_the_workers_alone_tell(cloud: RunPodEmulator, provider: RunPodProvider) -> None:
    endpoint = create(provider, new_label(), "serverless-active")
    wait_until_it_serves(provider, endpoint)
    for fault in (
        Fault.ERROR_BEFORE,
        Fault.HTML,
        Fault.EMPTY_BODY,
        Fault.WRONG_TYPE,
        Fault.LOST,
        Fault.UNAUTHORIZED,
    ):
        cloud.faults.add("inspect", Fault.OK, Fault.OK, fault)
        seen = provider.inspect(endpoint)
        assert seen.serves
        assert seen.countries == ("RO",)
        assert "Its health is not told" in seen.detail


def wait_until_it_serves(provider: RunPodProvider, endpoint: str) -> Inspection:
    give_up = time.monotonic() + 20
    while not (seen := provider.inspect(endpoint)).serves and time.monotonic() < give_up:
        time.sleep(0.05)
    return seen


def test_a_list_cut_short_is_what_the_mass_guard_is_for(
    cloud: RunPodEmulator, provider: RunPodProvider
) -> None:
    labels = [new_label() for _ in range(4)]
    for label in labels:
        create(provider, label)
    cloud.faults.always("list", Fault.TRUNCATED)
    assert 0 < sum(len(found(provider, label)) for label in labels) < 4
