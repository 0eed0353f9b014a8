"""What machines say, as pages show it: one call to the provider serves everybody who looks.

A book is kept for each machine, in this process and in memory alone: it is asked anew at most every few seconds,
whoever looks in between reads what is there, and what the provider has let go of stays in it for a while. It is
bounded in lines, in characters and in books. Nothing of it is ever written to a disk.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as TookTooLong
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from uuid import UUID

from deployments import calls
from deployments.calls import Call
from deployments.models import Instance
from deployments.models.instance import SECRETS
from deployments.monitoring.logtext import Level, Line, lines_of
from deployments.providers.base import Gone, LogLine, ProviderError, RateLimited, Traits

FRESH = 4.0
"""Seconds for which a book is not asked anew. A page that follows asks every five."""
FRESH_WHEN_FAILED = 15.0
RETRY_AFTER_MOST = 300.0
PATIENCE = 5.0
"""Seconds a page waits for a provider's log. The answer is kept for the next look when it comes later."""
TAIL = 1000
"""Lines that are asked for."""
LINES_MOST = 4000
CHARACTERS_MOST = 800_000
BOOKS_MOST = 24
THREADS = 8
ALIKE = 4
"""So many lines in a row are the place to go on from."""
GAP = Line(None, "panel", Level.UNKNOWN, "… here lines may be missing …")
SYSTEM = "system"

Ask = Callable[[], Sequence[LogLine]]


@dataclass(frozen=True, slots=True)
class Reading:
    """A machine's log, oldest line first. `problem` says why it is old or empty."""

    lines: tuple[Line, ...] = ()
    asked_at: datetime | None = None
    """When the provider last gave it."""
    problem: str = ""
    over: bool = False
    """The machine is gone: no more will come."""
    apart: bool = False
    """What the provider did to the machine is a log of its own, to be asked for by itself."""

    @property
    def place(self) -> str:
        """Where it ends, to go on from; empty without lines."""
        return place_of(self.lines, len(self.lines) - 1) if self.lines else ""

    def after(self, place: str) -> int | None:
        """The index of the first line behind `place`; None when that place is not in it (any more).

        Without lines there is one place, "".
        """
        if not self.lines:
            return None if place else 0
        found = (i for i in range(len(self.lines) - 1, -1, -1) if place_of(self.lines, i) == place)
        at = next(found, None)
        return None if at is None else at + 1


def place_of(lines: Sequence[Line], index: int) -> str:
    """A name for the line at `index` and those before it, the same in every process that read them."""
    said = "\n".join(
        f"{line.at} {line.source} {line.text}" for line in lines[max(0, index + 1 - ALIKE) : index + 1]
    )
    return hashlib.blake2b(said.encode(errors="replace"), digest_size=9).hexdigest()


# -- joining what was read with what is read now -------------------------------------------------------


def joined(held: Sequence[Line], read: Sequence[Line]) -> list[Line]:
    """What was held, and what is new in `read`; with GAP between them when nothing says that they meet."""
    if not held or not read:
        return [*(held or read)]
    timed = all(line.at for line in read) and all(line.at for line in held if line.source != GAP.source)
    return _by_time(held, read) if timed else _by_overlap(held, read)


def _by_time(held: Sequence[Line], read: Sequence[Line]) -> list[Line]:
    there = Counter((line.at, line.source, line.text) for line in held)
    fresh = []
    for line in read:
        key = (line.at, line.source, line.text)
        if there[key]:
            there[key] -= 1
        else:
            fresh.append(line)
    gap = [GAP] if len(fresh) == len(read) and _first(read) > _last(held) else []
    lines = [*held, *gap, *fresh]
    # A remark of ours stays behind the line that it follows.
    keyed, latest = [], datetime.min.replace(tzinfo=UTC)
    for line in lines:
        latest = line.at or latest
        keyed.append((latest, line))
    return [line for _, line in sorted(keyed, key=lambda pair: pair[0])]


def _first(lines: Sequence[Line]) -> datetime:
    return min(line.at for line in lines if line.at)


def _last(lines: Sequence[Line]) -> datetime:
    return max((line.at for line in lines if line.at), default=datetime.min.replace(tzinfo=UTC))


def _by_overlap(held: Sequence[Line], read: Sequence[Line]) -> list[Line]:
    """Where the end of what was held is the beginning of what is read (or lies within it)."""
    before, now = ([(line.source, line.text) for line in lines] for lines in (held, read))
    for start in range(max(0, len(before) - len(now)), len(before)):
        if before[start] == now[0] and before[start:] == now[: len(before) - start]:
            return [*held, *read[len(before) - start :]]
    last = before[-min(ALIKE, len(before)) :]
    for start in range(len(now) - len(last), -1, -1):
        if now[start : start + len(last)] == last:
            return [*held, *read[start + len(last) :]]
    return [*held, GAP, *read]


def timed(said: Sequence[LogLine]) -> list[LogLine]:
    """A line without a time has that of the line before it; those before the first time are cut off."""
    if all(line.at is None for line in said):
        return list(said)
    told, latest = [], None
    for line in said:
        latest = line.at or latest
        if latest is not None:
            told.append(line if line.at else replace(line, at=latest))
    return told


# -- the books -------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Book:
    reading: Reading = field(default_factory=Reading)
    future: Future[None] | None = None
    not_before: float = 0.0
    """A `time.monotonic()` moment: nobody is asked before it."""


class Library:
    """The books of this process. Any thread may read."""

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.monotonic,
        books: int = BOOKS_MOST,
        patience: float = PATIENCE,
    ) -> None:
        self._clock, self._most, self._patience = clock, books, patience
        self._books: OrderedDict[tuple[UUID, str], _Book] = OrderedDict()
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="logs")

    def read(self, instance: Instance | None, *, now: datetime, source: str = "") -> Reading:
        """The machine's log, asked of its provider if nobody has just done so. Never raises a ProviderError.

        `source` "system" reads what the provider did to the machine, where that is a log of its own.
        """
        if instance is None or not instance.remote_id:
            return Reading(
                problem="There is no machine yet, and so no log.", over=bool(instance and instance.is_over)
            )
        try:
            adapter = instance.account.adapter()
        except LookupError:
            name = instance.account.get_backend_display()
            return Reading(problem=f"Nothing here speaks to {name} yet, so its log cannot be asked for.")
        traits: Traits = adapter.traits
        apart = traits.system_log_apart and source == SYSTEM
        remote_id = instance.remote_id

        def ask() -> Sequence[LogLine]:
            return (adapter.system_logs if apart else adapter.logs)(remote_id, tail=TAIL)

        book = self._book((instance.pk, SYSTEM if apart else ""))
        if self._is_old(book) and (left := calls.held_for(instance.account, Call.READ, now=now)):
            problem = f"{traits.title} is not asked again for {left.total_seconds():.0f} s: it has had enough of calls."
            return replace(book.reading, problem=problem, apart=traits.system_log_apart)
        future = self._asked(book, ask, instance, traits.title, now=now)
        if future is not None:
            try:
                future.result(timeout=self._patience)
            except TookTooLong:
                problem = f"{traits.title} did not answer within {self._patience:.0f} seconds; it is still being asked."
                return replace(book.reading, problem=problem, apart=traits.system_log_apart)
        return replace(book.reading, apart=traits.system_log_apart)

    def _book(self, key: tuple[UUID, str]) -> _Book:
        with self._lock:
            book = self._books.setdefault(key, _Book())
            self._books.move_to_end(key)
            while len(self._books) > self._most:
                self._books.popitem(last=False)
            return book

    def _is_old(self, book: _Book) -> bool:
        return (book.future is None or book.future.done()) and self._clock() >= book.not_before

    def _asked(
        self, book: _Book, ask: Ask, instance: Instance, title: str, *, now: datetime
    ) -> Future[None] | None:
        """The call that is under way or begins now; None when the book is fresh."""
        with self._lock:
            if not self._is_old(book):
                return None if book.future is None or book.future.done() else book.future
            secrets = secrets_of(instance)
            book.future = self._pool.submit(self._fetch, book, ask, secrets, title, now)
            return book.future

    def _fetch(self, book: _Book, ask: Ask, secrets: Collection[str], title: str, now: datetime) -> None:
        held, wait = book.reading, FRESH_WHEN_FAILED
        try:
            read = list(lines_of(timed(ask()), secrets))
        except Gone:
            reading = replace(held, problem=f"{title} has no such machine any more.", over=True)
        except RateLimited as e:
            wait = min(max(wait, e.retry_after or 0.0), RETRY_AFTER_MOST)
            reading = replace(held, problem=f"{title} is not asked again for {wait:.0f} s: {e}")
        except ProviderError as e:
            reading = replace(held, problem=f"{title} did not give the log: {e}")
        except Exception as e:
            # Whatever an odd answer broke, the page says so and stands.
            reading = replace(
                held, problem=f"{title} answered with what cannot be read ({type(e).__name__})."
            )
        else:
            wait = FRESH
            lines = bounded(joined(held.lines, read))
            reading = Reading(lines, asked_at=now, problem="" if lines else "The log is empty so far.")
        # One assignment of what never changes afterwards: whoever reads meanwhile sees the one or the other.
        book.reading, book.not_before = reading, self._clock() + wait


def bounded(lines: Sequence[Line]) -> tuple[Line, ...]:
    """The newest of them, within LINES_MOST and CHARACTERS_MOST."""
    kept, left = [], CHARACTERS_MOST
    for line in reversed(lines[-LINES_MOST:]):
        left -= len(line.text) + 1
        if left < 0:
            break
        kept.append(line)
    return tuple(reversed(kept))


def secrets_of(instance: Instance) -> tuple[str, ...]:
    """Everything secret that the machine knows or that it is spoken to with."""
    own = [getattr(instance, name) for name in SECRETS]
    return tuple(secret for secret in (*own, instance.account.credentials) if secret)


LIBRARY = Library()
