"""What every provider's adapter is and says: the Protocol, its values and its errors.

    ProviderError
    ├── Rejected            a definite no: nothing was done, and asking again will not help
    │   ├── NoCapacity      ... this offer cannot be had now; try the next one
    │   ├── Unauthorized    ... the key is wrong, revoked or lacks a right
    │   └── Gone            ... a definite 404: the machine does not exist
    ├── RateLimited         nothing was done; try again after `retry_after` seconds
    ├── Unavailable         nothing was done: the provider was not reached
    └── Unknown             it may have been done: only lists can tell. Unknown is not failed.

A call that changes something raises Unknown for everything that is not a clean yes or one of the definite
answers above. An adapter makes exactly one request for each call that changes something and never
repeats it. Adapters import neither Django nor Celery nor models, and may be used from any thread.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Protocol

_SECRET_NAME = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?)$", re.IGNORECASE)
"""As the image reads it (regia_machine/environment.py)."""


class ProviderError(Exception):
    """Any answer but yes. The text is for operators and never holds a secret."""


class Rejected(ProviderError):
    """A definite no: nothing was done."""


class NoCapacity(Rejected):
    """This offer cannot be had now."""


class Unauthorized(Rejected):
    """The account's key is wrong, revoked or lacks a right."""


class Gone(Rejected):
    """The provider says definitely that there is no such machine."""


class RateLimited(ProviderError):
    """Too many calls; nothing was done. `retry_after` in seconds, None when the provider does not say."""

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Unavailable(ProviderError):
    """The provider was not reached: nothing was done."""


class Unknown(ProviderError):
    """The request may have been carried out."""


class Secret:
    """A value that shows itself only when asked: `reveal()`."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        return self._value

    def __repr__(self) -> str:
        return "Secret(***)"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)


class MachineStatus(StrEnum):
    """What the provider says of a machine, in our words."""

    PENDING = "pending"
    """Asked for, no container yet."""
    PULLING = "pulling"
    RUNNING = "running"
    """The container runs; that says nothing of the engine inside."""
    STOPPING = "stopping"
    STOPPED = "stopped"
    """Kept, compute not billed; its disk may be."""
    OUTBID = "outbid"
    """Pre-empted by a higher bid: kept, compute not billed, its disk bills on; it comes back by itself."""
    EXITED = "exited"
    """Ended by itself or killed. It may bill on until it is terminated."""
    UNKNOWN = "unknown"
    """A word we do not know, or no heartbeat: assume that it runs and bills."""


class Bills(StrEnum):
    """What the provider charges of a machine now, where its row tells that apart."""

    ALL = ""
    """Compute and disk; also: the row does not tell."""
    DISK = "disk"
    """Its container does not run yet, or no more."""
    NOTHING = "nothing"
    """Its host is not there."""


@dataclass(frozen=True, slots=True)
class Quote:
    """One thing that can be rented now, normalised. USD per hour for the whole offer.

    `country` is ISO 3166 alpha-2, None when the provider does not say (the guard then refuses).
    """

    key: str
    """The provider's id of the offer, unique within the account."""
    tier: str
    gpu_name: str
    gpu_count: int
    vram_mb: int
    """Of one GPU; 0 without one."""
    cpu_count: int
    memory_mb: int
    country: str | None
    data_center: str
    usd_per_hour: Decimal
    """All-in while running: compute and storage, traffic apart."""
    compute_usd_per_hour: Decimal
    disk_usd_per_hour: Decimal = Decimal(0)
    """The disk, while running."""
    stopped_usd_per_hour: Decimal | None = None
    """What it costs stopped; None: what its disk costs while running."""
    traffic_usd_per_gb: Decimal = Decimal(0)
    """The dearer of in and out."""
    traffic_in_usd_per_gb: Decimal | None = None
    """Where the two are told apart; None: the dearer holds for both."""
    traffic_out_usd_per_gb: Decimal | None = None
    reliability: float | None = None
    """0 to 1, as the provider states it."""
    stock: str = ""
    max_hours: float | None = None
    """The longest rental; None: no end is known."""
    own_machine: bool = False
    usual_seconds_to_ready: int | None = None
    note: str = ""
    interruptible: bool = False
    """Rented by a bid: a higher one pre-empts it. `compute_usd_per_hour` is then the lowest bid that wins now."""
    serverless: bool = False
    """An endpoint whose workers come and go; the price is that of one worker for an hour."""
    workers_min: int = 0
    """Serverless: how many workers are always on (and billed)."""
    gpu_pool: str = ""
    """Serverless: the provider's pool of GPU types."""
    host: str = ""
    """A stable id of who runs the machine, for our own history with them: `vast-host-98979`, `EU-RO-1`."""
    site: str = ""
    """A stable id of the physical machine, where the provider tells one."""
    cuda_max: float | None = None
    """The newest CUDA its driver runs, 12.8; None when the provider does not say."""
    compute_capability: float | None = None
    """Of the GPU, 8.6; None when the provider does not say."""
    certification: str = ""
    """Evidence in words, "ISO 27001 (the host, by Vast.ai's terms)"; empty: none is known."""
    sla: bool = False
    """It stands in a data centre that answers for its uptime."""
    estimate: bool = False
    """No public price exists: it is computed, and `note` says how."""

    @property
    def held_usd_per_hour(self) -> Decimal:
        """What it costs stopped, USD per hour."""
        return self.disk_usd_per_hour if self.stopped_usd_per_hour is None else self.stopped_usd_per_hour


@dataclass(frozen=True, slots=True)
class Order:
    """What to rent. `label` is the machine's only identity until the provider has answered."""

    label: str
    quote: Quote
    model_key: str
    """A key of the catalogue; the adapter is told the rest below."""
    repository: str
    revision: str | None
    served_name: str
    context: int
    api_key: Secret
    """The machine's own key: every request to its endpoint carries it."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """For the container; values may be secret."""
    image: str = ""
    """What a pod or an instance runs; serverless runs the provider's own worker."""
    disk_gb: int = 40
    port: int = 8000
    """Where the image's door listens inside the machine."""
    bid_usd_per_hour: Decimal | None = None
    """For an interruptible offer: the bid on compute."""

    def container_environment(self) -> dict[str, str]:
        """What our image is told, at whichever provider it runs. It holds the machine's key."""
        own = {
            "REGIA_API_KEY": self.api_key.reveal(), "REGIA_SERVED_NAME": self.served_name,
            "REGIA_MODEL": self.repository, "REGIA_REVISION": self.revision or "",
            "REGIA_CONTEXT": str(self.context), "REGIA_PORT": str(self.port),
        }  # fmt: skip
        return {**self.environment, **{name: value for name, value in own.items() if value}}

    def secrets(self) -> list[str]:
        """The values that no error may show: of the environment those whose names say so."""
        own = (value for name, value in self.environment.items() if _SECRET_NAME.search(name))
        return [self.api_key.reveal(), *own]

    def __repr__(self) -> str:
        return f"Order({self.label!r}, {self.quote.key!r}, {self.model_key!r})"


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine as the provider lists it."""

    remote_id: str
    label: str
    status: MachineStatus
    created_at: datetime | None = None
    """The provider's own time of creation (UTC), for back-dating what it charged."""
    endpoint_url: str | None = None
    """Base URL of the OpenAI-compatible server, without `/v1`; None while there is none."""
    country: str | None = None
    data_center: str = ""
    usd_per_hour: Decimal | None = None
    """What it bills now; None when the provider does not say (never read as 0)."""
    detail: str = ""
    """The provider's own words on the status."""
    gpu_name: str = ""
    locked: bool = False
    """The provider refuses to end or stop it until somebody unlocks it in its console."""
    drift: str = ""
    """What the provider changed by itself, in a sentence (an idle endpoint scaled to no workers); empty: nothing."""
    min_bid: Decimal | None = None
    """The lowest bid on compute that would win now, USD per hour."""
    ends_at: datetime | None = None
    """When the rental ends at the latest."""
    serverless: bool = False
    """An endpoint with workers, whose price the list does not tell."""
    own_door: bool = False
    """The address leads straight to the image's door. Whether that speaks TLS its order says, not this list: the
    scheme here is https, and http where the machine was given no certificate."""
    gpu_use: float | None = None
    """How busy its GPUs are now, 0 to 1, the mean of all; None: the provider does not tell."""
    bills: Bills = Bills.ALL
    kept_usd_per_hour: Decimal | None = None
    """What it costs stopped; None: the list does not tell."""
    traffic_in_gb: Decimal | None = None
    """What has come in since its creation, in the GB that the provider bills; None: it does not tell."""
    traffic_out_gb: Decimal | None = None


@dataclass(frozen=True, slots=True)
class Volume:
    """A volume of the account that stands by itself and costs whether anything runs or not."""

    remote_id: str
    name: str
    gb: int
    usd_per_hour: Decimal
    data_center: str = ""
    country: str | None = None


@dataclass(frozen=True, slots=True)
class Inspection:
    """What a serverless endpoint tells beyond the list."""

    data_centers: tuple[str, ...]
    """Where each of its workers stands now; "" where the provider does not say."""
    countries: tuple[str | None, ...]
    """The same as ISO codes; None fails closed."""
    billed_workers: int
    """Workers that bill now: the running ones, and never fewer than the always-on."""
    serves: bool
    """It would take a request now; an endpoint scaled to zero does."""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Balance:
    """The account's prepaid money, USD. None: the provider does not say."""

    usd: Decimal | None
    usd_per_hour: Decimal | None = None
    """What the provider says it burns now."""


@dataclass(frozen=True, slots=True)
class Right:
    """One thing that an account's key may do, as tried."""

    name: str
    """catalogue, balance, instances"""
    ok: bool
    detail: str = ""
    """What is missing and where to give it, without the key."""


@dataclass(frozen=True, slots=True)
class Listing:
    """Every machine of the account. Only a `complete` one may be read as "what is not here is gone"."""

    machines: tuple[Machine, ...]
    complete: bool


@dataclass(frozen=True, slots=True)
class LogLine:
    at: datetime | None
    source: str
    """container or system"""
    text: str


@dataclass(frozen=True, slots=True)
class Charge:
    """What the provider says it charged for a machine in a span. USD."""

    remote_id: str
    label: str
    component: str
    start: datetime
    end: datetime
    usd: Decimal


@dataclass(frozen=True, slots=True)
class Traits:
    """How a provider behaves; the reconciler reads this instead of asking which provider it is."""

    backend: str
    title: str
    can_stop: bool
    """Stop keeps the machine and start brings it back."""
    list_interval: float
    """Seconds between two list calls of one account, at the least."""
    unknown_grace: float
    """Seconds after an unclear create before lists may decide that there is no machine."""
    own_machine: bool = False
    company_country: str = ""
    start_timeout: float = 1800.0
    """Seconds from creation to Ready before the attempt counts as stuck."""
    phase_timeouts: Mapping[str, float] = field(default_factory=dict)
    """Seconds that a phase (provisioning, pulling, loading, warming) may last; none: `start_timeout` alone."""
    one_create_per_offer: bool = False
    """Two creates on one offer may both be taken and then clash: one at a time."""
    limits_apart: bool = False
    """Its limits count each kind of call by itself: one that is limited says nothing of the others."""
    asked_at_once: int = 10
    """Machines that may be asked for by their ids in one go."""
    inspect_interval: float = 15.0
    """Seconds between two inspections of one serverless endpoint, at the least."""
    ends_tls: bool = False
    """A proxy of the provider ends TLS before the machine, with a certificate of a public authority."""
    system_log_apart: bool = False
    """`logs` tells what the container says alone; `system_logs` is asked for the rest."""
    has_volumes: bool = False
    """An account may hold volumes that stand by themselves: `volumes` tells them."""
    bill_step: float = 86_400.0
    """Seconds of the spans that `charges` tells whole: an hour or a day."""
    bill_lag: float = 0.0
    """Seconds after which a span that is over is billed for certain."""


class Provider(Protocol):
    """One account at one provider. Every method may raise any ProviderError."""

    traits: Traits

    def quotes(self) -> Sequence[Quote]:
        """What can be rented now."""

    def list_machines(self) -> Listing:
        """All machines of the account, ours and others', in one call (all its pages)."""

    def stands(self, remote_id: str) -> bool:
        """Whether the provider has this machine, asked for it alone: beside the list, a witness of its own.

        False is a definite no; what is not clear raises.
        """

    def create(self, order: Order, *, deadline: float) -> str:
        """Rent one machine and return its remote id.

        `deadline` is a `time.monotonic()` moment: past it nothing is sent and Unavailable is raised.
        Raises Rejected (and below) when nothing was rented, Unknown when that is not sure.
        """

    def terminate(self, remote_id: str) -> None:
        """Ask for the machine's end. A yes is not a proof: lists confirm. Raises Gone on a definite 404."""

    def stop(self, remote_id: str) -> None:
        """Stop billing compute, keep the machine. Raises Rejected where the provider cannot."""

    def start(self, remote_id: str) -> None:
        """Bring a stopped machine back. Raises NoCapacity when its GPU is taken."""

    def kill(self, remote_id: str) -> None:
        """End the machine as a crash would, for a drill: what follows must tell it from no other crash.

        Raises Gone when there is no such machine, Rejected when it does not run.
        """

    def logs(self, remote_id: str, *, tail: int = 200) -> tuple[LogLine, ...]:
        """The newest `tail` lines, oldest first, secrets masked."""

    def system_logs(self, remote_id: str, *, tail: int = 200) -> tuple[LogLine, ...]:
        """Where `traits.system_log_apart`: what was done to the machine, which its log does not tell. Empty elsewhere."""

    def charges(self, since: datetime, until: datetime) -> Sequence[Charge]:
        """What the provider charged between the two moments (UTC), to the second or as fine as it tells."""

    def volumes(self) -> tuple[Volume, ...]:
        """Every volume of the account that stands by itself, all of them or an error."""

    def inspect(self, remote_id: str) -> Inspection:
        """Where a serverless endpoint's workers stand and whether it serves. It wakes nobody. Rejected elsewhere."""

    def change_bid(self, remote_id: str, usd_per_hour: Decimal) -> None:
        """Bid this on an interruptible machine's compute from now on. Rejected elsewhere."""

    def mend(self, remote_id: str) -> None:
        """Put back what the provider changed by itself (`Machine.drift`). Rejected where nothing can be."""

    def balance(self) -> Balance:
        """The account's prepaid money. Unauthorized when the key may not read it."""

    def rights(self) -> tuple[Right, ...]:
        """Try what the key may read: the catalogue, the balance, the machines. Never raises a ProviderError."""


class NoExtras:
    """The answers of a provider without serverless endpoints, bids, prepaid money, volumes and a second log."""

    def system_logs(self, remote_id: str, *, tail: int = 200) -> tuple[LogLine, ...]:
        return ()

    def volumes(self) -> tuple[Volume, ...]:
        return ()

    def inspect(self, remote_id: str) -> Inspection:
        raise Rejected("This provider has no serverless endpoints.")

    def change_bid(self, remote_id: str, usd_per_hour: Decimal) -> None:
        raise Rejected("This provider takes no bids.")

    def mend(self, remote_id: str) -> None:
        raise Rejected("This provider changes nothing by itself.")

    def balance(self) -> Balance:
        return Balance(usd=None)

    def rights(self) -> tuple[Right, ...]:
        return ()
