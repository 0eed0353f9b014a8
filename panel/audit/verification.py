"""Whether the chain still is what was written.

Found are an edited event, a gap, a tail that was cut (the head row remembers it), and, against the anchors outside
the database, a chain or a head that was built anew.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path

from django.conf import settings
from django.db.models import Max

from panel.audit.anchors import anchor_path, anchors_in
from panel.audit.link import GENESIS, digest
from panel.audit.models import AuditEvent, Head

CHUNK = 1000

type Anchors = Mapping[int, set[str]]
type Told = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Point:
    """An event that is known to be whole, and the chain up to it."""

    sequence: int
    hash: str


START = Point(0, GENESIS)


@dataclass(frozen=True, slots=True)
class Verification:
    """`problem` is the first thing found wrong, a sentence; empty when `ok`. `checked` is the last whole event.

    `since`: the event that it went on from, 0 for the whole chain. `anchors`: how many agreed.
    """

    ok: bool
    checked: int
    problem: str
    head_sequence: int
    since: int = 0
    anchors: int = 0


@dataclass(frozen=True, slots=True)
class Verified:
    """The last verification that was kept: when, its result, the head's hash, and when all was last walked."""

    at: datetime
    found: Verification
    hash: str
    whole_at: datetime


def verify_and_keep(*, now: datetime, whole: bool = True, more: Iterable[Path] = ()) -> Verification:
    """`verify`, with its result kept in the data folder for whoever reads the audit.

    Without `whole` it goes on from where the last one that was kept ended well. `more` are anchor files from
    elsewhere. Raises OSError for one that cannot be read.
    """
    last = last_verified()
    go_on = last is not None and last.found.ok and not whole
    found = verify(Point(last.found.checked, last.hash) if last and go_on else START, more=more)
    if last and go_on:
        # Those of what was walked before agreed then.
        found = replace(found, anchors=last.found.anchors + found.anchors)
    end = AuditEvent.objects.filter(sequence=found.checked).values_list("hash", flat=True).first()
    whole_at = last.whole_at if last and go_on else now
    kept = {"at": now.isoformat(), "found": asdict(found), "hash": end or GENESIS, "whole_at": whole_at.isoformat()}  # fmt: skip
    draft = _kept_path().with_suffix(f".{os.getpid()}")
    draft.write_text(json.dumps(kept))
    draft.replace(_kept_path())
    return found


def last_verified() -> Verified | None:
    """The result that was kept last; None when there is none or it cannot be read."""
    try:
        kept = json.loads(_kept_path().read_text())
        at, whole_at = (datetime.fromisoformat(kept[name]) for name in ("at", "whole_at"))
        return Verified(at, Verification(**kept["found"]), str(kept["hash"]), whole_at)
    except (OSError, ValueError, KeyError, TypeError):
        return None


@contextmanager
def only_one() -> Iterator[bool]:
    """False when somebody on this computer verifies already: a long walk is not begun twice."""
    fd = os.open(Path(settings.DATA_DIR) / "audit-verify.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(fd)


def verify(after: Point = START, *, more: Iterable[Path] = ()) -> Verification:
    """Walk the chain from `after` to its head, in chunks, and stop at the first problem."""
    # In this order: what is appended or anchored between these reads only moves the head further.
    anchors = anchors_in([anchor_path(), *more])
    last = AuditEvent.objects.aggregate(last=Max("sequence"))["last"] or 0
    head = Head.objects.filter(pk=1).first() or Head(sequence=0, hash=GENESIS)
    checked, problem = walk(after, Point(head.sequence, head.hash), anchors)
    if not problem and last > head.sequence:
        problem = f"event {head.sequence + 1} stands beyond the head: the head row was set back or removed."
    agreed = sum(after.sequence < sequence <= checked for sequence in anchors)
    return Verification(
        ok=not problem, checked=checked, problem=problem, head_sequence=head.sequence, since=after.sequence,
        anchors=agreed,
    )  # fmt: skip


def walk(after: Point, head: Point, anchors: Anchors, *, told: Told | None = None) -> tuple[int, str]:
    """(the last whole event, the first problem) from `after` to `head`; `told` hears how far it is."""
    if after.sequence and not AuditEvent.objects.filter(sequence=after.sequence, hash=after.hash).exists():
        return 0, f"event {after.sequence} is not what was verified before: it was replaced or removed."
    before, checked = after.hash, after.sequence
    for event in _events(after.sequence, head.sequence):
        if problem := _problem(event, checked + 1, before, anchors):
            return checked, problem
        before, checked = event.hash, event.sequence
        if told and checked % CHUNK == 0:
            told(checked)
    return checked, _end_problem(checked, before, head, anchors)


def _problem(event: AuditEvent, expected: int, before: str, anchors: Anchors) -> str:
    if event.sequence != expected:
        return f"event {expected} is missing."
    if event.previous != before:
        return f"event {expected} does not follow the one before it: one of the two was replaced."
    if digest(event) != event.hash:
        return f"event {expected} was edited: it no longer has its hash."
    # Every word counts: a line added later cannot excuse a chain built anew.
    if anchors.get(expected, {event.hash}) != {event.hash}:
        return f"event {expected} is not what the anchor holds: the chain was built anew."
    return ""


def _end_problem(checked: int, before: str, head: Point, anchors: Anchors) -> str:
    if checked != head.sequence:
        return f"the chain ends at event {checked}, the head is at {head.sequence}: its tail was cut."
    if before != head.hash:
        return f"the head's hash is not that of event {checked}: one of the two was edited."
    if (furthest := max(anchors, default=0)) > head.sequence:
        return f"the anchor has seen event {furthest}, the chain ends at {checked}: its tail was cut."
    return ""


def _events(at: int, last: int) -> Iterator[AuditEvent]:
    """The events after `at` up to `last`, in order, a chunk in memory at a time."""
    while True:
        chunk = list(
            AuditEvent.objects.filter(sequence__gt=at, sequence__lte=last).order_by("sequence")[:CHUNK]
        )
        yield from chunk
        if len(chunk) < CHUNK:
            return
        at = chunk[-1].sequence


def _kept_path() -> Path:
    return Path(settings.DATA_DIR) / "audit-verified.json"
