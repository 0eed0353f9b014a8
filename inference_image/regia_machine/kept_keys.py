"""The machine's keys on its disk: the panel may have changed them, and a container's restart knows only the first.

They stand there under a digest of the key that the machine was ordered with: ordered with another one, it is
another machine.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path

from regia_machine.files import write_secret

_FILE = "keys"
_KEY = re.compile(r"[A-Za-z0-9_-]{16,200}")
_MOST = 2


def read(state_dir: Path, birth: str) -> tuple[str, ...]:
    """The keys that open the door: the last that were kept, or `birth` where none can be read."""
    try:
        kept = json.loads((state_dir / _FILE).read_text())
        keys, born = kept["keys"], kept["birth"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return (birth,)
    sound = isinstance(keys, list) and 1 <= len(keys) <= _MOST and all(map(_is_key, keys))
    return tuple(keys) if sound and born == _digest(birth) else (birth,)


def keep(state_dir: Path, birth: str, keys: Sequence[str]) -> None:
    """On the disk when this returns, and readable to nobody else. Raises OSError."""
    write_secret(state_dir / _FILE, json.dumps({"birth": _digest(birth), "keys": list(keys)}))


def _is_key(value: object) -> bool:
    return isinstance(value, str) and _KEY.fullmatch(value) is not None


def _digest(birth: str) -> str:
    return hashlib.sha256(birth.encode()).hexdigest()
