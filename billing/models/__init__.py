from billing.models.budget import Budget, BudgetCrossing, ProtectedScope, Reservation
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
    "BudgetCrossing",
    "ClosedPeriod",
    "Component",
    "DayTotal",
    "LedgerEntry",
    "PriceSegment",
    "ProtectedScope",
    "Reservation",
    "Subject",
    "UsageCharge",
]
