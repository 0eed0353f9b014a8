"""The real vLLM behind the real door, on the processor, with a tiny Qwen3 of random weights: `./regia test --vllm`."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any
from uuid import UUID

import psutil
import pytest

from deployments.certificates import Pin
from deployments.models import Incident, Instance, Monitor, Sample
from deployments.monitoring import incidents, samples, scrape
from tests import vllm_venv
from tests.conftest import NOW
from tests.image import doors
from tests.image.doors import LISTED, Answer, bearer, pinned, secured, soon
from tests.image.running import KEY, Running, running, variables
from tests.playground.rows import chatting_deployment

pytestmark = pytest.mark.vllm
NAME = "tiny-qwen3"
CONTEXT = 1024
LONG = 900
"""Tokens; they take seconds."""
LOADING_SECONDS = 600
BLOCKS = 12
"""Of its KV cache, of 128 tokens each: enough for one long answer, and not for many."""
SATURATED_SECONDS = 300
METRICS = (
    "vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc", "vllm:prompt_tokens_total",
    "vllm:generation_tokens_total", "vllm:request_success_total", "vllm:time_to_first_token_seconds_bucket",
    "vllm:inter_token_latency_seconds_bucket", "vllm:e2e_request_latency_seconds_bucket",
    "vllm:request_queue_time_seconds_bucket",
)  # fmt: skip


@dataclass
class Machine:
    running: Running
    pin: Pin

    @property
    def engine_port(self) -> int:
        """Where vLLM says it listens."""
        return int(re.findall(r"Starting vLLM server on http://127\.0\.0\.1:(\d+)", self.running.output)[0])

    def ask(self, method: str, path: str, *, key: str | None = KEY, body: object = None) -> Answer:
        return ask(self.running.port, method, path, key=key, body=body, pin=self.pin)

    @contextmanager
    def stream(self, **wish: object) -> Iterator[Iterator[dict[str, Any]]]:
        """The chunks of an answer that is being given; the connection is closed at the end."""
        plain = socket.create_connection(("127.0.0.1", self.running.port), timeout=60)
        connection = http.client.HTTPConnection("127.0.0.1", self.running.port)
        connection.sock = secured(plain, self.pin)
        headers = {**bearer(KEY), "Content-Type": "application/json"}
        options = {"stream": True, "stream_options": {"include_usage": True}}
        connection.request("POST", "/v1/chat/completions", json.dumps({**chat(**wish), **options}), headers)
        response = connection.getresponse()
        assert response.status == 200
        try:
            yield chunks(response)
        finally:
            response.close()
            connection.close()

    def metric(self, name: str) -> float:
        text = self.ask("GET", "/metrics").body.decode()
        [value] = re.findall(rf"^{name}{{[^}}]*}} (\S+)$", text, re.MULTILINE)
        return float(value)

    def is_generating(self) -> bool:
        return self.metric("vllm:num_requests_running") > 0

    def routes(self) -> dict[str, set[str]]:
        """Each path of the engine and its methods: those of its OpenAPI, and those that it only prints."""
        described = ask(self.engine_port, "GET", "/openapi.json").json["paths"]
        found = {path: {method.upper() for method in methods} for path, methods in described.items()}
        for path, methods in re.findall(r"Route: (/\S*), Methods: ([A-Z, ]+)", self.running.output):
            found.setdefault(path, set()).update(methods.split(", "))
        return found

    def tree(self) -> list[psutil.Process]:
        process = psutil.Process(self.running.process.pid)
        return [process, *process.children(recursive=True)]


def ask(
    port: int, method: str, path: str, *, key: str | None = None, body: object = None, pin: Pin | None = None
) -> Answer:
    sent = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"} if sent else {}
    return doors.ask(port, method, path, key=key, body=sent, headers=headers, pin=pin, seconds=60)


def chat(*, tokens: int = 4, text: str = "Hello", model: str = NAME) -> dict[str, Any]:
    """Exactly that many tokens: random weights may end an answer at any time."""
    said = [{"role": "user", "content": text}]
    return {"model": model, "messages": said, "max_tokens": tokens, "ignore_eos": True}


def chunks(response: http.client.HTTPResponse) -> Iterator[dict[str, Any]]:
    """Up to [DONE], which has to come."""
    for line in response:
        if line == b"data: [DONE]\n":
            return
        if line.strip():
            yield json.loads(line.removeprefix(b"data: "))
    raise AssertionError("The stream ended without [DONE].")


@contextmanager
def machine(folder: Path, model: Path) -> Iterator[Machine]:
    """A machine that serves, with the panel's environment and the arguments that a processor needs."""
    pin, told = pinned()
    path = f"{vllm_venv.BIN}:{os.environ['PATH']}"
    environ = variables(
        folder,
        **{
            "PATH": path, "REGIA_MODEL": str(model), "REGIA_SERVED_NAME": NAME, "REGIA_CONTEXT": str(CONTEXT),
            "REGIA_EXTRA_ARGS": "--load-format dummy --dtype float32 --enforce-eager --num-gpu-blocks-override "
            + str(BLOCKS),
            "REGIA_ENGINE_COMMAND": "",
            "REGIA_DRAIN_SECONDS": "30", "REGIA_DOOR": "tls", "VLLM_TARGET_DEVICE": "cpu",
            "VLLM_CPU_KVCACHE_SPACE": "1", **told,
        },
    )  # fmt: skip
    del environ["REGIA_REVISION"]
    with running(folder, environ) as started:
        started.wait_for("ready", seconds=LOADING_SECONDS)
        yield Machine(started, pin)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / NAME
    script = Path(__file__).with_name("tiny_qwen3.py")
    subprocess.run([str(vllm_venv.BIN / "python"), str(script), str(folder)], check=True)
    return folder


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Iterator[Machine]:
    """One for all that do not end it."""
    with machine(tmp_path_factory.mktemp("machine"), model) as found:
        yield found


# -- it serves ----------------------------------------------------------------------------------


def test_it_loads_is_warmed_and_is_ready_in_this_order(served: Machine) -> None:
    assert list(dict.fromkeys(served.running.phases())) == ["checking", "loading", "warming", "ready"]
    assert served.metric("vllm:generation_tokens_total") >= 1


def test_an_answer_comes_in_pieces_and_ends_with_its_usage(served: Machine) -> None:
    with served.stream(tokens=LONG) as answer:
        first = [next(answer), next(answer)]
        assert served.is_generating(), "the first pieces came when all was written"
        *others, finish, usage = answer
    assert first[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert len(others) > 100
    assert finish["choices"][0]["finish_reason"] == "length"
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == LONG


def test_a_whole_answer_and_a_completion_come_too(served: Machine) -> None:
    whole = served.ask("POST", "/v1/chat/completions", body=chat(tokens=5))
    assert (whole.status, whole.json["usage"]["completion_tokens"]) == (200, 5)
    wish = {"model": NAME, "prompt": "Hello", "max_tokens": 5, "ignore_eos": True}
    assert served.ask("POST", "/v1/completions", body=wish).json["usage"]["completion_tokens"] == 5


def test_it_lists_its_model_and_the_lease_is_taken(served: Machine) -> None:
    [listed] = served.ask("GET", "/v1/models").json["data"]
    assert (listed["id"], listed["max_model_len"]) == (NAME, CONTEXT)
    assert served.ask("PUT", "/lease", body={"seconds": 7200}).json["state"] == "serving"


def test_the_metrics_that_the_panel_reads_come_through_the_door(served: Machine) -> None:
    text = served.ask("GET", "/metrics").body.decode()
    assert [name for name in METRICS if not re.search(rf"^{name}{{", text, re.MULTILINE)] == []


# -- and the panel watches it -------------------------------------------------------------------


@pytest.fixture
def watched(served: Machine, db: None) -> Instance:
    """Its row: Ready at its door, whose certificate it trusts."""
    made = chatting_deployment(f"https://127.0.0.1:{served.running.port}", now=NOW, key=KEY).instances.get()
    as_known = UUID(served.pin.name.partition(".")[0])
    Instance.objects.filter(pk=made.pk).update(id=as_known, tls_certificate=served.pin.certificate)
    found = Instance.objects.select_related("deployment").get(pk=as_known)
    assert found.pin == served.pin
    return found


class Looks:
    """The panel's rounds of the scrape and of the incidents, in steps of a clock that jumps."""

    def __init__(self) -> None:
        self.now = NOW

    def scrape(self, *, misses: int = 0) -> Sample:
        """The newest sample, 15 seconds after the one before; `misses`: how often it may get no answer in time."""
        self.now += scrape.INTERVAL
        assert scrape.scrape_due(clock=lambda: self.now) == 1
        monitor = Monitor.objects.get()
        if monitor.scrape_failures and misses:
            return self.scrape(misses=misses - 1)
        assert (monitor.scrape_failures, monitor.scrape_detail) == (0, "")
        return Sample.objects.filter(resolution=samples.RAW).latest("bucket")

    def while_answering(self, served: Machine) -> tuple[Sample, Sample]:
        """One in the middle of an answer of LONG tokens, and one after it."""
        for _ in range(5):
            with served.stream(tokens=LONG) as answer:
                next(answer), next(answer)
                under_load = self.scrape()
                for _ in answer:
                    pass
            assert soon(lambda: not served.is_generating())
            after = self.scrape()
            # On a busy processor the answer may be over before the scrape comes to it.
            if under_load.running:
                break
        return under_load, after

    def kinds(self) -> list[str]:
        """What stands, after another scrape and a look. A processor with all it can carry may miss some."""
        self.scrape(misses=5)
        incidents.watch(now=self.now)
        return [found.kind for found in Incident.objects.open()]


def test_what_it_does_is_what_the_panel_scrapes(served: Machine, watched: Instance) -> None:
    assert soon(lambda: not served.is_generating())
    looks = Looks()
    assert looks.scrape().running == 0
    under_load, after = looks.while_answering(served)
    assert (under_load.running, after.running) == (1, 0)
    assert 0 < under_load.kv_use <= 1
    written = (under_load.tokens_out_rate + after.tokens_out_rate) * scrape.INTERVAL.total_seconds()
    assert written == pytest.approx(LONG, abs=1)
    assert under_load.tokens_in_rate > 0
    assert under_load.ttft_count == 1
    assert 0 < under_load.ttft_p50 <= under_load.ttft_p95 <= under_load.ttft_p99
    assert 0 < after.itl_p50 <= after.itl_p99
    assert after.finished_length * scrape.INTERVAL.total_seconds() / 60 == pytest.approx(1)


def test_more_than_its_cache_holds_is_an_incident_until_that_is_over(
    served: Machine, watched: Instance
) -> None:
    assert soon(lambda: not served.is_generating())
    looks, enough = Looks(), Event()

    def ask_on() -> None:
        while not enough.is_set():
            with served.stream(tokens=LONG) as answer:
                for _ in answer:
                    if enough.is_set():
                        return

    with ThreadPoolExecutor(BLOCKS) as pool:
        asked = [pool.submit(ask_on) for _ in range(BLOCKS)]
        try:
            assert soon(lambda: served.metric("vllm:num_requests_waiting") >= 1, seconds=SATURATED_SECONDS)
            assert soon(lambda: "kv-full" in looks.kinds(), seconds=SATURATED_SECONDS), Sample.objects.last()
        finally:
            enough.set()
        for one in asked:
            one.result(timeout=60)
    found = Incident.objects.get(kind="kv-full")
    assert found.deployment_id == watched.deployment_id
    assert "of its KV cache is in use" in found.guess
    assert soon(lambda: not served.is_generating())
    assert soon(lambda: "kv-full" not in looks.kinds(), seconds=60), (
        "its five minutes and two, by the test's clock"
    )


def test_the_engines_own_refusals_come_through_the_door(served: Machine) -> None:
    def refused(**wish: Any) -> tuple[int, str, str]:
        answer = served.ask("POST", "/v1/chat/completions", body=chat(**wish))
        return answer.status, answer.json["error"]["type"], answer.json["error"]["param"]

    assert refused(model="another") == (404, "NotFoundError", "model")
    assert refused(text="x" * 2 * CONTEXT) == (400, "BadRequestError", "input_tokens")


def test_a_client_that_leaves_frees_the_engine(served: Machine) -> None:
    assert soon(lambda: not served.is_generating())
    before = served.metric("vllm:generation_tokens_total")
    with served.stream(tokens=LONG) as answer:
        next(answer), next(answer)
        assert served.is_generating()
    assert soon(lambda: not served.is_generating(), seconds=1)
    assert served.metric("vllm:generation_tokens_total") - before < LONG


# -- and nobody else gets in --------------------------------------------------------------------


def test_whatever_else_vllm_serves_is_not_there_with_and_without_the_key(served: Machine) -> None:
    routes = served.routes()
    assert {"/invocations", "/tokenize", "/load", "/version", "/v1/responses", "/openapi.json"} <= set(routes)
    assert set(LISTED) - {"/lease"} <= set(routes)
    found = [
        (method, path, key)
        for path, methods in routes.items()
        if path not in LISTED
        for method in methods
        for key in (KEY, None)
        if served.ask(method, re.sub(r"{\w+}", "x", path), key=key, body=_body(method)).status != 404
    ]
    assert found == []


def _body(method: str) -> object:
    return chat() if method == "POST" else None


def test_what_the_door_keeps_out_vllm_itself_would_have_answered_without_a_key(served: Machine) -> None:
    assert ask(served.engine_port, "POST", "/invocations", body=chat()).status == 200
    assert served.ask("POST", "/invocations", body=chat()).status == 404


def test_what_is_listed_needs_the_key_all_but_health(served: Machine) -> None:
    statuses = {path: served.ask(method, path, key=None).status for path, method in LISTED.items()}
    assert statuses == {path: 200 if path == "/health" else 401 for path in LISTED}


# -- its end ------------------------------------------------------------------------------------


def test_the_engines_death_ends_the_machine_with_its_cause(folder: Path, model: Path) -> None:
    with machine(folder, model) as found:
        tree = found.tree()
        with found.stream(tokens=LONG) as answer:
            next(answer), next(answer)
            [core] = [process for process in tree if "EngineCore" in " ".join(process.cmdline())]
            core.kill()
            *_, last = answer
        assert last["error"]["code"] == 500
        said = found.running.end(seconds=60).values
        assert said["code"] == "71"
        assert said["cause"].startswith("The engine ended with exit code ")
        assert "EngineDeadError" in said["cause"]
        assert is_gone(tree)


def test_told_to_stop_it_lets_the_answer_end_and_ends_all_with_0(folder: Path, model: Path) -> None:
    with machine(folder, model) as found:
        tree = found.tree()
        with found.stream(tokens=LONG) as answer:
            next(answer)
            found.running.process.send_signal(signal.SIGTERM)
            *_, usage = answer
        assert usage["usage"]["completion_tokens"] == LONG
        assert found.running.end(seconds=60).values["code"] == "0"
        assert is_gone(tree)


def is_gone(tree: list[psutil.Process]) -> bool:
    return soon(lambda: not any(process.is_running() for process in tree))
