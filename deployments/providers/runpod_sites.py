"""In which country each of RunPod's data centres stands. Pure.

Sources: RunPod's catalogue and console, 2026-08-21 to 2026-09-30. An id says nothing by its looks (US-DE-1 is
in Delaware): only this table decides, and an id that is not in it has no country, which the guard refuses.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

EEA_SITES: Mapping[str, str] = {
    "EU-CZ-1": "CZ", "EU-DK-1": "DK", "EU-FR-1": "FR", "EU-NL-1": "NL", "EU-RO-1": "RO", "EU-SE-1": "SE",
    "EU-SE-2": "SE", "EUR-IS-1": "IS", "EUR-IS-2": "IS", "EUR-IS-3": "IS", "EUR-IS-4": "IS", "EUR-IS-5": "IS",
    "EUR-NO-1": "NO", "EUR-NO-2": "NO",
}  # fmt: skip
# Known so that a refusal can name the country.
_ELSEWHERE: Mapping[str, Iterable[str]] = {
    "US": (
        "US-CA-2", "US-DE-1", "US-GA-1", "US-GA-2", "US-IL-1", "US-KS-1", "US-KS-2", "US-KS-3", "US-MD-1",
        "US-MO-1", "US-MO-2", "US-NC-1", "US-NC-2", "US-NE-1", "US-OR-1", "US-OR-2", "US-TX-1", "US-TX-2",
        "US-TX-3", "US-TX-4", "US-TX-5", "US-TX-6", "US-WA-1",
    ),
    "CA": ("CA-MTL-1", "CA-MTL-2", "CA-MTL-3", "CA-MTL-4"),
    "AU": ("OC-AU-1",), "IN": ("AP-IN-1", "AP-IN-2"), "JP": ("AP-JP-1",), "SG": ("SEA-SG-1",),
}  # fmt: skip
COUNTRIES: Mapping[str, str] = {
    **EEA_SITES, **{site: country for country, sites in _ELSEWHERE.items() for site in sites}
}  # fmt: skip
COMMUNITY_COUNTRIES = ("CZ", "ES", "FR", "HR", "PT", "SE", "SK")
"""Of the EEA, where Community Cloud has hosts by the console's list of 2026-08-21."""


def country_of(site: str) -> str | None:
    """ISO 3166 alpha-2 of a data centre's id, None for one that is not known."""
    return COUNTRIES.get(site)
