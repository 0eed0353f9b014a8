"""FOCUS 1.2 (https://focus.finops.org) of the ledger: usage by hour or day, corrections as adjustments.

Its 57 columns, the names of 1.3 for who serves and who hosts, and columns of ours that begin with x_. What is
not known is empty. Costs are in USD as billed; x_Converted... says them in the currency that pages show.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import ROUND_HALF_EVEN, Decimal, localcontext
from functools import lru_cache
from typing import Any
from uuid import UUID

from django.db.models import Q

from billing import fx
from billing.exports.lines import Line, Reader, Selection, provider_name
from billing.exports.places import country_name
from billing.models import ClosedPeriod, Component, PriceSegment, Subject, UsageCharge
from billing.money import NANO
from billing.periods import calendar_month, day_of, hour_of
from panel.ui.csvfile import Plain, defused

COLUMNS = (
    "AvailabilityZone", "BilledCost", "BillingAccountId", "BillingAccountName", "BillingAccountType",
    "BillingCurrency", "BillingPeriodEnd", "BillingPeriodStart", "CapacityReservationId", "CapacityReservationStatus",
    "ChargeCategory", "ChargeClass", "ChargeDescription", "ChargeFrequency", "ChargePeriodEnd", "ChargePeriodStart",
    "CommitmentDiscountCategory", "CommitmentDiscountId", "CommitmentDiscountName", "CommitmentDiscountQuantity",
    "CommitmentDiscountStatus", "CommitmentDiscountType", "CommitmentDiscountUnit", "ConsumedQuantity",
    "ConsumedUnit", "ContractedCost", "ContractedUnitPrice", "EffectiveCost", "InvoiceId", "InvoiceIssuerName",
    "ListCost", "ListUnitPrice", "PricingCategory", "PricingCurrency", "PricingCurrencyContractedUnitPrice",
    "PricingCurrencyEffectiveCost", "PricingCurrencyListUnitPrice", "PricingQuantity", "PricingUnit", "ProviderName",
    "PublisherName", "RegionId", "RegionName", "ResourceId", "ResourceName", "ResourceType", "ServiceCategory",
    "ServiceName", "ServiceSubcategory", "SkuId", "SkuMeter", "SkuPriceDetails", "SkuPriceId", "SubAccountId",
    "SubAccountName", "SubAccountType", "Tags",
)  # fmt: skip
"""The columns of FOCUS 1.2."""
NEWER = ("ServiceProviderName", "HostProviderName")
"""Of FOCUS 1.3."""
OURS = (
    "x_InstanceId", "x_DeploymentId", "x_DeploymentName", "x_Tier", "x_ConvertedCost", "x_ConvertedCurrency", "x_ConversionRate",
    "x_ConversionDate", "x_ConversionSource",
)  # fmt: skip
HEADER = (*COLUMNS, *NEWER, *OURS)
INTERRUPTIBLE = "interruptible"
RESERVED = "regia/"
"""Begins the keys of tags that the panel adds; no tag of an operator may take their place."""


@dataclass(frozen=True, slots=True)
class Kind:
    """How a component is classed. `name` follows the provider's own word where there is one."""

    category: str
    subcategory: str
    name: str
    meter: str
    unit: str


HOURS = "Hours"
_KINDS = {
    Component.COMPUTE: Kind("Compute", "Virtual Machines", "GPU Machines", "GPU Hours", HOURS),
    Component.DISK: Kind("Storage", "Block Storage", "Machine Disks", "Disk Hours", HOURS),
    Component.VOLUME: Kind("Storage", "File Storage", "Network Volumes", "Volume Hours", HOURS),
    Component.TRAFFIC_IN: Kind("Networking", "Network Connectivity", "Data Transfer", "Data In", "GB"),
    Component.TRAFFIC_OUT: Kind("Networking", "Network Connectivity", "Data Transfer", "Data Out", "GB"),
    Component.REQUESTS: Kind("Compute", "Serverless Compute", "Serverless Workers", "Requests", "Requests"),
}
_SERVERLESS = Kind("Compute", "Serverless Compute", "Serverless Workers", "Worker Hours", HOURS)
_OWN = Kind("Compute", "Virtual Machines", "Own Machines", "Machine Hours", HOURS)
_OTHER = Kind("Other", "Other (Other)", "Corrections", "", "")


def kind_of(line: Line) -> Kind:
    """Services have one category each, so a name stands in one place alone."""
    if line.component == Component.COMPUTE:
        if line.subject.tier.startswith("serverless"):
            return _SERVERLESS
        if line.subject.provider == "local":
            return _OWN
    return _KINDS[Component(line.component)] if line.component in Component.values else _OTHER


@dataclass(slots=True)
class Export:
    """One export. Rows come in the order of time; what is in memory is one month, or one day by the hour."""

    selection: Selection
    _of_subject: dict[tuple[UUID, str], dict[str, str]] = field(default_factory=dict)

    def rows(self) -> Iterator[list[str]]:
        """The cells of each row, in the order of `HEADER`."""
        reader, rates = Reader(self.selection), fx.shown()
        closings = list(ClosedPeriod.objects.values_list("until", "closed_at"))
        for start, end in reader.windows():
            lines = reader.between(start, end)
            quantities = _Quantities(start, end, by_hour=self.selection.by_hour)
            for line in lines:
                cells = dict(self._constant(line))
                cells |= _correction(line, closings) if line.is_correction else quantities.usage(line)
                cells |= _converted(line, rates)
                yield [cells.get(name, "") for name in HEADER]

    def _constant(self, line: Line) -> dict[str, str]:
        key = (line.subject.pk, line.component)
        if key not in self._of_subject:
            if len(self._of_subject) > 10_000:
                self._of_subject.clear()
            self._of_subject[key] = {k: Plain(defused(v)) for k, v in _constant(line).items()}
        return self._of_subject[key]


def _constant(line: Line) -> dict[str, str]:
    """What every row of one component of one machine says."""
    subject, kind = line.subject, kind_of(line)
    provider = provider_name(subject.provider)
    account = str(subject.account or f"{subject.provider}-account-unknown")
    region, region_name = _region(subject)
    resource, name = ascii_only(subject.label) or str(subject.pk), ascii_only(subject.scope_label)
    return {
        "BillingAccountId": account,
        "BillingAccountName": ascii_only(subject.account_label) or provider,
        "BillingAccountType": "Account",
        "BillingCurrency": fx.RECORD,
        "PricingCurrency": fx.RECORD,
        "InvoiceIssuerName": provider,
        "ProviderName": provider,
        "PublisherName": provider,
        "ServiceProviderName": provider,
        "HostProviderName": provider,
        "RegionId": region,
        "RegionName": region_name,
        "ResourceId": resource,
        "ResourceName": name if name != resource else "",
        "ResourceType": "Serverless Endpoint" if subject.tier.startswith("serverless") else "Machine",
        "ServiceCategory": kind.category,
        "ServiceName": kind.name,
        "ServiceSubcategory": kind.subcategory,
        "Tags": _json({**subject.tags, **_tags(subject)}),
        "x_InstanceId": str(subject.pk),
        "x_DeploymentId": str(subject.scope),
        "x_DeploymentName": subject.scope_label,
        "x_Tier": subject.tier,
    }


def _region(subject: Subject) -> tuple[str, str]:
    """Both or none: the data centre in its country, else the country."""
    country = country_name(subject.country)
    place = ascii_only(subject.data_center.strip() or subject.country)
    return place, (country or place) if place else ""


def _tags(subject: Subject) -> dict[str, str]:
    ours = {"deployment": subject.scope_label, "provider": subject.provider, "tier": subject.tier}
    return {f"{RESERVED}{key}": value for key, value in ours.items() if value}


def _sku(line: Line, kind: Kind) -> dict[str, str]:
    """A SKU is what is rented; its price is by tier, and apart for what may be interrupted."""
    subject = line.subject
    gpu = subject.gpu if line.component == Component.COMPUTE else ""
    sku = slug(f"{subject.provider}-{gpu or 'any'}-{line.component}")
    dynamic = subject.tier == INTERRUPTIBLE
    details: dict[str, str] = {"x_Tier": subject.tier} if subject.tier else {}
    if gpu:
        details |= {"InstanceType": gpu}
    return {
        "SkuId": sku,
        "SkuMeter": kind.meter,
        "SkuPriceId": slug(f"{sku}-{subject.tier or 'standard'}"),
        "SkuPriceDetails": _json(details) if details else "",
        "PricingCategory": "Dynamic" if dynamic else "Standard",
    }


@lru_cache(maxsize=10_000)
def slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


class _Quantities:
    """How much was used in a window, from price segments and charges: quantity x unit price is the cost."""

    def __init__(self, start: datetime, end: datetime, *, by_hour: bool) -> None:
        self.by_hour = by_hour
        self.segments: dict[tuple[UUID, str], list[PriceSegment]] = defaultdict(list)
        self.charges: dict[tuple[UUID, str, datetime], list[UsageCharge]] = defaultdict(list)
        touching = PriceSegment.objects.filter(Q(ended_at=None) | Q(ended_at__gt=start), started_at__lt=end)
        for segment in touching.order_by("started_at", "pk"):
            self.segments[segment.subject_id, segment.component].append(segment)
        for charge in UsageCharge.objects.filter(at__gte=start, at__lt=end):
            at = hour_of(charge.at) if by_hour else day_of(charge.at)
            self.charges[charge.subject_id, charge.component, at].append(charge)

    def usage(self, line: Line) -> dict[str, str]:
        """The cells of a usage row. By time where a price an hour is known, else by what was counted."""
        kind = kind_of(line)
        unit, quantity, price = self._counted(line) or self._timed(line, kind)
        cost, exact, of_unit = number(line.usd), number(quantity), number(price)
        return {
            **_period(line),
            **_costs(cost),
            **_sku(line, kind),
            "ChargeCategory": "Usage",
            "ChargeDescription": _description(line, kind),
            "ChargeFrequency": "Usage-Based",
            "ConsumedQuantity": exact,
            "ConsumedUnit": unit,
            "PricingQuantity": exact,
            "PricingUnit": unit,
            "ContractedUnitPrice": of_unit,
            "ListUnitPrice": of_unit,
            "PricingCurrencyContractedUnitPrice": of_unit,
            "PricingCurrencyListUnitPrice": of_unit,
        }

    def _timed(self, line: Line, kind: Kind) -> tuple[str, Decimal, Decimal]:
        unit = kind.unit or HOURS
        prices = {
            s.usd_per_unit_hour * s.quantity
            for s in self.segments[line.subject.pk, line.component]
            if s.started_at < line.end and (s.ended_at is None or max(s.started_at, line.start) < s.ended_at)
        } - {Decimal(0)}
        if len(prices) == 1:
            # One price: the time is what the cost says, finer than the whole seconds that an entry keeps.
            [price] = prices
            return unit, _divided(line.usd, price), price
        hours = _divided(Decimal(line.seconds), Decimal(3600)) or Decimal(1)
        return unit, hours, _divided(line.usd, hours)

    def _counted(self, line: Line) -> tuple[str, Decimal, Decimal] | None:
        charges = self.charges.get((line.subject.pk, line.component, line.start), [])
        units = {c.unit for c in charges}
        quantity = sum((c.quantity for c in charges), Decimal(0))
        if len(units) != 1 or quantity <= 0:
            return None
        return _UNITS.get(units.pop().lower(), kind_of(line).unit or HOURS), quantity, _divided(line.usd, quantity)  # fmt: skip


_UNITS = {"gb": "GB", "gib": "GiB", "tb": "TB", "mb": "MB", "byte": "B", "bytes": "B", "b": "B", "request": "Requests",
          "requests": "Requests", "hour": HOURS, "hours": HOURS, "s": "Seconds", "second": "Seconds", "seconds": "Seconds"}  # fmt: skip


def _correction(line: Line, closings: Sequence[tuple[datetime, datetime]]) -> dict[str, str]:
    """An adjustment. It is a correction where its month was closed and a later one had begun when it was made."""
    made = line.made_at or line.start
    closed = any(line.start < until and at <= made for until, at in closings)
    late = closed and calendar_month(made).start > calendar_month(line.start).start
    return {
        **_period(line),
        **_costs(number(line.usd)),
        "ChargeCategory": "Adjustment",
        "ChargeClass": "Correction" if late else "",
        "ChargeDescription": ascii_only(line.reason),
        "ChargeFrequency": "One-Time",
    }


def _period(line: Line) -> dict[str, str]:
    month = calendar_month(line.start)
    return {
        "BillingPeriodStart": instant(month.start),
        "BillingPeriodEnd": instant(month.end),
        "ChargePeriodStart": instant(line.start),
        "ChargePeriodEnd": instant(line.end),
    }


def _costs(cost: str) -> dict[str, str]:
    names = ("BilledCost", "ContractedCost", "EffectiveCost", "ListCost", "PricingCurrencyEffectiveCost")
    return dict.fromkeys(names, cost)


def _converted(line: Line, rates: fx.Rates) -> dict[str, str]:
    """The cost at the rate of its day, to nine places so that rows add up finely; empty without a rate."""
    rate = rates.on(line.day)
    if rate is None or rate.day is None:
        return {}
    return {
        "x_ConvertedCost": number(fx.rounded(fx.exactly(line.usd, rate), 9)),
        "x_ConvertedCurrency": rates.currency,
        "x_ConversionRate": number(rate.per_usd),
        "x_ConversionDate": rate.day.isoformat(),
        "x_ConversionSource": rate.source,
    }


def _description(line: Line, kind: Kind) -> str:
    subject = line.subject
    what = subject.gpu if line.component == Component.COMPUTE and subject.gpu else kind.name
    return ascii_only(", ".join(part for part in (what, subject.tier, subject.scope_label) if part))


def ascii_only(text: str) -> str:
    """`text` in ASCII: accents are left out, all else is "?". Names stand as they are in x_DeploymentName and Tags.

    FOCUS asks for Unicode, its validator for ASCII, in every text but those.
    """
    if text.isascii():
        return text
    bare = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    return bare.encode("ascii", "replace").decode()


def _divided(usd: Decimal, by: Decimal) -> Decimal:
    """So many places that the product is `usd` again, to the nano-dollar; the fewest of those."""
    if not by:
        return Decimal(0)
    with localcontext(prec=60):
        exact = usd / by
        for places in (6, 9, 12, 15, 18):
            short = exact.quantize(Decimal(1).scaleb(-places), rounding=ROUND_HALF_EVEN)
            if (short * by).quantize(NANO, rounding=ROUND_HALF_EVEN) == usd:
                return short
    return exact


def number(value: Decimal) -> Plain:
    """A plain decimal without an exponent or zeros at its end."""
    return Plain(f"{value.normalize():f}" if value else "0")


@lru_cache(maxsize=50_000)
def instant(at: datetime) -> Plain:
    """ "2026-11-20T10:00:00Z"."""
    return Plain(at.strftime("%Y-%m-%dT%H:%M:%SZ"))


def _json(values: dict[str, Any]) -> str:
    return json.dumps(values, ensure_ascii=False, separators=(", ", ": "), sort_keys=True)
