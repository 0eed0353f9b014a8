"""Where a machine may stand. Pure. Country codes decide, never a label; an unknown country fails closed.

Source: EEA Agreement, member list, checked on 2026-11-24. "Europe" in the providers' own filters includes
GB, CH, UA, RS and even RU.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

EU = frozenset(
    "AT BE BG HR CY CZ DK EE FI FR DE GR HU IE IT LV LT LU MT NL PL PT RO SK SI ES SE".split()  # noqa: SIM905
)
EEA = EU | {"IS", "LI", "NO"}


@dataclass(frozen=True, slots=True)
class Verdict:
    allowed: bool
    reason: str


def verdict(country: str | None, allowed: Collection[str], *, own_machine: bool = False) -> Verdict:
    """Whether a machine in `country` (ISO 3166 alpha-2) may be rented under the list `allowed`.

    The operator's own machine is exempt and says so.
    """
    if own_machine:
        return Verdict(allowed=True, reason="Your own machine: exempt from the residency guard.")
    if not country:
        return Verdict(allowed=False, reason="The provider does not say in which country it stands.")
    if country not in EEA:
        return Verdict(allowed=False, reason=f"{country} is outside the EEA.")
    if country not in allowed:
        return Verdict(allowed=False, reason=f"{country} is not among the countries this deployment allows.")
    return Verdict(allowed=True, reason=f"{country} is in the {'EU' if country in EU else 'EEA'}.")
