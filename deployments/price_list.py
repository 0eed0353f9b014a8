"""Dated price lists: what a document said on a day, each figure with its own name and its line. Pure.

A list is shown beside the live offers and judged by the same code. Where two rows of a list give one thing two
prices, both stay, and `disagreements` says so.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

from deployments import fit, rank, residency
from deployments.catalog import Model
from deployments.compare import Candidate
from deployments.providers.base import Quote
from deployments.residency import EU
from deployments.tiers import described

LISTS = ("2026-01",)
_FOLDER = Path(__file__).with_name("price_lists")


@dataclass(frozen=True, slots=True)
class ListedPrice:
    """One row of a document. `usd_per_hour` as it stands there; `month` is what the document itself multiplied."""

    id: str
    name: str
    provider: str
    tier: str
    gpu: str
    vram_gb: int
    usd_per_hour: Decimal
    spread: tuple[Decimal, Decimal] | None
    month: Decimal | None
    estimate: bool
    section: str
    line: int
    source: str
    """The line, word for word."""
    note: str
    place: str
    """Where, in words, when it is not one country."""
    countries: tuple[str, ...]
    """Where the document says that it can be rented; the likeliest first, none: it does not say."""

    @property
    def tier_name(self) -> str:
        """ "RunPod secure"."""
        return described(self.provider, self.tier).name

    def quote(self, allowed: Collection[str]) -> Quote:
        """The row as a quote, in the first of its countries that is allowed."""
        place = next((c for c in self.countries if c in allowed), next(iter(self.countries), None))
        return Quote(
            key=self.id, tier=self.tier, gpu_name=self.gpu, gpu_count=1, vram_mb=self.vram_gb * 1024, cpu_count=0, memory_mb=0,
            country=place, data_center="", usd_per_hour=self.usd_per_hour, compute_usd_per_hour=self.usd_per_hour,
            serverless=self.tier.startswith("serverless"), workers_min=int(self.tier == "serverless-active"),
            interruptible=self.tier == "interruptible", estimate=self.estimate, note=self.note,
            sla=self.provider == "runpod" and self.tier != "community",
            certification="ISO 27001 (the host)" if (self.provider, self.tier) == ("vast", "datacenter") else "",
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Contradiction:
    """Where a document does not agree with itself, in sentences, and the lines to read."""

    text: str
    lines: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class PriceList:
    key: str
    title: str
    dated: date
    document: str
    rows: tuple[ListedPrice, ...]
    contradictions: tuple[Contradiction, ...]


@cache
def load(key: str) -> PriceList:
    """The list of `key`, one of LISTS. Raises LookupError for another."""
    if key not in LISTS:
        raise LookupError(f"There is no price list {key!r}.")
    raw = json.loads((_FOLDER / f"{key}.json").read_text(encoding="utf-8"))
    rows = tuple(_row(r, raw["places"]) for r in raw["rows"])
    said = tuple(Contradiction(c["text"], tuple(c["lines"])) for c in raw["contradictions"])
    return PriceList(
        key,
        raw["title"],
        date.fromisoformat(raw["dated"]),
        raw["document"],
        rows,
        (*disagreements(rows), *said),
    )


def candidates(
    listed: PriceList, model: Model, *, context: int, concurrency: int, allowed: Collection[str]
) -> list[Candidate]:
    """Every row of the list, judged as an offer is."""
    return [
        _candidate(row, row.quote(allowed), model, context=context, concurrency=concurrency, allowed=allowed)
        for row in listed.rows
    ]


def _candidate(
    row: ListedPrice, quote: Quote, model: Model, *, context: int, concurrency: int, allowed: Collection[str]
) -> Candidate:
    place = residency.verdict(quote.country, allowed)
    fitting = fit.fit(model, quote, context=context, concurrency=concurrency)
    reasons = (*(() if place.allowed else (place.reason,)), *fitting.reasons)
    return Candidate(
        row.provider, quote, row.usd_per_hour, row.name, rank.place(quote), reasons, source=f"line {row.line}", where=row.place,
        # A document that gives one price for an hour says nothing of a stopped disk.
        held_usd_per_hour=Decimal(0) if quote.serverless else None,
    )  # fmt: skip


def disagreements(rows: Iterable[ListedPrice]) -> list[Contradiction]:
    """Each thing (provider, tier, GPU) that the rows give more than one price."""
    things: dict[tuple[str, str, str], list[ListedPrice]] = {}
    for row in rows:
        things.setdefault((row.provider, row.tier, row.gpu), []).append(row)
    return [_disagreement(same) for same in things.values() if len({r.usd_per_hour for r in same}) > 1]


def _disagreement(same: list[ListedPrice]) -> Contradiction:
    first = same[0]
    prices = " and ".join(
        f"${r.usd_per_hour} an hour ({r.name.partition(', ')[2]}, line {r.line})" for r in same
    )
    thing = f"{first.tier_name}, {first.gpu}"
    return Contradiction(f"{thing}: it gives {prices}. Both rows stay.", tuple(r.line for r in same))


def _row(raw: dict[str, Any], places: list[dict[str, Any]]) -> ListedPrice:
    low, high = raw.get("range") or (None, None)
    month = raw["stated_usd_per_month"]
    return ListedPrice(
        id=raw["id"], name=raw["name"], provider=raw["provider"], tier=raw["tier"], gpu=raw["gpu"], vram_gb=raw["vram_gb"],
        usd_per_hour=Decimal(raw["usd_per_hour"]), spread=(Decimal(low), Decimal(high)) if low and high else None,
        month=Decimal(month) if month else None, estimate=raw["estimate"], section=raw["section"], line=raw["line"],
        source=raw["source"], note=raw["note"], **_where(raw, places),
    )  # fmt: skip


def _where(raw: dict[str, Any], places: list[dict[str, Any]]) -> dict[str, Any]:
    for place in places:
        if raw["provider"] == place["provider"] and raw["tier"] in place["tiers"]:
            eu = place["countries"] == "EU"
            countries = tuple(sorted(EU)) if eu else tuple(place["countries"])
            return {"countries": countries, "place": "any country of the EU" if eu else ""}
    return {"countries": (), "place": ""}
