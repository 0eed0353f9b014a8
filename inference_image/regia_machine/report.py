"""What the machine says: progress lines that the panel reads, and the engine's own words without secrets."""

from __future__ import annotations

import re
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping

from regia_machine.exits import Exit

LINE = re.compile(r'regia (?:phase=[a-z]+|exit)(?: [a-z_]+=(?:[^\s"]+|"(?:[^"\\]|\\.)*"))*')
"""Every line of the machine's own; the engine's never match it."""
CAUSE_LENGTH = 2000
_PIECE = 16_384
"""A longer line is passed on in pieces."""


class Report:
    """Safe to use from several threads. `started_at` and `clock` are seconds of one clock."""

    def __init__(
        self, secrets: Iterable[str], *, started_at: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._secrets: tuple[str, ...] = ()
        self.hide(secrets)
        self._started_at = started_at
        self._clock = clock
        self._lock = threading.Lock()

    def hide(self, secrets: Iterable[str]) -> None:
        """Mask these from now on."""
        self._secrets = tuple(sorted({*self._secrets, *secrets}, key=len, reverse=True))

    def phase(self, name: str, **values: object) -> None:
        self._say(self._line(f"phase={name}", values))

    def exit(self, code: Exit, cause: str) -> None:
        """The last line."""
        self._say(self._line("exit", {"code": int(code), "cause": shortened(self.masked(cause))}))

    def pass_on(self, text: str) -> None:
        """A line of a child's. It cannot pass for one of the machine's own."""
        self._say(f" {text}" if text.startswith("regia ") else text)

    def seconds(self) -> int:
        """Since the start."""
        return int(self._clock() - self._started_at)

    def masked(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text

    def _line(self, head: str, values: Mapping[str, object]) -> str:
        # Masked before it is quoted: a backslash more and the secret would not be found.
        pairs = (f"{name}={_quoted(self.masked(str(value)))}" for name, value in values.items())
        return " ".join(("regia", head, *pairs))

    def _say(self, text: str) -> None:
        with self._lock:
            try:
                sys.stdout.write(self.masked(text) + "\n")
                sys.stdout.flush()
            except (OSError, ValueError):
                pass  # Nobody reads any more, which is no reason to stop serving.


class Lines:
    """Cuts a stream of bytes into lines, at \\n and at the \\r of progress bars."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._rest = b""

    def feed(self, chunk: bytes) -> list[str]:
        """The lines that are complete now, masked, empty ones left out."""
        *complete, self._rest = re.split(rb"[\r\n]+", self._rest + chunk)
        if len(self._rest) > 2 * _PIECE:
            # The whole is masked before it is cut, so that no secret is cut in two; a secret that has only
            # begun is in the second half, which waits.
            text = self._report.masked(self._rest.decode(errors="replace"))
            complete.append(text[:_PIECE].encode())
            self._rest = text[_PIECE:].encode()
        return [
            self._report.masked(text)
            for text in (c.decode(errors="replace") for c in complete)
            if text.strip()
        ]

    def end(self) -> list[str]:
        return self.feed(b"\n")


def shortened(text: str) -> str:
    """Its end, which says more than its beginning."""
    return text if len(text) <= CAUSE_LENGTH else f"… {text[-CAUSE_LENGTH:]}"


def one_line(text: str) -> str:
    """Without what moves a cursor or ends a line."""
    return "".join(c if c.isprintable() else " " for c in text)


def _quoted(value: str) -> str:
    printable = one_line(value)
    if re.fullmatch(r'[^\s"\\]+', printable):
        return printable
    return '"' + printable.replace("\\", "\\\\").replace('"', '\\"') + '"'
