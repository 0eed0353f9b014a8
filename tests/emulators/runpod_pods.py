"""RunPod's pods: create, list, act, log."""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from aiohttp import web

from tests.emulators.common import Answer, Call, Route
from tests.emulators.runpod_catalogue import HOURS_PER_MONTH, SECURE
from tests.emulators.runpod_logs import stream_logs
from tests.emulators.runpod_problems import NO_INSTANCES, problem
from tests.emulators.runpod_state import Account, Pod, new_id

if TYPE_CHECKING:
    from tests.emulators.runpod import RunPodEmulator

DISK_USD = Decimal("0.10") / HOURS_PER_MONTH
"""Per GB and hour, container or volume, running."""
STOPPED_DISK_USD = Decimal("0.20") / HOURS_PER_MONTH
_BODY_LIMIT = 102_400
_LONGEST_ENV = 50
HOST_FULL = "There are not enough free GPUs on the host machine to start this pod."


class Pods:
    def __init__(self, emulator: RunPodEmulator) -> None:
        self.emulator = emulator

    def routes(self) -> list[Route]:
        return [
            Route("GET", "/v2/pods", "list", self.list, "pods"),
            Route("POST", "/v2/pods", "create", self.create, "pods"),
            Route("GET", "/v2/pods/{id}", "inspect", self.get, "pods"),
            Route("PATCH", "/v2/pods/{id}", "other", self.patch, "pods"),
            Route("DELETE", "/v2/pods/{id}", "terminate", self.delete, "pods"),
            Route("POST", "/v2/pods/{id}/action", _kind_of_action, self.act, "pods"),
            Route("GET", "/v2/pods/{id}/logs", "logs", self.logs, "pods"),
        ]

    # -- calls ------------------------------------------------------------------------------------

    def list(self, call: Call) -> Answer:
        with self.emulator.lock:
            now = self.emulator.clock.now
            pods = self.emulator.account(call).pods.values()
            return Answer({"pods": [p.row(now) for p in pods if not p.hidden and p.visible_at <= now]})

    def get(self, call: Call) -> Answer:
        with self.emulator.lock:
            pod = self._find(call)
            return Answer(pod.row(self.emulator.clock.now)) if pod and not pod.hidden else _gone()

    def create(self, call: Call) -> Answer:
        with self.emulator.lock:
            refusal = self._refusal(call)
            if refusal is not None:
                return refusal
            account = self.emulator.account(call)
            cloud, gpu = call.body.get("cloud", SECURE), call.body["gpu"]
            kind = self.emulator.catalogue[gpu["id"]]
            place = self.place_for(gpu["id"], cloud, call.body.get("dataCenterIds"))
            if place is None:
                return problem(400, NO_INSTANCES)
            price = kind.price(cloud)
            if account.balance_now(self.emulator.clock.now) < price * gpu["count"]:
                return problem(402, "Your account balance is too low to deploy this pod.")
            pod = self.make(
                account, call.body, gpu_id=kind.id, gpu_count=gpu["count"], cloud=cloud, data_center=place,
                usd_per_hour=price, late_seconds=call.late_seconds,
            )  # fmt: skip
            answer = Answer(pod.row(self.emulator.clock.now), 201)
            self.settle(account, pod)
            return answer

    def patch(self, call: Call) -> Answer:
        with self.emulator.lock:
            pod = self._find(call)
            if pod is None:
                return _gone()
            changes = dict(call.body)
            if "locked" in changes:
                pod.locked = changes.pop("locked")
            elif pod.locked:
                return problem(409, "The pod is locked.")
            pod.order.update(changes)
            if {"image", "env", "args", "disk", "ports"} & set(changes) and pod.status == "RUNNING":
                self._boot(self.emulator.account(call), pod)
            self.emulator.note_env(pod.env)
            return Answer(pod.row(self.emulator.clock.now))

    def delete(self, call: Call) -> Answer:
        with self.emulator.lock:
            pod = self._find(call)
            if pod is None:
                return _gone()
            if pod.locked:
                return problem(409, "The pod is locked and cannot be terminated.")
            self.remove(self.emulator.account(call), pod)
            return Answer(status=204)

    def act(self, call: Call) -> Answer:
        with self.emulator.lock:
            pod = self._find(call)
            if pod is None:
                return _gone()
            action = call.body["action"]
            if pod.locked:
                return problem(409, f"The pod is locked: {action} is not allowed.")
            if action not in pod.actions():
                return problem(409, f"Cannot {action} a pod that is {pod.status}.")
            account = self.emulator.account(call)
            if action == "terminate":
                self.remove(account, pod)
                return Answer(status=204)
            if action == "start" and self._cannot_resume(pod):
                return problem(400, HOST_FULL)
            self.stop(account, pod) if action == "stop" else self._boot(account, pod)
            self.settle(account, pod)
            return Answer(pod.row(self.emulator.clock.now))

    async def logs(self, call: Call) -> Answer | web.StreamResponse:
        pod = self._find(call)
        if pod is None:
            return _gone()
        return await stream_logs(self.emulator, call, pod.log, pod.id)

    # -- what happens to them ---------------------------------------------------------------------

    def make(
        self, account: Account, order: dict[str, Any], *, gpu_id: str, gpu_count: int, cloud: str,
        data_center: str | None, usd_per_hour: Decimal, late_seconds: float = 0.0,
    ) -> Pod:  # fmt: skip
        now = self.emulator.clock.now
        pod = Pod(
            new_id(), dict(order), now, now + timedelta(seconds=late_seconds), cloud, gpu_id, gpu_count,
            data_center, usd_per_hour,
        )  # fmt: skip
        account.pods[pod.id] = pod
        account.made[pod.id] = pod.name
        self.emulator.note_env(pod.env)
        self.emulator.secrets.add(pod.own_key)
        self._boot(account, pod)
        return pod

    def stop(self, account: Account, pod: Pod, *, status: str = "EXITED") -> None:
        """The GPU is given back and the container's disk is wiped; a volume stays and bills the double."""
        pod.status, pod.started_at = status, None
        self.emulator.engines.stop(pod.id)
        pod.log.say(self.emulator.clock.now, "stop container")
        self._bill(account, pod)

    def remove(self, account: Account, pod: Pod) -> None:
        pod.status = "TERMINATED"
        account.pods.pop(pod.id, None)
        account.ledger.end(pod.id, self.emulator.clock.now)
        self.emulator.engines.end(pod.id)

    def price(self, account: Account, pod: Pod, usd_per_hour: Decimal) -> None:
        pod.usd_per_hour = usd_per_hour
        self._bill(account, pod)

    def resume(self, account: Account, pod: Pod) -> None:
        self._boot(account, pod)
        self.settle(account, pod)

    def settle(self, account: Account, pod: Pod) -> None:
        """PROVISIONING, STARTING, RUNNING: at 0, 40 and 100 % of the boot, and once the engine's process runs."""
        now, engines = self.emulator.clock.now, self.emulator.engines
        if pod.status == "PROVISIONING" and now >= self._moment(pod, 0.4):
            pod.status = "STARTING"
            pod.log.say(now, f"create container {pod.order.get('image', '')}")
            engines.start(pod.id, _key_of(pod), pod.env.get("REGIA_SERVED_NAME", ""), _context_of(pod))
        if pod.status == "STARTING" and now >= self._moment(pod, 1.0) and engines.started(pod.id):
            pod.status, pod.started_at = "RUNNING", now
            pod.log.say(now, "start container")
        elif pod.status == "STARTING" and pod.id in getattr(engines, "failures", {}):
            pod.status = "ERROR"
            pod.log.say(now, engines.failures[pod.id])
        elif pod.status == "RUNNING" and not engines.started(pod.id):
            self.stop(account, pod)

    def place_for(self, gpu_id: str, cloud: str, wanted: list[str] | None) -> str | None:
        """The first data centre with stock: of the wanted ones, which are no mere preference, or of all."""
        stock = self.emulator.catalogue[gpu_id].stock.get(cloud, {})
        places = wanted or list(stock)
        return next((place for place in places if stock.get(place, "NONE") != "NONE"), None)

    def _boot(self, account: Account, pod: Pod) -> None:
        if pod.begun_at is not None:
            self.emulator.engines.stop(pod.id)
        pod.status, pod.begun_at, pod.started_at = "PROVISIONING", self.emulator.clock.now, None
        self._bill(account, pod)

    def _bill(self, account: Account, pod: Pod) -> None:
        """From the creation on, a boot included: GPU and container disk while not stopped, a volume always."""
        now, ledger = self.emulator.clock.now, account.ledger
        ledger.rate(pod.id, "gpu", now, pod.usd_per_hour * pod.gpu_count if pod.bills else 0)
        disk = DISK_USD * (pod.disk_gb + pod.volume_gb) if pod.bills else STOPPED_DISK_USD * pod.volume_gb
        ledger.rate(pod.id, "disk", now, disk)

    def _moment(self, pod: Pod, part: float) -> datetime:
        return (pod.begun_at or pod.created_at) + timedelta(seconds=self.emulator.boot_seconds * part)

    def _find(self, call: Call) -> Pod | None:
        return self.emulator.account(call).pods.get(call.path("id"))

    def _cannot_resume(self, pod: Pod) -> bool:
        return pod.host_full or pod.gpu_id in self.emulator.sold_out

    def _refusal(self, call: Call) -> Answer | None:
        """Why the order is refused whatever the stock, or None."""
        if len(call.raw) > _BODY_LIMIT:
            return problem(413, "The body is too large.")
        broken = self.emulator.broken_rules(call)
        if broken:
            return problem(422, "The request body does not match the contract.", errors=broken)
        body = call.body
        if ("gpu" in body) == ("cpu" in body):
            return problem(400, "Exactly one of gpu and cpu must be set.")
        gpu = body.get("gpu") or {}
        if (
            "count" not in gpu
            or gpu.get("id") not in self.emulator.catalogue
            or gpu["id"] in self.emulator.sold_out
        ):
            # Even for a missing count it speaks of instances.
            return problem(400, NO_INSTANCES)
        if len(body.get("env") or {}) > _LONGEST_ENV:
            return problem(400, f"A pod takes at most {_LONGEST_ENV} environment variables.")
        cloud = body.get("cloud", SECURE)
        return None if self.emulator.catalogue[gpu["id"]].price(cloud) else problem(400, NO_INSTANCES)


def _gone() -> Answer:
    return problem(404, "pod not found")


def _key_of(pod: Pod) -> str:
    return pod.env.get("REGIA_API_KEY") or pod.env.get("VLLM_API_KEY") or "no-key-was-ordered"


def _context_of(pod: Pod) -> int:
    return int(pod.env.get("REGIA_CONTEXT") or 4096)


def _kind_of_action(request: web.Request, body: Any) -> str:
    action = body.get("action") if isinstance(body, dict) else ""
    return {"start": "start", "stop": "stop", "terminate": "terminate"}.get(str(action), "other")
