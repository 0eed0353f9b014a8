"""What the Spend page adds up is what the ledger holds, however it is grouped, cut or drawn."""

from datetime import date, timedelta
from decimal import Decimal

import pytest

from billing import breakdown, ledger
from billing.breakdown import Days, Filter, Step
from billing.models import Component
from tests import factories
from tests.conftest import NOW

pytestmark = pytest.mark.django_db
H, DAY = timedelta(hours=1), timedelta(days=1)


def test_smoke():
    factories.metered_machine("0.43", since=NOW - 50 * DAY)
    ledger.meter(NOW)
    for group in (*breakdown.GROUPS, "tag:team"):
        for days in (Days(date(2026, 10, 3), date(2026, 11, 25)),):
            rows = breakdown.table(days, group, Filter(), now=NOW)
            print(group, [(g.key, g.label, g.cost.usd, g.cost.hours) for g in rows])
            for step in Step:
                at, series = breakdown.chart(days, step, group, rows[:6], Filter(), now=NOW)
                print(step, [(s.label, sum(s.values)) for s in series])
