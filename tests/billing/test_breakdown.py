"""What the Spend page adds up is what the ledger holds, however it is grouped, cut or drawn."""

from datetime import date, datetime, timedelta
from decimal import Decimal
from uuid import UUID, uuid4

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from hypothesis import given, settings
from hypothesis import strategies as st

from billing import breakdown, ledger, rollup, timeline
from billing.breakdown import Days, Filter
from billing.models import Adjustment, Component, DayTotal, LedgerEntry, MonthTotal
from billing.rollup import Output
from billing.timeline import Step
from tests import factories
from tests.billing.conftest import PROFILE
from tests.conftest import NOW

pytestmark = pytest.mark.django_db
H, DAY = timedelta(hours=1), timedelta(days=1)
ALL = Days(date(2026, 1, 1), date(2026, 12, 31))
ANYTHING = Filter()
COMPUTE, DISK = Component.COMPUTE, Component.DISK


def machine(since, *, scope=None, compute="0.4", disk="0.01", **more) -> UUID:
    known = {
        "label": "m", "scope": scope or uuid4(), "scope_label": "search", "provider": "vast", "tier": "community",
        "gpu": "NVIDIA L4", "tags": {"team": "search"}, **more,
    }  # fmt: skip
    made = ledger.open_subject(uuid4(), ledger.Snapshot(**known), now=since)
    for component, usd in ((COMPUTE, compute), (DISK, disk)):
        ledger.set_price(made.pk, component, Decimal(usd), at=since)
    return made.pk


@pytest.fixture
def fleet():
    """Three machines since autumn: one goes on, one ended, one was corrected."""
    owner = factories.operator()
    autumn = datetime(2026, 9, 27, 9, 30, tzinfo=NOW.tzinfo)
    runs = machine(
        autumn, scope_label="search", owner_id=owner.pk, account=UUID(int=7), account_label="Vast 1"
    )
    gone = machine(autumn, scope_label="mail", provider="runpod", tier="secure", gpu="", tags={"env": "test"})
    other = machine(NOW - 30 * DAY, scope_label="mail", provider="runpod", tier="", tags={})
    ledger.close(gone, at=autumn + 10 * DAY)
    ledger.meter(NOW - 20 * H)
    ledger.adjust(other, Decimal("-1.25"), hour=NOW - 2 * DAY, reason="credit", now=NOW)
    return runs, gone, other


def entries(days: Days) -> Decimal:
    """The same from the entries themselves and what is open."""
    total = Decimal(0)
    for model in (LedgerEntry, Adjustment):
        total += sum(
            (row.usd for row in model.objects.all() if days.start <= row.hour.date() < days.end), Decimal(0)
        )
    return total


RANGES = {
    "a day": Days(date(2026, 11, 3), date(2026, 11, 4)),
    "within a month": Days(date(2026, 10, 3), date(2026, 10, 20)),
    "a whole month": Days(date(2026, 10, 1), date(2026, 11, 1)),
    "over its edge": Days(date(2026, 9, 28), date(2026, 10, 3)),
    "edges at both ends": Days(date(2026, 9, 28), date(2026, 11, 13)),
    "to now": Days(date(2026, 10, 29), NOW.date() + DAY),
}


def test_every_grouping_and_every_bar_adds_up_to_the_ledger(fleet):
    for name, days in RANGES.items():
        want = ledger.spent(midnight(days.start), midnight(days.end), now=NOW)
        for group in ("deployment", "tier", "owner", "component", "tag:team"):
            found = breakdown.of(days, group, ANYTHING, now=NOW)
            assert sum(g.cost.usd for g in found.groups) == want == found.whole.usd, (name, group)
            for step in (Step.DAY, Step.MONTH):
                starts, series = timeline.chart(found, step, found.groups[:1], now=NOW)
                assert sum(map(sum, series)) == want, (name, group, step)
                assert all(len(values) == len(starts) for values in series)
                first = found.groups[0].cost.usd if found.groups else 0
                assert sum(series[0]) == (first or want), (name, group, step)


def midnight(day):
    return datetime(day.year, day.month, day.day, tzinfo=NOW.tzinfo)


def test_by_the_hour_it_is_the_entries_and_what_is_open(fleet):
    days = Days(NOW.date() - DAY, NOW.date() + DAY)
    for group in ("deployment", "component", "tag:team"):
        found = breakdown.of(days, group, ANYTHING, now=NOW)
        starts, series = timeline.chart(found, Step.HOUR, found.groups, now=NOW)
        by_hour = dict(ledger.by_hour(None, starts[0], NOW, now=NOW))
        assert [sum(values) for values in zip(*series, strict=True)][: len(by_hour)] == list(by_hour.values())
        assert sum(map(sum, series)) == found.whole.usd


def test_a_group_tells_its_parts_its_hours_and_its_rate(fleet):
    days = Days(date(2026, 11, 1), NOW.date() + DAY)
    by_key = {g.label: g for g in breakdown.of(days, "deployment", ANYTHING, now=NOW).groups}
    hours = Decimal((NOW - midnight(days.start)) / H)
    cost = by_key["search"].cost
    assert (cost.hours, cost.compute, cost.disk) == (hours, hours * Decimal("0.4"), hours * Decimal("0.01"))
    assert (cost.usd_per_hour, by_key["search"].providers) == (Decimal("0.41"), {"vast"})
    assert by_key["mail"].cost.adjusted == Decimal("-1.25")
    assert by_key["mail"].cost.usd == hours * Decimal("0.41") - Decimal("1.25")
    parts = {g.label: g.cost.usd for g in breakdown.of(days, "component", ANYTHING, now=NOW).groups}
    assert parts["Compute"] == 2 * hours * Decimal("0.4")
    assert parts["Adjustments"] == Decimal("-1.25")


FILTERS = [
    (Filter(provider="vast"), {"search"}),
    (Filter(tier="secure"), {"mail"}),
    (Filter(account=UUID(int=7)), {"search"}),
    (Filter(tags=(("team", "search"),)), {"search"}),
    (Filter(tags=(("team", ""),)), {"mail"}),
    (Filter(tags=(("env", "test"), ("team", "search"))), set()),
    (Filter(owner=0), {"mail"}),
    (Filter(gpu="NVIDIA L4"), {"search", "mail"}),
]


def test_a_filter_holds_for_table_and_chart(fleet):
    for asked, labels in FILTERS:
        found = breakdown.of(ALL, "deployment", asked, now=NOW)
        assert {g.label for g in found.groups} == labels, asked
        _, series = timeline.chart(found, Step.MONTH, found.groups[:6], now=NOW)
        assert sum(map(sum, series)) == found.whole.usd, asked
        assert breakdown.of(ALL, "component", asked, now=NOW).whole.usd == found.whole.usd, asked


def test_a_deployment_is_one_row_and_two_accounts_of_one_name_stay_two(fleet):
    scope = uuid4()
    machine(NOW - 3 * DAY, scope=scope, account=UUID(int=1), account_label="main")
    machine(NOW - 2 * DAY, scope=scope, account=UUID(int=2), account_label="main")
    mine = Filter(deployment=scope)
    assert len(breakdown.of(ALL, "deployment", mine, now=NOW).groups) == 1
    assert [g.label for g in breakdown.of(ALL, "account", mine, now=NOW).groups] == ["main", "main"]
    assert len(breakdown.of(ALL, "machine", mine, now=NOW).groups) == 2


def test_the_number_of_queries_does_not_grow(fleet):
    def asked() -> int:
        with CaptureQueriesContext(connection) as queries:
            found = breakdown.of(ALL, "deployment", ANYTHING, now=NOW)
            timeline.chart(found, Step.MONTH, found.groups[:6], now=NOW)
            breakdown.choices()
        return len(queries)

    few = asked()
    for n in range(10):
        machine(NOW - n * DAY, scope_label=f"d{n}", tags={"team": f"t{n}"})
    assert asked() == few == 3


# -- what was given for it ----------------------------------------------------------------------------


def test_tokens_make_a_unit_cost_and_its_floor(fleet):
    runs, gone, _ = fleet
    day = date(2026, 11, 20)
    rollup.give(
        day, {runs: Output(3_000_000, 1_000_000, 21_600, 86_400, 400_000), uuid4(): Output(1, 1, 1, 1, 1)}
    )
    rollup.give(day, {runs: Output(3_000_000, 1_000_000, 21_600, 86_400, 400_000)})
    cost = breakdown.total(Days(day, day + DAY), ANYTHING, now=NOW)
    mine = breakdown.total(Days(day, day + DAY), Filter(machine=runs), now=NOW)
    assert (mine.tokens, mine.idle) == (4_000_000, 0.75)
    assert mine.per_million == mine.usd / 4 == Decimal("9.84") / 4
    assert mine.floor == Decimal("0.41") / 400_000 * 1_000_000
    assert cost.per_million == cost.usd / 4
    month = breakdown.total(Days(date(2026, 11, 1), date(2026, 12, 1)), Filter(machine=runs), now=NOW)
    assert (month.tokens, month.best_hour) == (4_000_000, 400_000)
    none = breakdown.total(Days(date(2026, 10, 1), date(2026, 11, 1)), Filter(machine=gone), now=NOW)
    assert (none.per_million, none.idle, none.floor) == (None, None, None)


def test_metering_again_keeps_what_was_given(fleet):
    runs, _, _ = fleet
    rollup.give(NOW.date(), {runs: Output(5, 5, 60, 60, 10)})
    ledger.meter(NOW)
    assert DayTotal.objects.get(subject=runs, day=NOW.date()).tokens_in == 5
    assert MonthTotal.objects.get(subject=runs, month=date(2026, 11, 1)).tokens_in == 5
    assert sum(DayTotal.objects.values_list("usd", flat=True)) == entries(ALL)


@settings(PROFILE, max_examples=8)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(-1500, 0), st.sampled_from(["price", "close", "meter", "adjust"])), max_size=8))  # fmt: skip
def test_months_are_the_sum_of_their_days_whatever_happened(acts):
    ids = [machine(NOW - 1600 * H) for _ in range(3)]
    for which, hour, act in sorted(acts, key=lambda a: a[1]):
        at = NOW + hour * H
        if act == "price":
            ledger.set_price(ids[which], COMPUTE, Decimal("0.7"), at=at)
        elif act == "close":
            ledger.close(ids[which], at=at)
        elif act == "adjust":
            ledger.adjust(ids[which], Decimal("0.5"), hour=at, reason="x", now=at)
        else:
            ledger.meter(at)
    ledger.meter(NOW)
    assert breakdown.total(Days(date(2026, 1, 1), date(2026, 12, 31)), ANYTHING, now=NOW).usd == entries(ALL)
    for total in MonthTotal.objects.filter(subject__in=ids):
        days = [
            d
            for d in DayTotal.objects.filter(subject=total.subject_id)
            if d.day.replace(day=1) == total.month
        ]
        for name in ("usd", "compute_usd", "disk_usd", "adjusted_usd", "seconds"):
            assert getattr(total, name) == sum(getattr(d, name) for d in days), name
        assert total.usd == total.compute_usd + total.disk_usd + total.adjusted_usd
