"""A sum of money with what was given for it, and the group that it is the cost of. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Self

from billing.money import from_nano
from billing.rollup import OUTPUT, PARTS

MILLION = 1_000_000


@dataclass(slots=True)
class Cost:
    """A sum: nano-dollars by column, seconds of compute, what was given for it, and the price now, nano an hour."""

    nano: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("usd", *PARTS), 0))
    seconds: float = 0
    tokens_in: int = 0
    tokens_out: int = 0
    busy_seconds: int = 0
    watched_seconds: int = 0
    best_hour: int = 0
    rate: int = 0

    def add(self, other: Self) -> None:
        for column, nano in other.nano.items():
            self.nano[column] += nano
        for name in ("seconds", *OUTPUT[:-1], "rate"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.best_hour = max(self.best_hour, other.best_hour)

    @property
    def usd(self) -> Decimal:
        return from_nano(self.nano["usd"])

    @property
    def compute(self) -> Decimal:
        return from_nano(self.nano["compute_usd"])

    @property
    def disk(self) -> Decimal:
        """Disks and volumes."""
        return from_nano(self.nano["disk_usd"] + self.nano["volume_usd"])

    @property
    def volume(self) -> Decimal:
        return from_nano(self.nano["volume_usd"])

    @property
    def traffic(self) -> Decimal:
        return from_nano(self.nano["traffic_usd"])

    @property
    def adjusted(self) -> Decimal:
        return from_nano(self.nano["adjusted_usd"])

    @property
    def other(self) -> Decimal:
        """What is in no other part: requests."""
        return from_nano(self.nano["usd"] - sum(self.nano[part] for part in PARTS))

    @property
    def hours(self) -> Decimal:
        """For which compute was charged."""
        return Decimal(str(self.seconds)) / 3600

    @property
    def usd_per_hour(self) -> Decimal:
        """What it costs now."""
        return from_nano(self.rate)

    @property
    def tokens(self) -> int:
        return self.tokens_in + self.tokens_out

    @property
    def idle(self) -> float | None:
        """The share of the time watched in which nothing was asked of it; None where nobody watched."""
        return 1 - self.busy_seconds / self.watched_seconds if self.watched_seconds else None

    @property
    def per_million(self) -> Decimal | None:
        """USD for a million tokens, read and written: all that was charged. None without tokens."""
        return self.usd / self.tokens * MILLION if self.tokens else None

    @property
    def floor(self) -> Decimal | None:
        """What a million tokens cost in its best hour: all that time costs, by the hour, over that hour's tokens."""
        if not self.best_hour or not self.seconds:
            return None
        return (self.compute + self.disk) / self.hours / self.best_hour * MILLION


@dataclass(slots=True)
class Group:
    """One row of the table. `key` tells it from others; None or empty: those without one."""

    key: tuple[Any, ...]
    label: str
    cost: Cost
    providers: set[str] = field(default_factory=set)
