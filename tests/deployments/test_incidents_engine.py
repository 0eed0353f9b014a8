"""From an engine's own figures to an incident: probes and scrapes of a real server, samples, and the look at them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from deployments.lifecycle import State
from deployments.models import Incident, Instance, Sample
from deployments.monitoring import incidents, probe, samples, scrape
from panel.notices.notify import shown_notices
from tests.conftest import NOW
from tests.deployments.engine import Engine, whole
from tests.playground.rows import chatting_deployment

pytestmark = pytest.mark.django_db
STEP = timedelta(minutes=1)
Kind = Incident.Kind


class Busy:
    """vLLM's figures under its own names, as they stand when they are asked for."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.running, self.waiting, self.kv_use = (
            Gauge(f"vllm:{name}", "As vLLM's.", registry=self.registry)
            for name in ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc")
        )
        self.finished = Counter(
            "vllm:request_success", "As vLLM's.", ["finished_reason"], registry=self.registry
        )
        self.ttft = Histogram(
            "vllm:time_to_first_token_seconds", "As vLLM's.", buckets=(0.1, 0.25, 0.5, 1, 2.5, 5, 10), registry=self.registry
        )  # fmt: skip

    def serve(
        self, *, answers: int = 20, failed: int = 0, ttft: float = 0.2, kv: float = 0.4, waiting: int = 0
    ) -> None:
        """A minute of it."""
        self.finished.labels("stop").inc(answers)
        self.finished.labels("error").inc(failed)
        for _ in range(answers):
            self.ttft.observe(ttft)
        self.running.set(4)
        self.waiting.set(waiting)
        self.kv_use.set(kv)


@pytest.fixture
def engine() -> Iterator[Engine]:
    server = Engine()
    server.on |= {"/health": whole(""), "/v1/models": whole("{}")}
    yield server
    server.close()


def week_before(i: Instance) -> None:
    """What is usual there."""
    usual = {"ttft_p95": 0.25, "kv_use": 0.4, "waiting": 0.0, "finished_stop": 40.0, "finished_error": 0.0}
    for hour in range(1, 6):
        samples.record_many([(i.pk, NOW - timedelta(hours=hour), usual)])
    samples.roll_up(NOW)


@pytest.mark.parametrize(
    ("kind", "odd", "words"),
    [
        (Kind.KV_FULL, {"kv": 0.99, "waiting": 6}, "99 % of its KV cache is in use and 6 requests wait"),
        (Kind.ERRORS, {"failed": 3}, "requests a minute fail in the engine"),
        (Kind.SLOW, {"ttft": 4.0, "waiting": 9}, "this machine's usual is 0.2 s. 9 requests wait."),
    ],
)
def test_a_saturated_engine_is_an_incident_until_it_is_well_again(engine: Engine, kind, odd, words) -> None:
    busy, now = Busy(), NOW
    engine.on["/metrics"] = lambda handler: whole(generate_latest(busy.registry))(handler)
    i = chatting_deployment(engine.url, now=NOW, key="its-key").instances.get()
    week_before(i)

    def clock() -> datetime:
        return now

    def pass_by(until: Callable[[], bool], *, most: int, **load: float) -> datetime:
        nonlocal now
        for _ in range(most):
            now += STEP
            busy.serve(**load)
            assert probe.probe_due(clock=clock) == scrape.scrape_due(clock=clock) == 1
            incidents.watch(now=now)
            if until():
                break
        return now

    pass_by(lambda: Incident.objects.exists(), most=5)
    assert not Incident.objects.exists(), "it is busy, and well"
    began = now
    opened = pass_by(lambda: Incident.objects.exists(), most=12, **odd)
    found = Incident.objects.get()
    assert (found.kind, found.deployment_id, found.severity) == (kind, i.deployment_id, "warning")
    assert opened - began <= timedelta(minutes=6), "the mean of five minutes, looked at each minute"
    pass_by(lambda: words in Incident.objects.get().guess, most=12, **odd)
    assert words in Incident.objects.get().guess
    assert [n.key for n in shown_notices()] == [found.notice_key]
    assert Instance.objects.get().state == State.READY, "it answers"
    assert Sample.objects.filter(up=1.0, running=4.0).exists(), (
        "one row holds what the probe and the scrape saw"
    )
    pass_by(lambda: not Incident.objects.open().exists(), most=20)
    assert not Incident.objects.open().exists()
    assert not shown_notices().exists()
    assert {key for path, key, _ in engine.asked if path == "/metrics"} == {"Bearer its-key"}
