"""Files for spreadsheets: no cell is a formula, and rows are asked for as they are sent."""

import asyncio
import csv
import io
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from panel.ui.csvfile import Plain, csv_response, defused, lines


@pytest.mark.parametrize(
    "text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "  =1", " \n=1", "\n=1", "＝1", "|x", "%x"]
)
def test_a_text_like_a_formula_is_defused(text):
    assert defused(text) == f"'{text}"


@pytest.mark.parametrize(("text", "cell"), [("a=1", "a=1"), ("\u200b1", "\u200b1"), ("a\0b", "ab"), ("", "")])
def test_other_texts_lose_their_control_characters_alone(text, cell):
    assert defused(text) == cell


def test_values_that_are_no_texts_stay_what_they_are():
    row = (
        None,
        3,
        Decimal("-0.000000001"),
        Decimal("0E-9"),
        True,
        Plain("-5"),
        datetime(2026, 11, 28, 12, tzinfo=UTC),
    )
    assert "".join(lines([row])) == ",3,-0.000000001,0.000000000,True,-5,2026-11-28T12:00:00+00:00\r\n"


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.text(), st.text()), max_size=5))
def test_a_reader_gets_every_cell_and_none_is_a_formula(rows):
    read = list(csv.reader(io.StringIO("".join(lines([("a", "b"), *rows])), newline="")))
    assert read[1:] == [[defused(cell) for cell in row] for row in rows]
    assert not any(cell.lstrip().startswith(("=", "+", "-", "@")) for row in read[1:] for cell in row)


def test_it_is_sent_piece_by_piece_by_either_kind_of_server():
    asked = []

    def rows():
        for n in range(2_000):
            asked.append(n)
            yield (n,)

    pieces = iter(csv_response("a.csv", ("n",), rows()))
    first_piece = next(pieces)
    assert first_piece.startswith(b"n\r\n0\r\n")
    assert len(asked) < 1_000
    assert (first_piece + b"".join(pieces)).split()[1:] == [str(n).encode() for n in range(2_000)]

    async def first() -> bytes:
        asked.clear()
        return await anext(aiter(csv_response("a.csv", ("n",), rows())))

    assert asyncio.run(first()).startswith(b"n\r\n0\r\n")
    assert len(asked) < 1_000
