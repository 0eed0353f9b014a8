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
from billing.models.subject import Subject

__all__ = [
    "Adjustment",
    "Budget",
    "ClosedPeriod",
    "Component",
    "DayTotal",
    "LedgerEntry",
    "PriceSegment",
    "Reservation",
    "Subject",
    "UsageCharge",
]
