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
from billing.models.rate import DisplayCurrency, ExchangeRate
from billing.models.statement import (
    AccountDay,
    BalanceSnapshot,
    Bill,
    Booking,
    Discrepancy,
    DiscrepancyNote,
    MonthClose,
    ProviderStatement,
    StatementChange,
)
from billing.models.subject import Subject
from billing.models.totals import MonthTotal

__all__ = [
    "AccountDay",
    "Adjustment",
    "BalanceSnapshot",
    "Bill",
    "Booking",
    "Budget",
    "BudgetCrossing",
    "ClosedPeriod",
    "Component",
    "DayTotal",
    "Discrepancy",
    "DiscrepancyNote",
    "DisplayCurrency",
    "ExchangeRate",
    "LedgerEntry",
    "MonthClose",
    "MonthTotal",
    "PriceSegment",
    "ProtectedScope",
    "ProviderStatement",
    "Reservation",
    "StatementChange",
    "Subject",
    "UsageCharge",
]
