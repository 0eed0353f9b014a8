"""Files for spreadsheets: no cell is a formula, and rows are asked for as they are sent."""

import asyncio
import csv
import io
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from panel.ui.csvfile import csv_response, defused, lines


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "  =1", "\n=1", "＝1"])
def test_a_text_like_a_formula_is_defused(text):
    assert defused(text) == f"'{text}"


@pytest.mark.parametrize("value", ["plain", "a=b", 3, Decimal("-1.5"), True])
def test_other_cells_stay_as_they_are(value):
    assert defused(value) == value


def test_none_is_empty_and_a_time_is_iso():
    assert defused(None) == ""
    assert defused(datetime(2026, 11, 28, 12, tzinfo=UTC)) == "2026-11-28T12:00:00+00:00"


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.text(), st.text()), max_size=5))
def test_a_reader_gets_every_cell_and_none_is_a_formula(rows):
    read = list(csv.reader(io.StringIO("".join(lines(("a", "b"), rows)), newline="")))
    assert read[1:] == [[defused(cell) for cell in row] for row in rows]
    assert not any(cell.lstrip(" \t").startswith(("=", "+", "-", "@")) for row in read[1:] for cell in row)


def test_it_is_sent_piece_by_piece_by_either_kind_of_server():
    asked = []

    def rows():
        for n in range(450):
            asked.append(n)
            yield (n,)

    response = csv_response("a.csv", ("n",), rows())
    pieces = iter(response)
    assert next(pieces) == b"n\r\n"
    assert asked == []
    assert len(b"".join(pieces).split()) == 450

    async def sent() -> bytes:
        return b"".join([piece async for piece in csv_response("a.csv", ("n",), [(1,), (2,)])])

    assert asyncio.run(sent()) == b"n\r\n1\r\n2\r\n"
