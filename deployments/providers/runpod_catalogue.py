"""The calls behind RunPod's quotes: four with a key, one without."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from deployments.providers import runpod_offers
from deployments.providers.base import Quote, RateLimited, Rejected, Unavailable
from deployments.providers.runpod_api import Api, rows_of
from deployments.providers.runpod_offers import COMMUNITY, LONGEST_KEY, SECURE, Terms
from deployments.providers.runpod_sites import COMMUNITY_COUNTRIES, country_of

GPUS, SITES = "/v2/catalog/gpus", "/v2/catalog/datacenters"
_PUBLIC = (
    "query { dataCenters { id name location gpuAvailability { gpuTypeId displayName stockStatus } } "
    "gpuTypes { id displayName memoryInGb securePrice communityPrice } }"
)


class Catalogue:
    def __init__(self, api: Api, terms: Terms) -> None:
        self._api = api
        self._terms = terms

    def quotes(self) -> tuple[Quote, ...]:
        secure, community = (self._gpus(product="POD", cloud=cloud) for cloud in ("SECURE", "COMMUNITY"))
        workers = self._gpus(product="SERVERLESS")
        countries = self._place(runpod_offers.sites_of(community))
        terms = replace(self._terms, certificates=self._certificates(), countries=countries)
        return _once_each([
            *runpod_offers.pod_quotes(secure, SECURE, terms),
            *runpod_offers.pod_quotes(community, COMMUNITY, terms),
            *runpod_offers.worker_quotes(workers, terms),
        ])  # fmt: skip

    def public_quotes(self) -> tuple[Quote, ...]:
        """Of pods alone, by the GraphQL that needs no key."""
        data = self._api.public(_PUBLIC)
        gpus, sites = rows_of(data, "gpuTypes"), rows_of(data, "dataCenters")
        return _once_each(runpod_offers.public_quotes(gpus, sites, self._terms))

    def _gpus(self, **query: str) -> list[Any]:
        return rows_of(self._api.read(GPUS, {"include": "AVAILABILITY", "count": "1", **query}), "gpus")

    def _certificates(self) -> dict[str, str]:
        """Evidence, but no offer hangs on it."""
        try:
            rows = rows_of(self._api.read(SITES), "dataCenters")
        except (Unavailable, Rejected, RateLimited):
            return {}
        return runpod_offers.certificates(rows)

    def _place(self, sites: set[str]) -> dict[str, str]:
        """Countries of community sites that our table lacks, by RunPod's own filter by country.

        A site that answers to two countries has none: such a filter cannot be trusted.
        """
        unplaced, found = {site for site in sites if country_of(site) is None}, dict[str, set[str]]()
        for country in COMMUNITY_COUNTRIES if unplaced else ():
            rows = self._gpus(product="POD", cloud="COMMUNITY", countryCodes=country)
            for site in runpod_offers.sites_of(rows) & unplaced:
                found.setdefault(site, set()).add(country)
        return {site: countries.pop() for site, countries in found.items() if len(countries) == 1}


def _once_each(quotes: Iterable[Quote]) -> tuple[Quote, ...]:
    return tuple({quote.key: quote for quote in quotes if len(quote.key) <= LONGEST_KEY}.values())
