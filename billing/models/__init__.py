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
    "ProviderStatement",
    "Reservation",
    "StatementChange",
    "Subject",
    "UsageCharge",
]
