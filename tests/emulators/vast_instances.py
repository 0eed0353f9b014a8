"""Instances at Vast.ai as the emulator keeps them: what state each is in, who has the GPU, what it costs.

    BOOTING -> RUNNING -> STOPPED | OUTBID | WAITING -> BOOTING ...
            -> CLASHED, EXITED, FROZEN, UNKNOWN, OFFLINE

Bills by the contract: the GPU per second while it runs (or is frozen), the disk from creation to destruction
whatever else happens (but not offline), traffic by the byte.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Any

from tests.emulators.common import Clock, Engines, Ledger, NoEngines
from tests.emulators.vast_market import Offer, disk_usd_per_hour

OUR_IMAGE_KEY = "REGIA_API_KEY"
NOBODY_LISTENS = "9"
"""The port of a machine with nothing inside: discard, which no test machine serves."""


class Phase(StrEnum):
    BOOTING = "booting"
    RUNNING = "running"
    STOPPED = "stopped"
    """As somebody asked, or for want of money, or because its end date has passed."""
    OUTBID = "outbid"
    WAITING = "waiting"
    """Start was asked, the GPU is taken: "Scheduling" in Vast's console. It may last for ever."""
    CLASHED = "clashed"
    """Two creates on one offer were accepted, and this one lost."""
    EXITED = "exited"
    FROZEN = "frozen"
    UNKNOWN = "unknown"
    OFFLINE = "offline"


HAVE_GPU = {Phase.BOOTING, Phase.RUNNING, Phase.EXITED, Phase.FROZEN, Phase.UNKNOWN, Phase.OFFLINE}
GPU_BILLS = {Phase.RUNNING, Phase.FROZEN, Phase.UNKNOWN}
TROUBLES = {Phase.CLASHED, Phase.EXITED, Phase.FROZEN, Phase.UNKNOWN, Phase.OFFLINE}


@dataclass(slots=True, eq=False)
class Instance:
    id: int
    account: str = field(repr=False)
    label: str | None
    offer: Offer
    image: str
    env: dict[str, str] = field(repr=False)
    args: list[str] = field(repr=False)
    onstart: str
    runtype: str
    disk_gb: Decimal
    is_bid: bool
    usd_per_hour: Decimal
    """Of the GPU; the bid of an interruptible one."""
    created_at: datetime
    visible_at: datetime
    ends_at: datetime
    place: str | None
    phase: Phase = Phase.BOOTING
    since: datetime | None = None
    """When the phase began."""
    has_run: bool = False
    destroyed_at: datetime | None = None
    message: str | None = None
    vanished: bool = False
    stuck: bool = False
    """Destroying it is answered with a yes and does nothing."""
    floor: Decimal | None = None
    """Somebody else's bid, USD per hour: ours must be higher."""
    last_port: str | None = None
    traffic_gb: dict[str, Decimal] = field(default_factory=lambda: {"down": Decimal(0), "up": Decimal(0)})
    """Since its creation."""
    said: list[str] = field(default_factory=list, repr=False)
    ledger: Ledger = field(default_factory=Ledger, repr=False)
    """A book for each machine: with thousands in one, every page would be read through all of them."""
    jupyter_token: str = field(default_factory=lambda: secrets.token_hex(32), repr=False)
    container_key: str = field(default_factory=lambda: secrets.token_hex(32), repr=False)

    @property
    def alive(self) -> bool:
        return self.destroyed_at is None

    @property
    def min_bid(self) -> Decimal:
        return self.floor or self.offer.min_bid

    @property
    def runs_our_door(self) -> bool:
        """The image's own entrypoint runs, and the image is ours: ssh and jupyter take the entrypoint's place."""
        return self.runtype == "args" and OUR_IMAGE_KEY in self.env

    @property
    def disk_usd_per_hour(self) -> Decimal:
        return disk_usd_per_hour(self.offer.storage_cost, self.disk_gb)

    @property
    def has_gpu(self) -> bool:
        return self.alive and self.phase in HAVE_GPU

    def bid_wins(self) -> bool:
        beats_others = self.floor is None or self.usd_per_hour > self.floor
        return beats_others and self.usd_per_hour >= self.offer.min_bid

    def asked_ports(self) -> list[str]:
        """The container's ports that its environment maps: `-p 8000:8000` is "8000/tcp"."""
        asked = [name.removeprefix("-p ").rpartition(":")[2] for name in self.env if name.startswith("-p ")]
        return [port if "/" in port else f"{port}/tcp" for port in asked]


class Fleet:
    """Every instance of every account, and the GPUs that they share. Callers hold the emulator's lock."""

    def __init__(self, clock: Clock, engines: Engines, *, boot_seconds: Callable[[], float]) -> None:
        self._clock = clock
        self._engines = engines
        self._boot_seconds = boot_seconds
        self.all: dict[int, Instance] = {}
        self._alive: dict[int, Instance] = {}
        self._by_offer: dict[int, dict[int, Instance]] = {}
        # Engines' folders may outlive this process, and a used label cannot come again.
        self._mark = secrets.token_hex(3)
        self._next = 24_112_601

    @property
    def boot_seconds(self) -> float:
        return self._boot_seconds()

    # -- finding ------------------------------------------------------------------------------------

    def alive(self) -> Iterator[Instance]:
        yield from list(self._alive.values())

    def of(self, account: str) -> list[Instance]:
        return [i for i in self.alive() if i.account == account]

    def holder(self, offer: Offer) -> Instance | None:
        """Who has the GPU."""
        return next((i for i in self._neighbours(offer) if i.has_gpu), None)

    def min_bid(self, offer: Offer) -> Decimal:
        """The lowest bid that wins the GPU now."""
        holder = self.holder(offer)
        return max(offer.min_bid, holder.usd_per_hour + Decimal("0.0001")) if holder else offer.min_bid

    def _neighbours(self, offer: Offer) -> Iterator[Instance]:
        yield from list(self._by_offer.get(offer.id, {}).values())

    # -- acts ---------------------------------------------------------------------------------------

    def create(self, *, phase: Phase = Phase.BOOTING, **fields: Any) -> Instance:
        instance = Instance(id=self._next, phase=phase, since=fields["created_at"], **fields)
        self._next += 1
        self.all[instance.id] = self._alive[instance.id] = instance
        self._by_offer.setdefault(instance.offer.id, {})[instance.id] = instance
        self._bill(instance, instance.created_at)
        if phase is Phase.BOOTING:
            self._take_gpu(instance)
        return instance

    def stop(self, instance: Instance, phase: Phase = Phase.STOPPED, message: str | None = None) -> None:
        """Let the GPU go and keep the disk."""
        self._engines.stop(self.engine_label(instance))
        self._move(instance, phase, message)

    def start(self, instance: Instance) -> bool:
        """Whether it has its GPU; without, it waits."""
        if instance.has_gpu and instance.phase is not Phase.EXITED:
            return True
        if not self.may_run(instance):
            self._move(instance, Phase.OUTBID if instance.is_bid else Phase.WAITING)
            return False
        self._move(instance, Phase.BOOTING)
        self._take_gpu(instance)
        return True

    def reboot(self, instance: Instance) -> None:
        self._move(instance, Phase.BOOTING, "rebooting")
        self._run_engine(instance)

    def destroy(self, instance: Instance) -> None:
        instance.destroyed_at = self._clock.now
        instance.ledger.end(str(instance.id), self._clock.now)
        self._engines.end(self.engine_label(instance))
        self._alive.pop(instance.id, None)
        self._by_offer.get(instance.offer.id, {}).pop(instance.id, None)

    def trouble(self, instance: Instance, phase: Phase, message: str | None) -> None:
        if phase in {Phase.EXITED, Phase.CLASHED, Phase.OFFLINE}:
            self._engines.stop(self.engine_label(instance))
        self._move(instance, phase, message)

    def price(self, instance: Instance, usd_per_hour: Decimal) -> None:
        """From now on the GPU costs this much; on a bid, whether that still wins is judged at once."""
        instance.usd_per_hour = usd_per_hour
        self._bill(instance, self._clock.now)
        self.settle_one(instance)

    # -- time ---------------------------------------------------------------------------------------

    def settle(self) -> None:
        for instance in self.alive():
            self.settle_one(instance)

    def settle_one(self, instance: Instance) -> None:
        if self._clock.now >= instance.ends_at and instance.phase is not Phase.STOPPED:
            self.stop(instance, message="The rental's end date has passed.")
        elif instance.phase is Phase.BOOTING:
            self._finish_boot(instance)
        elif instance.phase in {Phase.OUTBID, Phase.WAITING} and self.may_run(instance):
            self.start(instance)
        if instance.is_bid and instance.has_gpu and not instance.bid_wins():
            self.stop(instance, Phase.OUTBID)

    def may_run(self, instance: Instance) -> bool:
        """On-demand renters always win; a bid must beat the other bids."""
        if self._clock.now >= instance.ends_at:
            return False
        others = [i for i in self._neighbours(instance.offer) if i is not instance and i.has_gpu]
        if not instance.is_bid:
            return all(other.is_bid for other in others)
        beaten = all(other.is_bid and other.usd_per_hour < instance.usd_per_hour for other in others)
        return beaten and instance.bid_wins()

    def progress(self, instance: Instance) -> float:
        """How far a boot has come, 0 to 1."""
        if not self.boot_seconds or instance.since is None:
            return 1.0
        return min(1.0, (self._clock.now - instance.since).total_seconds() / self.boot_seconds)

    def _finish_boot(self, instance: Instance) -> None:
        due = (instance.since or instance.created_at) + timedelta(seconds=self.boot_seconds)
        failure = getattr(self._engines, "failures", {}).get(self.engine_label(instance))
        if failure:
            self.trouble(instance, Phase.EXITED, f"Error response from daemon: {failure}")
        elif self._clock.now >= due and self._engine_runs(instance):
            at = due if isinstance(self._engines, NoEngines) else self._clock.now
            self._move(instance, Phase.RUNNING, at=max(at, instance.since or at))
            instance.has_run = True

    def _move(
        self, instance: Instance, phase: Phase, message: str | None = None, *, at: datetime | None = None
    ) -> None:
        instance.phase, instance.message = phase, message
        instance.since = at or self._clock.now
        self._bill(instance, instance.since)

    def _bill(self, instance: Instance, at: datetime) -> None:
        gpu = instance.usd_per_hour if instance.phase in GPU_BILLS else 0
        disk = 0 if instance.phase is Phase.OFFLINE else instance.disk_usd_per_hour
        instance.ledger.rate(str(instance.id), "gpu", at, gpu)
        instance.ledger.rate(str(instance.id), "disk", at, disk)

    def _take_gpu(self, instance: Instance) -> None:
        """Push out whom the instance outranks, and boot."""
        for other in self._neighbours(instance.offer):
            if other is not instance and other.is_bid and other.has_gpu:
                self.stop(other, Phase.OUTBID)
        self._run_engine(instance)
        self._finish_boot(instance)

    # -- engines ------------------------------------------------------------------------------------

    def engine_label(self, instance: Instance) -> str:
        return f"vast-{self._mark}-{instance.id}"

    def url(self, instance: Instance) -> str | None:
        """Of its engine; None while nothing listens."""
        return self._engines.url(self.engine_label(instance))

    def port(self, instance: Instance) -> str | None:
        """The host's port that is mapped into it; None while its engine starts: it does not change in a run."""
        address = self.url(instance)
        if address is not None:
            return address.rpartition(":")[2].rstrip("/")
        is_empty = type(self._engines) is NoEngines or not instance.runs_our_door
        return NOBODY_LISTENS if is_empty else None

    def engine_logs(self, instance: Instance) -> list[str]:
        return self._engines.logs(self.engine_label(instance))

    def _run_engine(self, instance: Instance) -> None:
        """What the image does at its start: it reads its key, name and context from its environment."""
        if instance.runs_our_door:
            context = instance.env.get("REGIA_CONTEXT", "4096")
            self._engines.start(
                self.engine_label(instance), instance.env[OUR_IMAGE_KEY], instance.env.get("REGIA_SERVED_NAME", ""),
                int(context) if context.isdigit() else 4096,
            )  # fmt: skip

    def _engine_runs(self, instance: Instance) -> bool:
        return not instance.runs_our_door or self._engines.started(self.engine_label(instance))
