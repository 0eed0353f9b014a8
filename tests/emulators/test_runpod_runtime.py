"""The emulator of RunPod under its SDK, under the pods' proxy and with real engines."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest

from tests.emulators.common import Fault, FixedEngine, RealEngines
from tests.emulators.conftest import wait_until
from tests.emulators.runpod import RunPodEmulator
from tests.emulators.runpod_orders import BALANCE, ENDPOINT, act, deploy, rent

# -- the SDK -------------------------------------------------------------------------------------


@pytest.fixture
def sdk(runpod_cloud: RunPodEmulator, monkeypatch: pytest.MonkeyPatch) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import runpod
    monkeypatch.setenv("RUNPOD_API_BASE_URL", runpod_cloud.url)
    monkeypatch.setattr(runpod, "endpoint_url_base", f"{runpod_cloud.url}/runtime/v2")
    monkeypatch.setattr(runpod, "api_key", runpod_cloud.keys[0])
    return runpod


def test_the_sdk_reads_the_balance_and_an_endpoints_health(runpod_cloud, api, sdk):
    from runpod.api.graphql import run_graphql_query

    key = runpod_cloud.keys[0]
    assert run_graphql_query(BALANCE, api_key=key)["data"]["myself"]["clientBalance"] == 250
    endpoint = deploy(api, workers={"min": 1, "max": 1})
    runpod_cloud.advance(60)
    assert sdk.Endpoint(endpoint, api_key=key).health()["workers"]["ready"] == 1


def test_the_sdk_says_what_it_says_of_errors(runpod_cloud, sdk):
    from runpod.api.graphql import run_graphql_query
    from runpod.error import AuthenticationError, QueryError

    runpod_cloud.faults.add("balance", Fault.FORBIDDEN)
    with pytest.raises(QueryError, match="not authorized"):
        run_graphql_query(BALANCE)
    with pytest.raises(AuthenticationError):
        run_graphql_query(BALANCE, api_key="another")


# -- engines -------------------------------------------------------------------------------------


class Streamer(BaseHTTPRequestHandler):
    """Streams one piece, then waits until it is told to go on or its client is gone."""

    go_on = threading.Event()
    left = threading.Event()

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        for _ in range(600):
            try:
                self.wfile.write(f"data: {self.headers.get('Authorization')}\n\n".encode())
                self.wfile.flush()
            except OSError:
                self.left.set()
                return
            if self.go_on.wait(0.05):
                return

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def streaming() -> Iterator[RunPodEmulator]:
    Streamer.go_on.clear()
    Streamer.left.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Streamer)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    with RunPodEmulator(engines=FixedEngine(f"http://127.0.0.1:{server.server_port}")) as emulator:
        yield emulator
    Streamer.go_on.set()
    server.shutdown()
    server.server_close()


def test_the_proxy_streams_and_closes_when_the_reader_leaves(streaming):
    headers = {"Authorization": f"Bearer {streaming.keys[0]}"}
    with httpx.Client(base_url=streaming.url, headers=headers) as api:
        pod = rent(api)
        assert api.get("/proxy/nobody-8000/v1/models").status_code == 404
        assert api.get(f"/proxy/{pod}-9000/v1/models").status_code == 404
        for path in (f"/proxy/{pod}-8000/v1/x", f"/proxy/{pod}/8000/v1/x"):
            Streamer.left.clear()
            with api.stream("GET", path, headers={"Authorization": "Bearer theirs"}) as answer:
                assert next(answer.iter_lines()) == "data: Bearer theirs"
            assert Streamer.left.wait(5)
        act(api, pod, "stop")
        assert api.get(f"/proxy/{pod}-8000/v1/models").status_code == 502


def test_a_request_wakes_a_worker_that_ends_when_idle(streaming):
    headers = {"Authorization": f"Bearer {streaming.keys[0]}"}
    with httpx.Client(base_url=streaming.url, headers=headers) as api:
        endpoint = deploy(api, env={**ENDPOINT["env"], "REGIA_API_KEY": "inside"})
        assert api.get(f"/v2/serverless/{endpoint}/workers").json()["workers"] == []
        with api.stream("GET", f"/runtime/v2/{endpoint}/openai/v1/models") as answer:
            assert next(answer.iter_lines()) == "data: Bearer inside"
            health = api.get(f"/runtime/v2/{endpoint}/health").json()
        assert (health["workers"]["running"], health["jobs"]["inProgress"]) == (1, 1)
        assert Streamer.left.wait(5)
        wait_until(lambda: api.get(f"/runtime/v2/{endpoint}/health").json()["workers"]["idle"] == 1)
        streaming.advance(5)
        assert api.get(f"/v2/serverless/{endpoint}/workers").json()["workers"] == []
        assert httpx.get(f"{streaming.url}/runtime/v2/{endpoint}/openai/v1/models").status_code == 401
        streaming.idle_scale_down(endpoint)
        assert api.get(f"/runtime/v2/{endpoint}/openai/v1/models").status_code == 503


def test_the_proxy_gives_up_with_524_when_no_first_byte_comes(streaming):
    streaming.proxy_seconds = 0.0
    headers = {"Authorization": f"Bearer {streaming.keys[0]}"}
    with httpx.Client(base_url=streaming.url, headers=headers) as api:
        pod = rent(api)
        api.get("/v2/pods")
        assert api.get(f"/proxy/{pod}-8000/v1/models").status_code == 524


@pytest.mark.engine
def test_a_pod_and_an_endpoint_are_real_engines_from_create_to_chat_to_the_end(tmp_path):
    with RunPodEmulator(engines=RealEngines(tmp_path)) as emulator:
        headers = {"Authorization": f"Bearer {emulator.keys[0]}"}
        with httpx.Client(base_url=emulator.url, headers=headers, timeout=60) as api:
            pod, endpoint = rent(api), deploy(api)
            at = f"/proxy/{pod}-8000"
            wait_until(lambda: api.get(f"{at}/health").status_code == 200)
            own = {"Authorization": "Bearer planted-machine-key"}
            assert api.get(f"{at}/v1/models", headers=own).json()["data"][0]["id"] == "qwen3-4b"
            assert api.get(f"{at}/v1/models").status_code == 401
            chat = {"model": "qwen3-4b", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8}
            at = f"/runtime/v2/{endpoint}/openai/v1/chat/completions"
            with api.stream("POST", at, json={**chat, "stream": True}) as answer:
                lines = [line for line in answer.iter_lines() if line]
            assert lines[-1] == "data: [DONE]"
            address = next(m["url"] for m in emulator.machines() if m["id"] == pod)
            assert api.delete(f"/v2/pods/{pod}").status_code == 204
            wait_until(lambda: is_dead(address))
    assert emulator.violations == []


def is_dead(address: str) -> bool:
    """Nothing listens there; an answer that breaks off is still one."""
    try:
        httpx.get(f"{address}/health")
    except httpx.TransportError as e:
        return isinstance(e, httpx.ConnectError)
    return False
