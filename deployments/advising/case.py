"""One deployment as far as advice depends on it, and what advice is. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from uuid import UUID

from deployments import rank
from deployments.catalog import Model
from deployments.providers.base import Quote
from deployments.schedule import Schedule


class Kind(StrEnum):
    """What is advised. The values stand in addresses and rows."""

    UNUSED = "unused"
    SCHEDULE = "schedule"
    ALWAYS_ON = "always-on"
    FLEX = "flex"
    MOVE = "move"
    SMALLER = "smaller"
    LARGER = "larger"
    DISK = "disk"

    @property
    def word(self) -> str:
        return _WORDS[self]


_WORDS = {
    Kind.UNUSED: "Not used",
    Kind.SCHEDULE: "Idle hours",
    Kind.ALWAYS_ON: "Always busy",
    Kind.FLEX: "Seldom busy",
    Kind.MOVE: "Cheaper offer",
    Kind.SMALLER: "Smaller GPU",
    Kind.LARGER: "Larger GPU",
    Kind.DISK: "Kept disk",
}


@dataclass(frozen=True, slots=True)
class Boot:
    """How long a start takes. `launches` 0: none was measured, and `seconds` is what the provider or caution says."""

    seconds: float
    launches: int
    source: str
    """ "the median of 12 launches at RunPod secure in 90 days"."""


@dataclass(frozen=True, slots=True)
class Use:
    """What was measured of its load: see `monitoring.profiles.Load`."""

    first: int
    hours: int
    seen: int
    busy: int
    crowded: float
    """The part of the hours in which more was asked than its memory takes."""
    waited: int
    kv_p95: float | None

    @property
    def days(self) -> int:
        """Days' worth of measured hours."""
        return self.seen.bit_count() // 24

    @property
    def dates(self) -> int:
        """Days (UTC) of which any hour was measured."""
        skipped = self.first % 24
        bits = self.seen << skipped
        return sum(bool(bits >> 24 * day & 0xFFFFFF) for day in range((self.hours + skipped) // 24 + 1))

    @property
    def busy_hours(self) -> Decimal:
        """Hours of a day in which somebody asked for something."""
        seen = self.seen.bit_count()
        return Decimal(24 * self.busy.bit_count()) / seen if seen else Decimal(0)


@dataclass(frozen=True, slots=True)
class Billed:
    """What a serverless endpoint was charged: USD over `days` whole days."""

    usd: Decimal
    days: int


@dataclass(frozen=True, slots=True)
class Case:
    """A deployment, the machine that stands for it, and what was measured. USD per hour."""

    pk: UUID
    name: str
    model: Model
    context: int
    policy: str
    purpose: str
    allowed: tuple[str, ...]
    zone: str
    allow_plaintext: bool
    price_ceiling: Decimal | None
    ends: bool
    """It has a stop date or is deleted: a month's saving would promise too much."""
    week_hours: Decimal
    """In which its schedule lets it run; 168 without one."""
    provider: str
    account: UUID
    quote: Quote
    hour: Decimal
    """What it bills now: compute and disk."""
    traffic: Decimal
    """What is expected of traffic, spread over the hours."""
    boot: Boot
    history: rank.History | None = None
    use: Use | None = None
    billed: Billed | None = None
    stopped_for: timedelta | None = None
    """How long its machine has been stopped; None: it runs."""

    @property
    def scheduled(self) -> bool:
        return self.week_hours < 168

    @property
    def all_in(self) -> Decimal:
        return self.hour + self.traffic

    @property
    def place(self) -> rank.Place:
        """As the policies order it, our own history apart: what we never tried has none."""
        return rank.place(self.quote)

    @property
    def scales_to_zero(self) -> bool:
        return self.quote.serverless and not self.quote.workers_min


@dataclass(frozen=True, slots=True)
class Choice:
    """An offer of now that suits a case."""

    offer: int
    quote: Quote
    hour: Decimal
    """All-in, traffic included."""
    tier: str
    """ "RunPod secure"."""
    account: str
    confirmed_at: datetime
    boot: Boot

    @property
    def what(self) -> str:
        """ "NVIDIA L4, 24 GB, EU-RO-1"."""
        q = self.quote
        count = f" × {q.gpu_count}" if q.gpu_count > 1 else ""
        place = q.data_center or q.country or ""
        return f"{q.gpu_name}{count}, {q.vram_mb // 1024} GB{', ' + place if place else ''}"


@dataclass(frozen=True, slots=True)
class Sum:
    """One line of arithmetic: what, how it is reckoned, and its amount in words."""

    what: str
    how: str
    amount: str


@dataclass(frozen=True, slots=True)
class Advice:
    """One thing to do. `saves` and `costs`: USD a month of 730 hours, never below 0; one of them may be 0."""

    kind: Kind
    case: Case
    title: str
    saves: Decimal
    sums: tuple[Sum, ...]
    basis: tuple[str, ...]
    """Where the figures come from: source, window, age. Sentences."""
    assumes: tuple[str, ...]
    costs: Decimal = Decimal(0)
    schedule: Schedule | None = None
    choice: Choice | None = None
    concurrency: int = 0
    """For the prepared launch: how many requests of full context must fit."""
    dismissed_until: datetime | None = field(default=None)
    why: str = ""
    """Of its dismissal."""


@dataclass(frozen=True, slots=True)
class Lack:
    """Why nothing is said of a deployment's load yet."""

    case: Case
    has: int
    needs: int
