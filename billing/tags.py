"""Tags: a few words of the team's own on what money is spent on, as in `team=search, env=prod`. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping

MOST = 10
LONGEST_VALUE = 80
_KEY = re.compile(r"[a-z][a-z0-9_.-]{0,39}")
FORM = "Write them as team=search, env=prod."


class BadTags(ValueError):
    """These are no tags. The text is a sentence that says what to do."""


def parse(text: str) -> dict[str, str]:
    """The tags that are written in `text`, apart by commas or lines, in the order of their keys. Raises BadTags."""
    found: dict[str, str] = {}
    for piece in re.split(r"[,\n]", text):
        if not piece.strip():
            continue
        key, equals, value = (part.strip() for part in piece.partition("="))
        if not equals:
            raise BadTags(f"“{_short(key)}” has no value. {FORM}")
        if not is_key(key):
            raise BadTags(
                f"“{_short(key)}” is no key: it begins with a small letter, then small letters, digits and . _ - "
                "follow, 40 characters at most."
            )
        if not value:
            raise BadTags(f"{key} has no value. Give it one, or leave it out.")
        if len(value) > LONGEST_VALUE:
            raise BadTags(
                f"The value of {key} has {len(value)} characters. At most {LONGEST_VALUE} are kept."
            )
        if not value.isprintable():
            raise BadTags(f"The value of {key} holds a character that cannot be shown. Type it anew.")
        if key in found:
            raise BadTags(f"{key} stands there twice. One thing has one {key}.")
        found[key] = value
    if len(found) > MOST:
        raise BadTags(f"These are {len(found)} tags. At most {MOST} are kept.")
    return dict(sorted(found.items()))


def text(tags: Mapping[str, str]) -> str:
    """As `parse` reads them: "env=prod, team=search"."""
    return ", ".join(f"{key}={value}" for key, value in sorted(tags.items()))


def is_key(key: str) -> bool:
    # It begins with a letter: in a database's path into JSON, digits alone would name a place in a list.
    return _KEY.fullmatch(key) is not None


def _short(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:39]}…"
