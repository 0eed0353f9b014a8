"""The ledger: what every rented machine has cost, exact to the nano-dollar. The face of its modules.

`PriceSegment` is the truth for what time costs and `UsageCharge` for what bytes cost, `LedgerEntry` the hours
recomputed from them, `DayTotal` their sum that pages read. Prices are USD per hour, amounts USD, both Decimal; times carry a zone and count in UTC.
Writing takes the lock of the subject, so a transaction that also reserves money reserves it first.
"""

from billing.corrections import adjust, close_period
from billing.metering import meter
from billing.segments import Snapshot, backdate, booked_until, close, open_subject, set_price
from billing.totals import ScopeCost, burn, by_day, by_hour, by_scope, cost_of, spent
from billing.usage import Usage, charge_all, charge_usage, withdraw

__all__ = [
    "ScopeCost",
    "Snapshot",
    "Usage",
    "adjust",
    "backdate",
    "booked_until",
    "burn",
    "by_day",
    "by_hour",
    "by_scope",
    "charge_all",
    "charge_usage",
    "close",
    "close_period",
    "cost_of",
    "meter",
    "open_subject",
    "set_price",
    "spent",
    "withdraw",
]
