"""Whether the chain still is what was written, and the anchor outside the database that proves its head.

Found are an edited event, a gap, a tail that was cut (the head row remembers it), and, against the anchor
`audit-anchor.jsonl` in the data folder, a chain or a head that was built anew. Keep a copy of the anchor
elsewhere: who can write the folder can write it too.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from django.conf import settings
from django.db.models import Max

from panel.audit.link import GENESIS, digest
from panel.audit.models import AuditEvent, Head

CHUNK = 1000


@dataclass(frozen=True, slots=True)
class Verification:
    """`problem` is the first thing found wrong, a sentence; empty when `ok`. `checked` counts events."""

    ok: bool
    checked: int
    problem: str
    head_sequence: int


@dataclass(frozen=True, slots=True)
class Verified:
    """The last verification that somebody kept, and when it was."""

    at: datetime
    found: Verification


def verify_and_keep(*, now: datetime) -> Verification:
    """`verify`, with its result kept in the data folder for whoever reads the audit."""
    found = verify()
    draft = _kept_path().with_suffix(f".{os.getpid()}")
    draft.write_text(json.dumps({"at": now.isoformat(), "found": asdict(found)}))
    draft.replace(_kept_path())
    return found


def last_verified() -> Verified | None:
    """The result that was kept last; None when there is none or it cannot be read."""
    try:
        kept = json.loads(_kept_path().read_text())
        return Verified(datetime.fromisoformat(kept["at"]), Verification(**kept["found"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def verify() -> Verification:
    """Walk the whole chain, in chunks, and stop at the first problem."""
    # In this order: an append between the two reads moves the head further, never behind the last row.
    last = AuditEvent.objects.aggregate(last=Max("sequence"))["last"] or 0
    head = Head.objects.filter(pk=1).first() or Head(sequence=0, hash=GENESIS)
    checked, problem = _walk(head, _anchors())
    if not problem and last > head.sequence:
        problem = f"event {head.sequence + 1} stands beyond the head: the head row was set back or removed."
    return Verification(ok=not problem, checked=checked, problem=problem, head_sequence=head.sequence)


def _walk(head: Head, anchors: dict[int, str]) -> tuple[int, str]:
    """(events checked, the first problem) from the first event to the head."""
    before, checked = GENESIS, 0
    for event in _events(head.sequence):
        expected = checked + 1
        if event.sequence != expected:
            return checked, f"event {expected} is missing."
        if event.previous != before:
            return (
                checked,
                f"event {expected} does not follow the one before it: one of the two was replaced.",
            )
        if digest(event) != event.hash:
            return checked, f"event {expected} was edited: it no longer has its hash."
        if anchors.get(expected, event.hash) != event.hash:
            return checked, f"event {expected} is not what the anchor holds: the chain was built anew."
        before, checked = event.hash, expected
    if checked != head.sequence:
        return (
            checked,
            f"the chain ends at event {checked}, the head is at {head.sequence}: its tail was cut.",
        )
    if before != head.hash:
        return checked, f"the head's hash is not that of event {checked}: one of the two was edited."
    if (furthest := max(anchors, default=0)) > head.sequence:
        return (
            checked,
            f"the anchor has seen event {furthest}, the chain ends at {checked}: its tail was cut.",
        )
    return checked, ""


def _events(last: int) -> Iterator[AuditEvent]:
    """The events up to `last`, in order, a chunk in memory at a time."""
    at = 0
    while True:
        chunk = list(
            AuditEvent.objects.filter(sequence__gt=at, sequence__lte=last).order_by("sequence")[:CHUNK]
        )
        yield from chunk
        if len(chunk) < CHUNK:
            return
        at = chunk[-1].sequence


def anchor_head(*, now: datetime) -> bool:
    """Append the head to the anchor file and put it on the disk. False when it has not moved since."""
    head = Head.objects.filter(pk=1).first()
    if head is None or head.sequence <= _last_anchored():
        return False
    line = json.dumps({"sequence": head.sequence, "hash": head.hash, "at": now.isoformat()})
    fd = os.open(_anchor_path(), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    with os.fdopen(fd, "w") as f:
        # The leading newline ends a line that a dying process left half-written.
        f.write(f"\n{line}\n")
        f.flush()
        os.fsync(f.fileno())
    return True


def _anchors(*, tail: int = 0) -> dict[int, str]:
    """What the anchor file (its last `tail` bytes) holds: sequence -> hash. A half-written line holds nothing."""
    held: dict[int, str] = {}
    try:
        with _anchor_path().open("rb") as f:
            f.seek(-min(tail, _anchor_path().stat().st_size), os.SEEK_END if tail else os.SEEK_SET)
            text = f.read().decode(errors="replace")
    except FileNotFoundError:
        return held
    for raw in text.splitlines():
        try:
            line = json.loads(raw)
            # The first word counts: a line added later cannot excuse a chain built anew.
            held.setdefault(int(line["sequence"]), str(line["hash"]))
        except (ValueError, KeyError, TypeError):
            continue
    return held


def _last_anchored() -> int:
    return max(_anchors(tail=4096), default=0)


def _anchor_path() -> Path:
    return Path(settings.DATA_DIR) / "audit-anchor.jsonl"


def _kept_path() -> Path:
    return Path(settings.DATA_DIR) / "audit-verified.json"
