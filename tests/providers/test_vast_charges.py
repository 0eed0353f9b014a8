"""What Vast.ai says it charged: cut to a span, whole or not at all."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.providers import vast_charges
from deployments.providers.base import Unavailable

DAY = datetime(2026, 11, 20, tzinfo=UTC)


def charged(**changes: Any) -> dict[str, Any]:
    start, end = int(DAY.timestamp()), int((DAY + timedelta(hours=10)).timestamp())
    item = {"start": start, "end": end, "source": None, "metadata": {}, "items": []}
    return {
        "start": start, "end": end, "type": "instance", "source": "instance-123", "amount": 1.25,
        "metadata": {"label": "regia-1"},
        "items": [{**item, "type": "gpu", "amount": 1.0}, {**item, "type": "disk", "amount": 0.25}], **changes,
    }  # fmt: skip


def usd(rows: list[Any], since: datetime, until: datetime) -> Decimal:
    return sum((c.usd for c in vast_charges.charges(rows, since, until)), Decimal(0))


def test_a_charge_names_its_machine_and_its_component() -> None:
    found = list(vast_charges.charges([charged()], DAY, DAY + timedelta(days=1)))
    assert [(c.remote_id, c.label, c.component, c.usd) for c in found] == [
        ("123", "regia-1", "compute", Decimal("1.0")), ("123", "regia-1", "disk", Decimal("0.25")),
    ]  # fmt: skip


@given(st.lists(st.integers(-7200, 12 * 3600), min_size=1, max_size=6))
def test_the_parts_of_a_span_cost_as_much_as_the_whole(cuts: list[int]) -> None:
    first, last = DAY - timedelta(hours=3), DAY + timedelta(hours=13)
    edges = [first, *sorted(DAY + timedelta(seconds=c) for c in set(cuts)), last]
    traffic = {**charged()["items"][0], "type": "bwd", "amount": 0.5, "end": int(DAY.timestamp())}
    rows = [charged(items=[*charged()["items"], traffic])]
    parts = sum((usd(rows, a, b) for a, b in itertools.pairwise(edges)), Decimal(0))
    assert abs(parts - usd(rows, first, last)) < Decimal("1e-20")
    assert usd(rows, first, last) == Decimal("1.75")


def test_a_row_without_parts_is_one_and_a_part_said_twice_is_charged_once() -> None:
    span = (DAY, DAY + timedelta(days=1))
    assert usd([charged(items=[])], *span) == Decimal("1.25")
    assert usd([charged(), charged()], *span) == Decimal("1.25")


def test_volumes_and_endpoints_are_not_machines() -> None:
    span = (DAY, DAY + timedelta(days=1))
    assert (
        usd([charged(source="volume-1"), charged(source="endpoint-1"), charged(source="instance-x")], *span)
        == 0
    )


@pytest.mark.parametrize(
    "row", [None, [], "x", {}, charged(source=None), charged(items=[None]), charged(items=[{}]),
            charged(items=[{"amount": "1", "start": 1, "end": 2}]), charged(items=[], start=None, end=None),
            charged(items=[{"amount": 1, "start": 20, "end": 10}])],
)  # fmt: skip
def test_a_charge_that_cannot_be_read_is_told_and_not_left_out(row: Any) -> None:
    with pytest.raises(Unavailable):
        list(vast_charges.charges([charged(), row], DAY, DAY + timedelta(days=1)))


def test_a_label_that_is_none_is_empty() -> None:
    for metadata in (None, [], {}, {"label": None}, {"label": 7}):
        found = list(vast_charges.charges([charged(metadata=metadata)], DAY, DAY + timedelta(days=1)))
        assert {c.label for c in found} == {""}


def test_a_day_more_is_asked_for_on_both_sides() -> None:
    first, last = vast_charges.days(DAY, DAY + timedelta(hours=1))
    assert first <= (DAY - timedelta(days=1)).timestamp()
    assert last >= (DAY + timedelta(hours=25)).timestamp()
