"""Which of the offers are shown, and in which order: the Launch page's filters. A value that means nothing is none."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any, Self

from django.http import QueryDict

from deployments.offers import OfferView, grounds
from deployments.residency import EEA
from deployments.templatetags.states import country
from deployments.tiers import PROVIDERS

PAGE = 50
MOST = 1000
LOOK = "look"
"""The button that shows offers and launches nothing; its value is how many, as that of `show`."""
VRAM = (12, 16, 20, 24, 32, 48, 80)
_STOCK = {"none": 0, "low": 1, "medium": 2, "high": 3}


@dataclass(frozen=True, slots=True)
class Sort:
    """A way to sort. `value` is None where an offer does not say: such offers come last, whichever the direction."""

    label: str
    value: Callable[[OfferView], Any]
    falling: bool = False


SORTS: dict[str, Sort] = {
    "price": Sort("Price, running", lambda v: v.known.hour),
    "held": Sort("Price, stopped", lambda v: v.price.held),
    "gpu": Sort("GPU", lambda v: (v.quote.gpu_name, v.quote.gpu_count)),
    "vram": Sort("GPU memory", lambda v: v.quote.vram_mb, falling=True),
    "provider": Sort("Provider", lambda v: v.account.name),
    "tier": Sort("Tier", lambda v: v.quote.tier),
    "country": Sort("Country", lambda v: v.quote.country),
    "place": Sort("Data centre", lambda v: v.quote.data_center or None),
    "certification": Sort(
        "SLA, certificate", lambda v: (v.quote.sla, bool(v.quote.certification)), falling=True
    ),
    "reliability": Sort("Reliability", lambda v: v.quote.reliability, falling=True),
    "stock": Sort("Stock", lambda v: _STOCK.get(v.quote.stock), falling=True),
    "rental": Sort("Longest rental", lambda v: v.known.longest, falling=True),
    "ready": Sort("Time to ready", lambda v: v.usual_seconds),
}


@dataclass(frozen=True, slots=True)
class Filters:
    provider: str = ""
    tier: str = ""
    gpu: str = ""
    vram: int = 0
    """GB, of one GPU."""
    country: str = ""
    """A code, or "EEA"."""
    max_price: Decimal | None = None
    certified: str = ""
    """ "sla", "certified" or anything."""
    suitable: bool = False
    sort: str = ""
    """Empty: the policy's order."""
    reverse: bool = False
    show: int = PAGE

    @classmethod
    def from_query(cls, query: QueryDict) -> Self:
        return cls(
            provider=query.get("provider", ""), tier=query.get("tier", ""), gpu=query.get("gpu", ""),
            vram=_whole(query.get("vram")), country=query.get("country", ""), max_price=_amount(query.get("max_price")),
            certified=query.get("certified", ""), suitable=bool(query.get("suitable")),
            sort=query.get("sort", "") if query.get("sort") in SORTS else "", reverse=bool(query.get("reverse")),
            show=min(MOST, max([PAGE, *map(_whole, query.getlist("show") + query.getlist(LOOK))])),
        )  # fmt: skip

    @property
    def active(self) -> int:
        """How many filters leave something out."""
        narrow = (self.provider, self.tier, self.gpu, self.vram, self.country, self.max_price is not None, self.certified)  # fmt: skip
        return sum(map(bool, (*narrow, self.suitable)))

    def keeps(self, v: OfferView) -> bool:
        q = v.known.quote
        return not (
            (self.suitable and v.reasons)
            or (self.gpu and q.gpu_name != self.gpu)
            or (
                self.country
                and self.country != q.country
                and not (self.country == "EEA" and q.country in EEA)
            )
            or (self.tier and q.tier != self.tier)
            or (self.vram and q.vram_mb < self.vram * 1000)
            or (self.provider and v.account.backend != self.provider)
            or (self.max_price is not None and v.price.hour > self.max_price)
            or (self.certified == "sla" and not q.sla)
            or (self.certified == "certified" and not q.certification)
        )

    def ordered(self, views: Iterable[OfferView]) -> list[OfferView]:
        """Those that are kept, the suitable ones first, in the order that is asked for."""
        kept = [v for v in views if self.keeps(v)] if self.active else list(views)
        sort = SORTS.get(self.sort)
        if sort is None:
            return kept[::-1] if self.reverse else kept
        told = [(v, value) for v in kept if (value := sort.value(v)) is not None]
        told.sort(key=lambda pair: pair[1], reverse=sort.falling is not self.reverse)
        by_value = [v for v, _ in told] + [v for v in kept if sort.value(v) is None]
        return sorted(by_value, key=lambda v: bool(v.reasons))


@dataclass(frozen=True, slots=True)
class Options:
    """What the filters can be set to: what is on offer."""

    providers: Sequence[tuple[str, str]]
    tiers: Sequence[str]
    gpus: Sequence[str]
    countries: Sequence[tuple[str, str]]


def options(views: Sequence[OfferView]) -> Options:
    few = grounds(views)
    codes = {v.quote.country for v in few}
    backends = {v.account.backend for v in few}
    return Options(
        providers=[(key, name) for key, name in PROVIDERS.items() if key in backends],
        tiers=sorted({v.quote.tier for v in few}),
        gpus=sorted({v.known.quote.gpu_name for v in views}),
        countries=sorted(((c, country(c)) for c in codes if c), key=lambda pair: pair[1]),
    )


def _whole(text: str | None) -> int:
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 6 else 0


def _amount(text: str | None) -> Decimal | None:
    try:
        amount = Decimal((text or "").strip())
    except InvalidOperation:
        return None
    return amount if amount.is_finite() and amount >= 0 else None
