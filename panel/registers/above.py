"""What the registers are told by the app above, which rents machines: they ask here, and import nothing.

Without anybody who told, nothing ran.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Company:
    """A provider at which machines ran, as a legal person, and what of it was used."""

    key: str
    name: str
    legal_name: str
    country: str
    outside_eea: bool
    service: str
    countries: tuple[str, ...]
    """Where its machines stood."""
    sites: tuple[str, ...]
    tiers: tuple[str, ...]
    since: datetime
    until: datetime | None
    """None: something of it still stands."""
    hosts: str = ""
    """Who else may hold the machines: sub-processors that are not known by name; empty: nobody."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where machines stand now. `allowed` None: exempt, or not known yet."""

    country: str
    site: str
    provider: str
    machines: int
    source: str
    since: datetime | None
    allowed: bool | None
    verdict: str


@dataclass(frozen=True, slots=True)
class Withheld:
    """Offers that the residency guard keeps from being launched now."""

    reason: str
    offers: int


@dataclass(slots=True)
class _Above:
    companies: Callable[[], Sequence[Company]]
    places: Callable[[], Sequence[Place]]
    withheld: Callable[[], Sequence[Withheld]]


_above = _Above(companies=list, places=list, withheld=list)


def tell(
    *,
    companies: Callable[[], Sequence[Company]],
    places: Callable[[], Sequence[Place]],
    withheld: Callable[[], Sequence[Withheld]],
) -> None:
    """Called once, when the app above is ready."""
    _above.companies, _above.places, _above.withheld = companies, places, withheld


def companies() -> Sequence[Company]:
    """Every provider at which a machine ran, this computer not among them."""
    return _above.companies()


def places() -> Sequence[Place]:
    """Where data stands now."""
    return _above.places()


def withheld() -> Sequence[Withheld]:
    """What the guard keeps back among what is on offer now, the most first."""
    return _above.withheld()
