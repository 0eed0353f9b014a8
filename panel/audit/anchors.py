"""The anchor file: the chain's head, noted outside the database every hour or every 100 events.

One JSON object a line: sequence, hash, at, installation. Whoever rebuilds the chain in the database cannot make it
agree with lines that stand elsewhere, so keep the file (`REGIA_AUDIT_ANCHOR_FILE`) where the database's owner cannot
write, or a copy of it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path

from django.conf import settings

from panel.audit.models import Head

EVERY = timedelta(hours=1)
EVERY_EVENTS = 100


@dataclass(frozen=True, slots=True)
class Anchor:
    """One line. `at` is ISO 8601."""

    sequence: int
    hash: str
    at: str
    installation: str = ""

    def is_old(self, head: Head, *, now: datetime) -> bool:
        """Whether the head has moved on for an hour, or by 100 events."""
        moved = head.sequence - self.sequence
        try:
            age = abs(now - datetime.fromisoformat(self.at))
        except (TypeError, ValueError):
            age = EVERY
        return moved >= EVERY_EVENTS or (moved > 0 and age >= EVERY)


def _nameless() -> str:
    return ""


_installation: list[Callable[[], str]] = [_nameless]


def name_installation(name: Callable[[], str]) -> None:
    """Called once by the app above that knows which installation this is."""
    _installation[0] = name


def installation() -> str:
    """What anchors call this installation; empty when nobody has named it."""
    return _installation[0]()


def anchor_head(*, now: datetime) -> bool:
    """Append the head to the file and put it on the disk. False when it has not moved since. Raises OSError."""
    head, last = Head.objects.filter(pk=1).first(), last_anchor()
    if head is None or (last and head.sequence <= last.sequence):
        return False
    line = json.dumps(asdict(Anchor(head.sequence, head.hash, now.isoformat(), installation())))
    fd = os.open(anchor_path(), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    with os.fdopen(fd, "w") as f:
        # The leading newline ends a line that a dying process left half-written.
        f.write(f"\n{line}\n")
        f.flush()
        os.fsync(f.fileno())
    return True


def anchors_in(paths: Iterable[Path]) -> dict[int, set[str]]:
    """What the files hold: sequence -> the hashes told for it. A half-written line holds nothing.

    Raises OSError for a file that cannot be read, but for the panel's own before its first anchor.
    """
    held: dict[int, set[str]] = {}
    for path in paths:
        if path == anchor_path() and not path.exists():
            continue
        with path.open(errors="replace") as lines:
            for anchor in map(_parsed, lines):
                if anchor:
                    held.setdefault(anchor.sequence, set()).add(anchor.hash)
    return held


def last_anchor() -> Anchor | None:
    """The furthest of the file's last lines."""
    try:
        with anchor_path().open("rb") as f:
            f.seek(-min(4096, anchor_path().stat().st_size), os.SEEK_END)
            text = f.read().decode(errors="replace")
    except FileNotFoundError:
        return None
    known = [anchor for raw in text.splitlines() if (anchor := _parsed(raw))]
    return max(known, key=lambda anchor: anchor.sequence, default=None)


def anchor_path() -> Path:
    return Path(settings.AUDIT_ANCHOR_FILE or Path(settings.DATA_DIR) / "audit-anchor.jsonl")


def _parsed(raw: str) -> Anchor | None:
    try:
        line = json.loads(raw)
        # A receiver of anchors may have kept them as they came, with the message around them.
        line = line.get("data", line)
        return Anchor(int(line["sequence"]), str(line["hash"]), str(line.get("at", "")))
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
