from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from panel.ui import charts


@given(st.decimals(min_value=Decimal("0.000001"), max_value=Decimal("1e9"), allow_nan=False, places=6))
def test_the_grid_line_is_never_below_the_highest_bar(value):
    assert value <= charts.nice_ceiling(value) <= value * Decimal("2.6")


@given(st.lists(st.decimals(min_value=0, max_value=1000, places=4), min_size=1, max_size=60))
def test_every_bar_stays_inside_the_picture(values):
    chart = charts.bars([(str(i), v, str(v)) for i, v in enumerate(values)])
    for bar in chart.bars:
        assert float(bar.y) >= 15.9
        assert float(bar.y) + float(bar.height) <= chart.plot + 16.2
        assert float(bar.x.rstrip("%")) + float(bar.width.rstrip("%")) <= 100.01


def test_a_cost_too_small_to_see_is_still_drawn_and_zero_is_not():
    chart = charts.bars([("a", Decimal("0.0001"), ""), ("b", Decimal(0), ""), ("c", Decimal(100), "")])
    assert [float(b.height) > 0 for b in chart.bars] == [True, False, True]


@pytest.mark.parametrize(("part", "whole", "share"), [(1, 4, 25), (5, 4, 100), (0, 0, 0), (1, 0, 100)])
def test_a_share_stays_within_0_and_100(part, whole, share):
    assert charts.share(Decimal(part), Decimal(whole)) == share


def test_a_sparkline_needs_two_values():
    assert charts.points([1.0]) == ""
    assert charts.points([1.0, 2.0, 1.5]).count(",") == 3
