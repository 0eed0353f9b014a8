"""RunPod's serverless endpoints and their workers, and the runtime that requests go to."""

from __future__ import annotations

import math
import secrets
import time
from datetime import timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from aiohttp import web

from tests.emulators.common import Answer, Call, Route
from tests.emulators.runpod_catalogue import SERVERLESS, pool_price
from tests.emulators.runpod_logs import stream_logs
from tests.emulators.runpod_problems import problem
from tests.emulators.runpod_proxy import forward
from tests.emulators.runpod_state import Account, Endpoint, Worker, new_id

if TYPE_CHECKING:
    from tests.emulators.runpod import RunPodEmulator

_COLD_START = 120.0
"""Real seconds that a request waits for its worker."""


class Serverless:
    def __init__(self, emulator: RunPodEmulator) -> None:
        self.emulator = emulator

    def routes(self) -> list[Route]:
        at, runtime = "/v2/serverless", "/runtime/v2/{id}"
        return [
            Route("GET", at, "list", self.list, "serverless"),
            Route("POST", at, "create", self.create, "serverless"),
            Route("GET", f"{at}/{{id}}", "inspect", self.get, "serverless"),
            Route("PATCH", f"{at}/{{id}}", _kind_of_patch, self.patch, "serverless"),
            Route("DELETE", f"{at}/{{id}}", "terminate", self.delete, "serverless"),
            Route("GET", f"{at}/{{id}}/workers", "inspect", self.workers, "workers"),
            Route("GET", f"{at}/{{id}}/workers/{{workerId}}/logs", "logs", self.logs, "serverless"),
            Route("GET", f"{runtime}/health", "inspect", self.health, "health", checked=False),
            Route("*", f"{runtime}/openai/{{rest:.*}}", "other", self.openai, "openai", checked=False),
            Route("*", "/balancer/{id}/{rest:.*}", "other", self.balancer, "balancer", checked=False),
        ]

    # -- calls ------------------------------------------------------------------------------------

    def list(self, call: Call) -> Answer:
        with self.emulator.lock:
            now = self.emulator.clock.now
            endpoints = self.emulator.account(call).endpoints.values()
            return Answer({"endpoints": [e.row() for e in endpoints if not e.hidden and e.visible_at <= now]})

    def get(self, call: Call) -> Answer:
        with self.emulator.lock:
            endpoint = self._find(call)
            return Answer(endpoint.row()) if endpoint and not endpoint.hidden else _gone()

    def create(self, call: Call) -> Answer:
        with self.emulator.lock:
            account, body = self.emulator.account(call), call.body
            broken = self.emulator.broken_rules(call) or _broken_scaling(body)
            if broken:
                return problem(422, "The request body does not match the contract.", errors=broken)
            try:
                gpu, price = pool_price(self.emulator.catalogue, (body.get("gpu") or {}).get("pools") or [])
            except LookupError:
                return problem(400, "The requested GPU pools are not available.")
            most = int((body.get("workers") or {}).get("max", 3))
            if most + sum(e.max for e in account.endpoints.values()) > self.quota(account):
                return problem(
                    400, f"Max workers must not exceed your quota of {self.quota(account)} workers."
                )
            if account.balance_now(self.emulator.clock.now) < price:
                return problem(402, "Your account balance is too low to deploy this endpoint.")
            endpoint = self.make(
                account, body, gpu_id=gpu.id, usd_per_hour=price, late_seconds=call.late_seconds
            )
            return Answer(endpoint.row(), 201)

    def patch(self, call: Call) -> Answer:
        with self.emulator.lock:
            endpoint = self._find(call)
            if endpoint is None:
                return _gone()
            broken = self.emulator.broken_rules(call) or _broken_scaling({**endpoint.order, **call.body})
            if broken:
                return problem(422, "The request body does not match the contract.", errors=broken)
            changes = dict(call.body)
            workers = {**(endpoint.order.get("workers") or {}), **changes.pop("workers", {})}
            if workers.get("min", 0) > workers.get("max", 3):
                return problem(400, "workers.min must not exceed workers.max.")
            endpoint.order = {**endpoint.order, **changes, "workers": workers}
            if {"image", "env", "args"} & set(changes):
                endpoint.version += 1
            self.emulator.note_env(endpoint.env)
            self.settle(self.emulator.account(call), endpoint)
            return Answer(endpoint.row())

    def delete(self, call: Call) -> Answer:
        with self.emulator.lock:
            endpoint = self._find(call)
            if endpoint is None:
                return _gone()
            self.remove(self.emulator.account(call), endpoint)
            return Answer(status=204)

    def workers(self, call: Call) -> Answer:
        with self.emulator.lock:
            endpoint = self._find(call)
            if endpoint is None:
                return _gone()
            now, image = self.emulator.clock.now, endpoint.order.get("image", "")
            rows = [
                w.row(now, endpoint_version=endpoint.version, image=image, gpu_count=endpoint.gpu_count)
                for w in endpoint.workers.values()
            ]
            names = ("running", "idle", "initializing", "throttled", "unhealthy")
            summary = {name: sum(r["status"] == name.upper() for r in rows) for name in names}
            summary["total"] = len(rows)
            return Answer({"endpointVersion": endpoint.version, "summary": summary, "workers": rows})

    async def logs(self, call: Call) -> Answer | web.StreamResponse:
        endpoint = self._find(call)
        if endpoint is None or call.path("workerId") not in endpoint.workers:
            return problem(404, "worker not found")
        return await stream_logs(self.emulator, call, endpoint.log, endpoint.id)

    def health(self, call: Call) -> Answer:
        with self.emulator.lock:
            endpoint = self._find(call)
            if endpoint is None or endpoint.balanced:
                return Answer({"error": "endpoint not found"}, 404)
            states = [w.status for w in endpoint.workers.values()]
            names = ("idle", "initializing", "running", "throttled", "unhealthy")
            counts = {name: states.count(name.upper()) for name in names}
            counts["ready"] = counts["idle"] + counts["running"]
            return Answer({"jobs": dict(endpoint.jobs), "workers": counts})

    async def openai(self, call: Call) -> Answer | web.StreamResponse:
        """Give the request to a worker, waking one if none runs; the caller waits in the queue meanwhile."""
        endpoint = self._find(call)
        if endpoint is None or endpoint.balanced:
            return Answer({"error": "endpoint not found"}, 404)
        worker = await self._woken(call, endpoint)
        if worker is None:
            endpoint.jobs["failed"] += 1
            return Answer({"error": "no worker is available for this request"}, 503)
        return await self._pass_on(call, endpoint, worker)

    async def balancer(self, call: Call) -> Answer | web.StreamResponse:
        """`/balancer/{id}/…` stands for `https://{id}.api.runpod.ai/…`: RunPod's key opens it, then the worker's door asks.

        What the bearer is to the worker's door is not documented, so nothing here lets it open that door.
        """
        endpoint = self._find(call)
        if endpoint is None or not endpoint.balanced:
            return Answer({"error": "endpoint not found"}, 404)
        worker = await self._woken(call, endpoint)
        if worker is None:
            return Answer({"error": "no workers available"}, 400)
        rest, given = call.path("rest"), call.request.headers.get("X-Regia-Key", "")
        if endpoint.env.get("REGIA_API_KEY") != given and f"/{rest}" != endpoint.env.get("HEALTH_CHECK_PATH"):
            return Answer({"error": "Unauthorized"}, 401)
        return await self._pass_on(call, endpoint, worker)

    async def _woken(self, call: Call, endpoint: Endpoint) -> Worker | None:
        endpoint.jobs["inQueue"] += 1
        try:
            return await self._wait_for_worker(call, endpoint)
        finally:
            endpoint.jobs["inQueue"] -= 1

    async def _pass_on(self, call: Call, endpoint: Endpoint, worker: Worker) -> Answer | web.StreamResponse:
        url = self.emulator.engines.url(endpoint.id)
        if url is None:
            endpoint.jobs["failed"] += 1
            return Answer({"error": "no worker is available for this request"}, 503)
        self._begin(endpoint, worker)
        try:
            headers = {"Authorization": f"Bearer {endpoint.engine_key}"}
            return await forward(self.emulator, call, f"{url}/{call.path('rest')}", headers)
        finally:
            self._finish(endpoint, worker)

    # -- what happens to them ---------------------------------------------------------------------

    def make(
        self, account: Account, order: dict[str, Any], *, gpu_id: str, usd_per_hour: Decimal,
        late_seconds: float = 0.0,
    ) -> Endpoint:  # fmt: skip
        now = self.emulator.clock.now
        env = order.get("env") or {}
        flash = order.get("flashboot", "OFF") != "OFF"
        endpoint = Endpoint(
            new_id(), dict(order), now, now + timedelta(seconds=late_seconds), usd_per_hour, gpu_id,
            env.get("REGIA_API_KEY") or secrets.token_urlsafe(16),
            suffix=" -fb" if flash and self.emulator.fb_suffix else "",
            # A load balancer never reaches a worker at a port that is not exposed.
            unhealthy=order["type"] == "LOAD_BALANCER" and not _is_exposed(order, env),
        )  # fmt: skip
        account.endpoints[endpoint.id] = endpoint
        account.made[endpoint.id] = endpoint.name
        self.emulator.note_env(endpoint.env)
        self.settle(account, endpoint)
        return endpoint

    def remove(self, account: Account, endpoint: Endpoint) -> None:
        for worker in list(endpoint.workers.values()):
            self._end_worker(account, endpoint, worker)
        account.endpoints.pop(endpoint.id, None)
        self.emulator.engines.end(endpoint.id)

    def scale(self, account: Account, endpoint: Endpoint, *, least: int, most: int) -> None:
        workers = {**(endpoint.order.get("workers") or {}), "min": least, "max": most}
        endpoint.order = {**endpoint.order, "workers": workers}
        self.settle(account, endpoint)

    def price(self, account: Account, endpoint: Endpoint, usd_per_hour: Decimal) -> None:
        endpoint.usd_per_hour = usd_per_hour
        for worker in endpoint.workers.values():
            rate = self._rate(endpoint, active=worker.active)
            account.ledger.rate(endpoint.id, f"gpu:{worker.id}", self.emulator.clock.now, rate)

    def move(self, endpoint: Endpoint, where: str | None) -> None:
        endpoint.moved_to = where
        for worker in endpoint.workers.values():
            worker.data_center = where

    def settle(self, account: Account, endpoint: Endpoint) -> None:
        """As many always-on workers as ordered; idle others end; those that boot become ready."""
        least = min(endpoint.min, endpoint.max)
        while sum(w.active for w in endpoint.workers.values()) < least:
            self._start_worker(account, endpoint, active=True)
        active = [w for w in endpoint.workers.values() if w.active]
        for worker in active[least:]:
            self._end_worker(account, endpoint, worker)
        for worker in list(endpoint.workers.values()):
            self._settle_worker(account, endpoint, worker)
        for worker in list(endpoint.workers.values())[endpoint.max :]:
            self._end_worker(account, endpoint, worker)

    def quota(self, account: Account) -> int:
        balance = account.balance_now(self.emulator.clock.now)
        return 20 if balance >= 200 else 10 if balance >= 100 else 5

    def _settle_worker(self, account: Account, endpoint: Endpoint, worker: Worker) -> None:
        now = self.emulator.clock.now
        if endpoint.unhealthy:
            worker.status = "UNHEALTHY"
        elif endpoint.throttled and worker.status in {"INITIALIZING", "THROTTLED"}:
            worker.status = "THROTTLED"
        elif worker.status in {"INITIALIZING", "THROTTLED", "UNHEALTHY"}:
            ready = now >= worker.ready_at and self.emulator.engines.started(endpoint.id)
            worker.status = "IDLE" if ready else "INITIALIZING"
            worker.idle_since = now if ready else None
        idle = now - (worker.idle_since or now)
        if not worker.active and worker.status == "IDLE" and idle >= timedelta(seconds=endpoint.idle_seconds):
            self._end_worker(account, endpoint, worker)

    def _start_worker(self, account: Account, endpoint: Endpoint, *, active: bool) -> Worker:
        now = self.emulator.clock.now
        worker = Worker(
            new_id(), now, now + timedelta(seconds=self.emulator.boot_seconds), endpoint.gpu_id,
            endpoint.moved_to or self._place(endpoint), endpoint.version, active,
        )  # fmt: skip
        if not endpoint.workers:
            env = endpoint.env
            name = env.get("OPENAI_SERVED_MODEL_NAME_OVERRIDE") or env.get("REGIA_SERVED_NAME", "")
            context = int(env.get("MAX_MODEL_LEN") or env.get("REGIA_CONTEXT") or 4096)
            self.emulator.engines.start(endpoint.id, endpoint.engine_key, name, context)
        endpoint.workers[worker.id] = worker
        endpoint.log.say(now, f"worker {worker.id} is starting")
        # Billed from its start, initializing included.
        account.ledger.rate(endpoint.id, f"gpu:{worker.id}", now, self._rate(endpoint, active=active))
        return worker

    def _end_worker(self, account: Account, endpoint: Endpoint, worker: Worker) -> None:
        endpoint.workers.pop(worker.id, None)
        # Its whole life is rounded up to a second.
        seconds = math.ceil((self.emulator.clock.now - worker.started_at).total_seconds())
        end = worker.started_at + timedelta(seconds=seconds)
        account.ledger.rate(endpoint.id, f"gpu:{worker.id}", end, 0)
        if not endpoint.workers:
            self.emulator.engines.stop(endpoint.id)

    def _rate(self, endpoint: Endpoint, *, active: bool) -> Decimal:
        discount = self.emulator.active_discount if active else Decimal(0)
        return endpoint.usd_per_hour * endpoint.gpu_count * (1 - discount)

    def _place(self, endpoint: Endpoint) -> str | None:
        stock = self.emulator.catalogue[endpoint.gpu_id].stock.get(SERVERLESS, {})
        wanted = endpoint.order.get("dataCenterIds") or list(stock)
        return next((place for place in wanted if stock.get(place, "NONE") != "NONE"), None)

    async def _wait_for_worker(self, call: Call, endpoint: Endpoint) -> Worker | None:
        account, deadline = self.emulator.account(call), time.monotonic() + _COLD_START
        while time.monotonic() < deadline and not self.emulator.has_left(call):
            with self.emulator.lock:
                self.settle(account, endpoint)
                if endpoint.max == 0 or endpoint.id not in account.endpoints:
                    return None
                ready = [w for w in endpoint.workers.values() if w.status in {"IDLE", "RUNNING"}]
                self._scale_up(account, endpoint)
                if ready and (self.emulator.engines.url(endpoint.id) or not self.emulator.real_engines):
                    return min(ready, key=lambda w: w.jobs)
            await self.emulator.pause(0.05)
        return None

    def _scale_up(self, account: Account, endpoint: Endpoint) -> None:
        """A worker more when those there are have their fill, up to max."""
        each = int(endpoint.order["scaling"].get("requestCount") or 1)
        wanted = -(-(endpoint.jobs["inProgress"] + endpoint.jobs["inQueue"]) // each)
        while len(endpoint.workers) < min(wanted, endpoint.max):
            self._start_worker(account, endpoint, active=False)

    def _begin(self, endpoint: Endpoint, worker: Worker) -> None:
        with self.emulator.lock:
            worker.jobs += 1
            worker.status, worker.idle_since = "RUNNING", None
            endpoint.jobs["inProgress"] += 1

    def _finish(self, endpoint: Endpoint, worker: Worker) -> None:
        with self.emulator.lock:
            worker.jobs -= 1
            if worker.jobs == 0 and worker.status == "RUNNING":
                worker.status, worker.idle_since = "IDLE", self.emulator.clock.now
            endpoint.jobs["inProgress"] -= 1
            endpoint.jobs["completed"] += 1

    def _find(self, call: Call) -> Endpoint | None:
        return self.emulator.account(call).endpoints.get(call.path("id"))


def _gone() -> Answer:
    return problem(404, "endpoint not found")


def _is_exposed(order: dict[str, Any], env: dict[str, str]) -> bool:
    """Without a port of its own a worker listens at 80, which is exposed by itself."""
    ports = {env.get("PORT", "80"), env.get("PORT_HEALTH", env.get("PORT", "80"))}
    return ports <= {"80", *(str(p).removesuffix("/http") for p in order.get("ports") or [])}


def _broken_scaling(order: dict[str, Any]) -> list[str]:
    """What the prose refuses though the schema passes it."""
    kind = (order.get("scaling") or {}).get("type")
    if kind == "REQUEST_COUNT" and "idleTimeout" in (order.get("workers") or {}):
        return ["$.workers.idleTimeout: is only allowed with QUEUE_DELAY scaling"]
    return []


def _kind_of_patch(request: web.Request, body: Any) -> str:
    workers = body.get("workers") if isinstance(body, dict) else None
    if not isinstance(workers, dict):
        return "other"
    return "stop" if workers.get("max") == 0 else "start"
