"""What the registers of the GDPR are told from here: which companies' machines ran, and where data stands now.

Companies: by the names they are known under, both in the United States. A person reads their terms and confirms the draft.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db.models import Count, Max, Min, Q
from django.db.models.fields.json import KeyTextTransform

from deployments import residency
from deployments.lifecycle import TERMINAL, State
from deployments.models import Instance, Offer, ProviderAccount, ResidencyEvidence
from deployments.tiers import PROVIDERS
from panel.registers.above import Company, Place, Withheld

_TERMINAL = [s.value for s in TERMINAL]
_SERVICE = "Rents machines with GPUs to us, on which prompts are answered by a model of ours."
_HOSTS = "Own and run the machines that are rented through {name}: whoever does can read what is on them."


@dataclass(frozen=True, slots=True)
class _Firm:
    legal_name: str
    country: str
    own_machines: frozenset[str]
    """The tiers whose machines stand in data centres that it answers for itself."""


FIRMS: dict[str, _Firm] = {
    ProviderAccount.Backend.RUNPOD: _Firm(
        "RunPod Inc.", "US", frozenset({"secure", "serverless-flex", "serverless-active", "serverless-lb"})
    ),
    ProviderAccount.Backend.VAST: _Firm("Vast.ai Inc.", "US", frozenset()),
}
SOURCES: dict[str, str] = {
    ProviderAccount.Backend.LOCAL: "This panel's own computer.",
    ProviderAccount.Backend.RUNPOD: "RunPod's list of machines names the data centre.",
    ProviderAccount.Backend.VAST: "Vast.ai's list of machines names the country of each.",
}


# -- what ran -------------------------------------------------------------------------------------------


def companies() -> Sequence[Company]:
    """Every company at which a machine of ours was, by name."""
    return [found for backend, firm in sorted(FIRMS.items()) if (found := _company(backend, firm))]


def _company(backend: str, firm: _Firm) -> Company | None:
    ran = Instance.objects.filter(account__backend=backend).exclude(remote_id="")
    since = ran.aggregate(since=Min("created_at"), until=Max("ended_at"))
    if since["since"] is None:
        return None
    stands = ran.exclude(state__in=_TERMINAL).exists()
    rows = list(
        ran.order_by()
        .annotate(tier=KeyTextTransform("tier", "quote"))
        .values_list("country", "data_center", "tier")
        .distinct()
    )
    places = {(country, site) for country, site, _ in rows} | set(_workers(ran))
    tiers = sorted({tier for *_, tier in rows if tier})
    name = PROVIDERS[backend]
    return Company(
        key=backend, name=name, legal_name=firm.legal_name, country=firm.country,
        outside_eea=firm.country not in residency.EEA, service=_SERVICE,
        countries=tuple(sorted({country for country, _ in places if country})),
        sites=tuple(sorted({site for _, site in places if site})), tiers=tuple(tiers),
        since=since["since"], until=None if stands else since["until"],
        hosts=_HOSTS.format(name=name) if set(tiers) - firm.own_machines else "",
    )  # fmt: skip


def _workers(ran: Any) -> Iterator[tuple[str | None, str]]:
    """Where workers of serverless endpoints were seen: (country, data centre)."""
    for found in (
        ResidencyEvidence.objects.filter(instance__in=ran)
        .order_by()
        .values_list("found", flat=True)
        .distinct()
    ):
        yield from ((country, site or "") for site, country in found)


# -- where data stands now --------------------------------------------------------------------------------


def places() -> Sequence[Place]:
    """One row for each country, site and provider at which machines stand now; what is not exempt first."""
    standing = (
        Instance.objects.exclude(state__in=[*_TERMINAL, State.REQUESTED]).select_related("account", "deployment")
        .defer("account__credentials", "api_key", "birth_key", "next_key", "tls_key", "tls_certificate")
    )  # fmt: skip
    gathered: dict[tuple[str, str, str], list[tuple[Instance, residency.Verdict]]] = defaultdict(list)
    for i in standing:
        for site, country in _where(i):
            verdict = residency.verdict(
                country, i.deployment.allowed_countries, own_machine=i.offer.own_machine
            )
            gathered[country or "", site or "", i.account.backend].append((i, verdict))
    rows = [_place(*key, found) for key, found in gathered.items()]
    return sorted(rows, key=lambda row: (row.allowed is None, row.allowed is True, row.country, row.site))


def _where(i: Instance) -> Iterable[Sequence[str | None]]:
    if i.offer.serverless and i.places:
        return list(i.places)
    return [[i.data_center, i.country]]


def _place(country: str, site: str, backend: str, found: list[tuple[Instance, residency.Verdict]]) -> Place:
    own = any(i.offer.own_machine for i, _ in found)
    bad = [verdict for _, verdict in found if not verdict.allowed]
    return Place(
        country=country, site=site, provider=PROVIDERS.get(backend, backend), machines=len({i.pk for i, _ in found}),
        source=SOURCES.get(backend, "The provider's answer."), since=_since(i for i, _ in found),
        allowed=None if own else not bad, verdict=(bad or [v for _, v in found])[0].reason,
    )  # fmt: skip


def _since(instances: Iterable[Instance]) -> datetime | None:
    return min((i.remote_created_at or i.create_sent_at or i.created_at for i in instances), default=None)


# -- what the guard keeps back ------------------------------------------------------------------------------


def withheld() -> Sequence[Withheld]:
    """What is on offer now and may not be launched, whatever a deployment allows, by reason."""
    rented = Offer.objects.filter(available=True, own_machine=False).order_by()
    outside = rented.filter(~Q(country__in=residency.EEA) | Q(country=None))
    counts = outside.values_list("country").annotate(offers=Count("pk")).order_by("-offers", "country")
    return [Withheld(residency.verdict(country, residency.EEA).reason, offers) for country, offers in counts]
