"""A machine's log lines as they may be shown: no secret, no control character, and a guess of their level. Pure.

Source of the shapes: vLLM's and Python's logging ("INFO 11-28 14:48:33 [engine.py:12]"), uvicorn ("INFO:  "),
nginx ("[error]"), logfmt and JSON ("level"), llama.cpp, and our image's own `regia` lines.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from deployments import progress
from deployments.providers.base import LogLine
from panel.visible import visible

LONGEST = 2000
"""Characters of one line."""
MASK = "***"


class Level(StrEnum):
    ERROR = "error"
    WARNING = "warning"
    INFO = "info"
    DEBUG = "debug"
    UNKNOWN = ""


@dataclass(frozen=True, slots=True)
class Line:
    at: datetime | None
    """UTC; None where the provider tells no times."""
    source: str
    """container or system; panel for a remark of ours."""
    level: Level
    text: str


# Escape sequences (colours, cursor, titles), then what else moves text (C0, C1), and what hides it or turns its direction.
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])")
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
_HIDDEN = re.compile("[\u061c\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff\U000e0000-\U000e007f]")

_SHORTEST_SECRET = 6
_PREFIXED = re.compile(
    r"\b(?:hf_|sk-|rpa_|ghp_|gho_|github_pat_|glpat-|xox[abp]-|AKIA|eyJ[\w-]{1,400}\.)[A-Za-z0-9_\-.]{8,}"
)
_SCHEME = re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9_\-.=+/~*]{6,}")
_NAMED = re.compile(
    r"""(?ix)
    ((?:api[_-]?key|secret|token|passw(?:or)?d|credential|private[_-]?key)s?["']?\s*[=:]\s*["']?)
    ([^\s"',;&)}\]]{6,})
    """
)
_FLAG = re.compile(r"(?i)((?<!-)--[\w-]{0,40}?(?:key|token|secret|password)[ ]+)([^\s\"',-][^\s\"',]{5,})")
_IN_URL = re.compile(r"(?i)\b([a-z][a-z0-9+.-]{0,20}://)[^/\s:@]*:[^/\s@]+@")
_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_KEY_BEGINS = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----")
_KEY_ENDS = re.compile(r"-----END [A-Z ]*PRIVATE KEY-----")


def clean(text: str) -> str:
    """Without escape sequences, control characters and hidden ones; a tab stays."""
    return _HIDDEN.sub("", _plain(text))


def _plain(text: str) -> str:
    return _CONTROL.sub("", _ESCAPES.sub("", text)).rstrip()


def shown(text: str, secrets: Collection[str] = ()) -> str:
    """The text as it may be shown: masked, and with what hides or turns text made visible.

    A secret that was split by hidden characters is looked for without them.
    """
    bare = clean(text)
    safe = masked(bare, secrets)
    return visible(_plain(text)) if safe == bare else safe


def masked(text: str, secrets: Collection[str] = ()) -> str:
    """Without these secrets, and without what looks like one: known prefixes, named values, a URL's password."""
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) >= _SHORTEST_SECRET:
            text = text.replace(secret, MASK)
    text = _IN_URL.sub(rf"\1{MASK}@", text)
    text = _SCHEME.sub(rf"\1 {MASK}", text)
    text = _FLAG.sub(_unless_a_number, _NAMED.sub(_unless_a_number, text))
    return _PREFIXED.sub(MASK, text)


def _unless_a_number(found: re.Match[str]) -> str:
    """`max_tokens=131072` holds no secret."""
    return found[0] if _NUMBER.fullmatch(found[2]) else found[1] + MASK


# -- the level ----------------------------------------------------------------------------------------

_WORDS = {
    "trace": Level.DEBUG, "debug": Level.DEBUG, "info": Level.INFO, "notice": Level.INFO, "warn": Level.WARNING,
    "warning": Level.WARNING, "err": Level.ERROR, "error": Level.ERROR, "critical": Level.ERROR, "crit": Level.ERROR,
    "alert": Level.ERROR, "emerg": Level.ERROR, "fatal": Level.ERROR, "panic": Level.ERROR,
    "I": Level.INFO, "W": Level.WARNING, "E": Level.ERROR, "D": Level.DEBUG,
}  # fmt: skip
_TIME = r"[\d\s:.,+\-/TZ\[\]]{0,40}"
_HEAD = re.compile(
    rf"^(?:\([\w .=:-]{{1,60}}\)\s*)?{_TIME}[\[<(]?"
    r"(TRACE|DEBUG|INFO|NOTICE|WARN(?:ING)?|ERR(?:OR)?|CRIT(?:ICAL)?|FATAL|PANIC)\b"
)
_BRACKETED = re.compile(rf"^{_TIME}\[(debug|info|notice|warn|warning|error|crit|alert|emerg)\]")
_FIELD = re.compile(
    r'(?:^|[\s{,])"?(?:level|levelname|severity|lvl)"?\s*[=:]\s*"?([A-Za-z]{3,8})\b', re.IGNORECASE
)
_LETTER = re.compile(r"^[\d.:\s]{4,20}([IWED])\s")
_LOWER = re.compile(r"^(warning|error|fatal|panic):", re.IGNORECASE)
_ACCESS = re.compile(r'"[A-Z]{3,8} \S+ HTTP/[\d.]+"\s+(\d)\d\d\b')
_GRAVE = re.compile(
    r"out of memory|CUDA error|No space left on device|Segmentation fault|core dumped|Traceback \(most recent"
    r"|^Killed$|OOMKilled|Bus error|no such image|manifest unknown|toomanyrequests"
)
_EXCEPTION = re.compile(r"^(?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception|Interrupt|Exit)(?::|$)")


def level_of(text: str) -> Level:
    """What one line says of itself; UNKNOWN when nothing does."""
    if own := progress.parse(text):
        ended_badly = own.phase == "exit" and own.values.get("code", "0") != "0"
        return Level.ERROR if ended_badly else Level.INFO
    if access := _ACCESS.search(text):
        return {"5": Level.ERROR, "4": Level.WARNING}.get(access[1], Level.INFO)
    if found := _HEAD.match(text) or _BRACKETED.match(text) or _LOWER.match(text):
        return _WORDS[found[1].lower()]
    if found := _LETTER.match(text):
        return _WORDS[found[1]]
    if (found := _FIELD.search(text)) and found[1].lower() in _WORDS:
        return _WORDS[found[1].lower()]
    if _GRAVE.search(text) or _EXCEPTION.match(text):
        return Level.ERROR
    return Level.UNKNOWN


def lines_of(said: Iterable[LogLine], secrets: Collection[str] = ()) -> Iterator[Line]:
    """The lines to show. What is indented belongs to the line before it, and a private key is left out whole."""
    level, in_key, tracing = Level.UNKNOWN, False, False
    for line in said:
        text = clean(line.text)
        if in_key or _KEY_BEGINS.search(text):
            begins = not in_key
            in_key = not _KEY_ENDS.search(text)
            if not begins:
                continue
            text = _KEY_BEGINS.split(text)[0] + f"{MASK} (a private key)"
        text = (masked(text, secrets) if in_key or MASK in text else shown(line.text, secrets))[:LONGEST]
        own = level_of(text)
        goes_on = not own and (text[:1].isspace() or tracing)
        level = level if goes_on else own
        # The lines of a traceback end with the exception's own.
        tracing = "Traceback (most recent" in text or (tracing and goes_on)
        yield Line(line.at, line.source, level, text)
