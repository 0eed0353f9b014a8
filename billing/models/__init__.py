from billing.models.budget import Budget, Reservation
from billing.models.ledger import (
    Adjustment,
    ClosedPeriod,
    Component,
    DayTotal,
    LedgerEntry,
    PriceSegment,
    UsageCharge,
)
from billing.models.rate import DisplayCurrency, ExchangeRate
from billing.models.subject import Subject

__all__ = [
    "Adjustment",
    "Budget",
    "ClosedPeriod",
    "Component",
    "DayTotal",
    "DisplayCurrency",
    "ExchangeRate",
    "LedgerEntry",
    "PriceSegment",
    "Reservation",
    "Subject",
    "UsageCharge",
]
