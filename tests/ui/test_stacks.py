"""The geometry of the stacked bars, and that nothing of a label is markup."""

import re
from decimal import Decimal

from panel.ui.stacks import stack

D = Decimal


def heights(chart, css):
    return [float(h) for h in re.findall(rf'class="{css}[^>]*height="([\d.]+)"', chart.bars)]


def test_what_is_stacked_stands_on_what_is_below_it():
    chart = stack(["a", "b"], [("s0", "one", [D(1), D(2)]), ("s1", "two", [D(3), D(0)])], height=234)
    assert chart.top == 5  # the next round number above 4
    assert heights(chart, "s0") == [40, 80]
    assert heights(chart, "s1") == [120]
    tops = [float(y) for y in re.findall(r'class="s1"[^>]* y="([\d.]+)"', chart.bars)]
    assert tops == [chart.zero - 160]


def test_a_credit_is_told_by_the_table_alone():
    chart = stack(["a"], [("s0", "one", [D(2)]), ("s1", "two", [D(-1)])])
    assert heights(chart, "s1") == []
    assert "−$1.00" in chart.rows
    assert "$1.00</td></tr>" in chart.rows


def test_names_are_text():
    chart = stack(["<b>"], [("s0", '"><script>', [D(1)])])
    assert "<script>" not in chart.bars
    assert "<b>" not in chart.rows + chart.labels + chart.bars


def test_the_bar_that_grows_is_marked():
    chart = stack(["a", "b"], [("s0", "one", [D(1), D(2)])], partial=1)
    assert chart.bars.count("partial") == 1


def test_without_anything_there_is_an_empty_picture():
    assert stack([], []).top == 1
