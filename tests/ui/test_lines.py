"""The geometry of line charts."""

import re
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from panel.ui import lines

BEGIN = datetime(2026, 11, 24, 12, 3, 20, tzinfo=UTC)
value = st.none() | st.floats(min_value=0, max_value=1e9, allow_nan=False)


def drawn(at, values, **more):
    known = {"since": 0, "until": 100, "top": 10, "height": 120, "gap": 15} | more
    return lines.line(at, values, **known)


@given(st.lists(value, min_size=1, max_size=80))
def test_every_value_stays_inside_the_picture(values):
    line = drawn(range(len(values)), values, until=len(values), top=lines.top_of(values))
    ys = [float(y) for y in re.findall(r"[ML][\d.]+ ([\d.]+)", line.path)] + [float(y) for _, y in line.dots]
    assert all(lines.TOP <= y <= lines.TOP + 120 for y in ys)
    joined = re.findall(r"[ML]([\d.]+) ", line.path)
    assert len(joined) + len(line.dots) == sum(v is not None for v in values)


@given(st.lists(value, max_size=20))
def test_the_upper_grid_line_is_not_below_any_value_and_not_far_above(values):
    top = lines.top_of(values)
    highest = max((v for v in values if v is not None), default=0)
    assert top >= highest * (1 - 1e-6)
    assert highest < 1e-12 or top <= highest * 1.34


def test_what_is_further_apart_than_the_gap_is_not_joined():
    line = drawn([0, 10, 20, 60, 70], [1, 2, 3, 4, 5])
    assert line.path.count("M") == 2
    assert not line.dots


def test_a_null_does_not_break_a_line_that_bridges_it_and_a_lonely_value_is_a_dot():
    assert drawn([0, 5, 10], [1, None, 1]).path.count("M") == 1
    lonely = drawn([0, 5, 50, 90, 95], [1, 1, 5, 1, 1])
    assert lonely.path.count("M") == 2
    assert lonely.dots == (("50.00%", "76.0"),)


@pytest.mark.parametrize(
    ("span", "labels"),
    [
        (timedelta(minutes=1), ["12:03:30", "12:03:45", "12:04:00", "12:04:15"]),
        (timedelta(hours=1), ["12:10", "12:20", "12:30", "12:40", "12:50", "13:00"]),
        (timedelta(hours=24), ["16:00", "20:00", "25 Nov", "04:00", "08:00", "12:00"]),
        (timedelta(days=10), ["25 Nov", "27 Nov", "29 Nov", "1 Dec", "3 Dec"]),
    ],
)
def test_ticks_stand_at_round_times(span, labels):
    found = [t.label for t in lines.ticks(BEGIN, BEGIN + span)]
    assert set(labels) <= set(found)
    assert len(found) <= 7
