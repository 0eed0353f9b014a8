"""The log of a deployment's machine: searched, followed, resumed where it was, downloaded.

?q=words&level=warning|error&source=container|system&time=local&follow=off&lines=4000    what is shown
?after=place     the lines behind that place alone, for a page that follows (204 while there are none)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.utils.cache import patch_vary_headers
from django.utils.text import slugify

from deployments import progress
from deployments.models import Deployment
from deployments.monitoring import logs as books
from deployments.monitoring.logs import Reading
from deployments.monitoring.logtext import Level, Line
from deployments.views import reads
from deployments.views.frame import frame
from panel.accounts.access import requires
from panel.audit.exporting import note_export
from panel.ui.http import SignedInRequest
from panel.ui.live import live, wanted_fragment

SHOWN = 500
"""Lines on a page, unless more are asked for."""
WORDS_MOST = 200
LEVELS = {
    "": frozenset(Level),
    "warning": frozenset({Level.WARNING, Level.ERROR}),
    "error": frozenset({Level.ERROR}),
}
SOURCES = ("", "container", "system")


@dataclass(frozen=True, slots=True)
class Filter:
    """What of a log is shown, as it stands in the page's address. What makes no sense there is passed over."""

    words: str = ""
    level: str = ""
    source: str = ""
    local: bool = False
    follow: bool = True
    most: int = SHOWN

    @classmethod
    def of(cls, request: HttpRequest) -> Filter:
        asked = request.GET
        level, source, lines = (asked.get(name, "") for name in ("level", "source", "lines"))
        return cls(
            words=asked.get("q", "").replace("\x00", "")[:WORDS_MOST].strip(),
            level=level if level in LEVELS else "",
            source=source if source in SOURCES else "",
            local=asked.get("time") == "local",
            follow=asked.get("follow") != "off",
            most=max(1, min(int(lines), books.LINES_MOST))
            if lines.isascii() and lines.isdecimal() and len(lines) < 6
            else SHOWN,
        )

    @property
    def narrows(self) -> bool:
        return bool(self.words or self.level or self.source)

    def takes(self, line: Line) -> bool:
        if line.source == books.GAP.source:
            return True
        right_source = self.source in ("", line.source)
        return right_source and line.level in LEVELS[self.level] and self.words.lower() in line.text.lower()


@dataclass(frozen=True, slots=True)
class Row:
    """A line as a page shows it: its time on the wall's clock (with the day, unless that is today), and its text in pieces of (text, is a hit)."""

    at: datetime | None
    clock: str
    source: str
    level: Level
    pieces: tuple[tuple[str, bool], ...]


@requires("deployments.view_deployment")
def logs(request: SignedInRequest, pk: UUID) -> HttpResponse:
    """The page, and for one that follows the lines that are new."""
    now = timezone.now()
    d = reads.get_deployment_or_404(request.user, pk)
    wanted = Filter.of(request)
    reading = books.LIBRARY.read(d.current, now=now, source=wanted.source)
    if wanted_fragment(request, ("log-more",)):
        return _more(request, d, reading, wanted, now=now)
    context = frame(request, d, "logs", now=now) | _context(d, reading, wanted, now=now)
    return live(request, "deployments/detail.html", context, fragments=("status", "panel"))


@requires("deployments.view_deployment")
def download(request: SignedInRequest, pk: UUID) -> HttpResponse:
    """Everything that is held of the log, filtered as the page is, as a text file with times in UTC."""
    now = timezone.now()
    d = reads.get_deployment_or_404(request.user, pk)
    wanted = Filter.of(request)
    reading = books.LIBRARY.read(d.current, now=now, source=wanted.source)
    response = HttpResponse("".join(_as_text(d, reading, wanted)), content_type="text/plain; charset=utf-8")
    note_export(request, "logs", deployment=str(d.pk), source=wanted.source)
    attempt = d.current.attempt if d.current else 0
    name = f"{slugify(d.name) or 'deployment'}-{attempt}-{now.astimezone(UTC):%Y%m%dT%H%M%SZ}.log"
    response["Content-Disposition"] = f'attachment; filename="{name}"'
    response["Cache-Control"] = "private, no-store"
    return response


def _more(
    request: SignedInRequest, d: Deployment, reading: Reading, wanted: Filter, *, now: datetime
) -> HttpResponse:
    """What came since `after`. Where that place is lost (the panel was started again) the whole log takes its place."""
    after = request.GET.get("after", "")[:40]
    start = reading.after(after) if after or not reading.lines else None
    fresh = reading.lines[start:] if start is not None else ()
    if start is not None and not fresh and not reading.over:
        response = HttpResponse(status=204)
    else:
        part = "more" if start is not None else "whole"
        context = _context(d, reading, wanted, now=now)
        if start is not None:
            context["rows"] = list(_rows(filter(wanted.takes, fresh), wanted, _zone(d, wanted), now=now))
        response = render(request, f"deployments/_logs_tab.html#{part}", context)
        if part == "whole":
            response["HX-Retarget"], response["HX-Reswap"] = "#log", "outerHTML"
    patch_vary_headers(response, ("HX-Request", "HX-Target"))
    response["Cache-Control"] = "private, no-store"
    return response


def _context(d: Deployment, reading: Reading, wanted: Filter, *, now: datetime) -> dict[str, Any]:
    fitting = [line for line in reading.lines if wanted.takes(line)]
    zone = _zone(d, wanted)
    return {
        "d": d,
        "now": now,
        "wanted": wanted,
        "rows": list(_rows(fitting[-wanted.most :], wanted, zone, now=now)),
        "hidden": max(0, len(fitting) - wanted.most),
        "held": len(reading.lines),
        "all_lines": books.LINES_MOST,
        "reading": reading,
        "place": reading.place,
        "follows": wanted.follow and not reading.over,
        "zone": str(zone),
        "progress": progress.latest(line.text for line in reading.lines if line.source == "container"),
        "levels": (("", "All"), ("warning", "Warnings and errors"), ("error", "Errors")),
        "sources": (("", "All"), ("container", "Container"), ("system", "System")),
    }


def _zone(d: Deployment, wanted: Filter) -> ZoneInfo:
    """Local without a script is the deployment's own zone; a script makes it the browser's."""
    return ZoneInfo(d.time_zone if wanted.local else "UTC")


def _rows(lines: Iterable[Line], wanted: Filter, zone: ZoneInfo, *, now: datetime) -> Iterator[Row]:
    today = now.astimezone(zone).date()
    for line in lines:
        wall = line.at.astimezone(zone) if line.at else None
        day = f"{wall.day} {wall:%b} " if wall and wall.date() != today else ""
        clock = f"{day}{wall:%H:%M:%S}" if wall else ""
        yield Row(line.at, clock, line.source, line.level, tuple(_pieces(line.text, wanted.words)))


def _pieces(text: str, words: str) -> Iterator[tuple[str, bool]]:
    """`text` cut at each place where the words stand in it, whatever their case."""
    lower, sought, at = text.lower(), words.lower(), 0
    # A letter whose small form is longer would shift what follows: such a text is shown without marks.
    if not sought or len(lower) != len(text):
        yield text, False
        return
    while (found := lower.find(sought, at)) >= 0:
        if found > at:
            yield text[at:found], False
        at = found + len(sought)
        yield text[found:at], True
    if at < len(text) or not text:
        yield text[at:], False


def _as_text(d: Deployment, reading: Reading, wanted: Filter) -> Iterator[str]:
    if reading.problem:
        yield f"# {reading.problem}\n"
    for line in reading.lines:
        if wanted.takes(line):
            at = f"{line.at.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%f}"[:-3] + "Z" if line.at else "-"
            yield f"{at} {line.source} {line.level or '-'} {line.text}\n"
