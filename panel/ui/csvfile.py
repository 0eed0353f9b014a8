"""Comma-separated values for spreadsheets: no cell is a formula, and files of any length are sent as they are made."""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from itertools import islice

from asgiref.sync import sync_to_async
from django.core.handlers.asgi import ASGIRequest
from django.http import HttpRequest, StreamingHttpResponse

_ROWS = 500
"""Rows in one piece of a file."""
_FORMULA = tuple("=+-@＝＋－＠|%")
_CONTROL = dict.fromkeys((*range(9), 11, 12, *range(14, 32), 127))
"""They are no text, and some programs end a cell or a file at them."""


def defused(text: str) -> str:
    """`text` as a cell that no spreadsheet takes for a formula: an apostrophe comes before what begins like one.

    Spaces and line breaks before it do not help; control characters are left out.
    """
    text = text.translate(_CONTROL)
    if text[:1] in ("\t", "\r", "\n") or text.lstrip().startswith(_FORMULA):
        return f"'{text}"
    return text


def lines(rows: Iterable[Sequence[object]]) -> Iterator[str]:
    """The rows as pieces of a CSV file. Texts are defused; a number is given as a number, or as a `Plain` text."""
    rows = iter(rows)
    while piece := list(islice(rows, _ROWS)):
        out = io.StringIO()
        writer = csv.writer(out)
        writer.writerows([_cell(value) for value in row] for row in piece)
        yield out.getvalue()


class Plain(str):
    """A text that was made here, as a number or a date is: it is written as it stands."""

    __slots__ = ()


def _cell(value: object) -> object:
    return defused(value) if value and isinstance(value, str) and not isinstance(value, Plain) else value


def rows_response(
    request: HttpRequest, name: str, header: Sequence[str], rows: Iterable[Sequence[object]]
) -> StreamingHttpResponse:
    """The download `name` with a first row of names, made while it is sent."""
    return stream_response(request, name, lines(_with(header, rows)), content_type="text/csv; charset=utf-8")


def stream_response(
    request: HttpRequest, name: str, pieces: Iterator[str], *, content_type: str
) -> StreamingHttpResponse:
    """The download `name` in pieces that are made as they are asked for, by whatever server runs the panel."""
    # An asynchronous server would gather a plain iterator whole before it sends the first byte.
    content = _awaited(pieces) if isinstance(request, ASGIRequest) else pieces
    response = StreamingHttpResponse(content, content_type=content_type)
    response["Content-Disposition"] = f'attachment; filename="{name}"'
    response["Cache-Control"] = "private, no-store"
    return response


def _with(header: Sequence[str], rows: Iterable[Sequence[object]]) -> Iterator[Sequence[object]]:
    yield header
    yield from rows


async def _awaited(pieces: Iterator[str]) -> AsyncIterator[str]:
    def following() -> str | None:
        return next(pieces, None)

    while (piece := await sync_to_async(following)()) is not None:
        yield piece
