"""Comma-separated files for people with a spreadsheet: sent row by row, and no cell is a formula."""

from __future__ import annotations

import csv
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from datetime import datetime
from itertools import batched

from asgiref.sync import sync_to_async
from django.http import StreamingHttpResponse

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
"""What a spreadsheet takes for the begin of a formula, also in full width."""
_ROWS = 200
"""Rows in one piece."""


def defused(value: object) -> object:
    """A text that a spreadsheet would take for a formula begins with an apostrophe; None is empty.

    Numbers stay numbers, a negative one too; a time is ISO 8601 in its own zone.
    """
    if value is None:
        return ""
    if isinstance(value, datetime):
        return value.isoformat()
    if not isinstance(value, str):
        return value
    # Some look past blanks at the begin.
    risky = value.startswith(_FORMULA) or value.lstrip().startswith(_FORMULA)
    return f"'{value}" if risky else value


class _Echo:
    def write(self, text: str) -> str:
        return text


def lines(header: Sequence[str], rows: Iterable[Sequence[object]]) -> Iterator[str]:
    """The file's text, a few hundred rows in each piece. Rows are asked for only as they are sent."""
    writer = csv.writer(_Echo())
    yield str(writer.writerow(header))
    for some in batched(rows, _ROWS):
        yield "".join(str(writer.writerow([defused(cell) for cell in row])) for row in some)


class CsvResponse(StreamingHttpResponse):
    """Sent piece by piece by either kind of server."""

    def __aiter__(self) -> AsyncIterator[bytes]:
        # Django's own would gather all of it, and warn. The rows may ask the database.
        pieces = iter(self)

        async def sent() -> AsyncIterator[bytes]:
            while (piece := await sync_to_async(lambda: next(pieces, None))()) is not None:
                yield piece

        return sent()


def csv_response(name: str, header: Sequence[str], rows: Iterable[Sequence[object]]) -> CsvResponse:
    """An answer that is kept as the file `name`; UTF-8."""
    return CsvResponse(
        lines(header, rows),
        content_type="text/csv; charset=utf-8",
        headers={
            "Content-Disposition": f'attachment; filename="{name}"',
            "Cache-Control": "private, no-store",
        },
    )
