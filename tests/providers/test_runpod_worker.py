"""What a serverless order sends: to RunPod's own worker, and to a load balancer before our own image."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest

from deployments.providers.base import Order, Quote, Rejected
from deployments.providers.runpod import RunPodProvider
from deployments.providers.runpod_offers import BALANCED, FLEX, Terms, worker_quotes
from deployments.providers.runpod_orders import WORKERS_MAX, WORKERS_MIN, endpoint_body
from tests.emulators.common import Clock, FixedEngine, RealEngines
from tests.emulators.runpod import RunPodEmulator
from tests.providers.contract import API_KEY, PATIENCE, found, new_label
from tests.providers.runpod import IMAGE, WORKER_IMAGE, adapter, create, order_of, quote_of
from tests.providers.test_runpod_parts import GPU

NAMES: dict[str, Any] = json.loads(Path(__file__).with_name("worker_vllm_names.json").read_text())
DOCUMENTED = {*NAMES["worker"], *NAMES["aliases"], *NAMES["flags"]}
OURS = {WORKERS_MIN, WORKERS_MAX}
SECRET = "a-value-that-is-secret"


@pytest.fixture
def cloud() -> Iterator[RunPodEmulator]:
    with RunPodEmulator() as emulator:
        yield emulator
    assert emulator.violations == []


def quote(tier: str) -> Quote:
    terms = Terms(disk_gb=40, active_discount=Decimal(0), load_balancer=True)
    return next(q for q in worker_quotes([GPU], terms) if q.tier == tier and q.data_center == "EU-RO-1")


def order(tier: str, **changes: Any) -> Order:
    return order_of(quote(tier), "regia-1", **changes)


# -- RunPod's own worker ----------------------------------------------------------------------------


@pytest.mark.parametrize("tier", ["serverless-flex", "serverless-active"])
@pytest.mark.parametrize("repository", ["Qwen/Qwen3-4B-AWQ", "somebody/another-model"])
def test_the_worker_is_told_nothing_that_its_documentation_does_not_name(tier: str, repository: str) -> None:
    sent = endpoint_body(order(tier, repository=repository), WORKER_IMAGE)["env"]
    assert set(sent) - OURS <= DOCUMENTED
    assert not set(sent) & set(NAMES["without_effect"])
    assert all(isinstance(value, str) and value for value in sent.values())
    assert {sent[name] for name in NAMES["switches"] if name in sent} <= {"true", "false"}


def test_the_names_are_those_of_the_worker_that_is_ordered() -> None:
    assert WORKER_IMAGE.endswith(f":{NAMES['version']}")


def test_the_worker_loads_exactly_the_commit_and_serves_it_under_the_models_name() -> None:
    sent = endpoint_body(order("serverless-flex"), WORKER_IMAGE)["env"]
    assert sent["MODEL_NAME"] == "Qwen/Qwen3-4B-AWQ"
    assert re.fullmatch(r"[0-9a-f]{40}", sent["MODEL_REVISION"])
    assert (sent["OPENAI_SERVED_MODEL_NAME_OVERRIDE"], sent["MAX_MODEL_LEN"]) == ("qwen3-4b", "4096")
    assert "QUANTIZATION" not in sent, "the worker finds the faster kernel by itself"
    assert API_KEY not in sent.values(), "RunPod's own key guards the queue"


def test_more_variables_than_runpod_takes_are_not_sent() -> None:
    many = {f"MINE_{n}": "x" for n in range(60)}
    with pytest.raises(Rejected, match="50 variables"):
        endpoint_body(order("serverless-flex", environment=many), WORKER_IMAGE)


# -- a load balancer before our own image -----------------------------------------------------------


def test_a_load_balancer_is_offered_only_where_it_is_switched_on(cloud: RunPodEmulator) -> None:
    assert not [q for q in adapter(cloud).quotes() if q.tier == BALANCED]
    offered = {q.key: q for q in adapter(cloud, load_balancer=True).quotes()}
    balanced = [q for q in offered.values() if q.tier == BALANCED]
    assert balanced
    for q in balanced:
        flex = offered[q.key.replace(BALANCED, FLEX)]
        assert (q.usd_per_hour, q.country, q.gpu_pool) == (flex.usd_per_hour, flex.country, flex.gpu_pool)
        assert (q.serverless, q.workers_min, q.estimate) == (True, 0, False)
        assert "not proved" in q.note


def test_a_load_balancers_worker_is_our_image_with_its_door() -> None:
    body = endpoint_body(order(BALANCED, environment={"HF_TOKEN": SECRET, "REGIA_DOOR": "tls"}), WORKER_IMAGE)
    assert (body["type"], body["image"], body["ports"]) == ("LOAD_BALANCER", IMAGE, ["8000/http"])
    assert body["scaling"]["type"] == "REQUEST_COUNT"
    env = body["env"]
    assert (env["PORT"], env["PORT_HEALTH"], env["HEALTH_CHECK_PATH"]) == ("8000", "8000", "/health")
    assert (env["REGIA_DOOR"], env["REGIA_PORT"]) == ("plain", "8000")
    assert env["REGIA_API_KEY"] == API_KEY, "the door keeps its own key"
    assert env["REGIA_LEASE_SECONDS"] == "0", "a renewal would keep a worker awake"
    assert env["REGIA_MODEL"] == "Qwen/Qwen3-4B-AWQ"
    assert re.fullmatch(r"[0-9a-f]{40}", env["REGIA_REVISION"])
    assert env["HF_TOKEN"] == SECRET
    assert not set(env) & (DOCUMENTED - {"HF_TOKEN"}), "nothing of the other worker's"
    assert (env[WORKERS_MIN], env[WORKERS_MAX]) == ("0", "1")


def test_without_an_image_no_load_balancer_is_ordered() -> None:
    with pytest.raises(Rejected, match="INFERENCE_IMAGE"):
        endpoint_body(order(BALANCED, image=""), WORKER_IMAGE)


@pytest.fixture
def balancing(cloud: RunPodEmulator) -> RunPodProvider:
    return adapter(cloud, load_balancer=True)


def test_a_load_balancer_lives_as_every_endpoint_does(
    cloud: RunPodEmulator, balancing: RunPodProvider
) -> None:
    label = new_label()
    remote_id = create(balancing, label, BALANCED)
    [machine] = found(balancing, label)
    assert machine.endpoint_url == f"{cloud.url}/balancer/{remote_id.removeprefix('serverless-')}"
    assert (machine.country, machine.serverless, machine.drift) == ("RO", True, "")
    at_rest = balancing.inspect(remote_id)
    assert (at_rest.serves, at_rest.billed_workers, at_rest.detail) == (True, 0, "no workers")
    balancing.stop(remote_id)
    assert found(balancing, label)[0].status == "stopped"
    assert not balancing.inspect(remote_id).serves
    balancing.start(remote_id)
    assert found(balancing, label)[0].status == "running"
    balancing.terminate(remote_id)
    assert found(balancing, label) == []
    assert cloud.machines() == []
    assert cloud.violations == []


def test_a_port_that_is_not_exposed_leaves_its_workers_unhealthy(
    cloud: RunPodEmulator, balancing: RunPodProvider
) -> None:
    wrong = quote_of(balancing, BALANCED)
    body = {**endpoint_body(order_of(wrong, new_label()), WORKER_IMAGE), "workers": {"min": 1, "max": 1}}
    del body["ports"]
    with httpx.Client(headers={"Authorization": f"Bearer {cloud.keys[0]}"}) as api:
        made = api.post(f"{cloud.url}/v2/serverless", json=body)
    assert made.status_code == 201, made.text
    assert "1 unhealthy" in balancing.inspect(f"serverless-{made.json()['id']}").detail


def test_a_load_balancer_scales_by_requests_alone(cloud: RunPodEmulator, balancing: RunPodProvider) -> None:
    body = endpoint_body(order_of(quote_of(balancing, BALANCED), new_label()), WORKER_IMAGE)
    with httpx.Client(headers={"Authorization": f"Bearer {cloud.keys[0]}"}) as api:
        wrong = api.post(
            f"{cloud.url}/v2/serverless", json={**body, "scaling": {"type": "QUEUE_DELAY", "queueDelay": 4}}
        )
    assert wrong.status_code == 422
    cloud.violations.clear()


def test_runpods_key_opens_the_balancer_and_only_the_machines_key_the_door() -> None:
    with RunPodEmulator(clock=Clock(), engines=FixedEngine("http://127.0.0.1:9")) as cloud:
        provider = adapter(cloud, load_balancer=True)
        label = new_label()
        create(provider, label, BALANCED)
        url, runpod = found(provider, label)[0].endpoint_url, {"Authorization": f"Bearer {cloud.keys[0]}"}
        assert url
        answers = {
            "no key": {}, "the machine's alone": {"Authorization": f"Bearer {API_KEY}", "X-Regia-Key": API_KEY},
            "runpod's alone": runpod, "runpod's twice": {**runpod, "X-Regia-Key": cloud.keys[0]},
        }  # fmt: skip
        for name, headers in answers.items():
            assert httpx.get(f"{url}/v1/models", headers=headers, timeout=PATIENCE).status_code == 401, name
        both = httpx.get(f"{url}/v1/models", headers={**runpod, "X-Regia-Key": API_KEY}, timeout=PATIENCE)
        assert both.status_code == 502, "the door is open, and no engine is behind it"


@pytest.mark.engine
def test_a_load_balancer_answers_a_chat(tmp_path: Path) -> None:
    with RunPodEmulator(engines=RealEngines(tmp_path)) as cloud:
        provider, label = adapter(cloud, load_balancer=True), new_label()
        remote_id = create(provider, label, BALANCED)
        url = found(provider, label)[0].endpoint_url
        assert url
        headers = {"Authorization": f"Bearer {cloud.keys[0]}", "X-Regia-Key": API_KEY}
        question = {"model": "qwen3-4b", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8}
        answer = httpx.post(f"{url}/v1/chat/completions", json=question, headers=headers, timeout=PATIENCE)
        assert answer.status_code == 200, answer.text
        assert answer.json()["choices"][0]["message"]["content"]
        assert provider.inspect(remote_id).billed_workers == 1
        provider.terminate(remote_id)
    assert cloud.violations == []
