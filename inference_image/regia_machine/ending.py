"""Ends this machine at its provider, so that it stops billing although nobody is there to ask for it.

A container that exits does not end a rental, and a provider starts again what has exited. So a mark is left
on the container's disk first: a machine that finds it must not serve again.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from regia_machine.environment import Outline, Settings

PATIENCE = 600.0
"""Seconds for which the end is asked for."""
CALL_SECONDS = 20.0
_FIRST_WAIT, _LONGEST_WAIT = 2.0, 60.0
_MARK = "ended"
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_REASON_LENGTH = 4096


class Outcome(Enum):
    DONE = "done"
    REFUSED = "refused"
    UNCLEAR = "unclear"
    """Nobody answered, or an answer that may be another one soon."""


@dataclass(frozen=True, slots=True)
class Call:
    """One way to end this machine."""

    provider: str
    method: str
    url: str
    body: bytes
    key: str = field(repr=False)


# -- the mark -----------------------------------------------------------------------------------


def mark(state_dir: Path, why: str = "The lease lapsed.") -> None:
    """This machine has ended, says the sentence `why`. On disk when this returns; raises OSError."""
    state_dir.mkdir(parents=True, exist_ok=True)
    with (state_dir / _MARK).open("w") as file:
        file.write(why + "\n")
        file.flush()
        os.fsync(file.fileno())
    folder = os.open(state_dir, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def is_marked(state_dir: Path) -> bool:
    return (state_dir / _MARK).exists()


# -- the end ------------------------------------------------------------------------------------


def end(
    settings: Settings | Outline,
    environ: Mapping[str, str],
    *,
    say: Callable[[str], None],
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> bool:
    """Whether the provider has ended this machine, or there is nobody to ask. Tries for ten minutes.

    `say` is given a sentence for each try, without secrets.
    """
    calls = calls_of(settings, environ)
    if not calls:
        say("No provider is known here that could end this machine.")
        return True
    give_up, wait = clock() + PATIENCE, _FIRST_WAIT
    while not _try(calls, say):
        if clock() + wait > give_up:
            say("The provider has not ended this machine; end it by hand.")
            return False
        sleep(wait)
        wait = min(wait * 2, _LONGEST_WAIT)
    return True


def calls_of(settings: Settings | Outline, environ: Mapping[str, str]) -> tuple[Call, ...]:
    """The ways to end this machine, best first; none where the provider gave it no id or no key of its own."""
    if _knows(environ, "CONTAINER_ID", "CONTAINER_API_KEY"):
        return _vast(settings.vast_url, environ["CONTAINER_ID"], environ["CONTAINER_API_KEY"])
    if _knows(environ, "RUNPOD_POD_ID", "RUNPOD_API_KEY"):
        return _runpod(settings.runpod_url, environ["RUNPOD_POD_ID"], environ["RUNPOD_API_KEY"])
    return ()


def _knows(environ: Mapping[str, str], identity: str, key: str) -> bool:
    # The id becomes a part of the address: anything but a plain id would be another machine's.
    return bool(_ID.fullmatch(environ.get(identity, "")) and environ.get(key))


def _vast(url: str, instance: str, key: str) -> tuple[Call, ...]:
    return (Call("Vast", "DELETE", f"{url}/api/v0/instances/{instance}/", b"{}", key),)


def _runpod(url: str, pod: str, key: str) -> tuple[Call, ...]:
    address = f"{url}/v2/pods/{pod}"
    terminate = json.dumps({"action": "terminate"}).encode()
    # Which of the two a pod's own key may use is nowhere written.
    return (
        Call("RunPod", "POST", f"{address}/action", terminate, key),
        Call("RunPod", "DELETE", address, b"", key),
    )


def _try(calls: tuple[Call, ...], say: Callable[[str], None]) -> bool:
    for call in calls:
        outcome, what = ask(call)
        say(f"{call.provider} was asked to end this machine ({call.method}): {what}.")
        if outcome is not Outcome.REFUSED:
            return outcome is Outcome.DONE
    return False


def ask(call: Call) -> tuple[Outcome, str]:
    """Send it once; the outcome and what was answered, in a few words."""
    headers = {"Authorization": f"Bearer {call.key}", "User-Agent": "regia-machine/1"}
    if call.body:
        headers["Content-Type"] = "application/json"
    request = urllib.request.Request(call.url, call.body or None, headers, method=call.method)  # noqa: S310
    try:
        with urllib.request.build_opener(_Stay).open(request, timeout=CALL_SECONDS) as answer:
            return judge(answer.status, b"")
    except urllib.error.HTTPError as e:
        with e:
            return judge(e.code, _read(e))
    except (OSError, http.client.HTTPException, ValueError) as e:
        return Outcome.UNCLEAR, f"no answer, {type(e).__name__}"


def _read(answer: urllib.error.HTTPError) -> bytes:
    try:
        return answer.read(_REASON_LENGTH)
    except (OSError, http.client.HTTPException, ValueError):
        return b""


class _Stay(urllib.request.HTTPRedirectHandler):
    """The key goes where it was meant to go, and nowhere else."""

    def redirect_request(self, *args: object) -> None:
        return None


def judge(status: int, reason: bytes) -> tuple[Outcome, str]:
    if 200 <= status < 300:
        return Outcome.DONE, f"it answered {status}"
    # Vast tells a bad key by 404 as well.
    if status in {404, 410} and b"auth_error" not in reason:
        return Outcome.DONE, f"it knows it no more ({status})"
    if 400 <= status < 500 and status not in {408, 425, 429}:
        return Outcome.REFUSED, f"it refused with {status}"
    return Outcome.UNCLEAR, f"it answered {status}"
