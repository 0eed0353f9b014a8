"""Characters that hide or turn text, made visible: what is read is what stands there. Pure."""

from __future__ import annotations

import re

# Marks that turn the direction, characters without a width, and the tags that spell hidden words. The joiners of
# emoji and of some scripts (U+200C, U+200D) stay.
_HIDDEN = re.compile("[\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\U000e0000-\U000e007f]")


def visible(text: str) -> str:
    """`a\u202eb` as `a<U+202E>b`."""
    return _HIDDEN.sub(lambda found: f"<U+{ord(found[0]):04X}>", text)
