"""Writes the pack: a zip whose bytes follow from the period and the data alone.

No moment of its making is in it, entries are sorted, their times are fixed. It stands on the audit's last event
before the end of the period, not on the head of today: the pack's own export would move that. Rows pass through,
section by section, into files beside it; nothing is held in memory but the first rows for the report.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from django.template.loader import render_to_string

from panel import csvfile
from panel.audit import anchors
from panel.audit.link import GENESIS
from panel.audit.models import AuditEvent
from panel.evidence.registry import Section, sections

FORMAT = "regia-evidence-1"
MANIFEST, SUMS, REPORT = "manifest.json", "SHA256SUMS", "report.html"
SHOWN = 50
"""Rows of each section in the report; the CSV has all."""
SHORT = 160
"""Characters of a value in the report."""
PIECE = 1 << 20
TELL_EVERY = 500

type Told = Callable[[str, int], None]
"""Hears which section is being written and how many rows have been so far."""


@dataclass(frozen=True, slots=True)
class Written:
    """A file of the pack. `rows` is None where it has none."""

    name: str
    path: Path
    size: int
    sha256: str
    rows: int | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """A section as the report shows it."""

    title: str
    name: str
    header: Sequence[str]
    rows: list[list[str]]
    total: int


@dataclass(frozen=True, slots=True)
class Made:
    """`whole` is the SHA-256 of the list of the contents' own, `sha256` that of the zip."""

    size: int
    sha256: str
    whole: str
    head_sequence: int
    rows: int


def write(start: datetime, end: datetime, to: Path, *, told: Told) -> Made:
    """Write the pack of [start, end) to `to`, whole or not at all. Raises OSError when the disk does not take it."""
    with TemporaryDirectory(prefix="work-", dir=to.parent) as name:
        work = Path(name)
        files, samples, done = [], [], 0
        for section in sections():
            told(section.title, done)
            heard = _from(section.title, done, told)
            pair, sample = _section(section, start, end, work, told=heard)
            files += pair
            samples.append(sample)
            done += sample.total
        told("Putting it together", done)
        head = head_of(end)
        about = {"installation": anchors.installation(), "start": _utc(start), "end": _utc(end), "head": head}
        files.append(_text(work, REPORT, _report(about, samples, files)))
        files.sort(key=lambda file: file.name)
        whole = hashlib.sha256(sums(files).encode()).hexdigest()
        files.append(_text(work, MANIFEST, _manifest(about, files, whole)))
        files.append(_text(work, SUMS, sums(files)))
        draft = work / "pack.zip"
        _zip(files, draft)
        size, sha256 = _measure(draft)
        draft.replace(to)
    return Made(size=size, sha256=sha256, whole=whole, head_sequence=head["sequence"], rows=done)


def _from(title: str, done: int, told: Told) -> Callable[[int], None]:
    return lambda rows: told(title, done + rows)


def head_of(end: datetime) -> dict[str, Any]:
    """The audit's last event before `end`: what the pack stands on."""
    last = AuditEvent.objects.filter(at__lt=end).order_by("-sequence").values("sequence", "hash").first()
    return dict(last or {"sequence": 0, "hash": GENESIS})


def sums(files: Sequence[Written]) -> str:
    """As `sha256sum -c` reads it."""
    return "".join(f"{file.sha256}  {file.name}\n" for file in files)


def _section(
    section: Section, start: datetime, end: datetime, work: Path, *, told: Callable[[int], None]
) -> tuple[list[Written], Sample]:
    header, found = section.rows(start, end)
    shown: list[list[str]] = []
    paths = [work / f"{section.name}.{ending}" for ending in ("csv", "json")]
    total = 0
    with (
        paths[0].open("w", newline="", encoding="utf-8") as csv,
        paths[1].open("w", encoding="utf-8") as plain,
    ):

        def rows() -> Iterator[list[object]]:
            nonlocal total
            yield list(header)
            for row in found:
                values = [_plain(value) for value in row]
                plain.write((",\n" if total else "[\n") + json.dumps(dict(zip(header, values, strict=True)), ensure_ascii=False))  # fmt: skip
                if total < SHOWN:
                    shown.append([_short(value) for value in values])
                total += 1
                if total % TELL_EVERY == 0:
                    told(total)
                yield [_cell(value) for value in values]

        csv.writelines(csvfile.lines(rows()))
        plain.write("\n]\n" if total else "[]\n")
    names = [f"sections/{path.name}" for path in paths]
    written = [_written(name, path, rows=total) for name, path in zip(names, paths, strict=True)]
    return written, Sample(section.title, section.name, header, shown, total)


def _plain(value: object) -> Any:
    """As JSON holds it: times in UTC, amounts as texts without an exponent."""
    if isinstance(value, datetime):
        return _utc(value)
    if isinstance(value, Decimal):
        return f"{value:f}"
    if isinstance(value, date):
        return value.isoformat()
    return value if isinstance(value, bool | int | float | str | dict | list | None) else str(value)


def _cell(value: Any) -> object:
    return csvfile.Plain(json.dumps(value, sort_keys=True, ensure_ascii=False)) if isinstance(value, dict | list) else value  # fmt: skip


def _short(value: Any) -> str:
    if value is None:
        return ""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False) if isinstance(value, dict | list) else str(value)  # fmt: skip
    return text if len(text) <= SHORT else f"{text[: SHORT - 1]}…"


def _utc(when: datetime) -> str:
    return when.astimezone(UTC).isoformat()


def _report(about: dict[str, Any], samples: Sequence[Sample], files: Sequence[Written]) -> str:
    context = {**about, "sections": samples, "files": files, "shown": SHOWN}
    return render_to_string("evidence/report.html", context)


def _manifest(about: dict[str, Any], files: Sequence[Written], whole: str) -> str:
    manifest = {
        "format": FORMAT,
        "installation": about["installation"],
        "period": {"start": about["start"], "end": about["end"]},
        "audit_head": about["head"],
        "files": [{"name": f.name, "bytes": f.size, "sha256": f.sha256, "rows": f.rows} for f in files],
        "whole": whole,
    }
    return json.dumps(manifest, indent=2, sort_keys=True) + "\n"


def _text(work: Path, name: str, text: str) -> Written:
    path = work / name
    path.write_text(text, encoding="utf-8", newline="")
    return _written(name, path)


def _written(name: str, path: Path, *, rows: int | None = None) -> Written:
    size, sha256 = _measure(path)
    return Written(name, path, size, sha256, rows)


def _measure(path: Path) -> tuple[int, str]:
    with path.open("rb") as f:
        return path.stat().st_size, hashlib.file_digest(f, "sha256").hexdigest()


def _zip(files: Sequence[Written], to: Path) -> None:
    with zipfile.ZipFile(to, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        for file in files:
            entry = zipfile.ZipInfo(file.name, (1980, 1, 1, 0, 0, 0))
            entry.compress_type, entry.create_system, entry.external_attr = (
                zipfile.ZIP_DEFLATED,
                3,
                0o600 << 16,
            )
            # Its size is known, so that an entry of 4 GB and more is written as one.
            entry.file_size = file.size
            with file.path.open("rb") as source, archive.open(entry, "w") as out:
                while piece := source.read(PIECE):
                    out.write(piece)
