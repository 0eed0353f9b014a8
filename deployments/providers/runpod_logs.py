"""RunPod's log streams as lines. Pure.

Source: REST v2, Server-Sent Events of `{"ts", "source", "line"}`. A pod's environment comes back in clear, so its
values are what is masked.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from datetime import UTC, datetime

from deployments.providers.base import LogLine
from deployments.providers.runpod_machines import moment
from deployments.providers.values import mask

_TEXT_LENGTH = 2000
_SHORTEST_SECRET = 8
_PLAIN = {
    "REGIA_SERVED_NAME", "REGIA_MODEL", "REGIA_REVISION", "MODEL_NAME", "MODEL_REVISION",
    "OPENAI_SERVED_MODEL_NAME_OVERRIDE",
}  # fmt: skip
"""Variables of ours that hold no secret and that logs are full of."""


def parse(content: bytes, secrets: Collection[str]) -> list[LogLine]:
    """The events that are whole: the last one may have been cut."""
    whole, _, _ = content.replace(b"\r\n", b"\n").rpartition(b"\n\n")
    return [line for event in whole.decode(errors="replace").split("\n\n") for line in _line(event, secrets)]


def count(content: bytes) -> int:
    """How many whole events there are."""
    return content.replace(b"\r\n", b"\n").count(b"\n\n")


def newest(lines: list[LogLine], tail: int) -> tuple[LogLine, ...]:
    """The last `tail` in order of time; a line without a time stays behind the one it followed."""
    keyed, latest = [], datetime.min.replace(tzinfo=UTC)
    for line in lines:
        latest = line.at or latest
        keyed.append((latest, line))
    return tuple(line for _, line in sorted(keyed, key=lambda pair: pair[0]))[-tail:]


def secrets_of(environment: object) -> list[str]:
    """The values of a machine's environment that may be secret."""
    if not isinstance(environment, Mapping):
        return []
    return [
        value
        for name, value in environment.items()
        if isinstance(value, str) and len(value) >= _SHORTEST_SECRET and name not in _PLAIN
    ]


def _line(event: str, secrets: Collection[str]) -> Iterator[LogLine]:
    data = "\n".join(part[5:].lstrip(" ") for part in event.splitlines() if part.startswith("data:"))
    try:
        said = json.loads(data)
    except (ValueError, RecursionError):
        return
    if isinstance(said, Mapping) and isinstance(said.get("line"), str):
        source = "system" if said.get("source") == "system" else "container"
        yield LogLine(moment(said.get("ts")), source, mask(said["line"], secrets)[:_TEXT_LENGTH])
