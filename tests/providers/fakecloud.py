"""A small cloud in memory or in one JSON file: machines, prices and a clock that a test can set.

It keeps every promise of the Protocol and rents nothing. With `path` its machines outlive the process
that rented them, so that a test can kill that process and look from another one.
"""

from __future__ import annotations

import fcntl
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from threading import RLock
from typing import Any

from deployments.providers.base import (
    Charge,
    Gone,
    Inspection,
    Listing,
    LogLine,
    Machine,
    MachineStatus,
    NoCapacity,
    NoExtras,
    Order,
    Quote,
    Rejected,
    Traits,
    Unavailable,
)

TRAITS = Traits(
    backend="fake", title="Fake cloud", can_stop=True, list_interval=0.0, unknown_grace=120.0,
    company_country="US",
)  # fmt: skip


def _utc_now() -> datetime:
    return datetime.now(UTC)


def fake_quote(
    key: str = "fake-4090", *, usd_per_hour: Decimal = Decimal("0.40"), country: str | None = "DE",
    **fields: Any,
) -> Quote:  # fmt: skip
    """An offer that fits the catalogue's Qwen3-4B."""
    defaults: dict[str, Any] = {
        "tier": "secure", "gpu_name": "NVIDIA GeForce RTX 4090", "gpu_count": 1, "vram_mb": 24_564,
        "cpu_count": 16, "memory_mb": 65_536, "data_center": "EU-DE-1",
        "compute_usd_per_hour": usd_per_hour, "stock": "high", "usual_seconds_to_ready": 120,
    }  # fmt: skip
    return Quote(key=key, country=country, usd_per_hour=usd_per_hour, **{**defaults, **fields})


class FakeCloud(NoExtras):
    """One account. Every method may be used from several threads and, with `path`, several processes.

    `latency` is slept in every call, seconds. `boot_lists`: how many lists a new machine stays PENDING.
    `endpoint` makes a machine's URL from its label; None: machines have none.
    """

    def __init__(
        self,
        *,
        path: Path | None = None,
        quotes: Sequence[Quote] = (),
        latency: float = 0.0,
        boot_lists: int = 0,
        clock: Callable[[], datetime] = _utc_now,
        endpoint: Callable[[str], str | None] | None = lambda label: "http://127.0.0.1:9",
        traits: Traits = TRAITS,
        list_shows_price: bool = True,
    ) -> None:
        self.traits = traits
        self.latency = latency
        self.boot_lists = boot_lists
        self.clock = clock
        self.endpoint = endpoint
        self.offers: list[Quote] = list(quotes) or [fake_quote()]
        self.list_shows_price = list_shows_price
        self._path = path
        self._lock = RLock()
        self._memory: dict[str, dict[str, Any]] = {}

    # -- the Protocol ---------------------------------------------------------------------------

    def quotes(self) -> Sequence[Quote]:
        time.sleep(self.latency)
        return tuple(self.offers)

    def list_machines(self) -> Listing:
        time.sleep(self.latency)
        with self._machines() as machines:
            shown = tuple(
                self._shown(row) for row in machines.values() if not row["gone"] and not self._hidden(row)
            )
        return Listing(shown, complete=True)

    def stands(self, remote_id: str) -> bool:
        time.sleep(self.latency)
        with self._machines() as machines:
            row = machines.get(remote_id)
            return row is not None and not row["gone"]

    def create(self, order: Order, *, deadline: float) -> str:
        if time.monotonic() > deadline:
            raise Unavailable("The deadline of this create has passed; nothing was sent.")
        time.sleep(self.latency)
        offer = next((q for q in self.offers if q.key == order.quote.key), None)
        if offer is None:
            raise NoCapacity(f"The offer {order.quote.key} is no longer there.")
        with self._machines() as machines:
            if any(m["label"] == order.label and not m["gone"] for m in machines.values()):
                raise Rejected(f"A machine with the label {order.label} exists already.")
            price, bid = offer.usd_per_hour, order.bid_usd_per_hour
            if bid is not None:
                price += bid - offer.compute_usd_per_hour
            remote_id = self._place(machines, order.label, usd_per_hour=price, country=offer.country)
            machines[remote_id] |= {
                "held": str(offer.held_usd_per_hour), "bid": str(bid) if bid is not None else None,
                "min_bid": str(offer.compute_usd_per_hour) if offer.interruptible else None,
                "serverless": offer.serverless,
            }  # fmt: skip
            if offer.serverless:
                self._bill(machines[remote_id], offer.usd_per_hour * offer.workers_min)
            return remote_id

    def terminate(self, remote_id: str) -> None:
        time.sleep(self.latency)
        with self._machines() as machines:
            row = self._find(machines, remote_id)
            if row["locked"]:
                raise Rejected("The machine is locked.")
            self._close(row)
            row["gone"] = True

    def kill(self, remote_id: str) -> None:
        self.terminate(remote_id)

    def stop(self, remote_id: str) -> None:
        time.sleep(self.latency)
        with self._machines() as machines:
            row = self._find(machines, remote_id)
            self._bill(row, Decimal(row["held"]))
            row["status"] = MachineStatus.STOPPED.value

    def start(self, remote_id: str) -> None:
        time.sleep(self.latency)
        with self._machines() as machines:
            row = self._find(machines, remote_id)
            if row["status"] == MachineStatus.RUNNING.value:
                return
            row["status"] = MachineStatus.RUNNING.value
            row["boot_lists"] = self.boot_lists
            self._bill(row, Decimal(row["usd_per_hour"]))

    def change_bid(self, remote_id: str, usd_per_hour: Decimal) -> None:
        time.sleep(self.latency)
        with self._machines() as machines:
            row = self._find(machines, remote_id)
            if row["bid"] is None:
                raise Rejected("It is not rented by a bid.")
            row["usd_per_hour"] = str(Decimal(row["usd_per_hour"]) - Decimal(row["bid"]) + usd_per_hour)
            row["bid"] = str(usd_per_hour)
            if row["status"] == MachineStatus.OUTBID.value and usd_per_hour > Decimal(row["min_bid"]):
                self._resume(row)

    def mend(self, remote_id: str) -> None:
        time.sleep(self.latency)
        with self._machines() as machines:
            self._find(machines, remote_id)["drift"] = ""

    def inspect(self, remote_id: str) -> Inspection:
        time.sleep(self.latency)
        with self._machines() as machines:
            row = self._find(machines, remote_id)
        if not row["serverless"]:
            raise Rejected("It is no serverless endpoint.")
        places = row["workers"]
        return Inspection(
            data_centers=tuple(f"EU-{c}-1" if c else "" for c in places), countries=tuple(places),
            billed_workers=max(row["always_on"], len(places)), serves=row["serves"],
        )  # fmt: skip

    def logs(self, remote_id: str, *, tail: int = 200) -> tuple[LogLine, ...]:
        time.sleep(self.latency)
        with self._machines() as machines:
            row = self._find(machines, remote_id)
        at = datetime.fromisoformat(row["created_at"])
        lines = [LogLine(at, "system", "created")]
        lines += [LogLine(at, "container", f"regia phase={phase}") for phase in ("loading", "ready")]
        return tuple(lines[-tail:]) if tail > 0 else ()

    def charges(self, since: datetime, until: datetime) -> Sequence[Charge]:
        time.sleep(self.latency)
        found: list[Charge] = []
        with self._machines() as machines:
            for row in machines.values():
                for begin, end, rate in row["spans"]:
                    start = max(since, datetime.fromisoformat(begin))
                    stop = min(until, datetime.fromisoformat(end) if end else self.clock())
                    if start < stop:
                        usd = Decimal(rate) * Decimal((stop - start) // timedelta(microseconds=1))
                        usd /= Decimal(3_600_000_000)
                        found.append(Charge(row["id"], row["label"], "compute", start, stop, usd))
        return found

    # -- what a test does to the cloud ----------------------------------------------------------

    def place(
        self, label: str, *, usd_per_hour: Decimal = Decimal("0.40"), country: str | None = "DE"
    ) -> str:
        """A machine made by somebody else, or in the provider's console. Returns its remote id."""
        with self._machines() as machines:
            return self._place(machines, label, usd_per_hour=usd_per_hour, country=country)

    def remove(self, label: str) -> None:
        """Destroyed in the provider's console."""
        for remote_id in self.ids_of(label):
            self.terminate(remote_id)

    def set_status(self, label: str, status: MachineStatus, *, detail: str = "") -> None:
        """What the list says of it from now on. EXITED and STOPPED close its run."""
        with self._machines() as machines:
            for row in self._standing(machines, label):
                row["status"], row["detail"] = status.value, detail
                if status in {MachineStatus.EXITED, MachineStatus.STOPPED}:
                    self._close(row)

    def set_price(self, label: str, usd_per_hour: Decimal) -> None:
        """It bills this from now on."""
        with self._machines() as machines:
            for row in self._standing(machines, label):
                if row["spans"][-1][1] is None:
                    self._close(row)
                    row["spans"].append([self.clock().isoformat(), None, str(usd_per_hour)])
                row["usd_per_hour"] = str(usd_per_hour)

    def outbid(self, label: str, *, lowest: Decimal) -> None:
        """A higher bid takes its GPU; `lowest` would win it back. Its disk bills on."""
        with self._machines() as machines:
            for row in self._standing(machines, label):
                row["status"], row["min_bid"] = MachineStatus.OUTBID.value, str(lowest)
                self._bill(row, Decimal(row["held"]))

    def give_back(self, label: str) -> None:
        """The higher bid is gone: what was outbid runs again."""
        with self._machines() as machines:
            for row in self._standing(machines, label):
                self._resume(row)

    def set(self, label: str, **facts: Any) -> None:
        """What lists and inspections say of it from now on: country, locked, drift, workers, serves, always_on."""
        with self._machines() as machines:
            for row in self._standing(machines, label):
                row |= facts
                if "workers" in facts:
                    billed = max(row["always_on"], len(row["workers"]))
                    self._bill(row, billed * Decimal(row["usd_per_hour"]))

    def hide(self, label: str, *, lists: int = 0, until: datetime | None = None) -> None:
        """Lists leave it out: the next `lists` of them, and every one before `until`."""
        with self._machines() as machines:
            for row in self._standing(machines, label):
                row["hidden_lists"] = lists
                row["hidden_until"] = until.isoformat() if until else None

    def ids_of(self, label: str) -> list[str]:
        """Remote ids of what stands under exactly this label."""
        with self._machines() as machines:
            return [row["id"] for row in self._standing(machines, label)]

    def labels(self) -> list[str]:
        """Labels of all that stands, hidden ones too, oldest first: the truth that lists only report."""
        with self._machines() as machines:
            return [row["label"] for row in machines.values() if not row["gone"]]

    def ever(self, label: str) -> int:
        """How many machines were ever made under this label, those given back included."""
        with self._machines() as machines:
            return sum(row["label"] == label for row in machines.values())

    # -- inside ---------------------------------------------------------------------------------

    @contextmanager
    def _machines(self) -> Iterator[dict[str, dict[str, Any]]]:
        with self._lock:
            if self._path is None:
                yield self._memory
                return
            with open(self._path, "a+") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                file.seek(0)
                machines = json.loads(file.read() or "{}")
                before = json.dumps(machines)
                yield machines
                if (after := json.dumps(machines)) != before:
                    file.seek(0)
                    file.truncate()
                    file.write(after)
                    file.flush()

    def _place(
        self, machines: dict[str, dict[str, Any]], label: str, *, usd_per_hour: Decimal, country: str | None
    ) -> str:
        remote_id = f"fake-{len(machines) + 1}"
        at = self.clock().isoformat()
        machines[remote_id] = {
            "id": remote_id, "label": label, "status": MachineStatus.RUNNING.value, "detail": "",
            "created_at": at, "country": country, "usd_per_hour": str(usd_per_hour), "gone": False,
            "spans": [[at, None, str(usd_per_hour)]], "boot_lists": self.boot_lists,
            "hidden_lists": 0, "hidden_until": None, "held": "0", "bid": None, "min_bid": None, "locked": False,
            "drift": "", "serverless": False, "workers": [], "serves": True, "always_on": 0,
        }  # fmt: skip
        return remote_id

    def _find(self, machines: dict[str, dict[str, Any]], remote_id: str) -> dict[str, Any]:
        row = machines.get(remote_id)
        if row is None or row["gone"]:
            raise Gone(f"There is no machine {remote_id}.")
        return row

    def _standing(self, machines: dict[str, dict[str, Any]], label: str) -> list[dict[str, Any]]:
        return [row for row in machines.values() if row["label"] == label and not row["gone"]]

    def _close(self, row: dict[str, Any]) -> None:
        if row["spans"] and row["spans"][-1][1] is None:
            row["spans"][-1][1] = self.clock().isoformat()

    def _bill(self, row: dict[str, Any], usd_per_hour: Decimal) -> None:
        """It bills this from now on."""
        self._close(row)
        if usd_per_hour:
            row["spans"].append([self.clock().isoformat(), None, str(usd_per_hour)])

    def _resume(self, row: dict[str, Any]) -> None:
        row["status"] = MachineStatus.RUNNING.value
        self._bill(row, Decimal(row["usd_per_hour"]))

    def _hidden(self, row: dict[str, Any]) -> bool:
        if row["hidden_lists"] > 0:
            row["hidden_lists"] -= 1
            return True
        until = row["hidden_until"]
        return until is not None and self.clock() < datetime.fromisoformat(until)

    def _shown(self, row: dict[str, Any]) -> Machine:
        status = MachineStatus(row["status"])
        if status is MachineStatus.RUNNING and row["boot_lists"] > 0:
            row["boot_lists"] -= 1
            status = MachineStatus.PENDING
        serves = status is MachineStatus.RUNNING and self.endpoint is not None
        return Machine(
            remote_id=row["id"], label=row["label"], status=status,
            created_at=datetime.fromisoformat(row["created_at"]),
            endpoint_url=self.endpoint(row["label"]) if serves and self.endpoint else None,
            country=row["country"], data_center=row.get("data_center", "EU-DE-1" if row["country"] else ""),
            usd_per_hour=Decimal(row["usd_per_hour"]) if self.list_shows_price else None,
            detail=row["detail"], locked=row["locked"], drift=row["drift"],
            min_bid=Decimal(row["min_bid"]) if row["min_bid"] is not None else None,
        )  # fmt: skip
