"""The emulator of RunPod holds the contract: both ways, each fault, the bill, the SDK, a real engine."""

from __future__ import annotations

import json
from datetime import timedelta
from decimal import Decimal
from typing import Any

import httpx
import pytest

from tests.emulators.common import Clock, Fault
from tests.emulators.conftest import NOON
from tests.emulators.runpod import RunPodEmulator
from tests.emulators.runpod_orders import BALANCE, ENDPOINT, POD, act, deploy, rent

HOUR = 3600
STOCK = {"include": "AVAILABILITY", "product": "POD", "cloud": "SECURE", "count": 1}


def names(api: httpx.Client) -> list[str]:
    return [pod["name"] for pod in api.get("/v2/pods").json()["pods"]]


# -- catalogue -----------------------------------------------------------------------------------


def test_prices_are_those_of_the_snapshot_and_stock_needs_a_product(api):
    gpus = {g["id"]: g for g in api.get("/v2/catalog/gpus", params=STOCK).json()["gpus"]}
    assert gpus["NVIDIA GeForce RTX 4090"]["price"] == {"secure": 0.74, "community": 0.34, "serverless": 1.12}
    assert gpus["NVIDIA L4"]["price"]["community"] == 0
    assert "EU-RO-1" in {d["id"] for d in gpus["NVIDIA RTX A5000"]["dataCenters"]}
    assert "availability" not in api.get("/v2/catalog/gpus").json()["gpus"][0]
    assert api.get("/v2/catalog/gpus?include=AVAILABILITY").status_code == 400
    assert api.get("/v2/catalog/gpus?product=POD").status_code == 400


def test_community_and_serverless_have_their_own_places(api):
    def places(**query: Any) -> set[str]:
        gpus = api.get("/v2/catalog/gpus", params={**STOCK, **query}).json()["gpus"]
        return {d["id"] for g in gpus for d in g.get("dataCenters", [])}

    assert places(cloud="COMMUNITY", countryCodes="CZ,FR") == {"EU-CZ-1", "EU-FR-1"}
    assert "EU-SE-1" in places(product="SERVERLESS")


def test_europe_is_more_than_the_eu(api):
    query = {"regions": "EUROPE", "include": "GPU_AVAILABILITY", "compliance": "GDPR"}
    ids = {d["id"] for d in api.get("/v2/catalog/datacenters", params=query).json()["dataCenters"]}
    assert {"EU-RO-1", "EUR-IS-1"} <= ids
    assert "US-TX-3" not in ids


# -- pods ----------------------------------------------------------------------------------------


def test_a_pod_provisions_starts_and_runs(runpod_cloud, api):
    pod = rent(api)
    seen = []
    for _ in range(3):
        row = api.get(f"/v2/pods/{pod}").json()
        seen.append((row["status"], row["runtime"] is None))
        runpod_cloud.advance(30)
    assert seen == [("PROVISIONING", True), ("STARTING", True), ("RUNNING", False)]
    # In clear, as RunPod does.
    assert row["env"] == POD["env"]
    assert runpod_cloud.secrets >= {"planted-machine-key"}


def test_a_stopped_pod_costs_nothing_by_its_row_and_comes_back_if_its_host_has_room(runpod_cloud, api):
    pod = rent(api)
    assert act(api, pod, "stop").json()["cost"] == 0
    assert act(api, pod, "stop").status_code == 409
    runpod_cloud.fill_host(pod)
    refused = act(api, pod, "start")
    assert (refused.status_code, "free GPUs" in refused.json()["detail"]) == (400, True)
    runpod_cloud.fill_host(pod, full=False)
    assert act(api, pod, "start").json()["status"] == "PROVISIONING"
    runpod_cloud.advance(60)
    assert act(api, pod, "restart").json()["status"] == "PROVISIONING"


def test_deleted_is_204_without_a_body_then_404(api):
    pod, other = rent(api), rent(api)
    answer = api.delete(f"/v2/pods/{pod}")
    assert (answer.status_code, answer.content) == (204, b"")
    assert api.delete(f"/v2/pods/{pod}").status_code == 404
    assert act(api, other, "terminate").status_code == 204
    assert api.get(f"/v2/pods/{other}").status_code == 404


def test_a_locked_pod_is_neither_stopped_nor_deleted(runpod_cloud, api):
    pod = rent(api)
    runpod_cloud.lock_pod(pod)
    assert api.get(f"/v2/pods/{pod}").json()["locked"] is True
    assert act(api, pod, "stop").status_code == 409
    assert api.delete(f"/v2/pods/{pod}").status_code == 409
    assert api.patch(f"/v2/pods/{pod}", json={"locked": False}).json()["locked"] is False
    assert api.delete(f"/v2/pods/{pod}").status_code == 204


def test_a_pods_own_key_may_stop_and_end_it_and_nothing_else(runpod_cloud, api):
    pod, other = rent(api), rent(api)
    key = runpod_cloud.find_pod(pod).own_key
    headers = {"Authorization": f"Bearer {key}"}
    with httpx.Client(base_url=runpod_cloud.url, headers=headers, timeout=10) as inside:
        assert inside.get("/v2/pods").status_code == 403
        assert inside.post("/v2/pods", json=POD).status_code == 403
        assert inside.delete(f"/v2/pods/{other}").status_code == 403
        assert inside.patch(f"/v2/pods/{pod}", json={"locked": True}).status_code == 403
        assert inside.get("/v2/serverless").status_code == 403
        assert act(inside, pod, "stop").json()["status"] == "EXITED"
        assert act(inside, pod, "terminate").status_code == 204
        # It was the pod's: with the pod it is gone.
        assert inside.get(f"/v2/pods/{pod}").status_code == 401
    assert [machine["id"] for machine in runpod_cloud.machines()] == [other]


@pytest.mark.parametrize(
    "changes",
    [
        {"dataCenterIds": ["AP-XX-9"]},
        {"gpu": {"id": "NVIDIA RTX A5000"}},
        {"gpu": {"id": "no such GPU", "count": 1}},
        {"gpu": {"id": "NVIDIA L4", "count": 1}, "cloud": "COMMUNITY"},
    ],
)
def test_what_cannot_be_had_is_a_400_that_speaks_of_instances(api, changes):
    answer = api.post("/v2/pods", json={**POD, **changes})
    assert answer.status_code == 400
    assert answer.headers["Content-Type"].startswith("application/problem+json")
    assert answer.json()["detail"].startswith("There are no longer any instances available")


def test_sold_out_shows_only_when_it_is_ordered(runpod_cloud, api):
    runpod_cloud.sell_out("NVIDIA RTX A5000")
    assert api.post("/v2/pods", json=POD).status_code == 400
    runpod_cloud.restock("NVIDIA RTX A5000")
    rent(api)


def test_without_a_wish_the_scheduler_does_not_choose_the_eu(runpod_cloud, api):
    rent(api, dataCenterIds=[], gpu={"id": "NVIDIA RTX A4000", "count": 1})
    assert runpod_cloud.machines()[0]["country"] == "US"


def test_a_stray_key_is_422_and_counts_as_our_mistake(runpod_cloud, api):
    answer = api.post("/v2/pods", json={**POD, "bogus": 1})
    assert answer.status_code == 422
    assert "bogus" in answer.json()["errors"][0]
    assert len(runpod_cloud.violations) == 1
    runpod_cloud.violations.clear()


def test_a_body_too_large_and_too_many_variables_are_refused(api):
    assert api.post("/v2/pods", json={**POD, "args": "x" * 110_000}).status_code == 413
    assert api.post("/v2/pods", json={**POD, "env": {f"A{n}": "1" for n in range(51)}}).status_code == 400


def test_logs_are_events_that_never_end(runpod_cloud, api):
    pod = rent(api)
    runpod_cloud.advance(60)
    runpod_cloud.say(pod, "Loading weights")
    with api.stream("GET", f"/v2/pods/{pod}/logs?tail=2&source=container", timeout=0.5) as answer:
        assert answer.headers["Content-Type"] == "text/event-stream"
        with pytest.raises(httpx.ReadTimeout):
            list(answer.iter_lines())
    with api.stream("GET", f"/v2/pods/{pod}/logs", params={"tail": 5000}, timeout=5) as answer:
        events = (line for line in answer.iter_lines() if line.startswith("data:"))
        found = [json.loads(next(events)[5:]) for _ in range(3)]
    assert {"ts", "source", "line"} == set(found[0])
    assert "Loading weights" in [event["line"] for event in found]
    assert {event["source"] for event in found} == {"system", "container"}


# -- serverless ----------------------------------------------------------------------------------


def test_an_endpoint_with_flashboot_comes_back_with_another_name(api):
    deploy(api)
    assert api.get("/v2/serverless").json()["endpoints"][0]["name"] == "regia-2 -fb"


def test_always_on_workers_start_at_once_where_they_may(runpod_cloud, api):
    endpoint = deploy(api, workers={"min": 1, "max": 2})
    workers = api.get(f"/v2/serverless/{endpoint}/workers").json()
    assert [(w["status"], w["dataCenterId"]) for w in workers["workers"]] == [("INITIALIZING", "EU-RO-1")]
    runpod_cloud.advance(60)
    workers = api.get(f"/v2/serverless/{endpoint}/workers").json()
    assert workers["summary"]["idle"] == workers["summary"]["total"] == 1
    runpod_cloud.move(endpoint, "US-TX-3")
    assert api.get(f"/v2/serverless/{endpoint}/workers").json()["workers"][0]["dataCenterId"] == "US-TX-3"
    runpod_cloud.fail(endpoint)
    assert api.get(f"/runtime/v2/{endpoint}/health").json()["workers"]["unhealthy"] == 1


def test_a_scale_to_zero_ends_the_workers_and_idle_days_do_so_too(runpod_cloud, api):
    endpoint = deploy(api, workers={"min": 1, "max": 2})
    stopped = api.patch(f"/v2/serverless/{endpoint}", json={"workers": {"min": 0, "max": 0}})
    assert stopped.json()["workers"]["max"] == 0
    assert api.get(f"/v2/serverless/{endpoint}/workers").json()["workers"] == []
    assert api.patch(f"/v2/serverless/{endpoint}", json={"workers": {"min": 1, "max": 2}}).status_code == 200
    runpod_cloud.idle_scale_down(endpoint)
    assert api.get(f"/v2/serverless/{endpoint}").json()["workers"]["max"] == 0
    assert [seen.kind for seen in runpod_cloud.log()][1::2][:2] == ["stop", "start"]


def test_what_the_contract_forbids_of_an_endpoint_is_refused(runpod_cloud, api):
    wrong = {**ENDPOINT, "workers": {"min": 0, "max": 1, "idleTimeout": 60}}
    assert api.post("/v2/serverless", json=wrong).status_code == 422
    assert api.post("/v2/serverless", json={**ENDPOINT, "workers": {"max": 21}}).status_code == 400
    without = {name: value for name, value in ENDPOINT.items() if name != "timeout"}
    assert api.post("/v2/serverless", json=without).json()["timeout"] == 0
    runpod_cloud.violations.clear()


def test_a_deleted_endpoint_is_gone(api):
    endpoint = deploy(api)
    assert api.delete(f"/v2/serverless/{endpoint}").status_code == 204
    assert api.delete(f"/v2/serverless/{endpoint}").status_code == 404
    assert api.get(f"/runtime/v2/{endpoint}/health").status_code == 404


# -- bills ---------------------------------------------------------------------------------------


def test_a_pod_is_billed_from_its_creation_and_stopped_for_its_volume_alone(runpod_cloud, api):
    pod = rent(api, mounts={"persistent": {"size": 100, "path": "/workspace"}})
    runpod_cloud.advance(HOUR)
    act(api, pod, "stop")
    runpod_cloud.advance(HOUR)
    gpu, disk = Decimal("0.27"), Decimal("0.10") * 140 / 730
    assert round(runpod_cloud.bill(pod, NOON, NOON + timedelta(hours=1)) - gpu - disk, 12) == 0
    stopped = Decimal("0.20") * 100 / 730
    assert round(runpod_cloud.bill(pod, NOON + timedelta(hours=1)) - stopped, 12) == 0
    api.delete(f"/v2/pods/{pod}")
    total = runpod_cloud.bill()
    runpod_cloud.advance(HOUR)
    assert runpod_cloud.bill() == total


def test_charges_come_by_the_hour_and_five_minutes_late(runpod_cloud, api):
    pod = rent(api)
    runpod_cloud.advance(HOUR + 299)
    query = {"bucketSize": "hour", "startTime": "2026-11-24T11:30:00Z", "endTime": "2026-11-24T13:30:00Z"}
    bill = api.get("/v2/billing/pods", params=query).json()
    assert [(r["podId"], r["startTime"][11:16], r["gpuAmount"]) for r in bill["records"]] == [
        (pod, "12:00", 0.27)
    ]
    runpod_cloud.advance(1)
    bill = api.get("/v2/billing/pods", params=query).json()
    assert bill["records"][1]["gpuAmount"] == pytest.approx(0.27 / 12)
    assert bill["metadata"]["totals"]["totalAmount"] == pytest.approx(float(runpod_cloud.bill(pod)))
    assert bill["metadata"]["uniquePodCount"] == 1
    for size in ("day", "week", "month", "year"):
        totals = api.get("/v2/billing", params={"bucketSize": size, "lastN": 1}).json()["metadata"]["totals"]
        assert totals["podGpuAmount"] == pytest.approx(0.27 * 13 / 12)
    assert api.get("/v2/billing/pods?lastN=1&startTime=2026-11-24T11:30:00Z").status_code == 400


def test_always_on_workers_bill_idle_and_a_worker_by_whole_seconds(runpod_cloud, api):
    runpod_cloud.active_discount = Decimal("0.5")
    endpoint = deploy(api, workers={"min": 1, "max": 1})
    runpod_cloud.advance(600.2)
    api.patch(f"/v2/serverless/{endpoint}", json={"workers": {"min": 0, "max": 0}})
    runpod_cloud.advance(HOUR)
    assert runpod_cloud.bill(endpoint) == Decimal("0.00019") / 2 * 601
    query = {"bucketSize": "hour", "lastN": 3, "serverlessId": endpoint}
    bill = api.get("/v2/billing/serverless", params=query).json()
    assert {record["serverlessId"] for record in bill["records"]} == {endpoint}
    assert bill["metadata"]["totals"]["gpuAmount"] == pytest.approx(0.00019 / 2 * 601)


def test_a_new_price_holds_from_then_on(runpod_cloud, api):
    pod = rent(api, disk=1)
    runpod_cloud.advance(HOUR)
    runpod_cloud.set_price(pod, "0.54")
    runpod_cloud.advance(HOUR)
    disk = Decimal("0.10") * 2 / 730
    assert round(runpod_cloud.bill(pod) - Decimal("0.81") - disk, 12) == 0
    assert api.get(f"/v2/pods/{pod}").json()["cost"] == 0.54


def test_without_money_pods_are_terminated_and_nothing_is_sold(runpod_cloud, api):
    rent(api)
    deploy(api, workers={"min": 1, "max": 1})
    runpod_cloud.set_balance(1)
    runpod_cloud.advance(10 * HOUR)
    assert names(api) == []
    assert api.get("/v2/serverless").json()["endpoints"][0]["workers"]["max"] == 0
    assert api.post("/v2/pods", json=POD).status_code == 402


# -- GraphQL and limits --------------------------------------------------------------------------


def test_the_balance_falls_by_what_is_burned(runpod_cloud, api):
    rent(api)
    runpod_cloud.advance(HOUR)
    me = api.post("/graphql", json={"query": BALANCE, "variables": {}}).json()["data"]["myself"]
    burn = 0.27 + 0.10 * 40 / 730
    assert me["clientBalance"] == pytest.approx(250 - burn, abs=1e-5)
    assert me["currentSpendPerHr"] == pytest.approx(burn, abs=1e-5)


def test_the_catalogue_is_public_and_the_balance_is_not(runpod_cloud):
    query = """{ dataCenters{id location gpuAvailability{gpuTypeId stockStatus}} serverlessGpuPools{id gpuTypeIds}
        gpuTypes{ id lowestPrice(input:{gpuCount:1,secureCloud:true,dataCenterId:"EU-RO-1"}) {
        uninterruptablePrice stockStatus } } }"""
    data = httpx.post(f"{runpod_cloud.url}/graphql", json={"query": query}).json()["data"]
    prices = {g["id"]: g["lowestPrice"] for g in data["gpuTypes"]}
    assert prices["NVIDIA RTX A5000"]["uninterruptablePrice"] == 0.27
    assert prices["NVIDIA RTX A5000"]["stockStatus"] in {"Low", "Medium", "High"}
    assert "AMPERE_24" in {pool["id"] for pool in data["serverlessGpuPools"]}
    assert httpx.post(f"{runpod_cloud.url}/graphql", json={"query": BALANCE}).status_code == 401


def test_an_unknown_field_is_a_graphql_error(api):
    answer = api.post("/graphql", json={"query": "{myself{password}}"})
    assert "Cannot query field" in answer.json()["errors"][0]["message"]


def test_every_answer_to_a_known_key_tells_what_is_left(runpod_cloud):
    with RunPodEmulator(clock=Clock(NOON), quota=2) as emulator:
        headers = {"Authorization": f"Bearer {emulator.keys[0]}"}
        answers = [httpx.get(f"{emulator.url}/v2/pods", headers=headers) for _ in range(3)]
        stranger = httpx.get(f"{emulator.url}/v2/pods")
    assert [a.status_code for a in answers] == [200, 200, 429]
    assert answers[0].headers["RateLimit"].startswith('"minute";r=1;t=60, "hour";')
    assert answers[0].headers["RateLimit-Policy"].startswith('"minute";q=2;w=60, ')
    assert answers[2].headers["Retry-After"] == "60"
    assert stranger.status_code == 401
    assert "RateLimit" not in stranger.headers


def test_each_key_has_its_own_machines():
    with RunPodEmulator(keys=("key-one", "key-two")) as emulator:
        clients = [
            httpx.Client(base_url=emulator.url, headers={"Authorization": f"Bearer {k}"})
            for k in emulator.keys
        ]
        rent(clients[0])
        assert [names(client) for client in clients] == [["regia-1"], []]
        assert (emulator.ever("regia-1"), emulator.ever("regia-1", account="key-two")) == (1, 0)
        for client in clients:
            client.close()


# -- faults --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        (Fault.ERROR_BEFORE, 500), (Fault.RATE_LIMITED, 429), (Fault.UNAUTHORIZED, 401), (Fault.FORBIDDEN, 403),
        (Fault.NO_CAPACITY, 400), (Fault.REJECTED, 402),
    ],
)  # fmt: skip
def test_a_refused_create_made_nothing(runpod_cloud, api, fault, status):
    runpod_cloud.faults.add("create", fault)
    answer = api.post("/v2/pods", json=POD)
    assert (answer.status_code, answer.json()["status"]) == (status, status)
    assert runpod_cloud.ever("regia-1") == 0


@pytest.mark.parametrize("fault", [Fault.ERROR_AFTER, Fault.GATEWAY_AFTER, Fault.HTML, Fault.EMPTY_BODY])
def test_an_unclear_create_made_one(runpod_cloud, api, fault):
    runpod_cloud.faults.add("create", fault)
    api.post("/v2/pods", json=POD)
    assert names(api) == ["regia-1"]


@pytest.mark.parametrize("create", [rent, deploy])
def test_a_late_machine_bills_before_any_list_shows_it(runpod_cloud, api, create):
    runpod_cloud.faults.add("create", Fault.LATE)
    create(api, **({"workers": {"min": 1, "max": 1}} if create is deploy else {}))

    def listed() -> int:
        return len(names(api)) + len(api.get("/v2/serverless").json()["endpoints"])

    assert (listed(), len(runpod_cloud.machines())) == (0, 1)
    runpod_cloud.advance(89)
    assert listed() == 0
    runpod_cloud.advance(1)
    assert listed() == 1
    assert runpod_cloud.bill() > 0


@pytest.mark.parametrize(
    ("fault", "left"), [(Fault.TRUNCATED, 1), (Fault.EMPTY, 0), (Fault.UNKNOWN_FIELDS, 2), (Fault.OK, 2)]
)
def test_a_list_may_be_cut_short(runpod_cloud, api, fault, left):
    rent(api)
    rent(api)
    runpod_cloud.faults.add("list", fault)
    assert len(names(api)) == left


def test_a_fault_may_be_meant_for_one_of_the_two_lists(runpod_cloud, api):
    runpod_cloud.faults.add("list/serverless", Fault.ERROR_BEFORE)
    assert api.get("/v2/pods").status_code == 200
    assert api.get("/v2/serverless").status_code == 500


def test_spoilt_rows_keep_their_shape(runpod_cloud, api):
    rent(api)
    runpod_cloud.faults.add("list", Fault.NULLS, Fault.UNKNOWN_STATE, Fault.WRONG_TYPE)
    row = api.get("/v2/pods").json()["pods"][0]
    assert (row["name"], row["cost"], row["env"]) == ("regia-1", None, None)
    assert api.get("/v2/pods").json()["pods"][0]["status"] == "HIBERNATING"
    assert isinstance(api.get("/v2/pods").json(), list)


def test_a_balance_may_be_missing_or_refused(runpod_cloud, api):
    runpod_cloud.faults.add("balance", Fault.MISSING_BALANCE, Fault.FORBIDDEN, Fault.RATE_LIMITED)
    assert api.post("/graphql", json={"query": BALANCE}).json()["data"]["myself"]["clientBalance"] is None
    assert "errors" in api.post("/graphql", json={"query": BALANCE}).json()
    assert "data" not in api.post("/graphql", json={"query": BALANCE}).json()


def test_a_revoked_key_is_401(runpod_cloud, api):
    runpod_cloud.revoke()
    assert api.get("/v2/pods").status_code == 401
    assert api.post("/graphql", json={"query": BALANCE}).status_code == 401


# -- the handle ----------------------------------------------------------------------------------


def test_what_others_do_shows_in_lists_and_what_vanished_bills_on(runpod_cloud, api):
    theirs = runpod_cloud.place("somebody-else", data_center="US-TX-3")
    runpod_cloud.place("their-endpoint", kind="endpoint")
    ours = rent(api)
    assert names(api) == ["somebody-else", "regia-1"]
    runpod_cloud.vanish(ours)
    assert names(api) == ["somebody-else"]
    runpod_cloud.advance(HOUR)
    assert runpod_cloud.bill(ours) > 0
    runpod_cloud.vanish(ours, back=True)
    runpod_cloud.move(ours, None)
    assert {m["label"]: m["country"] for m in runpod_cloud.machines()}["regia-1"] is None
    runpod_cloud.destroy(theirs)
    assert names(api) == ["regia-1"]
    runpod_cloud.fail(ours)
    assert api.get(f"/v2/pods/{ours}").json()["status"] == "ERROR"
    runpod_cloud.fail("regia-1", status="EXITED")
    assert api.get(f"/v2/pods/{ours}").json()["cost"] == 0
    assert runpod_cloud.bill("regia-1") == runpod_cloud.bill(ours)
    with pytest.raises(LookupError):
        runpod_cloud.destroy("nothing")
    with pytest.raises(ValueError, match="no bids"):
        runpod_cloud.outbid(ours)


def test_the_handle_reads_and_acts_over_http(runpod_cloud, api):
    pod = api.post("/_emulator/place", json={"label": "x"}).json()
    assert api.get("/_emulator/machines").json()[0]["id"] == pod
    assert api.post("/_emulator/bill", json={"id": pod, "since": "2026-11-24T11:00:00+00:00"}).json() == 0
    assert api.post("/_emulator/destroy", json={"id": "nothing"}).status_code == 400
