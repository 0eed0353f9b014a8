"""What the pack is made of: sections that the apps contribute when they are ready."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

type Contribution = Callable[[datetime, datetime], tuple[Sequence[str], Iterable[Sequence[object]]]]
"""(start, end) -> (names of the columns, rows). Values are texts, numbers, times, None, or plain dicts and lists."""

_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


@dataclass(frozen=True, slots=True)
class Section:
    """`name` is that of its files."""

    name: str
    title: str
    rows: Contribution


_sections: dict[str, Section] = {}


def contribute(name: str, title: str, function: Contribution) -> None:
    """Add a section, once. Raises ValueError for a name that cannot be a file's or that another section has."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"A section is named in small letters, digits and hyphens, not {name!r}.")
    section = Section(name, title, function)
    if _sections.setdefault(name, section) != section:
        raise ValueError(f"There is a section {name} already.")


def sections() -> list[Section]:
    """All of them, by name."""
    return [_sections[name] for name in sorted(_sections)]
