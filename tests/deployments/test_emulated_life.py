"""A machine's whole life by the real adapters over HTTP: clean, under bad lists, and at other people's emulators."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import urlsplit

import pytest

from billing import ledger
from deployments import services
from deployments.lifecycle import State
from deployments.models import Installation, Instance, Offer, ProviderAccount
from tests.deployments.emulated_world import EmulatedWorld, point_at, run_to
from tests.deployments.world import MINUTE, fresh
from tests.emulators.common import Fault

EVERY = ["pod", "serverless", "vast", "bid"]


@pytest.mark.parametrize("emulated_world", EVERY, indirect=True)
def test_what_is_launched_serves_is_stopped_started_and_given_back(emulated_world: EmulatedWorld) -> None:
    world = emulated_world
    deployment = world.launch()
    run_to(world, deployment, State.READY, within=10 * MINUTE)
    services.stop(fresh(deployment), actor=world.owner, now=world.now)
    run_to(world, deployment, State.STOPPED, within=10 * MINUTE)
    world.check_books(deployment)
    world.run(timedelta(minutes=5), check=world.check)
    services.start(fresh(deployment), actor=world.owner, now=world.now)
    run_to(world, deployment, State.READY, within=10 * MINUTE)
    assert len(world.creates()) == 1
    end(world, deployment)


BAD_LISTS = [
    Fault.TRUNCATED, Fault.EMPTY, Fault.HTML, Fault.EMPTY_BODY, Fault.WRONG_TYPE, Fault.NULLS, Fault.UNKNOWN_STATE,
    Fault.UNKNOWN_FIELDS, Fault.ERROR_BEFORE, Fault.RATE_LIMITED,
]  # fmt: skip


@pytest.mark.parametrize("fault", BAD_LISTS, ids=lambda f: f.name)
@pytest.mark.parametrize("emulated_world", ["pod", "vast"], indirect=True)
def test_lists_that_are_bad_now_and_then_cost_no_machine(emulated_world: EmulatedWorld, fault: Fault) -> None:
    world = emulated_world
    lists = 2 if world.kind.backend == "runpod" else 1  # requests that make one list
    world.fail("list", *([fault] * lists + [Fault.OK] * lists) * 100)
    deployment = world.launch()
    run_to(world, deployment, State.READY, within=20 * MINUTE)
    world.run(5 * MINUTE, check=world.check)
    assert len(world.creates()) == 1, "what a list did not show was rented again"
    end(world, deployment, within=30 * MINUTE)


@pytest.mark.parametrize("emulated_world", EVERY, indirect=True)
def test_answers_with_fields_that_nobody_knows_change_nothing(emulated_world: EmulatedWorld) -> None:
    world = emulated_world
    world.always("*", Fault.UNKNOWN_FIELDS)
    deployment = world.launch()
    run_to(world, deployment, State.READY, within=10 * MINUTE)
    world.run(2 * MINUTE, check=world.check)
    assert not ProviderAccount.objects.get(pk=world.account.pk).list_error
    end(world, deployment)


@pytest.mark.parametrize("emulated_world", ["serverless"], indirect=True)
def test_a_stray_endpoint_is_metered_by_its_workers_though_no_list_tells_its_price(
    emulated_world: EmulatedWorld,
) -> None:
    world = emulated_world
    label = f"{Installation.own_key()}-stray-1"
    where = {"dataCenterIds": ["EU-RO-1"], "workers": {"min": 1, "max": 1}}
    world.emulator.place(label, kind="endpoint", **where)  # type: ignore[attr-defined]
    world.run(MINUTE)
    stray = Instance.objects.get(label=label)
    worker = Offer.objects.filter(serverless=True, gpu_pool="AMPERE_24").order_by("-usd_per_hour")[0]
    assert ledger.burn(now=world.now) == worker.usd_per_hour > 0, "unknown is never nothing"
    services.adopt_found(stray.deployment, actor=world.owner, now=world.now)
    world.run(3 * MINUTE)
    stray.refresh_from_db()
    assert stray.inspected_at
    assert stray.places == [["EU-RO-1", "RO"]]
    assert ledger.burn(now=world.now) == worker.usd_per_hour
    end(world, stray.deployment)


def end(world: EmulatedWorld, deployment, *, within: timedelta = 10 * MINUTE) -> None:
    """Terminate it; then nothing is left and the books match."""
    services.terminate(fresh(deployment), actor=world.owner, now=world.now)
    run_to(world, deployment, State.TERMINATED, within=within)
    world.check_books(deployment)
    world.check_empty()


# -- other people's emulators --------------------------------------------------------------------------


@pytest.mark.parametrize("emulated_world", EVERY, indirect=True)
def test_with_the_four_addresses_elsewhere_nothing_else_changes(
    emulated_world: EmulatedWorld, settings
) -> None:
    """Another port, a path before everything, and pods whose doors are made by another template."""
    world = emulated_world
    with somewhere_else(world.emulator.url) as url:
        point_at(settings, runpod=f"{url}/rp/api", vast=f"{url}/vast/api", doors=world.endpoint.url)
        settings.RUNPOD_RUNTIME_BASE_URL = f"{url}/rp/run"
        settings.RUNPOD_PROXY_URL_TEMPLATE = f"{url}/doors/{{pod_id}}/{{port}}"
        before = len(world.emulator.requests)
        deployment = world.launch()
        run_to(world, deployment, State.READY, within=10 * MINUTE)
        world.run(2 * MINUTE, check=world.check)
        end(world, deployment)
    assert len(world.emulator.requests) > before


_PREFIXES = {"/rp/api": "", "/rp/run": "/runtime", "/vast/api": "", "/doors": "/proxy"}


@contextmanager
def somewhere_else(emulator: str) -> Iterator[str]:
    """Passes on what comes under one of the prefixes, and nothing else."""

    class Handler(BaseHTTPRequestHandler):
        def _pass_on(self) -> None:
            prefix = next((p for p in _PREFIXES if self.path.startswith(f"{p}/")), None)
            if prefix is None:
                self.send_error(404)
                return
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            inner = HTTPConnection(urlsplit(emulator).netloc, timeout=20)
            path = _PREFIXES[prefix] + self.path.removeprefix(prefix)
            kept = {k: v for k, v in self.headers.items() if k.lower() not in ("host", "connection")}
            inner.request(self.command, path, body=body, headers=kept)
            answer = inner.getresponse()
            content = answer.read()
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in {"transfer-encoding", "content-length", "connection"}:
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)
            inner.close()

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _pass_on

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
