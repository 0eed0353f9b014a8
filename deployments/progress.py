"""What a machine says of its own way up, read from its log. Pure.

    regia phase=downloading bytes=1073741824 of=2670000000 percent=40
    regia exit code=70 cause="the engine died: \\"out of memory\\""

Our image and the local engine write such lines; everything else in a log is somebody else's and is passed over.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

_LONGEST = 8192
_MOST_VALUES = 32
# A log may put its time before a line: digits, and the letters of a time alone.
_LINE = re.compile(r"[\d\s:.,+\-TZ\[\]]{0,64}regia (?:phase=([a-z]{1,32})|(exit))(?=\s|$)")
_PAIR = re.compile(r'\s+([a-z_]{1,32})=(?:"((?:[^"\\]|\\.)*)"|([^\s"]*)(?=\s|$))')
_ESCAPED = re.compile(r"\\(.)")


@dataclass(frozen=True, slots=True)
class Progress:
    phase: str
    """checking, downloading, loading, warming, ready, draining, ending, failed, exited; "exit" for its last word."""
    values: Mapping[str, str] = field(default_factory=dict)

    def number(self, name: str) -> float | None:
        """A value as a number from 0 on; None when it is missing or none."""
        text = self.values.get(name, "")
        return float(text) if re.fullmatch(r"[0-9]{1,15}(\.[0-9]{1,6})?", text) else None

    @property
    def words(self) -> str:
        """For a page."""
        return _WORDS.get(self.phase, _in_general)(self)


def parse(line: str) -> Progress | None:
    """The progress that a line tells; None for every other line. What of it cannot be read is left out."""
    line = line[:_LONGEST]
    head = _LINE.match(line)
    if head is None:
        return None
    values: dict[str, str] = {}
    at = head.end()
    while len(values) < _MOST_VALUES and (pair := _PAIR.match(line, at)):
        name, quoted, bare = pair.groups()
        values[name] = bare if quoted is None else _ESCAPED.sub(r"\1", quoted)
        at = pair.end()
    return Progress(head[1] or head[2], values)


def latest(lines: Iterable[str]) -> Progress | None:
    """The last one that is told; None without any."""
    last = None
    for line in lines:
        last = parse(line) or last
    return last


def _in_general(p: Progress) -> str:
    seconds = p.number("seconds")
    since = "" if seconds is None else f" for {seconds:.0f} s"
    return f"{p.phase.capitalize()}{since}"


def _downloading(p: Progress) -> str:
    share, done, whole = p.number("percent"), p.number("bytes"), p.number("of")
    parts = [] if share is None else [f"{share:.0f} %"]
    if done is not None and whole:
        parts.append(f"{done / 1e9:.1f} of {whole / 1e9:.1f} GB")
    return "Downloading the weights" + (f": {', '.join(parts)}" if parts else "")


def _ready(p: Progress) -> str:
    seconds = p.number("seconds")
    return "Ready" if seconds is None else f"Ready {seconds:.0f} s after its start"


def _exit(p: Progress, *, word: str = "Ended") -> str:
    code, cause = p.values.get("code", ""), " ".join(p.values.get("cause", "").split())[:300]
    return f"{word}{f' with code {code[:8]}' if code else ''}{f': {cause}' if cause else ''}"


_WORDS: dict[str, Callable[[Progress], str]] = {
    "checking": lambda p: "Checking the machine",
    "downloading": _downloading,
    "loading": lambda p: _in_general(p).replace("Loading", "Loading the model", 1),
    "warming": lambda p: "Warming up with a first answer",
    "ready": _ready,
    "draining": lambda p: "Draining: it takes no new requests",
    "ending": lambda p: "Ending itself",
    "failed": lambda p: _exit(p, word="Failed"),
    "exited": lambda p: "Ended",
    "exit": _exit,
}
