"""What a table that a spreadsheet opens may hold."""

from __future__ import annotations


def safe_cell(value: object) -> object:
    """A text that a spreadsheet would take for a formula begins with an apostrophe; numbers stay numbers."""
    if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")):
        return f"'{value}"
    return value
