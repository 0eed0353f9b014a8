"""What FOCUS 1.2 asks of every row, written out from its requirements: the validator is content with one good row."""

from __future__ import annotations

import csv
import io
import json
import re
from collections import defaultdict
from datetime import UTC, datetime
from decimal import Decimal

from billing.exports.focus import COLUMNS, HEADER

SUBCATEGORIES = {
    "Compute": {"Containers", "End User Computing", "Quantum Compute", "Serverless Compute", "Virtual Machines", "Other (Compute)"},
    "Storage": {"Backup Storage", "Block Storage", "File Storage", "Object Storage", "Storage Platforms", "Other (Storage)"},
    "Networking": {"Application Networking", "Content Delivery", "Network Connectivity", "Network Infrastructure", "Network Routing", "Network Security", "Other (Networking)"},
    "Other": {"Other (Other)"},
}  # fmt: skip
ALLOWED = {
    "ChargeCategory": {"Usage", "Purchase", "Tax", "Credit", "Adjustment"},
    "ChargeClass": {"", "Correction"},
    "ChargeFrequency": {"One-Time", "Recurring", "Usage-Based"},
    "PricingCategory": {"", "Standard", "Committed", "Dynamic", "Other"},
    "ServiceCategory": set(SUBCATEGORIES),
    "BillingCurrency": {"USD"},
    "PricingCurrency": {"USD"},
    "ConsumedUnit": {"", "Hours", "Seconds", "GB", "GiB", "MB", "TB", "B", "Requests"},
}
ALWAYS = (
    "BilledCost", "BillingAccountId", "BillingAccountName", "BillingAccountType", "BillingCurrency", "BillingPeriodEnd",
    "BillingPeriodStart", "ChargeCategory", "ChargeDescription", "ChargeFrequency", "ChargePeriodEnd", "ChargePeriodStart",
    "ContractedCost", "EffectiveCost", "InvoiceIssuerName", "ListCost", "PricingCurrency", "PricingCurrencyEffectiveCost",
    "ProviderName", "PublisherName", "ResourceId", "ResourceType", "ServiceCategory", "ServiceName", "ServiceSubcategory",
    "ServiceProviderName", "HostProviderName",
)  # fmt: skip
OF_USAGE = (
    "ConsumedQuantity", "ConsumedUnit", "ContractedUnitPrice", "ListUnitPrice", "PricingCategory",
    "PricingCurrencyContractedUnitPrice", "PricingCurrencyListUnitPrice", "PricingQuantity", "PricingUnit", "SkuId",
    "SkuMeter", "SkuPriceId",
)  # fmt: skip
UNUSED = (*tuple(n for n in COLUMNS if n.startswith(("Capacity", "Commitment", "SubAccount"))), "InvoiceId")
NUMBERS = tuple(n for n in HEADER if n.endswith(("Cost", "UnitPrice", "Quantity")))
PRODUCTS = (
    ("ListUnitPrice", "PricingQuantity", "ListCost"),
    ("ContractedUnitPrice", "PricingQuantity", "ContractedCost"),
    ("PricingCurrencyListUnitPrice", "PricingQuantity", "PricingCurrencyEffectiveCost"),
)
_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?")
_INSTANT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:00:00Z")
NANO = Decimal("1e-9")


def read(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline="")))


def wrong(rows: list[dict[str, str]]) -> list[str]:
    """What is wrong, a sentence for each, with the row's number."""
    found = [f"row {i}: {text}" for i, row in enumerate(rows) for text in _wrong(row)]
    for one, other in (("ServiceName", "ServiceCategory"), ("SkuPriceId", "SkuId")):
        parents = defaultdict(set)
        for row in rows:
            parents[row[one]].add(row[other])
        found += [f"{one} {name} has several {other}" for name, of in parents.items() if name and len(of) > 1]
    return found


def _wrong(row: dict[str, str]):
    if tuple(row) != HEADER:
        yield "its columns are others"
    for name, values in ALLOWED.items():
        if row[name] not in values:
            yield f"{name} is {row[name]!r}"
    for name in (*ALWAYS, *(OF_USAGE if row["ChargeCategory"] == "Usage" else ())):
        if not row[name].strip():
            yield f"{name} is empty"
    for name in UNUSED:
        if row[name]:
            yield f"{name} is not empty"
    for name in NUMBERS:
        if row[name] and not _NUMBER.fullmatch(row[name]):
            yield f"{name} is no number: {row[name]!r}"
    if row["ServiceSubcategory"] not in SUBCATEGORIES.get(row["ServiceCategory"], ()):
        yield "its subcategory belongs to another category"
    yield from _category(row)
    yield from _pairs(row)
    yield from _times(row)
    for price, quantity, cost in PRODUCTS:
        if row[price] and row[quantity]:
            product = (Decimal(row[price]) * Decimal(row[quantity])).quantize(NANO)
            if product != Decimal(row[cost]):
                yield f"{price} x {quantity} is {product}, {cost} {row[cost]}"
            if Decimal(row[price]) < 0:
                yield f"{price} is negative"
    for name in ("Tags", "SkuPriceDetails"):
        values = json.loads(row[name] or "{}")
        if not all(isinstance(v, str | int | float | bool | None) for v in values.values()):
            yield f"{name} holds an object"


def _category(row: dict[str, str]):
    if row["ChargeCategory"] != "Usage":
        if row["ConsumedQuantity"]:
            yield "only usage is consumed"
        if row["ListCost"] != row["BilledCost"] or row["ContractedCost"] != row["BilledCost"]:
            yield "a cost without a unit price is not what is billed"
    elif row["ChargeClass"]:
        yield "usage is no correction here"


def _pairs(row: dict[str, str]):
    for one, other in (("RegionId", "RegionName"), ("ConsumedQuantity", "ConsumedUnit"), ("PricingQuantity", "PricingUnit"), ("SkuId", "SkuMeter"), ("BillingAccountId", "BillingAccountType")):  # fmt: skip
        if bool(row[one]) != bool(row[other]):
            yield f"{one} and {other} are not both there or both empty"
    if row["SkuPriceDetails"] and not row["SkuPriceId"]:
        yield "details of no price"
    if row["ResourceName"] == row["ResourceId"]:
        yield "the name is the id again"


def _times(row: dict[str, str]):
    names = ("BillingPeriodStart", "ChargePeriodStart", "ChargePeriodEnd", "BillingPeriodEnd")
    if not all(_INSTANT.fullmatch(row[name]) for name in names):
        yield "a time is not written as FOCUS asks"
        return
    times = [datetime.fromisoformat(row[name]) for name in names]
    if not times[0] <= times[1] < times[2] <= times[3]:
        yield "its periods do not lie in each other"
    if times[0].day != 1 or times[0].tzinfo != UTC:
        yield "its billing period is no month"
