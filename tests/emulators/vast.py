"""Vast.ai's API as a real server on 127.0.0.1: what the `vastai` 1.9.1 SDK sends, and what the contract says it gets.

vast            the routes, the key, the API's ways to say no
vast_create     PUT /asks/{id}/ and its checks
vast_instances  states, GPUs, engines, books
vast_market     offers and the search over them
vast_rows       Vast's names and words
vast_handle     what a test may do from outside
vast_contract   the OpenAPI file and where the real API differs

python -m tests.emulators.vast --port 8700 --folder engines
"""

from __future__ import annotations

import itertools
import json
import secrets
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

from aiohttp import web

from tests.emulators import vast_contract
from tests.emulators.common import Answer, Call, Clock, Emulator, Engines, Fault, Route
from tests.emulators.common.server import DEFAULT_KEY
from tests.emulators.vast_create import create, gone
from tests.emulators.vast_handle import Handle
from tests.emulators.vast_instances import Fleet, Instance, Phase
from tests.emulators.vast_market import (
    TYPES,
    BadQuery,
    Offer,
    catalogue,
    holds,
    offer_row,
    searchable,
    select,
)
from tests.emulators.vast_rows import FILTERABLE, BadToken, charge_row, columns, page
from tests.emulators.vast_spoil import spoilt

_LIST_PAGE, _CHARGES_PAGE, _CHARGES_MOST = 25, 100, 500
_CREDIT_EVERY = 60.0
_DEAREST_BID = 32
_SEARCHES, _MINUTE = 10, 60.0
MIN_SECONDS = {
    "list": 1.0, "inspect": 2.0, "create": 4.5, "manage": 1.0, "reboot": 1.0, "destroy": 3.0, "bid": 5.5,
    "charges": 1.0, "user": 1.0, "logs": 1.0,
}  # fmt: skip
"""Between two calls of one endpoint with one key, in strict mode."""
CREATE_PENALTY = 12.0


class Vast(Handle, Emulator):
    """`offers` makes the market that long; without it, it holds what tests name (`vast_market`).

    Under load, `conformance=False` leaves out what the checks against the OpenAPI file cost.
    """

    def __init__(
        self, *, keys: Sequence[str] = (DEFAULT_KEY,), clock: Clock | None = None, engines: Engines | None = None,
        boot_seconds: float = 0.0, offers: int | None = None, strict: bool = False,
        conformance: bool = True,
    ) -> None:  # fmt: skip
        super().__init__(
            keys=keys,
            clock=clock,
            engines=engines,
            boot_seconds=boot_seconds,
            conformance=vast_contract.conformance() if conformance else None,
        )
        self.started_at = self.clock.now
        self.fleet = Fleet(self.clock, self.engines, boot_seconds=lambda: self.boot_seconds)
        self.market: dict[int, Offer] = catalogue(offers)
        self.strict = strict
        self._balances: dict[str, tuple[Decimal, datetime]] = {}
        self._numbers = itertools.count(1)
        self._credit_checked = self.clock.now
        self._last_calls: dict[tuple[str, str], list[datetime]] = defaultdict(list)
        self._logs: dict[str, tuple[int, Instance, int, str, bool]] = {}

    def routes(self) -> list[Route]:
        instance = "/api/v0/instances/{id}"
        found: list[Route] = []
        # The SDK sends most paths with a slash at their end and `users/current` without.
        for end in ("", "/"):
            found += [
                Route("POST", f"/api/v0/bundles{end}", "quotes", self._search, keyless=True),
                Route("PUT", f"/api/v0/asks/{{id}}{end}", "create", self._timed("create", self._create)),
                Route("GET", f"/api/v1/instances{end}", "list", self._timed("list", self._list)),
                Route("GET", f"/api/v0/instances{end}", "other", self._retired, checked=False),
                Route("GET", f"{instance}{end}", "inspect", self._timed("inspect", self._show)),
                Route("PUT", f"{instance}{end}", _kind_of_change, self._timed("manage", self._manage)),
                Route("DELETE", f"{instance}{end}", "terminate", self._timed("destroy", self._destroy)),
                Route(
                    "PUT", f"/api/v0/instances/bid_price/{{id}}{end}", "bid", self._timed("bid", self._bid)
                ),
                Route(
                    "PUT",
                    f"/api/v0/instances/reboot/{{id}}{end}",
                    "other",
                    self._timed("reboot", self._reboot),
                ),
                Route(
                    "PUT",
                    f"/api/v0/instances/request_logs/{{id}}{end}",
                    "logs",
                    self._timed("logs", self._log),
                ),
                Route("GET", f"/api/v0/users/current{end}", "balance", self._timed("user", self._user)),
                Route("GET", f"/api/v0/charges{end}", "charges", self._timed("charges", self._charges)),
            ]
        return [
            *found,
            Route("GET", "/instance_logs/{name}", "other", self._log_file, keyless=True, checked=False),
        ]

    def settle(self) -> None:
        self.fleet.settle()
        if (self.clock.now - self._credit_checked).total_seconds() >= _CREDIT_EVERY:
            self._credit_checked = self.clock.now
            self.check_credit()

    # -- keys ---------------------------------------------------------------------------------------

    def key_of(self, request: web.Request) -> str:
        # An empty key is sent as a bare "Bearer".
        scheme, _, key = request.headers.get("Authorization", "").partition(" ")
        return key.strip() if scheme == "Bearer" else ""

    def accepts(self, key: str) -> bool:
        return super().accepts(key) or self._own_key(key) is not None

    def _own_key(self, key: str) -> Instance | None:
        """The instance whose own key (CONTAINER_API_KEY) this is: it may start, stop and destroy itself."""
        return next((i for i in self.fleet.alive() if key and i.container_key == key), None)

    def _find(self, call: Call) -> Instance | None:
        text = call.path("id")
        instance = self.fleet.all.get(int(text)) if text.isdigit() else None
        if (
            instance is None
            or not instance.alive
            or call.key not in {instance.account, instance.container_key}
        ):
            return None
        return instance

    # -- the API's ways to say no -------------------------------------------------------------------

    def refuse(self, fault: Fault, call: Call, kind: str) -> Answer:
        if fault is Fault.UNAUTHORIZED:
            if not call.key:
                return _no(403, "auth_error", "This action requires login.")
            return _no(404, "auth_error", "Invalid user key")
        if fault is Fault.FORBIDDEN:
            return _no(403, "not_authorized", "This key is not authorized for that.")
        if fault in {Fault.RATE_LIMITED, Fault.RATE_LIMITED_AFTER}:
            return _too_often(MIN_SECONDS.get(kind, 1.0))
        if fault is Fault.NO_CAPACITY:
            if kind == "create":
                return gone(self, int(call.path("id")), 410).answer
            return _no(200, "resources_unavailable", "Required resources are currently unavailable.")
        if fault is Fault.REJECTED:
            return _no(400, "invalid_args", "error 400/3467: Invalid args")
        if fault is Fault.GATEWAY_AFTER:
            return Answer("504 Gateway Time-out", 504, content_type="text/plain")
        return _no(500, "server_error", "Internal Server Error")

    def spoil(self, fault: Fault, kind: str, payload: Any) -> Any:
        return spoilt(fault, payload)

    def _timed(self, endpoint: str, handler: Callable[[Call], Answer]) -> Callable[[Call], Answer]:
        """The handler under the lock and, in strict mode, no sooner than the endpoint allows."""

        def timed(call: Call) -> Answer:
            with self.lock:
                wait = self._must_wait(endpoint, call.key)
                return _too_often(wait) if wait else handler(call)

        return timed

    def _must_wait(self, endpoint: str, key: str) -> float | None:
        """The threshold that this call does not keep to."""
        if not self.strict:
            return None
        calls, now = self._last_calls[key, endpoint], self.clock.now
        if endpoint == "search":
            calls[:] = [at for at in calls if (now - at).total_seconds() < _MINUTE]
            too_often, threshold = len(calls) >= _SEARCHES, _MINUTE / _SEARCHES
        else:
            threshold = MIN_SECONDS[endpoint]
            too_often = bool(calls) and (now - calls[-1]).total_seconds() < threshold
            if too_often and endpoint == "create":
                # Whoever creates too soon waits longer.
                threshold = CREATE_PENALTY
        if not too_often:
            calls.append(now)
        return threshold if too_often else None

    def nothing_here(self, call: Call) -> Answer:
        return _no(404, "not_found", "No such route.")

    # -- offers -------------------------------------------------------------------------------------

    def _search(self, call: Call) -> Answer:
        """Anybody may search; a wrong key is still wrong."""
        with self.lock:
            if call.key and not self.accepts(call.key):
                return self.refuse(Fault.UNAUTHORIZED, call, "quotes")
            wait = self._must_wait("search", call.key or call.request.remote or "")
            if wait:
                return _too_often(wait)
            if not isinstance(call.body, dict):
                return _no(400, "invalid_request", "Invalid json body")
            try:
                return Answer({"offers": self._offers(call.key, call.body)})
            except (BadQuery, ValueError) as e:
                return _no(400, "invalid_request", str(e))

    def _offers(self, key: str, query: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        kind = query.get("type", "on-demand")
        if kind not in TYPES:
            raise BadQuery(f"Error in query parameters: {kind} is not a type")
        storage = Decimal(str(query.get("allocated_storage", 8)))
        rows = {o.id: self._offer(o, kind, storage, key) for o in self.market.values() if o.listed}
        found = select([searchable(row, self.market[number]) for number, row in rows.items()], query)
        return [rows[row["id"]] for row in found]

    def _offer(self, offer: Offer, kind: str, storage: Decimal, key: str) -> dict[str, Any]:
        holder = self.fleet.holder(offer)
        return offer_row(
            offer, kind, storage=storage, min_bid=self.fleet.min_bid(offer),
            rentable=holder is None or holder.is_bid, rented=holder is not None and holder.account == key,
            started=self.started_at, now=self.clock.now,
        )  # fmt: skip

    # -- instances ----------------------------------------------------------------------------------

    def _create(self, call: Call) -> Answer:
        if call.key not in self.keys:
            return self.refuse(Fault.FORBIDDEN, call, "create")
        return create(self, call)

    def _retired(self, call: Call) -> Answer:
        return _no(410, "deprecated_endpoint", "This endpoint is deprecated. Use /api/v1/instances/.")

    def _list(self, call: Call) -> Answer:
        if call.key not in self.keys:
            return self.refuse(Fault.FORBIDDEN, call, "list")
        try:
            filters, order = _json(call, "select_filters", {}), _json(call, "order_by", [])
            found = self._matching(call.key, filters, order)
            limit = min(int(call.query.get("limit", _LIST_PAGE)), _LIST_PAGE)
            ids = [instance.id for instance in found]
            rows, following = page(found, ids, limit if limit > 0 else 5, call.query.get("after_token"))
        except BadToken as e:
            return _no(400, "invalid_token", str(e))
        except ValueError as e:
            return _no(400, "invalid_request", str(e))
        wanted = _json(call, "select_cols", ["*"])
        shown = [_only(self._row(instance), wanted) for instance in rows]
        return Answer({
            "success": True, "instances_found": len(shown), "total_instances": len(found),
            "label_counts": Counter(i.label or "" for i in found), "next_token": following, "instances": shown,
        })  # fmt: skip

    def _matching(
        self, key: str, filters: Mapping[str, Any], order: Sequence[Mapping[str, str]]
    ) -> list[Instance]:
        for name in [*filters, *(part["col"] for part in order)]:
            if name not in FILTERABLE:
                raise BadQuery(f"Error in query parameters: {name} is not a valid search key")
        rows = [
            (columns(self.fleet, i), i)
            for i in self.fleet.of(key)
            if i.visible_at <= self.clock.now and not i.vanished
        ]
        kept = [
            (row, i) for row, i in rows if all(holds(row[name], tests) for name, tests in filters.items())
        ]
        for part in reversed(order):
            kept.sort(key=lambda pair: (pair[0][part["col"]] is not None, pair[0][part["col"]] or 0),
                      reverse=part.get("dir") == "desc")  # fmt: skip
        return [instance for _, instance in kept]

    def _show(self, call: Call) -> Answer:
        instance = self._find(call)
        if instance is not None and instance.visible_at <= self.clock.now and not instance.vanished:
            return Answer({"instances": self._row(instance)})
        text = call.path("id")
        was = self.fleet.all.get(int(text)) if text.isdigit() else None
        if was is not None and not was.alive and was.account == call.key:
            return Answer({"instances": None})
        return _no_such_instance(call)

    def _manage(self, call: Call) -> Answer:
        instance, body = self._find(call), call.body
        if instance is None:
            return _no_such_instance(call)
        if not isinstance(body, dict) or body.get("state", "running") not in {"running", "stopped"}:
            return _no(400, "invalid_args", "state must be running or stopped")
        if body.get("state") == "running" and (self.credit(instance.account) <= 0 or self._is_over(instance)):
            return _no(400, "invalid_args", "The instance cannot be started.")
        if len(body.get("label") or "") > 256:
            return _no(400, "invalid_args", "label has more than 256 characters")
        if "label" in body:
            instance.label = body["label"]
        if body.get("state") == "running":
            self.fleet.start(instance)
        elif body.get("state") == "stopped":
            self.fleet.stop(instance)
        return Answer({"success": True})

    def _is_over(self, instance: Instance) -> bool:
        return self.clock.now >= instance.ends_at

    def _destroy(self, call: Call) -> Answer:
        instance = self._find(call)
        if instance is None:
            return _no_such_instance(call)
        if not instance.stuck:
            self.fleet.destroy(instance)
        return Answer({"success": True, "msg": "Instance destroyed successfully"})

    def _reboot(self, call: Call) -> Answer:
        if call.key not in self.keys:
            return self.refuse(Fault.FORBIDDEN, call, "other")
        instance = self._find(call)
        if instance is None:
            return _no_such_instance(call)
        if instance.phase is not Phase.RUNNING:
            return _no(400, "invalid_args", "invalid instance_id")
        self.fleet.reboot(instance)
        return Answer({"success": True})

    def _bid(self, call: Call) -> Answer:
        if call.key not in self.keys:
            return self.refuse(Fault.FORBIDDEN, call, "bid")
        instance, body = self._find(call), call.body
        if instance is None:
            return _no_such_instance(call)
        price = body.get("price") if isinstance(body, dict) else None
        dearest = _DEAREST_BID * instance.offer.num_gpus
        if not isinstance(price, int | float) or isinstance(price, bool) or not 0.001 <= price <= dearest:
            return _no(400, "invalid_args", "Please set a bid price >= 0.001.")
        if not instance.is_bid:
            return _no(400, "invalid_args", "An on-demand instance takes no bid.")
        self.fleet.price(instance, Decimal(str(price)))
        return Answer({"success": True})

    # -- logs ---------------------------------------------------------------------------------------

    def _log(self, call: Call) -> Answer:
        """Vast uploads the log and names its address; it can be read there a moment later."""
        instance = self._find(call)
        if instance is None:
            return _no(404, "invalid_id", "Invalid instance id.")
        body = call.body if isinstance(call.body, dict) else {}
        name = f"{secrets.token_hex(16)}.log"
        tail = str(body.get("tail") or "1000")
        self._logs[name] = (
            self.logs_ready_after, instance, int(tail) if tail.isdigit() else 1000, str(body.get("filter") or ""),
            body.get("daemon_logs") == "true",
        )  # fmt: skip
        url = f"{self.url}/instance_logs/{name}"
        return Answer({"success": True, "result_url": url, "msg": "The log will be there soon."})

    def _log_file(self, call: Call) -> web.Response:
        name = call.path("name")
        with self.lock:
            if name not in self._logs:
                return web.Response(status=403, text="<Error><Code>AccessDenied</Code></Error>")
            left, instance, tail, wanted, of_daemon = self._logs[name]
            self._logs[name] = (left - 1, instance, tail, wanted, of_daemon)
            if left > 0:
                return web.Response(status=403, text="<Error><Code>AccessDenied</Code></Error>")
            said = self._daemon_lines(instance) if of_daemon else self._lines(instance)
            lines = [line for line in said if wanted in line]
        return web.Response(text="\n".join(lines[-tail:]) + "\n")

    def _lines(self, instance: Instance) -> list[str]:
        """What a container says: vLLM prints its arguments, and its key among them."""
        said = [f"{name}={value}" for name, value in instance.env.items() if name.endswith("_API_KEY")]
        entry = "the image's entrypoint" if instance.runtype == "args" else f"{instance.runtype} in its place"
        return [
            f"Pulling {instance.image}", f"Container {instance.id} started: {entry}",
            f"INFO non-default args: {{'args': {instance.args}, 'env': {said}}}",
            *self.fleet.engine_logs(instance), *instance.said,
        ]  # fmt: skip

    def _daemon_lines(self, instance: Instance) -> list[str]:
        """What the host says of the container: the pull's steps, and the environment that it was started with."""
        pulled = [f"{layer}: Pull complete" for layer in ("0a9573503463", "20f48d2c6b5d")]
        return [
            f"Error response from daemon: No such container: C.{instance.id}", *pulled,
            f"docker run -e {' -e '.join(f'{k}={v}' for k, v in instance.env.items())} {instance.image}",
        ]  # fmt: skip

    # -- money --------------------------------------------------------------------------------------

    def _user(self, call: Call) -> Answer:
        if call.key not in self.keys:
            return self.refuse(Fault.FORBIDDEN, call, "balance")
        number = self.keys.index(call.key)
        return Answer({
            "id": 620_001 + number, "key_id": 71 + number, "email": f"account{number + 1}@example.com", "balance": 0.0,
            "credit": float(self.credit(call.key)), "ssh_key": "", "sid": f"sid-{number + 1}", "api_key": call.key,
        })  # fmt: skip

    def _charges(self, call: Call) -> Answer:
        if call.key not in self.keys:
            return self.refuse(Fault.FORBIDDEN, call, "charges")
        try:
            filters = _json(call, "select_filters", {})
            since, until = filters["day"]["gte"], filters["day"]["lte"]
            limit = min(int(call.query.get("limit", _CHARGES_PAGE)), _CHARGES_MOST)
        except (KeyError, TypeError, ValueError):
            message = "Must provide both 'day' gte and lte filters for instance charges"
            return Answer({"success": False, "msg": message}, 400)
        if "instance" not in filters.get("type", {}).get("in", ["instance"]):
            return Answer(_charge_page([], 0, None))
        of = (i for i in self.fleet.all.values() if i.account == call.key)
        priced = ((charge_row(i, since, until, self.clock.now), i.id) for i in of)
        found = [(row, number) for row, number in priced if row is not None]
        if call.query.get("latest_first", "true") == "true":
            found.reverse()
        ids = [number for _, number in found]
        try:
            rows, following = page([row for row, _ in found], ids, limit, call.query.get("after_token"))
        except BadToken as e:
            return _no(400, "invalid_token", str(e))
        return Answer(_charge_page(rows, len(found), following))


def _charge_page(rows: list[Any], total: int, following: str | None) -> dict[str, Any]:
    return {"success": True, "count": len(rows), "total": total, "next_token": following, "results": rows}


def _kind_of_change(request: web.Request, body: Any) -> str:
    state = body.get("state") if isinstance(body, dict) else None
    return {"stopped": "stop", "running": "start"}.get(str(state), "other")


def _no(status: int, error: str, message: str) -> Answer:
    return Answer({"success": False, "error": error, "msg": message}, status)


def _no_such_instance(call: Call) -> Answer:
    return _no(404, "no_such_instance", f"Instance {call.path('id')} does not exist.")


def _too_often(threshold: float) -> Answer:
    text = f"API requests too frequent endpoint threshold={threshold}"
    return Answer(text, 429, content_type="text/plain")


def _json(call: Call, name: str, default: Any) -> Any:
    """A parameter that carries JSON."""
    text = call.query.get(name)
    value = json.loads(text) if text else default
    if type(value) is not type(default):
        raise BadQuery(f"Error in query parameters: {name}")
    return value


def _only(row: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return row if "*" in names else {name: row.get(name) for name in names}


if __name__ == "__main__":
    from tests.emulators.common.main import run

    run(Vast)
