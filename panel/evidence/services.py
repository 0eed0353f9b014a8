"""Ask for a pack, write it, fetch it, and let it go after a week. Who asks and who fetches stands in the audit."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from shutil import rmtree
from time import monotonic
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.db.models import Q, QuerySet
from django.utils import timezone

from panel.audit import chain
from panel.celery import app
from panel.evidence import pack
from panel.evidence.models import Pack

logger = logging.getLogger(__name__)

type Clock = Callable[[], datetime]

BUILD = "panel.evidence.tasks.build"
KEPT = timedelta(days=7)
SILENT = timedelta(minutes=15)
"""A writer that is not heard of for this long has died; another takes its pack."""
BEAT = 2.0
LONGEST = timedelta(days=3660)


class BadPeriod(ValueError):
    """There is no pack of such a period; a sentence says why."""


def folder() -> Path:
    return Path(settings.EVIDENCE_DIR or Path(settings.DATA_DIR) / "evidence")


def path_of(wanted: Pack) -> Path:
    return folder() / f"{wanted.pk}.zip"


def ask(start: datetime, end: datetime, *, actor: Any, now: datetime) -> Pack:
    """Have the pack of [start, end) written; the one that is being written already for that period, if one is.

    A period that is not over ends now, to the second. Raises BadPeriod.
    """
    end = min(end, now.replace(microsecond=0))
    if start >= end:
        raise BadPeriod("The period has not begun, or it ends before it begins.")
    if end - start > LONGEST:
        raise BadPeriod("Ten years at most go into one pack.")
    unfinished = (Pack.State.WAITING, Pack.State.WRITING)
    if same := Pack.objects.filter(start=start, end=end, state__in=unfinished).first():
        return same
    with transaction.atomic():
        made = Pack.objects.create(start=start, end=end, asked_by=chain.pseudonym_of(actor), asked_at=now)
        after = {"start": start.isoformat(), "end": end.isoformat()}
        chain.record("evidence.export", actor=actor, target=made, after=after, now=now)
        transaction.on_commit(lambda: ring(made.pk))
    return made


def ring(pk: UUID) -> None:
    """Ask a worker to write. A bell that is lost is rung again by the clock."""
    try:
        app.send_task(BUILD, args=(str(pk),), expires=60, retry=False)
    except Exception:  # whatever the broker's client raises: the row stands, and the clock looks at it
        logger.warning("The broker did not take the evidence pack %s; the clock will.", pk)


def due(*, now: datetime) -> QuerySet[Pack]:
    """Those that nobody writes."""
    dead = Q(state=Pack.State.WRITING) & (Q(beat_at__lt=now - SILENT) | Q(beat_at__gt=now + SILENT))
    return Pack.objects.filter(Q(state=Pack.State.WAITING) | dead)


def tick(*, clock: Clock = timezone.now) -> None:
    """Ring for what waits, and let go of what is old."""
    purge(now=clock())
    for pk in due(now=clock()).values_list("pk", flat=True):
        ring(pk)


def build(pk: UUID, *, clock: Clock = timezone.now) -> None:
    """Write the pack, unless somebody else does."""
    if not due(now=clock()).filter(pk=pk).update(state=Pack.State.WRITING, beat_at=clock(), rows=0, error=""):
        return
    wanted = Pack.objects.get(pk=pk)
    try:
        folder().mkdir(parents=True, exist_ok=True, mode=0o700)
        made = pack.write(wanted.start, wanted.end, path_of(wanted), told=_heart(pk, clock))
        _ready(wanted, made, now=clock())
    except Exception as e:
        logger.exception("The evidence pack %s could not be written", pk)
        path_of(wanted).unlink(missing_ok=True)
        sentence = f"The disk did not take it: {e.strerror}." if isinstance(e, OSError) else "The panel's log says why."  # fmt: skip
        _mine(pk).update(state=Pack.State.FAILED, error=sentence[:300])


def _heart(pk: UUID, clock: Clock) -> pack.Told:
    """Tells the row how far it is, every other second."""
    last = [0.0]

    def told(section: str, rows: int) -> None:
        if monotonic() - last[0] >= BEAT:
            last[0] = monotonic()
            _mine(pk).update(section=section[:120], rows=rows, beat_at=clock())

    return told


def _ready(wanted: Pack, made: pack.Made, *, now: datetime) -> None:
    after = {"whole": made.whole, "sha256": made.sha256, "bytes": made.size, "head": made.head_sequence}
    with transaction.atomic():
        mine = _mine(wanted.pk).update(
            state=Pack.State.READY, ready_at=now, size=made.size, sha256=made.sha256, whole=made.whole,
            head_sequence=made.head_sequence, rows=made.rows, section="",
        )  # fmt: skip
        if mine:
            # From here on the chain itself says what the pack was.
            chain.record("evidence.ready", actor=None, target=wanted, after=after, now=now)


def _mine(pk: UUID) -> QuerySet[Pack]:
    return Pack.objects.filter(pk=pk, state=Pack.State.WRITING)


def fetched(wanted: Pack, *, actor: Any, now: datetime) -> None:
    """Note who takes the file with them."""
    chain.record("evidence.download", actor=actor, target=wanted, after={"sha256": wanted.sha256}, now=now)


def purge(*, now: datetime) -> int:
    """Let go of packs of a week ago, their files first; how many."""
    old = list(Pack.objects.filter(asked_at__lt=now - KEPT))
    for wanted in old:
        path_of(wanted).unlink(missing_ok=True)
        wanted.delete()
    # What a writer that died has left, and, with several hosts, files whose row another host let go of.
    for work in _older(folder().glob("work-*"), timedelta(days=1), now=now):
        rmtree(work, ignore_errors=True)
    for file in _older(folder().glob("*.zip"), KEPT + timedelta(days=1), now=now):
        file.unlink(missing_ok=True)
    return len(old)


def _older(paths: Iterable[Path], age: timedelta, *, now: datetime) -> Iterator[Path]:
    for path in paths:
        with suppress(FileNotFoundError):
            if now.timestamp() - path.stat().st_mtime > age.total_seconds():
                yield path
