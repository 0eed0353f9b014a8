"""An emulator of RunPod: REST v2, GraphQL, the serverless runtime under `/runtime/v2`, the pods' proxy, balancers.

    RUNPOD_API_BASE_URL        {url}
    RUNPOD_RUNTIME_BASE_URL    {url}/runtime
    RUNPOD_PROXY_URL_TEMPLATE  {url}/proxy/{pod_id}-{port}
    RUNPOD_BALANCER_URL_TEMPLATE  {url}/balancer/{endpoint_id}

As a process: `python -m tests.emulators.runpod --port N --folder DIR`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from tests.emulators.common import Allowed, Answer, Call, Conformance, Emulator, Fault, RealEngines, Route
from tests.emulators.common.server import add_unknown_fields, null_all_but
from tests.emulators.runpod_billing import Billing
from tests.emulators.runpod_catalogue import SECURE, make_catalogue, pool_price
from tests.emulators.runpod_graphql import GraphQL
from tests.emulators.runpod_pods import HOST_FULL, Pods
from tests.emulators.runpod_problems import NO_INSTANCES, problem
from tests.emulators.runpod_proxy import Proxy
from tests.emulators.runpod_quotes import Quotes
from tests.emulators.runpod_serverless import Serverless
from tests.emulators.runpod_state import Account, Endpoint, Pod
from tests.emulators.runpod_volumes import Volumes

SPEC = Path(__file__).parent / "openapi" / "runpod.json"
WINDOWS = {"minute": 60, "hour": 3600, "day": 86_400}
ALLOWED = (
    # Known additions since the file's date.
    Allowed("POST", "/v2/pods", "request", r"unevaluatedProperties .*minRamPerGpu", "new since September"),
    Allowed(
        "POST", "/v2/pods", "request", r"unevaluatedProperties .*minVcpuCountPerGpu", "new since September"
    ),
    Allowed(
        "POST", "/v2/pods", "request", r"unevaluatedProperties .*(entrypoint|cmd)\b", "new since September"
    ),
)
_REFUSED: dict[Fault, tuple[int, str]] = {
    Fault.ERROR_BEFORE: (500, "Something went wrong. Please try again later."),
    Fault.ERROR_AFTER: (500, "Something went wrong. Please try again later."),
    Fault.GATEWAY_AFTER: (504, "The upstream did not answer in time."),
    Fault.RATE_LIMITED: (429, "Rate limit exceeded."),
    Fault.RATE_LIMITED_AFTER: (429, "Rate limit exceeded."),
    Fault.UNAUTHORIZED: (401, "Invalid or missing API key."),
    Fault.FORBIDDEN: (403, "This API key is not allowed to do that."),
    Fault.NO_CAPACITY: (400, NO_INSTANCES),
    Fault.REJECTED: (402, "Your account balance is too low."),
}
_KEPT = frozenset(
    {
        "id",
        "name",
        "pods",
        "endpoints",
        "gpus",
        "workers",
        "networkVolumes",
        "dataCenters",
        "records",
        "data",
        "status",
    }
)


class RunPodEmulator(Emulator):
    CONTROLS = (
        *Emulator.CONTROLS, "place", "destroy", "outbid", "resume", "move", "set_price", "vanish", "fail", "ever",
        "bill", "set_balance", "lock_pod", "unlock_pod", "idle_scale_down", "fill_host", "sell_out", "restock", "throttle",
        "say", "set_stock", "place_volume", "resize_volume", "drop_volume",
    )  # fmt: skip

    def __init__(self, *, conformance: bool = True, quota: int = 6000, **options: Any) -> None:
        """`quota`: requests per minute and key, before 429."""
        self.spec = Conformance(json.loads(SPEC.read_text()), ALLOWED)
        super().__init__(conformance=self.spec if conformance else None, **options)
        self.quota = quota
        self.catalogue = make_catalogue()
        self.sold_out: set[str] = set()
        """GPU types that the lists still show and that cannot be had."""
        self.active_discount = Decimal(0)
        self.fb_suffix = True
        """Endpoints with FlashBoot come back with " -fb" behind their name."""
        self.proxy_seconds = 100.0
        self.accounts = {key: Account(key, balance_at=self.clock.now) for key in self.keys}
        self.pods, self.serverless = Pods(self), Serverless(self)
        self.volumes = Volumes(self)
        self._rooms = (
            self.pods,
            self.serverless,
            self.volumes,
            Quotes(self),
            Billing(self),
            GraphQL(self),
            Proxy(self),
        )
        self._used: dict[tuple[str, int, int], int] = {}
        self._balance_read = self.clock.now

    # -- for the base -----------------------------------------------------------------------------

    def routes(self) -> list[Route]:
        return [route for room in self._rooms for route in room.routes()]

    def refuse(self, fault: Fault, call: Call, kind: str) -> Answer:
        status, detail = _REFUSED[fault]
        if call.request.path == "/graphql":
            return _graphql_refusal(fault, status, detail)
        if call.request.path.startswith(("/runtime", "/proxy", "/balancer")):
            return Answer({"error": detail}, status, checked=False)
        if kind == "start" and fault is Fault.NO_CAPACITY:
            detail = HOST_FULL
        if kind in {"terminate", "stop", "start"} and fault is Fault.REJECTED:
            status, detail = 409, f"Cannot {kind} it in its present state."
        return problem(status, detail)

    def spoil(self, fault: Fault, kind: str, payload: Any) -> Any:
        if fault is Fault.WRONG_TYPE:
            return ["unexpected", 7, None]
        if fault is Fault.UNKNOWN_FIELDS:
            return add_unknown_fields(payload)
        if fault is Fault.NULLS:
            return null_all_but(payload, _KEPT - {"status"} if kind == "quotes" else _KEPT)
        if fault is Fault.UNKNOWN_STATE:
            return _replace(payload, "status", "HIBERNATING")
        if fault is Fault.MISSING_BALANCE:
            return _replace(payload, "clientBalance", None)
        return _cut(payload, empty=fault is Fault.EMPTY)

    def dress(self, answer: Answer, call: Call) -> None:
        answer.headers = {**answer.headers, **self.rate_headers(call.key)}

    def settle(self) -> None:
        for account in self.accounts.values():
            for pod in list(account.pods.values()):
                self.pods.settle(account, pod)
            for endpoint in list(account.endpoints.values()):
                self.serverless.settle(account, endpoint)
        now = self.clock.now
        if (now - self._balance_read).total_seconds() >= 1:
            self._balance_read = now
            self._end_the_broke()

    def accepts(self, key: str) -> bool:
        return super().accepts(key) or self._pod_of(key) is not None

    def limit(self, call: Call, kind: str) -> Answer | None:
        with self.lock:
            pod = self._pod_of(call.key)
            if pod is not None and not self._is_its_own(call, pod, kind):
                return self.refuse(Fault.FORBIDDEN, call, kind)
            for seconds in WINDOWS.values():
                window = self._window(call.key, seconds)
                self._used[window] = self._used.get(window, 0) + 1
            if self._left(call.key, 60) >= 0:
                return None
            answer = problem(429, "Rate limit exceeded.")
            answer.headers = {"Retry-After": str(self._resets(60))}
            return answer

    def rate_headers(self, key: str) -> dict[str, str]:
        """Said to every known key."""
        if not self.accepts(key):
            return {}
        left = (f'"{n}";r={max(0, self._left(key, w))};t={self._resets(w)}' for n, w in WINDOWS.items())
        policy = (f'"{n}";q={self._quota(w)};w={w}' for n, w in WINDOWS.items())
        return {"RateLimit": ", ".join(left), "RateLimit-Policy": ", ".join(policy)}

    # -- for the rooms ----------------------------------------------------------------------------

    @property
    def real_engines(self) -> bool:
        return isinstance(self.engines, RealEngines)

    def account(self, call: Call) -> Account:
        pod = self._pod_of(call.key)
        return self.accounts[call.key] if pod is None else self._owner(pod)

    def find_pod(self, pod_id: str) -> Pod | None:
        return next((a.pods[pod_id] for a in self.accounts.values() if pod_id in a.pods), None)

    def _pod_of(self, key: str) -> Pod | None:
        """The pod whose own key this is."""
        if key in self.keys:
            return None
        pods = (pod for a in self.accounts.values() for pod in a.pods.values())
        return next((pod for pod in pods if key and pod.own_key == key), None)

    def _owner(self, pod: Pod) -> Account:
        return next(a for a in self.accounts.values() if pod.id in a.pods)

    def _is_its_own(self, call: Call, pod: Pod, kind: str) -> bool:
        """What a pod may do with its own key: look at itself, start, stop and end itself."""
        address = call.request.path.split("/")[:4] == ["", "v2", "pods", pod.id]
        return address and kind in {"inspect", "start", "stop", "terminate"}

    def note_env(self, env: Mapping[str, str]) -> None:
        self.secrets.update(value for value in env.values() if value)

    def broken_rules(self, call: Call) -> list[str]:
        """What of the request's body breaks the file. It counts as our side's mistake."""
        request = call.request
        broken = self.spec.request(request.method, request.path, "", call.body, has_body=bool(call.raw))
        self.violations.extend(problem for problem in broken if problem not in self.violations)
        return broken

    # -- the handle -------------------------------------------------------------------------------

    def machines(self) -> list[dict[str, Any]]:
        with self.lock:
            self.settle()
            return [
                {**machine.truth(), "account": account.key, "url": self.engines.url(machine.id)}
                for account in self.accounts.values()
                for machine in (*account.pods.values(), *account.endpoints.values())
            ]

    def place(self, label: str, *, kind: str = "pod", account: str | None = None, **details: Any) -> str:
        """A machine that somebody else made; `details` are fields of the create's body."""
        owner = self.accounts[account or self.keys[0]]
        with self.lock:
            if kind == "pod":
                return self._place_pod(owner, label, details).id
            body = {"name": label, "type": "QUEUE", "image": "their/image:1", "gpu": {"pools": ["AMPERE_24"]}}
            scaling = {"scaling": {"type": "QUEUE_DELAY", "queueDelay": 4}}
            gpu, price = pool_price(self.catalogue, ["AMPERE_24"])
            order = {**body, **scaling, **details}
            return self.serverless.make(owner, order, gpu_id=gpu.id, usd_per_hour=price).id

    def _place_pod(self, owner: Account, label: str, details: dict[str, Any]) -> Pod:
        gpu = details.pop("gpu", {"id": "NVIDIA RTX A5000", "count": 1})
        cloud, where = details.pop("cloud", SECURE), details.pop("data_center", "EU-RO-1")
        order = {"name": label, "image": "their/image:1", "disk": 20, "ports": ["8000/http"], **details}
        pod = self.pods.make(
            owner, order, gpu_id=gpu["id"], gpu_count=gpu["count"], cloud=cloud, data_center=where,
            usd_per_hour=self.catalogue[gpu["id"]].price(cloud),
        )  # fmt: skip
        self.pods.settle(owner, pod)
        return pod

    def destroy(self, id: str) -> None:
        """In the console, by somebody else."""
        self._do(id, self.pods.remove, self.serverless.remove)

    def outbid(self, id: str) -> None:
        raise ValueError("RunPod's REST v2 takes no bids.")

    def resume(self, id: str) -> None:
        """In the console: start a stopped pod, give an endpoint workers again."""
        self._do(
            id, self.pods.resume, lambda a, e: self.serverless.scale(a, e, least=e.min, most=max(1, e.max))
        )

    def move(self, id: str, where: str | None) -> None:
        """It stands in that data centre, whatever was ordered; an endpoint: all its workers."""
        self._do(
            id, lambda a, pod: setattr(pod, "data_center", where), lambda a, e: self.serverless.move(e, where)
        )

    def set_price(self, id: str, usd: float | str | Decimal) -> None:
        """USD per hour and GPU from now on."""
        price = Decimal(str(usd))
        self._do(
            id, lambda a, pod: self.pods.price(a, pod, price), lambda a, e: self.serverless.price(a, e, price)
        )

    def vanish(self, id: str, *, back: bool = False) -> None:
        """Gone from lists, though it runs and bills."""
        hide: Callable[..., None] = lambda a, machine: setattr(machine, "hidden", not back)  # noqa: E731
        self._do(id, hide, hide)

    def fail(self, id: str, *, status: str = "ERROR") -> None:
        """A pod: its container is broken (ERROR, it bills on) or ended (EXITED). An endpoint: unhealthy workers."""

        def pod_fails(account: Account, pod: Pod) -> None:
            self.pods.stop(account, pod, status=status)

        def endpoint_fails(account: Account, endpoint: Endpoint) -> None:
            endpoint.unhealthy = True
            self.serverless.settle(account, endpoint)

        self._do(id, pod_fails, endpoint_fails)

    def lock_pod(self, id: str, *, locked: bool = True) -> None:
        self._do(id, lambda a, pod: setattr(pod, "locked", locked), _no_endpoint)

    def unlock_pod(self, id: str) -> None:
        self.lock_pod(id, locked=False)

    def idle_scale_down(self, id: str, *, most: int = 0) -> None:
        """RunPod's own act on an idle endpoint: max 2 after 3 days, 0 after 7."""
        self._do(id, _no_pod, lambda a, e: self.serverless.scale(a, e, least=min(e.min, most), most=most))

    def fill_host(self, id: str, *, full: bool = True) -> None:
        """Somebody took the GPU of a stopped pod: it cannot be started."""
        self._do(id, lambda a, pod: setattr(pod, "host_full", full), _no_endpoint)

    def throttle(self, id: str, *, throttled: bool = True) -> None:
        """No capacity for an endpoint's new workers."""
        self._do(id, _no_pod, lambda a, e: setattr(e, "throttled", throttled))

    def sell_out(self, gpu_id: str) -> None:
        """The catalogue goes on showing it; creates are refused."""
        with self.lock:
            self.sold_out.add(gpu_id)

    def restock(self, gpu_id: str) -> None:
        with self.lock:
            self.sold_out.discard(gpu_id)

    def set_stock(self, gpu_id: str, data_center: str, level: str, *, cloud: str = SECURE) -> None:
        with self.lock:
            self.catalogue[gpu_id].stock.setdefault(cloud, {})[data_center] = level

    def say(self, id: str, text: str, *, source: str = "container") -> None:
        """A line in its log."""
        say: Callable[..., None] = lambda a, machine: machine.log.say(self.clock.now, text, source)  # noqa: E731
        self._do(id, say, say)

    def place_volume(self, name: str, **details: Any) -> str:
        """A network volume made in the console; `gb`, `data_center`, `type`."""
        return self.volumes.place(name, **details)

    def resize_volume(self, id: str, gb: int) -> None:
        self.volumes.resize(id, gb)

    def drop_volume(self, id: str) -> None:
        self.volumes.drop(id)

    def ever(self, label: str, *, account: str | None = None) -> int:
        """How many machines were made under this label."""
        owner = self.accounts[account or self.keys[0]]
        return list(owner.made.values()).count(label)

    def bill(
        self, id: str | None = None, since: datetime | str | None = None, until: datetime | str | None = None,
        *, account: str | None = None,
    ) -> Decimal:  # fmt: skip
        """USD, to the second, whatever the charges show yet. `id` may be a label: all that ever bore it."""
        with self.lock:
            self.settle()
            owner = self.accounts[account or self.keys[0]]
            start = _moment(since) or datetime.min.replace(tzinfo=UTC)
            end = _moment(until) or self.clock.now
            ids = [None] if id is None else [key for key, label in owner.made.items() if id in {key, label}]
            return sum((owner.ledger.bill(key, start, end) for key in ids), Decimal(0))

    def set_balance(self, usd: float | str | Decimal, *, account: str | None = None) -> None:
        with self.lock:
            owner = self.accounts[account or self.keys[0]]
            owner.balance, owner.balance_at = Decimal(str(usd)), self.clock.now
            self._end_the_broke()

    def _do(self, id: str, pod: Callable[..., Any], endpoint: Callable[..., Any]) -> None:
        """By id, or by a label that one machine bears."""
        with self.lock:
            self.settle()
            found = [
                (account, machine)
                for account in self.accounts.values()
                for machine in (*account.pods.values(), *account.endpoints.values())
                if id in {machine.id, machine.name}
            ]
            if len(found) != 1:
                raise LookupError(f"{len(found)} machines are called {id}.")
            account, machine = found[0]
            (pod if isinstance(machine, Pod) else endpoint)(account, machine)

    def _end_the_broke(self) -> None:
        """At $0 pods without a network volume are terminated, and endpoints get no workers."""
        for account in self.accounts.values():
            if account.balance_now(self.clock.now) > 0:
                continue
            for pod in list(account.pods.values()):
                if not (pod.order.get("mounts") or {}).get("network"):
                    self.pods.remove(account, pod)
            for endpoint in account.endpoints.values():
                self.serverless.scale(account, endpoint, least=0, most=0)

    def _quota(self, seconds: int) -> int:
        return self.quota * {60: 1, 3600: 50, 86_400: 800}[seconds]

    def _window(self, key: str, seconds: int) -> tuple[str, int, int]:
        return key, seconds, int(self.clock.now.timestamp()) // seconds

    def _left(self, key: str, seconds: int) -> int:
        return self._quota(seconds) - self._used.get(self._window(key, seconds), 0)

    def _resets(self, seconds: int) -> int:
        """Seconds until the window that runs now is over."""
        return seconds - int(self.clock.now.timestamp()) % seconds


def _graphql_refusal(fault: Fault, status: int, detail: str) -> Answer:
    if fault is Fault.FORBIDDEN:
        error = {"message": "You are not authorized to read this.", "extensions": {"code": "FORBIDDEN"}}
        return Answer({"data": {"myself": None}, "errors": [error]})
    return Answer({"message": detail}, status)


def _replace(payload: Any, name: str, value: Any) -> Any:
    if isinstance(payload, list):
        return [_replace(item, name, value) for item in payload]
    if isinstance(payload, dict):
        return {k: value if k == name else _replace(item, name, value) for k, item in payload.items()}
    return payload


def _cut(payload: Any, *, empty: bool) -> Any:
    """Every list of a listing, shorter."""
    if not isinstance(payload, dict):
        return payload
    return {
        k: ([] if empty else item[: len(item) // 2]) if isinstance(item, list) else item
        for k, item in payload.items()
    }


def _moment(value: datetime | str | None) -> datetime | None:
    return datetime.fromisoformat(value) if isinstance(value, str) else value


def _no_pod(account: Account, pod: Pod) -> None:
    raise ValueError(f"{pod.id} is a pod.")


def _no_endpoint(account: Account, endpoint: Endpoint) -> None:
    raise ValueError(f"{endpoint.id} is an endpoint.")


if __name__ == "__main__":
    from tests.emulators.common.main import run

    run(RunPodEmulator)
