"""Parts of the Compliance page that other apps tell: the purge, and whatever comes to stand beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Fact:
    """A line of a section. `level` is ok, warn, critical or empty."""

    label: str
    value: str
    level: str = ""


@dataclass(frozen=True, slots=True)
class Section:
    """`link` is an URL's name, and `act` the word of the link."""

    key: str
    title: str
    facts: Callable[[datetime], Sequence[Fact]]
    link: str = ""
    act: str = ""


_sections: dict[str, Section] = {}


def contribute(section: Section) -> None:
    """Show the section on the Compliance page, once for each key. Called when an app is ready."""
    _sections[section.key] = section


def sections() -> list[Section]:
    return list(_sections.values())
