"""Countries as Vast.ai spells them out, as ISO 3166 alpha-2. What is not here stays unknown."""

from __future__ import annotations

CODES = {
    "austria": "AT", "belgium": "BE", "bulgaria": "BG", "croatia": "HR", "cyprus": "CY", "czechia": "CZ",
    "czech republic": "CZ", "denmark": "DK", "estonia": "EE", "finland": "FI", "france": "FR", "germany": "DE",
    "greece": "GR", "hungary": "HU", "iceland": "IS", "ireland": "IE", "italy": "IT", "latvia": "LV",
    "liechtenstein": "LI", "lithuania": "LT", "luxembourg": "LU", "malta": "MT", "netherlands": "NL",
    "the netherlands": "NL", "norway": "NO", "poland": "PL", "portugal": "PT", "romania": "RO", "slovakia": "SK",
    "slovenia": "SI", "spain": "ES", "sweden": "SE", "united states": "US", "united states of america": "US",
    "united kingdom": "GB", "switzerland": "CH", "canada": "CA", "ukraine": "UA", "russia": "RU", "serbia": "RS",
    "turkey": "TR", "china": "CN", "taiwan": "TW", "japan": "JP", "south korea": "KR", "india": "IN",
    "singapore": "SG", "australia": "AU", "brazil": "BR", "vietnam": "VN",
}  # fmt: skip
"""Lower case -> code. The EEA whole, and the countries that Vast.ai's hosts are found in most. Georgia is left
out on purpose: it is a country and a state of the USA."""
