"""What a test may do to the emulator of Vast.ai from outside: the console, the hosts, the other renters, time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from tests.emulators.common import Emulator
from tests.emulators.vast_create import build, changed, moved
from tests.emulators.vast_instances import TROUBLES, Fleet, Instance, Phase
from tests.emulators.vast_market import Offer
from tests.emulators.vast_rows import instance_row, traffic_of

_TRUTH = {
    Phase.BOOTING: "pulling", Phase.WAITING: "pending", Phase.CLASHED: "pending", Phase.FROZEN: "running",
    Phase.OFFLINE: "unknown",
}  # fmt: skip
"""The phases in the words that all emulators use; the others are such words already."""
_APART = 90_000_000
_COMPONENTS = {"down": "bwd", "up": "bwu"}


class Handle(Emulator):
    """Machines are named by their id, a number or its text."""

    CONTROLS = (
        *Emulator.CONTROLS, "place", "destroy", "outbid", "resume", "move", "say", "set_price", "vanish", "fail",
        "stick", "expire", "traffic", "take_gpu", "ever", "bill", "credit", "set_balance", "withdraw", "set_offer",
        "set",
    )  # fmt: skip
    KNOBS = (
        "clash_seconds",
        "gone_as",
        "low_bid_leaves_instance",
        "read_lag",
        "logs_ready_after",
        "strict",
        "tells_traffic",
    )

    fleet: Fleet
    market: dict[int, Offer]
    started_at: datetime
    clash_seconds: float = 0.0
    """How long after a create the same offer is still given away; then the two clash."""
    gone_as: int | None = None
    """The status that says that an offer is gone: 404, 410, 400 or 200. None: as each case has it."""
    low_bid_leaves_instance: bool = True
    """The no to a bid below the minimum leaves a stopped instance and names it."""
    read_lag: float = 0.0
    """Seconds after which a new instance can be read."""
    logs_ready_after: int = 0
    """How many times `result_url` says that the log is not there yet."""
    tells_traffic: bool = True
    """Its rows carry counters of the traffic, as the real ones do and the contract's file does not."""
    strict: bool = False
    """Keep to the minimum seconds between two calls, and answer 429 as plain text."""

    # -- looking ------------------------------------------------------------------------------------

    def machines(self) -> list[dict[str, Any]]:
        """The truth, whatever the lists say: every instance that exists."""
        with self.lock:
            self.settle()
            return [self._truth(i) for i in self.fleet.alive() if i.account in self.keys]

    def _truth(self, instance: Instance) -> dict[str, Any]:
        return {
            "id": str(instance.id), "label": instance.label, "status": _TRUTH.get(instance.phase, instance.phase.value),
            "country": (instance.place or "").rpartition(", ")[2] or None, "account": instance.account,
            "usd_per_hour": instance.usd_per_hour, "disk_usd_per_hour": instance.disk_usd_per_hour,
            "interruptible": instance.is_bid, "offer": instance.offer.id, "created_at": instance.created_at,
            "url": self.fleet.url(instance), "hidden": instance.vanished,
        }  # fmt: skip

    def ever(self, label: str, *, account: str | None = None) -> int:
        """How many machines were ever made under this label."""
        with self.lock:
            return sum(i.label == label and account in {None, i.account} for i in self.fleet.all.values())

    def bill(
        self, id: str | int | None = None, since: datetime | str | None = None, until: datetime | str | None = None,
        *, account: str | None = None, component: str | None = None,
    ) -> Decimal:  # fmt: skip
        """USD between the two moments, of one machine (`id` may be a label) or of all. gpu, disk, bwd, bwu."""
        with self.lock:
            self.settle()
            first = _moment(since) or datetime.min.replace(tzinfo=UTC)
            last = _moment(until) or self.clock.now
            accounts = {account} if account else set(self.keys)
            of = [
                i
                for i in self.fleet.all.values()
                if i.account in accounts and id in {None, i.id, str(i.id), i.label}
            ]
            return sum((i.ledger.bill(None, first, last, component=component) for i in of), Decimal(0))

    def credit(self, account: str | None = None) -> Decimal:
        """The account's prepaid money now, USD."""
        key = account or self.keys[0]
        with self.lock:
            usd, since = self._balances.get(key, (Decimal(100), self.started_at))
            now = self.clock.now
            of = [i for i in self.fleet.all.values() if i.account == key]
            return usd - sum((i.ledger.bill(None, since, now) for i in of), Decimal(0))

    def _row(self, instance: Instance) -> dict[str, Any]:
        row = instance_row(self.fleet, instance)
        return row | traffic_of(instance) if self.tells_traffic else row

    _balances: dict[str, tuple[Decimal, datetime]]
    _numbers: Iterator[int]

    # -- the console --------------------------------------------------------------------------------

    def place(self, label: str, *, account: str | None = None, **details: Any) -> str:
        """A machine made by somebody else; its id.

        `offer`, `bid`, `disk`, `image`, `env`, `ago` (seconds since its creation), `where`,
        `phase` ("running" and "stopped" are the usual ones).
        """
        with self.lock:
            offer = self.market[int(details["offer"])] if "offer" in details else self._apart()
            body = {
                "label": label, "image": details.get("image", "pytorch/pytorch:latest"), "env": details.get("env"),
                "disk": details.get("disk", 16), "price": details.get("bid"),
            }  # fmt: skip
            phase = Phase(details.get("phase", "running"))
            instance = build(
                self, account or self.keys[0], offer, body, ago=float(details.get("ago", 0.0)),
                phase=Phase.BOOTING if phase is Phase.RUNNING else phase,
            )  # fmt: skip
            if phase is Phase.RUNNING:
                instance.since = instance.created_at - timedelta(seconds=self.fleet.boot_seconds)
            instance.visible_at = instance.created_at
            if "where" in details:
                instance.place = moved(details["where"])
            self.fleet.settle_one(instance)
            return str(instance.id)

    def _apart(self) -> Offer:
        """An offer that no search shows: a machine of somebody else takes nothing from the market."""
        number = next(self._numbers)
        like = replace(next(iter(self.market.values())), listed=False)
        return replace(like, id=_APART + number, machine_id=_APART + number, host_id=_APART + number // 3)

    def destroy(self, id: str | int) -> None:
        with self.lock:
            self.settle()
            self.fleet.destroy(self._instance(id))

    def set_balance(self, usd: float | str | Decimal, *, account: str | None = None) -> None:
        """At 0 or less everything of the account stops."""
        with self.lock:
            self._balances[account or self.keys[0]] = (Decimal(str(usd)), self.clock.now)
            self.check_credit()

    def check_credit(self) -> None:
        for key in self.keys:
            if self.credit(key) <= 0:
                for instance in self.fleet.of(key):
                    if instance.phase is not Phase.STOPPED:
                        self.fleet.stop(instance, message="Stopped: the account has no credit.")

    # -- hosts and other renters --------------------------------------------------------------------

    def outbid(self, id: str | int, usd: float | str | Decimal | None = None) -> None:
        """Somebody bids `usd` (a quarter more than ours) on its GPU."""
        with self.lock:
            instance = self._instance(id)
            if not instance.is_bid:
                raise ValueError(f"{id} is not interruptible.")
            floor = Decimal(str(usd)) if usd is not None else instance.usd_per_hour * Decimal("1.25")
            instance.floor = floor.quantize(Decimal("0.0001"))
            self.fleet.settle_one(instance)

    def resume(self, id: str | int) -> None:
        """The other bid is gone: the instance comes back by itself."""
        with self.lock:
            instance = self._instance(id)
            instance.floor = None
            self.fleet.settle_one(instance)

    def take_gpu(self, id: str | int) -> str:
        """Another account rents the GPU of a machine that does not run; the id of theirs."""
        with self.lock:
            instance = self._instance(id)
            body = {"label": "somebody-else", "image": "other/image", "disk": 16}
            return str(build(self, "", instance.offer, body, phase=Phase.BOOTING).id)

    def move(self, id: str | int, where: str | None) -> None:
        """It stands somewhere else than its offer said: "US", or "City, CC"; None: Vast does not say."""
        with self.lock:
            self._instance(id).place = None if where is None else moved(where)

    def set_price(self, id: str | int, usd: float | str | Decimal) -> None:
        """Its GPU costs this from now on, USD per hour."""
        with self.lock:
            self.settle()
            self.fleet.price(self._instance(id), Decimal(str(usd)))

    def vanish(self, id: str | int, *, back: bool = False) -> None:
        """Gone from lists and from sight, though it runs and bills."""
        with self.lock:
            self._instance(id).vanished = not back

    def fail(self, id: str | int, *, status: str = "exited", message: str | None = None) -> None:
        """`exited`, `clashed` (created, with a docker error), `unknown` (no heartbeat), `offline` or `frozen`."""
        with self.lock:
            self.settle()
            if Phase(status) not in TROUBLES:
                raise ValueError(f"{status} is no trouble.")
            self.fleet.trouble(self._instance(id), Phase(status), message)

    def say(self, id: str | int, text: str) -> None:
        """A line in its log."""
        with self.lock:
            self._instance(id).said.append(text)

    def stick(self, id: str | int) -> None:
        """From now on destroying it is answered with a yes and does nothing."""
        with self.lock:
            self._instance(id).stuck = True

    def expire(self, id: str | int) -> None:
        """Its end date has passed."""
        with self.lock:
            self.settle()
            instance = self._instance(id)
            instance.ends_at = self.clock.now
            self.fleet.settle_one(instance)

    def traffic(self, id: str | int, *, down_gb: float = 0.0, up_gb: float = 0.0) -> None:
        with self.lock:
            instance = self._instance(id)
            for way, gb in (("down", down_gb), ("up", up_gb)):
                usd = Decimal(str(gb)) * instance.offer.inet_cost
                instance.traffic_gb[way] += Decimal(str(gb))
                if usd:
                    # A moment ago, so that a bill until now has it.
                    at = self.clock.now - timedelta(microseconds=1)
                    instance.ledger.once(str(instance.id), _COMPONENTS[way], at, usd)

    def withdraw(self, offer: int) -> None:
        """The host takes its offer back."""
        self.set_offer(offer, listed=False)

    def set_offer(self, offer: int, **fields: Any) -> None:
        """`usd_per_hour`, `min_bid`, `place`, ...: of the offer, not of what is rented already."""
        with self.lock:
            self.market[int(offer)] = changed(self.market[int(offer)], fields)

    def set(self, **knobs: Any) -> None:
        """Any of KNOBS."""
        self._turn(knobs)

    def _turn(self, knobs: Mapping[str, Any]) -> None:
        with self.lock:
            for name, value in knobs.items():
                if name not in self.KNOBS:
                    raise ValueError(f"There is no {name}.")
                setattr(self, name, value)

    def _instance(self, id: str | int) -> Instance:
        """By its id or its label."""
        if str(id).isdecimal():
            found = [i for i in (self.fleet.all.get(int(id)),) if i is not None and i.alive]
        else:
            found = [i for i in self.fleet.alive() if i.label == id]
        if not found:
            raise LookupError(f"There is no machine {id}.")
        return found[0]


def _moment(value: datetime | str | None) -> datetime | None:
    return datetime.fromisoformat(value) if isinstance(value, str) else value
