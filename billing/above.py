"""What billing is told by the app above it, which knows accounts and deployments: it asks here, and imports nothing.

Without anybody who told, there is nothing to name and no balance.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from billing.budgets import Whom
from billing.forecast import Runway
from billing.models import Subject


class Target(NamedTuple):
    """Something that a budget can be about. `kind` is Provider, Account or Deployment."""

    kind: str
    label: str
    whom: Whom

    @property
    def key(self) -> str:
        """As a form sends it."""
        return f"{self.kind.lower()}:{self.whom.scope or self.whom.account or self.whom.provider}"


class AccountRunway(NamedTuple):
    """`level` is ok, warn or critical; `at_zero` is what its provider does when nothing is left."""

    account: UUID
    name: str
    runway: Runway
    read_at: datetime
    level: str
    at_zero: str


@dataclass(slots=True)
class _Above:
    targets: Callable[[], Sequence[Target]]
    runways: Callable[[datetime], Sequence[AccountRunway]]
    machine_url: Callable[[Subject], str]


_above = _Above(targets=list, runways=lambda now: [], machine_url=lambda subject: "")


def tell(
    *,
    targets: Callable[[], Sequence[Target]],
    runways: Callable[[datetime], Sequence[AccountRunway]],
    machine_url: Callable[[Subject], str],
) -> None:
    """Called once, when the app above is ready."""
    _above.targets, _above.runways, _above.machine_url = targets, runways, machine_url


def targets() -> Sequence[Target]:
    """What a budget can be about, besides everything."""
    return _above.targets()


def runways(*, now: datetime) -> Sequence[AccountRunway]:
    """How long each prepaid account lasts, the shortest first."""
    return _above.runways(now)


def machine_url(subject: Subject) -> str:
    """Where the machine itself is shown; empty when it is not (any more)."""
    return _above.machine_url(subject)
