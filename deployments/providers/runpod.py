"""RunPod: pods and serverless endpoints of one account, by REST v2; the SDK for what v2 has not.

    RunPodProvider -> runpod_api       one call and what its answer means; runpod_pace: the quota of requests
                   -> runpod_catalogue the calls behind the quotes
                   -> runpod_sdk       an endpoint's health, the account's balance
    pure           -> runpod_offers    catalogue -> quotes; runpod_sites: data centre -> country
                   -> runpod_orders    order -> body of the create, and the marks that an endpoint carries
                   -> runpod_machines  rows -> machines; runpod_logs, runpod_charges, runpod_prices

Source: `RunPod REST v2` (OpenAPI of 2026-08-18). No call that changes something is sent twice.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from urllib.parse import quote as url_quote

from deployments.providers import (
    runpod_charges,
    runpod_logs,
    runpod_machines,
    runpod_offers,
    runpod_orders,
    runpod_sdk,
)
from deployments.providers.base import (
    Balance,
    Charge,
    Gone,
    Inspection,
    Listing,
    LogLine,
    NoCapacity,
    Order,
    ProviderError,
    Quote,
    Rejected,
    Right,
    Secret,
    Traits,
    Unauthorized,
    Unavailable,
    Unknown,
    Volume,
)
from deployments.providers.runpod_api import LOCKED, Api, Row, rows_of
from deployments.providers.runpod_catalogue import GPUS, Catalogue
from deployments.providers.runpod_machines import ENDPOINT, VOLUME, is_endpoint, valid_id
from deployments.providers.values import usd

TRAITS = Traits(
    backend="runpod", title="RunPod", can_stop=True, list_interval=5.0, unknown_grace=120.0, company_country="US",
    start_timeout=2400.0, inspect_interval=20.0, ends_tls=True, has_volumes=True,
    # An image of several GB is pulled on a host that has never seen it.
    phase_timeouts={"provisioning": 600.0, "pulling": 1200.0, "loading": 900.0, "warming": 300.0},
    # It charges every five minutes, and tells hours.
    bill_step=3600.0, bill_lag=900.0,
)  # fmt: skip
LOG_SECONDS, LOG_QUIET = 5.0, 2.0
"""How long a log is read, and how long it may be silent: it never ends by itself."""
LOG_BYTES = 512_000
_LOGGED_WORKERS = 3


@dataclass(frozen=True, slots=True)
class Addresses:
    """Of RunPod's API, of the serverless runtime, and how a pod's and a load balancer's door are made of their ids."""

    api: str
    runtime: str
    proxy: str
    """`https://{pod_id}-{port}.proxy.runpod.net`"""
    balancer: str = "https://{endpoint_id}.api.runpod.ai"


class RunPodProvider:
    """One account at RunPod. Without a key it knows the public prices, and everything else is Unauthorized."""

    traits = TRAITS

    def __init__(
        self, key: Secret | None, *, addresses: Addresses, worker_image: str, active_discount: Decimal, disk_gb: int,
        port: int, load_balancer: bool = False,
    ) -> None:  # fmt: skip
        self._key = key
        self._addresses = addresses
        self._worker_image = worker_image
        self._terms = runpod_offers.Terms(
            disk_gb=disk_gb, active_discount=active_discount, load_balancer=load_balancer
        )
        self._port = port
        self._api = Api(key, addresses.api)

    def __repr__(self) -> str:
        return f"RunPodProvider({self._addresses.api!r})"

    def quotes(self) -> Sequence[Quote]:
        catalogue = Catalogue(self._api, self._terms)
        return catalogue.public_quotes() if self._key is None else catalogue.quotes()

    # -- machines -------------------------------------------------------------------------------

    def list_machines(self) -> Listing:
        """Pods and endpoints in one; when either list fails, there is none. A row without an id makes it incomplete."""
        pods = rows_of(self._api.read("/v2/pods"), "pods")
        endpoints = rows_of(self._api.read("/v2/serverless"), "endpoints")
        machines = (
            *runpod_machines.pods(pods, self._pod_address),
            *runpod_machines.endpoints(endpoints, self._endpoint_address, self._balancer_address),
        )
        return Listing(machines, complete=all(m.remote_id for m in machines))

    def stands(self, remote_id: str) -> bool:
        try:
            row = self._api.read(_path(remote_id), machine=remote_id)
        except Gone:
            return False
        return row.get("status") != "TERMINATED"

    def volumes(self) -> tuple[Volume, ...]:
        rows = rows_of(self._api.read("/v2/network-volumes"), "networkVolumes")
        return tuple(runpod_machines.volumes(rows))

    def create(self, order: Order, *, deadline: float) -> str:
        if order.quote.serverless:
            path, prefix = "/v2/serverless", ENDPOINT
            body = runpod_orders.endpoint_body(order, self._worker_image)
        else:
            path, prefix = "/v2/pods", ""
            body = runpod_orders.pod_body(order)
        made = self._api.change(
            "POST", path, body, deadline=deadline, secrets=runpod_orders.secrets_of(order)
        )
        remote_id = valid_id(made.get("id"))
        if not remote_id:
            raise Unknown("RunPod took the order and did not say the machine's id.")
        return f"{prefix}{remote_id}"

    def terminate(self, remote_id: str) -> None:
        try:
            self._api.change("DELETE", _path(remote_id), machine=remote_id, urgent=True)
        except Rejected as e:
            self._settle(remote_id, e, settled=())

    def kill(self, remote_id: str) -> None:
        self.terminate(remote_id)

    def stop(self, remote_id: str) -> None:
        if is_endpoint(remote_id):
            self._api.change("PATCH", _path(remote_id), runpod_orders.stop_body(), machine=remote_id)
            return
        self._act(remote_id, "stop", settled=("EXITED",))

    def start(self, remote_id: str) -> None:
        if not is_endpoint(remote_id):
            self._act(remote_id, "start", settled=("RUNNING", "STARTING", "PROVISIONING"))
            return
        self._restore(remote_id, self._api.read(_path(remote_id), machine=remote_id))

    def mend(self, remote_id: str) -> None:
        if not is_endpoint(remote_id):
            raise Rejected("RunPod changes nothing about a pod by itself.")
        row = self._api.read(_path(remote_id), machine=remote_id)
        if not runpod_machines.drift(row):
            raise Rejected("The endpoint's workers are as ordered, or were stopped here.")
        self._restore(remote_id, row)

    def change_bid(self, remote_id: str, usd_per_hour: Decimal) -> None:
        raise Rejected("RunPod takes no bids here.")

    def inspect(self, remote_id: str) -> Inspection:
        """Two reads and the runtime's health, which may fail: then the workers alone tell."""
        if not is_endpoint(remote_id):
            raise Rejected("A pod has no workers.")
        row = self._api.read(_path(remote_id), machine=remote_id)
        workers = rows_of(self._api.read(f"{_path(remote_id)}/workers", machine=remote_id), "workers")
        # A load balancer has no queue, so nothing tells of one.
        health, note = ({}, "") if runpod_machines.is_balanced(row) else self._health(remote_id)
        return runpod_machines.inspection(row, workers, health, note=note)

    def _health(self, remote_id: str) -> tuple[Row, str]:
        key, endpoint_id = self._required_key(), remote_id.removeprefix(ENDPOINT)
        try:
            return runpod_sdk.endpoint_health(endpoint_id, key=key, runtime=self._addresses.runtime), ""
        except ProviderError as e:
            return {}, f"Its health is not told: {e}"

    def _act(self, remote_id: str, action: str, *, settled: Sequence[str]) -> None:
        try:
            self._api.change("POST", f"{_path(remote_id)}/action", {"action": action}, machine=remote_id)
        except Rejected as e:
            self._settle(remote_id, e, settled=settled)

    def _settle(self, remote_id: str, error: Rejected, *, settled: Sequence[str]) -> None:
        """What a refusal means: a pod that is there already is fine, a locked one is said to be locked."""
        definite = isinstance(error, (Gone, NoCapacity, Unauthorized)) or str(error) == LOCKED
        if definite or is_endpoint(remote_id):
            raise error
        try:
            row = self._api.read(_path(remote_id), machine=remote_id)
        except ProviderError:
            raise error from None
        if row.get("status") in settled:
            return
        raise Rejected(LOCKED) if row.get("locked") is True else error

    def _restore(self, remote_id: str, row: Row) -> None:
        if not isinstance(row.get("env"), Mapping):
            raise Unavailable("RunPod does not say what was ordered as this endpoint; nothing was done.")
        ordered = runpod_orders.ordered_workers(row["env"])
        if ordered is None:
            raise Rejected(
                "This endpoint was not ordered here: how many workers it should have is not known."
            )
        self._api.change("PATCH", _path(remote_id), runpod_orders.start_body(ordered), machine=remote_id)

    def _pod_address(self, pod_id: str, port: int | None) -> str:
        return self._addresses.proxy.format(pod_id=pod_id, port=port or self._port).rstrip("/")

    def _endpoint_address(self, endpoint_id: str) -> str:
        return f"{self._addresses.runtime}/v2/{endpoint_id}/openai"

    def _balancer_address(self, endpoint_id: str) -> str:
        return self._addresses.balancer.format(endpoint_id=endpoint_id).rstrip("/")

    # -- logs and money -------------------------------------------------------------------------

    def logs(self, remote_id: str, *, tail: int = 200) -> tuple[LogLine, ...]:
        """Of a pod, or of an endpoint's first few workers."""
        if tail <= 0:
            return ()
        row = self._api.read(_path(remote_id), machine=remote_id)
        secrets = [*runpod_logs.secrets_of(row.get("env")), self._required_key().reveal()]
        ends, lines = time.monotonic() + LOG_SECONDS, list[LogLine]()
        for path in self._log_paths(remote_id):
            left = ends - time.monotonic()
            # A worker may go while it is asked: that says nothing of the endpoint.
            with suppress(Gone) if is_endpoint(remote_id) else nullcontext():
                if left > 0:
                    lines += runpod_logs.parse(self._stream(path, remote_id, tail, seconds=left), secrets)
        return runpod_logs.newest(lines, tail)

    def system_logs(self, remote_id: str, *, tail: int = 200) -> tuple[LogLine, ...]:
        """`logs` tells both."""
        return ()

    def _log_paths(self, remote_id: str) -> Iterator[str]:
        at = _path(remote_id)
        if not is_endpoint(remote_id):
            yield f"{at}/logs"
            return
        workers = rows_of(self._api.read(f"{at}/workers", machine=remote_id), "workers")
        ids = [valid_id(w.get("id")) for w in workers if isinstance(w, dict)]
        yield from (f"{at}/workers/{i}/logs" for i in [i for i in ids if i][:_LOGGED_WORKERS])

    def _stream(self, path: str, remote_id: str, tail: int, *, seconds: float) -> bytes:
        wanted = min(tail, 5000)
        return self._api.stream(
            path, {"tail": str(wanted)}, machine=remote_id, seconds=seconds, quiet=min(LOG_QUIET, seconds),
            limit=LOG_BYTES, enough=lambda content: runpod_logs.count(content) >= wanted,
        )  # fmt: skip

    def charges(self, since: datetime, until: datetime) -> Sequence[Charge]:
        """By the hour; the label is empty, because RunPod's bills name ids alone."""
        if since >= until:
            return ()
        query = {"bucketSize": "hour", "startTime": _rfc3339(since), "endTime": _rfc3339(until)}
        found: list[Charge] = []
        for path, id_field, prefix in _BILLS:
            told = self._api.read(f"/v2/billing/{path}", query)
            records = runpod_charges.whole(told, rows_of(told, "records"))
            found += runpod_charges.charges(
                records, id_field=id_field, prefix=prefix, since=since, until=until
            )
        return found

    def balance(self) -> Balance:
        """Not told (None) when RunPod refuses it to a key that is good otherwise."""
        try:
            return self._balance()
        except Rejected:
            if self._key is None:
                raise
            return Balance(usd=None)

    def _balance(self) -> Balance:
        told = runpod_sdk.account(key=self._required_key(), api=self._addresses.api)
        owed = told.get("clientBalance")
        left = usd(owed) if not _is_negative(owed) else Decimal(str(owed))
        if left is None:
            raise Rejected("RunPod does not tell the balance.")
        return Balance(usd=left, usd_per_hour=usd(told.get("currentSpendPerHr")))

    def rights(self) -> tuple[Right, ...]:
        return (
            _try("catalogue", lambda: self._api.read(GPUS)),
            _try("balance", self._balance),
            _try("instances", self._lists),
        )

    def _lists(self) -> None:
        """Both lists, each of which is a right of its own."""
        for name in ("pods", "serverless"):
            try:
                self._api.read(f"/v2/{name}")
            except ProviderError as e:
                raise type(e)(f"{name.capitalize()}: {e}") from e

    def _required_key(self) -> Secret:
        if self._key is None:
            raise Unauthorized("This account has no key.")
        return self._key


_BILLS = (
    ("pods", "podId", ""),
    ("serverless", "serverlessId", ENDPOINT),
    ("network-volumes", "networkVolumeId", VOLUME),
)


def _path(remote_id: str) -> str:
    """Of a pod or an endpoint. An id that cannot be one is never sent: `/v2/pods/` would be all of them."""
    raw = remote_id.removeprefix(ENDPOINT)
    if not valid_id(raw):
        raise Rejected(f"{remote_id!r} is no id of a machine at RunPod.")
    return f"/v2/{'serverless' if is_endpoint(remote_id) else 'pods'}/{url_quote(raw, safe='')}"


def _try(name: str, call: Callable[[], object]) -> Right:
    try:
        call()
    except ProviderError as e:
        remedy = f" {_REMEDY}" if isinstance(e, Unauthorized) else ""
        return Right(name, ok=False, detail=f"{e}{remedy}")
    return Right(name, ok=True)


_REMEDY = "Give the key what is missing at console.runpod.io, under Settings, API keys."


def _is_negative(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value < 0


def _rfc3339(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
