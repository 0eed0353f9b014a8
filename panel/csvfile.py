"""Files for people with a spreadsheet: sent as they are made, whatever their length, and no cell is a formula."""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from datetime import datetime
from decimal import Decimal
from itertools import batched, chain

from asgiref.sync import sync_to_async
from django.http import StreamingHttpResponse

_ROWS = 500
"""Rows in one piece of a file."""
_FORMULA = tuple("=+-@＝＋－＠|%")
_CONTROL = dict.fromkeys((*range(9), 11, 12, *range(14, 32), 127))
"""They are no text, and some programs end a cell or a file at them."""


class Plain(str):
    """A text that was made here, as a number or a date is: it is written as it stands."""

    __slots__ = ()


def defused(text: str) -> str:
    """`text` as a cell that no spreadsheet takes for a formula: an apostrophe comes before what begins like one.

    Spaces and line breaks before it do not help; control characters are left out.
    """
    text = text.translate(_CONTROL)
    if text[:1] in ("\t", "\r", "\n") or text.lstrip().startswith(_FORMULA):
        return f"'{text}"
    return text


def lines(rows: Iterable[Sequence[object]]) -> Iterator[str]:
    """The rows as pieces of a CSV file. Texts are defused; a number is given as a number, or as a `Plain` text.

    None is empty, a Decimal has no exponent, a time is ISO 8601 in its own zone. Rows are asked for only as they are sent.
    """
    for some in batched(rows, _ROWS):
        out = io.StringIO()
        csv.writer(out).writerows([_cell(value) for value in row] for row in some)
        yield out.getvalue()


def _cell(value: object) -> object:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Decimal):
        return f"{value:f}"
    return defused(value) if value and isinstance(value, str) and not isinstance(value, Plain) else value


class Download(StreamingHttpResponse):
    """Sent piece by piece by either kind of server."""

    def __aiter__(self) -> AsyncIterator[bytes]:
        # Django's own would gather all of it, and warn. The rows may ask the database.
        pieces = iter(self)

        async def sent() -> AsyncIterator[bytes]:
            while (piece := await sync_to_async(lambda: next(pieces, None))()) is not None:
                yield piece

        return sent()


def download(name: str, pieces: Iterable[str], *, content_type: str) -> Download:
    """An answer that is kept as the file `name`, in pieces that are made as they are asked for."""
    headers = {
        "Content-Disposition": f'attachment; filename="{name}"',
        "Cache-Control": "private, no-store",
    }
    return Download(pieces, content_type=content_type, headers=headers)


def csv_response(name: str, header: Sequence[str], rows: Iterable[Sequence[object]]) -> Download:
    """The rows as the file `name`, with a first row of names; UTF-8."""
    return download(name, lines(chain([header], rows)), content_type="text/csv; charset=utf-8")
