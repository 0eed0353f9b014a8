"""Vast.ai: instances on demand and by bid, through the `vastai` SDK.

    VastProvider -> vast_calls     the SDK: one request, its answer as a value
                    -> vast_errors what an answer that is no yes means; pure
                    -> vast_pace   the least seconds between two calls
                 -> vast_offers    searches, offers as quotes; pure
                 -> vast_order     what a create sends; pure
                 -> vast_machines  instances as machines; pure
                 -> vast_charges   charges, cut to a span; pure
                 -> vast_stops     which machines this process has stopped

A disk bills from creation to destruction, also while stopped; the GPU only while it runs. A machine that was
outbid is kept and comes back by itself. Nothing here calls `show_instance(s)`: they crash on a null.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from deployments.providers import vast_charges, vast_machines, vast_offers, vast_order, vast_pace, vast_stops
from deployments.providers.base import (
    Balance,
    Charge,
    Gone,
    Listing,
    LogLine,
    Machine,
    MachineStatus,
    NoExtras,
    Order,
    ProviderError,
    Quote,
    Rejected,
    Right,
    Secret,
    Traits,
    Unauthorized,
    Unavailable,
)
from deployments.providers.values import mask, number
from deployments.providers.vast_calls import Calls
from deployments.providers.vast_values import identity

TRAITS = Traits(
    backend="vast", title="Vast.ai", can_stop=True, list_interval=10.0, unknown_grace=120.0, company_country="US",
    phase_timeouts={"provisioning": 1500.0, "pulling": 1500.0, "loading": 1200.0, "warming": 600.0},
    system_log_apart=True, asked_at_once=2,
    # It bills by the day: what a day cost is told for certain when the next one is over.
    bill_lag=86_400.0,
    one_create_per_offer=True, limits_apart=True,
)  # fmt: skip
PAGE = 25
"""Instances in one page, as many as Vast gives."""
MOST_PAGES = 400
_CHARGES_PAGE = 100
_LINE, _MOST_LINES = 2000, 2000
_MOST_LOG = 512_000


def _utc_now() -> datetime:
    return datetime.now(UTC)


class VastProvider(NoExtras):
    """One account at Vast.ai; without a `key` its public offers.

    `address` is the API's. The image's door listens on `port`. `disk_gb` is what each machine gets
    and is priced with, `traffic_gb` what a month of one is expected to move.
    """

    traits = TRAITS

    def __init__(
        self, key: Secret | None, *, address: str, disk_gb: int, port: int, traffic_gb: int,
        pace: vast_pace.Pace | None = None, clock: Callable[[], datetime] = _utc_now,
    ) -> None:  # fmt: skip
        self._calls = Calls(key, address, pace or vast_pace.SHARED)
        self._port = port
        self._disk_gb, self._traffic_gb = disk_gb, traffic_gb
        self._clock = clock

    def quotes(self) -> Sequence[Quote]:
        found: dict[str, Quote] = {}
        for search in vast_offers.searches(disk_gb=self._disk_gb):
            rows = self._search(search)
            for quote in vast_offers.quotes(
                rows, search.kind, disk_gb=self._disk_gb, traffic_gb=self._traffic_gb, now=self._clock()
            ):
                found.setdefault(quote.key, quote)
        return list(found.values())

    def list_machines(self) -> Listing:
        """Complete when every page was read and they hold as many machines as any of them says there are."""
        machines: dict[str, Machine] = {}
        totals: list[float | None] = []
        unnamed = 0
        began, asked = time.monotonic(), vast_stops.SHARED.known(self._calls.who)
        for page in self._pages():
            for row in page["instances"]:
                machine = _machine(row, port=self._port, asked_to_stop=asked)
                unnamed += machine is None
                if machine:
                    machines[machine.remote_id] = machine
            totals.append(number(page.get("total_instances")))
        running = [m.remote_id for m in machines.values() if m.status is MachineStatus.RUNNING]
        vast_stops.SHARED.seen_running(self._calls.who, running, since=began)
        complete = not unnamed and all(t is not None and len(machines) >= t for t in totals)
        return Listing(tuple(machines.values()), complete=complete)

    def stands(self, remote_id: str) -> bool:
        """Vast.ai answers with a row, with null, or with a 404 that says so."""
        instance = _number(remote_id)
        try:
            told = self._calls.read("inspect", lambda api: _shown(api, instance))
        except Gone:
            return False
        if not isinstance(told, dict) or not isinstance(told.get("instances", ""), dict | None):
            raise Unavailable("Vast.ai's answer does not say whether the machine is there.")
        return told["instances"] is not None

    def create(self, order: Order, *, deadline: float) -> str:
        """Rent it. A refusal that names a contract all the same means a machine that stands: its id is returned."""
        ask, arguments = vast_order.arguments(order)
        body = self._calls.change(
            "create", lambda api: api.create_instance(ask, **arguments), deadline=deadline,
            secrets=order.secrets(),
            proof=lambda body: bool(identity(body.get("new_contract"))),
        )  # fmt: skip
        return identity(body["new_contract"])

    def terminate(self, remote_id: str) -> None:
        instance = _number(remote_id)
        vast_stops.SHARED.forget(self._calls.who, remote_id)
        self._calls.change(
            "terminate", lambda api: api.destroy_instance(instance), patience=vast_pace.END_PATIENCE
        )

    def kill(self, remote_id: str) -> None:
        self.terminate(remote_id)

    def stop(self, remote_id: str) -> None:
        """The GPU is free for others from then on, and the disk bills on."""
        instance = _number(remote_id)
        with vast_stops.SHARED.stopping(self._calls.who, remote_id):
            self._calls.change("state", lambda api: api.stop_instance(instance))

    def start(self, remote_id: str) -> None:
        """Ask for its GPU again. Vast takes the wish and may leave it waiting for as long as the GPU is taken."""
        instance = _number(remote_id)
        self._calls.change("state", lambda api: api.start_instance(instance))
        vast_stops.SHARED.forget(self._calls.who, remote_id)

    def change_bid(self, remote_id: str, usd_per_hour: Decimal) -> None:
        instance, price = _number(remote_id), vast_order.bid(usd_per_hour)
        self._calls.change("bid", lambda api: api.change_bid(instance, price=price))

    def logs(self, remote_id: str, *, tail: int = 200) -> tuple[LogLine, ...]:
        return self._log(remote_id, tail, "container")

    def system_logs(self, remote_id: str, *, tail: int = 200) -> tuple[LogLine, ...]:
        """What the host's daemon did: the image's pull, the container's start and end."""
        return self._log(remote_id, tail, "system")

    def _log(self, remote_id: str, tail: int, source: str) -> tuple[LogLine, ...]:
        if tail <= 0:
            return ()
        instance, lines = _number(remote_id), min(tail, _MOST_LINES)
        secrets = self._secrets_of(instance)
        of_daemon = {"daemon_logs": True} if source == "system" else {}
        said = self._calls.read("logs", lambda api: api.logs(instance, tail=str(lines), **of_daemon))
        if not isinstance(said, str):
            raise Unavailable("Vast.ai has no log to show yet.")
        return tuple(
            LogLine(None, source, mask(line, secrets)[:_LINE])
            for line in said[-_MOST_LOG:].splitlines()[-lines:]
        )

    def charges(self, since: datetime, until: datetime) -> Sequence[Charge]:
        """By contract and day, cut to the span: whole or not at all."""
        if since >= until:
            return []
        return list(vast_charges.charges(self._charged(since, until), since, until))

    def balance(self) -> Balance:
        """Vast calls the prepaid money `credit`; its `balance` is something else, and mostly 0."""
        user = self._calls.read("balance", lambda api: api.show_user())
        credit = number(user.get("credit")) if isinstance(user, dict) else None
        return Balance(usd=None if credit is None else Decimal(str(credit)))

    def rights(self) -> tuple[Right, ...]:
        one = {"select_filters": {}, "order_by": [], "limit": 1}
        search = vast_offers.searches(disk_gb=self._disk_gb)[0]
        return (
            _try("catalogue", "misc", lambda: self._search(search, limit=1)),
            _try("balance", "user_read", self.balance),
            _try(
                "instances",
                "instance_read",
                lambda: self._calls.read("list", lambda a: a.show_instances_v1(one)),
            ),
        )

    # -- pages ----------------------------------------------------------------------------------

    def _search(self, search: vast_offers.Search, *, limit: int | None = None) -> list[Any]:
        def act(api: Any) -> Any:
            return api.search_offers(
                dict(search.query), type=search.kind, order=[["dph_total", "asc"]], limit=limit or search.limit,
                storage=self._disk_gb, no_default=True,
            )  # fmt: skip

        rows = self._calls.read("search", act, keyless=True)
        if not isinstance(rows, list):
            raise Unavailable("Vast.ai's offers cannot be read.")
        return rows

    def _pages(self) -> Iterator[dict[str, Any]]:
        """All pages of the list. Raises what any of them raises: a list that breaks off is no list."""

        def page(token: str | None) -> Any:
            asked = {"select_filters": {}, "order_by": [{"col": "id", "dir": "asc"}], "limit": PAGE}
            if token:
                asked["after_token"] = token
            return self._calls.read("list", lambda api: api.show_instances_v1(asked))

        yield from _all_pages(page, "instances")

    def _charged(self, since: datetime, until: datetime) -> list[Any]:
        first, last = vast_charges.days(since, until)

        def page(token: str | None) -> Any:
            asked: dict[str, Any] = {
                "charges": True, "start_date": first, "end_date": last, "limit": _CHARGES_PAGE,
                "charge_type": ["instance"], "format": "table",
            }  # fmt: skip
            if token:
                asked["next_token"] = token
            return self._calls.read("charges", lambda api: api.show_invoices_v1(**asked))

        pages = list(_all_pages(page, "results"))
        rows = [row for page in pages for row in page["results"]]
        total = number(pages[-1].get("total"))
        if total is None or len(rows) < total:
            raise Unavailable("Vast.ai's charges are incomplete.")
        return rows

    # -- what else is known of a machine ----------------------------------------------------------

    def _secrets_of(self, instance: int) -> set[str]:
        """What its log must not show. Held as long as the call lasts."""
        asked = {"select_filters": {"id": {"eq": instance}}, "order_by": [], "limit": PAGE}
        page = self._calls.read("list", lambda api: api.show_instances_v1(asked))
        rows = page.get("instances") if isinstance(page, dict) else None
        if not isinstance(rows, list):
            raise Unavailable("Vast.ai's answer cannot be read, so its log cannot be shown safely.")
        mine = [r for r in rows if isinstance(r, dict) and identity(r.get("id")) == str(instance)]
        return set().union(*(vast_machines.secrets_of(row) for row in mine))


def _all_pages(page: Callable[[str | None], Any], rows: str) -> Iterator[dict[str, Any]]:
    """Pages until `next_token` is null. Raises Unavailable for one that is none, and for a list without an end."""
    token: str | None = None
    for _ in range(MOST_PAGES):
        body = page(token)
        if not isinstance(body, dict) or not isinstance(body.get(rows), list) or "next_token" not in body:
            raise Unavailable("A page of Vast.ai's list cannot be read.")
        yield body
        following = body["next_token"]
        if following is None:
            return
        if not isinstance(following, str) or not following or following == token:
            raise Unavailable("Vast.ai's list does not say how it goes on.")
        token = following
    raise Unavailable("Vast.ai's list has no end.")


def _shown(api: Any, instance: int) -> Any:
    """By the SDK's client: its `show_instance` computes with fields that may be null (the contract's gotcha 4)."""
    answer = api.client.get(f"/instances/{instance}/", query_args={"owner": "me"})
    answer.raise_for_status()
    return answer.json()


def _machine(row: object, *, port: int, asked_to_stop: frozenset[str]) -> Machine | None:
    if not isinstance(row, dict):
        return None
    return vast_machines.machine(row, port=port, asked_to_stop=asked_to_stop)


def _number(remote_id: str) -> int:
    """Its contract's number. What is none cannot be a machine at Vast.ai."""
    if not remote_id:
        raise Rejected("It has no id at Vast.ai.")
    if not identity(remote_id):
        raise Gone(f"{remote_id[:40]!r} is no machine of Vast.ai: its ids are numbers.")
    return int(remote_id)


def _try(name: str, right: str, read: Callable[[], object]) -> Right:
    try:
        read()
    except Unauthorized as e:
        return Right(
            name, ok=False, detail=f"{e} It takes a key with the right {right} (Vast.ai console, Keys)."
        )
    except ProviderError as e:
        return Right(name, ok=False, detail=str(e))
    return Right(name, ok=True)
