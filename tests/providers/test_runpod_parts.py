"""The pure parts of RunPod's adapter, on rows as the contract and the OpenAPI file show them, and on broken ones."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments import residency
from deployments.providers import runpod_charges, runpod_logs, runpod_machines, runpod_offers
from deployments.providers.base import MachineStatus, ProviderError, RateLimited, Rejected, Unavailable
from deployments.providers.runpod_offers import Terms, pod_quotes, public_quotes, worker_quotes
from deployments.providers.runpod_orders import STOPPED_JOB_MS, Workers, ordered_workers, pod_body
from deployments.providers.runpod_pace import RESERVE, Pace, windows_of
from deployments.providers.runpod_prices import flex_price, pod_price
from deployments.providers.runpod_sites import COUNTRIES, EEA_SITES, country_of
from tests.providers.runpod import order_of

TERMS = Terms(disk_gb=40, active_discount=Decimal("0.2"), certificates={"EU-RO-1": "ISO 27001"})
DISK = Decimal("0.005479452")  # 40 GB x $0.10 / 730 h
GPU: dict[str, Any] = {
    "id": "NVIDIA GeForce RTX 4090", "name": "RTX 4090", "pool": "ADA_24", "manufacturer": "NVIDIA", "memory": 24,
    "secure": True, "community": True, "price": {"secure": 0.44, "community": 0.31, "serverless": 1.12},
    "maxCount": {"secure": 8, "community": 4}, "availability": "HIGH",
    "dataCenters": [
        {"id": "EU-RO-1", "name": "Romania", "availability": "HIGH"},
        {"id": "US-DE-1", "name": "Delaware", "availability": "LOW"},
        {"id": "EU-XX-9", "name": "New", "availability": "MEDIUM"},
        {"id": "EU-SE-1", "name": "Sweden", "availability": "NONE"},
    ],
    "cudaVersions": [
        {"version": "12.8", "available": True}, {"version": "13.0", "available": True},
        {"version": "13.1", "available": False},
    ],
}  # fmt: skip
POD: dict[str, Any] = {
    "id": "7h9k2m4n6p", "name": "regia0123-aaaa-1", "status": "RUNNING", "actions": ["stop"], "disk": 40,
    "ports": ["22/tcp", "8443/http"], "mounts": {}, "env": {"REGIA_API_KEY": "sk-secret"}, "cost": 0.44,
    "gpu": {"id": "NVIDIA L4", "count": 1}, "dataCenterId": "EU-RO-1", "locked": False, "runtime": None,
    "createdAt": "2026-06-01T12:00:00.123456789Z", "startedAt": None,
}  # fmt: skip
ENDPOINT: dict[str, Any] = {
    "id": "4m7x2k9q", "name": "regia0123-bbbb-1 -fb", "type": "QUEUE", "workers": {"min": 1, "max": 1},
    "env": {"REGIA_WORKERS_MIN": "1", "REGIA_WORKERS_MAX": "1"}, "dataCenterIds": ["EU-RO-1"], "timeout": 300_000,
    "gpu": {"pools": ["ADA_24"]}, "createdAt": "2026-06-01T12:00:00Z", "flashboot": "FLASHBOOT",
}  # fmt: skip
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def broken(row: dict[str, Any]) -> st.SearchStrategy[Any]:
    """The row with any of its fields missing or anything else, or something that is no row."""
    odd = st.dictionaries(st.sampled_from(sorted(row)), JSON, max_size=len(row))
    gone = st.sets(st.sampled_from(sorted(row)))
    changed = st.builds(lambda o, g: {k: v for k, v in {**row, **o}.items() if k not in g}, odd, gone)
    return changed | JSON


# -- sites ----------------------------------------------------------------------------------------


def test_only_the_table_says_where_a_data_centre_stands() -> None:
    assert country_of("US-DE-1") == "US", "that is Delaware"
    assert country_of("EU-DE-1") is None
    assert country_of("eu-ro-1") is None
    assert country_of("") is None
    assert all(residency.verdict(c, residency.EEA).allowed for c in EEA_SITES.values())
    others = {c for site, c in COUNTRIES.items() if site not in EEA_SITES}
    assert not [c for c in others if residency.verdict(c, residency.EEA).allowed]


# -- offers ---------------------------------------------------------------------------------------


def test_a_pod_offer_has_its_whole_price_and_says_what_a_stop_costs() -> None:
    quotes = {q.data_center: q for q in pod_quotes([GPU], "secure", TERMS)}
    assert set(quotes) == {"EU-RO-1", "US-DE-1", "EU-XX-9"}, "no offer without stock"
    romania = quotes["EU-RO-1"]
    assert (romania.compute_usd_per_hour, romania.disk_usd_per_hour) == (Decimal("0.44"), DISK)
    assert romania.usd_per_hour == Decimal("0.44") + DISK
    assert romania.held_usd_per_hour == 0
    assert (romania.country, romania.host, romania.stock) == ("RO", "EU-RO-1", "High")
    assert (romania.cuda_max, romania.compute_capability, romania.vram_mb) == (13.0, 8.9, 24 * 1024)
    assert (romania.sla, romania.certification) == (True, "ISO 27001")
    assert quotes["EU-XX-9"].country is None, "an unknown id fails closed"


def test_community_promises_nothing() -> None:
    romania = next(iter(pod_quotes([GPU], "community", TERMS)))
    assert (romania.sla, romania.certification) == (False, "")
    assert romania.compute_usd_per_hour == Decimal("0.31")


def test_a_worker_is_priced_by_the_second_and_an_active_one_is_an_estimate() -> None:
    quotes = {q.tier: q for q in worker_quotes([GPU], TERMS) if q.data_center == "EU-RO-1"}
    flex, active = quotes["serverless-flex"], quotes["serverless-active"]
    assert flex.compute_usd_per_hour == Decimal("1.116")
    assert active.compute_usd_per_hour == Decimal("0.8928")
    assert (flex.estimate, active.estimate) == (False, True)
    assert (flex.workers_min, active.workers_min) == (0, 1)
    assert "less 20 %" in active.note
    assert all(
        q.serverless and q.gpu_pool == "ADA_24" and "FlashBoot is on" in q.note for q in quotes.values()
    )


def test_the_rest_of_a_pool_is_excluded_by_the_offers_key() -> None:
    other = {**GPU, "id": "NVIDIA L4", "name": "L4"}
    flex = next(q for q in worker_quotes([GPU, other], TERMS) if q.gpu_name == "L4")
    assert flex.key == "serverless-flex:EU-RO-1:NVIDIA L4:NVIDIA GeForce RTX 4090"


@pytest.mark.parametrize(
    "changes",
    [
        {"price": {"secure": 0, "community": 0}}, {"price": None}, {"memory": None}, {"id": None},
        {"dataCenters": None}, {"dataCenters": [{"id": "EU-RO-1", "availability": "SOME"}]},
        {"manufacturer": "AMD"}, {"price": {"secure": "cheap", "community": float("nan"), "serverless": -1}},
    ],
)  # fmt: skip
def test_what_cannot_be_priced_or_placed_is_no_offer(changes: dict[str, Any]) -> None:
    row = {**GPU, **changes}
    assert not [
        *pod_quotes([row], "secure", TERMS),
        *pod_quotes([row], "community", TERMS),
        *worker_quotes([row], TERMS),
    ]


@pytest.mark.parametrize(
    ("shown", "exact"), [(1.12, "1.116"), (0.68, "0.684"), (0.58, "0.576"), (1.116, "1.116"), (4.18, "4.176")]
)
def test_the_price_by_the_second_stands_behind_the_rounded_hour(shown: float, exact: str) -> None:
    assert flex_price(shown) == Decimal(exact)


def test_public_community_offers_have_no_country() -> None:
    gpus = [
        {"id": "NVIDIA L4", "displayName": "L4", "memoryInGb": 24, "securePrice": 0.49, "communityPrice": 0.3}
    ]
    sites = [{"id": "EU-RO-1", "gpuAvailability": [{"gpuTypeId": "NVIDIA L4", "stockStatus": "Low"}]}]
    secure, community = public_quotes(gpus, sites, TERMS)
    assert (secure.key, secure.country, secure.stock) == ("secure:EU-RO-1:NVIDIA L4", "RO", "Low")
    assert (community.country, community.data_center) == (None, "")
    with pytest.raises(Rejected):
        pod_body(order_of(community, "regia-1"))


@given(st.lists(broken(GPU), max_size=3))
def test_no_catalogue_crashes_the_offers(rows: list[Any]) -> None:
    for quote in [
        *pod_quotes(rows, "secure", TERMS),
        *worker_quotes(rows, TERMS),
        *public_quotes(rows, rows, TERMS),
    ]:
        assert quote.usd_per_hour > 0
        assert len(quote.key) <= 400
    runpod_offers.certificates(rows)


# -- machines -------------------------------------------------------------------------------------


def pod(**changes: Any) -> Any:
    return next(runpod_machines.pods([{**POD, **changes}], lambda i, port: f"https://{i}-{port}.proxy"))


def endpoint(**changes: Any) -> Any:
    return next(
        runpod_machines.endpoints(
            [{**ENDPOINT, **changes}], lambda i: f"https://api/v2/{i}/openai", lambda i: f"https://{i}.api"
        )
    )


@pytest.mark.parametrize(
    ("word", "status"),
    [
        ("PROVISIONING", "pending"), ("STARTING", "pulling"), ("RUNNING", "running"), ("EXITED", "stopped"),
        ("ERROR", "exited"), ("HIBERNATING", "unknown"), (None, "unknown"), (7, "unknown"), ({}, "unknown"),
    ],
)  # fmt: skip
def test_a_pods_status_is_said_in_our_words(word: Any, status: str) -> None:
    machine = pod(status=word)
    assert machine.status == status
    assert (machine.endpoint_url is not None) == (status == "running")


def test_a_running_pod_has_its_address_its_place_and_its_price() -> None:
    machine = pod()
    assert machine.endpoint_url == "https://7h9k2m4n6p-8443.proxy"
    assert (machine.label, machine.country, machine.data_center) == ("regia0123-aaaa-1", "RO", "EU-RO-1")
    assert machine.usd_per_hour == Decimal("0.44") + DISK
    assert machine.created_at == datetime(2026, 6, 1, 12, 0, 0, 123456, tzinfo=UTC)
    assert "sk-secret" not in repr(machine)


@pytest.mark.parametrize(
    ("runtime", "use"),
    [
        ({"gpus": [{"util": 94, "memoryUtil": 78}]}, 0.94), ({"gpus": [{"util": 90}, {"util": 10}]}, 0.5),
        ({"gpus": [{"util": None}, {"util": 10}, 7]}, 0.1), ({"gpus": []}, None), ({"gpus": 7}, None), (None, None),
    ],
)  # fmt: skip
def test_how_busy_a_pods_gpus_are_is_their_mean(runtime: Any, use: float | None) -> None:
    assert pod(runtime=runtime).gpu_use == use


def test_a_deleted_pod_is_not_listed() -> None:
    assert list(runpod_machines.pods([{**POD, "status": "TERMINATED"}], lambda i, port: "")) == []


@pytest.mark.parametrize(
    ("cost", "disk", "volume", "stopped", "usd"),
    [
        (0.44, 40, None, False, Decimal("0.44") + DISK),
        (0.4400000035762787, 40, None, False, Decimal("0.44") + DISK),
        (0.44, 20, 20, False, Decimal("0.44") + DISK),
        (0, 40, None, True, Decimal(0)),
        (0, 40, 20, True, DISK),
        (0, 40, None, False, None),
        (None, 40, None, False, None),
        (0.44, None, None, False, None),
    ],
)
def test_a_pod_is_never_metered_from_its_cost_alone(
    cost: Any, disk: Any, volume: Any, stopped: bool, usd: Decimal | None
) -> None:
    assert pod_price(cost, disk=disk, volume=volume, stopped=stopped) == usd


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("regia-1-1 -fb", "regia-1-1"), ("regia-1-1-fb", "regia-1-1"), ("regia-1-1", "regia-1-1"),
        ("regia-1-1-fb -fb", "regia-1-1-fb"), ("regia-1-1 -fbx", "regia-1-1 -fbx"), (None, ""),
    ],
)  # fmt: skip
def test_exactly_flashboots_suffix_is_cut(name: Any, label: str) -> None:
    assert endpoint(name=name).label == label


@pytest.mark.parametrize(
    ("workers", "timeout", "status", "drifted"),
    [
        ({"min": 1, "max": 1}, 300_000, "running", False),
        ({"min": 0, "max": 0}, STOPPED_JOB_MS, "stopped", False),
        ({"min": 0, "max": 0}, 300_000, "stopped", True),
        ({"min": 0, "max": 1}, 300_000, "running", True),
        ({"min": 1, "max": 3}, 300_000, "running", True),
        ({"min": None, "max": None}, 300_000, "unknown", False),
        (None, None, "unknown", False),
    ],
)
def test_our_stop_is_told_from_runpods(workers: Any, timeout: Any, status: str, drifted: bool) -> None:
    machine = endpoint(workers=workers, timeout=timeout)
    assert (machine.status, bool(machine.drift)) == (status, drifted)
    assert machine.usd_per_hour is None, "only its workers tell"


def test_an_endpoint_in_several_countries_is_in_none() -> None:
    assert endpoint(dataCenterIds=["EU-SE-1", "EU-SE-2"]).country == "SE"
    assert endpoint(dataCenterIds=["EU-SE-1", "EU-RO-1"]).country is None
    assert endpoint(dataCenterIds=[]).country is None
    assert endpoint(dataCenterIds=["EU-SE-1", None]).country is None


@pytest.mark.parametrize(
    "env", [None, {}, {"REGIA_WORKERS_MIN": "1"}, {"REGIA_WORKERS_MIN": "x", "REGIA_WORKERS_MAX": "1"}, []]
)
def test_what_was_ordered_is_read_or_unknown(env: Any) -> None:
    assert ordered_workers(env) is None
    assert ordered_workers({"REGIA_WORKERS_MIN": "0", "REGIA_WORKERS_MAX": "2"}) == Workers(0, 2)


@given(st.lists(broken(POD), max_size=4), st.lists(broken(ENDPOINT), max_size=4))
def test_no_row_crashes_a_list_and_none_is_dropped(pods: list[Any], endpoints: list[Any]) -> None:
    rows = list(runpod_machines.pods(pods, lambda i, port: i))
    deleted = [r for r in pods if isinstance(r, dict) and r.get("status") == "TERMINATED"]
    assert len(rows) == len(pods) - len(deleted)
    more = list(runpod_machines.endpoints(endpoints, lambda i: i, lambda i: i))
    assert len(more) == len(endpoints)
    for machine in [*rows, *more]:
        assert isinstance(machine.status, MachineStatus)
        assert machine.usd_per_hour is None or machine.usd_per_hour >= 0


# -- workers --------------------------------------------------------------------------------------


def worker(status: str, site: str | None = "EU-RO-1", **more: Any) -> dict[str, Any]:
    return {"id": "w1", "status": status, "dataCenterId": site, "gpuCount": 1, "uptimeSeconds": 5, **more}


@pytest.mark.parametrize(
    ("limits", "workers", "billed", "serves"),
    [
        ((0, 1), [], 0, True),
        ((0, 0), [], 0, False),
        ((1, 1), [], 1, False),
        ((1, 1), [worker("IDLE")], 1, True),
        ((0, 1), [worker("IDLE", uptimeSeconds=None)], 0, True),
        ((0, 2), [worker("RUNNING"), worker("INITIALIZING")], 2, True),
        ((0, 1), [worker("INITIALIZING")], 1, False),
        ((0, 1), [worker("INITIALIZING", None)], 0, False),
        ((0, 1), [worker("THROTTLED")], 0, False),
        ((0, 1), [worker("UNHEALTHY")], 1, False),
        ((0, 1), [worker("HIBERNATING")], 1, False),
    ],
)
def test_workers_bill_and_serve_as_they_stand(
    limits: tuple[int, int], workers: list[Any], billed: int, serves: bool
) -> None:
    row = {**ENDPOINT, "workers": {"min": limits[0], "max": limits[1]}}
    seen = runpod_machines.inspection(row, workers, {})
    assert (seen.billed_workers, seen.serves) == (billed, serves)


def test_a_worker_that_does_not_say_where_it_runs_fails_closed() -> None:
    seen = runpod_machines.inspection(ENDPOINT, [worker("RUNNING", None), worker("INITIALIZING", None)], {})
    assert (seen.data_centers, seen.countries) == (("",), (None,)), "the unplaced one stands nowhere yet"


@given(broken(ENDPOINT), st.lists(broken(worker("IDLE")), max_size=3), JSON)
def test_no_worker_crashes_an_inspection(row: Any, workers: list[Any], health: Any) -> None:
    try:
        runpod_machines.inspection(
            row if isinstance(row, dict) else {}, workers, health if isinstance(health, dict) else {}
        )
    except ProviderError as e:
        assert isinstance(e, Unavailable)  # noqa: PT017


# -- charges --------------------------------------------------------------------------------------

HOUR = datetime(2026, 6, 1, 10, tzinfo=UTC)
RECORD: dict[str, Any] = {
    "startTime": "2026-06-01T10:00:00Z", "endTime": "2026-06-01T11:00:00Z", "podId": "p1", "totalAmount": 0.48,
    "gpuAmount": 0.44, "cpuAmount": 0, "diskAmount": 0.01,
}  # fmt: skip


def charged(since: datetime, until: datetime, *records: Any) -> list[Any]:
    return list(runpod_charges.charges(records, id_field="podId", prefix="", since=since, until=until))


def test_a_bucket_is_cut_by_time_and_nothing_of_it_is_lost() -> None:
    whole = charged(HOUR, HOUR + timedelta(hours=1), RECORD)
    assert {c.component: c.usd for c in whole} == {
        "compute": Decimal("0.44"), "disk": Decimal("0.01"), "other": Decimal("0.03"),
    }  # fmt: skip
    quarter = charged(HOUR + timedelta(minutes=45), HOUR + timedelta(hours=9), RECORD)
    assert sum(c.usd for c in quarter) == Decimal("0.12")
    assert all((c.start, c.end) == (HOUR + timedelta(minutes=45), HOUR + timedelta(hours=1)) for c in quarter)
    assert charged(HOUR + timedelta(hours=1), HOUR + timedelta(hours=2), RECORD) == []


@given(st.lists(broken(RECORD), max_size=4))
def test_no_record_crashes_the_charges(records: list[Any]) -> None:
    charged(HOUR, HOUR + timedelta(hours=1), *records)


# -- logs -----------------------------------------------------------------------------------------


def test_a_log_is_read_up_to_the_last_whole_event() -> None:
    stream = (
        b': hello\n\nid: 1\ndata: {"ts":"2026-06-01T10:00:01Z","source":"container","line":"key is abcdefgh1"}\r\n\r\n'
        b'data: {"ts":null,"source":"new","line":"no time"}\n\ndata: not json\n\ndata: [1]\n\n'
        b'data: {"ts":"2026-06-01T10:00:00Z","source":"system","line":"create"}\n\ndata: {"ts":"2026'
    )
    lines = runpod_logs.newest(runpod_logs.parse(stream, ["abcdefgh1"]), 10)
    assert [(line.source, line.text) for line in lines] == [
        ("system", "create"), ("container", "key is ***"), ("container", "no time"),
    ]  # fmt: skip
    assert runpod_logs.count(stream) == 6


@given(st.binary(max_size=80), st.integers(1, 3))
def test_no_stream_crashes_the_log(content: bytes, tail: int) -> None:
    assert len(runpod_logs.newest(runpod_logs.parse(b"data: " + content + b"\n\n", []), tail)) <= tail


# -- pace -----------------------------------------------------------------------------------------


class Ticks:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_the_quota_is_remembered_until_its_window_ends() -> None:
    clock = Ticks()
    pace = Pace(clock=clock)
    pace.told("me", {"RateLimit": f'"minute";r={RESERVE + 2};t=12, "hour";r=2800;t=1812'}, status=200)
    pace.enter("me")
    pace.enter("me")
    with pytest.raises(RateLimited) as caught:
        pace.enter("me")
    assert caught.value.retry_after == 12
    pace.enter("somebody else")
    pace.enter("me", urgent=True)
    clock.now += 12
    pace.enter("me")


@pytest.mark.parametrize(
    ("headers", "wait"),
    [
        ({"Retry-After": "7"}, 7), ({"Retry-After": "soon", "RateLimit": '"minute";r=0;t=9'}, 9), ({}, None),
        ({"RateLimit": '"minute";t=9;r=0, "hour";r=0;t=99'}, 99), ({"Retry-After": "99999999999"}, None),
    ],
)  # fmt: skip
def test_a_429_says_how_long_to_stay_away(headers: dict[str, str], wait: float | None) -> None:
    pace = Pace(clock=Ticks())
    assert pace.told("me", headers, status=429) == wait
    if wait:
        with pytest.raises(RateLimited):
            pace.enter("me")
    else:
        pace.enter("me")


@given(st.text(max_size=60))
def test_no_header_crashes_the_pace(header: str) -> None:
    windows_of(header)
    assert windows_of('"minute";r=3;t=12, "day";q=1') == [("minute", 3, 12.0)]


def test_an_order_keeps_the_newest_cuda_where_it_is_offered() -> None:
    quote = next(iter(pod_quotes([GPU], "secure", TERMS)))
    assert pod_body(order_of(quote, "regia-1"))["gpu"]["minCudaVersion"] == "13.0"
    assert "minCudaVersion" not in pod_body(order_of(replace(quote, cuda_max=12.8), "regia-1"))["gpu"]
