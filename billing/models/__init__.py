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
from billing.models.totals import MonthTotal

__all__ = [
    "Adjustment",
    "Budget",
    "ClosedPeriod",
    "Component",
    "DayTotal",
    "LedgerEntry",
    "MonthTotal",
    "PriceSegment",
    "Reservation",
    "Subject",
    "UsageCharge",
]
