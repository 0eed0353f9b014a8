"""The machine from its start to its end: checks, weights, engine, door, and who ended it."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from regia_machine import (
    children,
    ending,
    environment,
    fitness,
    init,
    kept_keys,
    models,
    starts,
    telling,
    weights,
)  # fmt: skip
from regia_machine.door import Door
from regia_machine.engine import Engine
from regia_machine.environment import Outline, Settings
from regia_machine.exits import Ending, Exit, Unfit
from regia_machine.models import Model
from regia_machine.report import Report
from regia_machine.waiting import STEP
from regia_machine.watchdog import Renewal, Watchdog, now


class Asked:
    """Whether a signal has asked the machine to stop."""

    def __init__(self) -> None:
        self.yes = False

    def listen(self) -> None:
        for number in init.ASKING:
            signal.signal(number, self._hear)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, init.ASKING)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        # A plain flag: a lock taken here could be held by the very code that the signal interrupted.
        self.yes = True


class Lease(Watchdog):
    """The watchdog, which also ends the count of starts when the panel speaks."""

    def __init__(self, settings: Settings, *, keys: int, **callbacks: Any) -> None:
        super().__init__(settings, **callbacks)
        self._keys = keys
        self._state_dir = settings.state_dir

    def renew(self, renewal: Renewal) -> dict[str, Any] | None:
        answer = super().renew(renewal)
        if answer is not None:
            with contextlib.suppress(OSError):
                starts.forget(self._state_dir)
        return answer


class Machine:
    """Its parts, and what each part's end means for the whole."""

    def __init__(self, settings: Settings, report: Report, asked: Asked, *, started_at: float) -> None:
        self._settings = settings
        self._report = report
        self._asked = asked
        self.is_serving = False
        self.keys = kept_keys.read(settings.state_dir, settings.api_key)
        """Those that open its door: what it was ordered with, or what the panel has made of that since."""
        report.hide(self.keys)
        self._lapsed = threading.Event()
        self._engine = Engine(settings, report)
        self._door = Door(settings, report.pass_on)
        self._watchdog = self._lease(started_at) if settings.lease_seconds else None

    def look(self) -> None:
        """Raises Ending for whatever has ended the machine."""
        if self._asked.yes:
            raise Ending(Exit.ASKED, "It was told to stop.")
        if self._lapsed.is_set():
            raise Ending(Exit.LEASE, "Nobody renewed the lease.")
        if (words := self._engine.ended()) is not None:
            raise Ending(Exit.SERVING if self.is_serving else Exit.STARTING, words)
        door = self._door.process
        if self.is_serving and door is not None and door.poll() is not None:
            raise Ending(Exit.DOOR, f"The door {children.how_it_ended(door.returncode)}.")

    def serve(self) -> None:
        """Raises Ending, sooner or later."""
        if self._watchdog is not None:
            self._watchdog.start()
        folder = self._weights()
        self._engine.start(folder)
        self._engine.wait_until_healthy(self.look)
        self._engine.warm_up(self.look)
        self._open()
        while True:
            self.look()
            time.sleep(STEP)

    def close(self, why: Ending) -> None:
        """End every part, gently where somebody may still be served, and whether or not another part will end."""
        if self._watchdog is not None:
            self._watchdog.leaving()
        gently = self.is_serving and why.code == Exit.ASKED
        if gently:
            self._report.phase("draining", seconds=self._settings.drain_seconds)
        _attempt(lambda: self._door.stop(self._settings.drain_seconds if gently else 0), self._report)
        self._report.phase("ending")
        _attempt(self._engine.stop, self._report)
        if self._watchdog is not None:
            _attempt(self._watchdog.close, self._report)

    def _open(self) -> None:
        self._door.start(self.keys)
        self.is_serving = True
        if self._watchdog is not None:
            self._watchdog.serving()
        self._report.phase("ready", seconds=self._report.seconds())

    def _lease(self, started_at: float) -> Watchdog:
        return Lease(
            self._settings,
            keys=len(self.keys),
            on_keys=self._change_keys,
            on_draining=self._drain,
            on_lapse=self._lapsed.set,
            began=self._first_start(started_at),
        )

    def _first_start(self, started_at: float) -> float:
        try:
            return starts.first(self._settings.state_dir, started_at)
        except OSError:
            return started_at  # Its disk is full, which must not keep it from counting.

    def _change_keys(self, keys: Sequence[str]) -> None:
        self._report.hide(keys)
        self._door.set_keys(keys)
        self.keys = tuple(keys)
        try:
            kept_keys.keep(self._settings.state_dir, self._settings.api_key, keys)
        except OSError as e:
            # Its disk is full. Started again it knows its first key alone, and the panel tells it anew.
            self._report.pass_on(f"The keys cannot be kept: {e.strerror}.")

    def _drain(self, on: bool) -> None:  # noqa: FBT001 - the watchdog's callback
        """The lease lapsed; or it was renewed after all."""
        if on:
            self._report.phase("draining", seconds=self._settings.drain_seconds)
        elif self.is_serving:
            self._report.phase("ready", seconds=self._report.seconds())
        self._door.set_draining(on)

    def _weights(self) -> Path | None:
        """Check the machine, and bring the weights. None: the engine brings its own."""
        model = models.known(self._settings.model)
        if self._settings.checks:
            fitness.check_gpu(self._settings, model, self.look)
        if not needs_weights(self._settings):
            return None
        return weights.present(self._settings, model) or self._download(model)

    def _download(self, model: Model | None) -> Path:
        download = weights.Download(self._settings, model, self._report)
        if self._settings.checks:
            there = weights.size(download.folder)
            fitness.check_download(
                self._settings.hf_endpoint, download.folder, model, there=there, look=self.look
            )
        return download.run(self.look)


def needs_weights(settings: Settings) -> bool:
    """An engine that is not told where the weights are brings its own."""
    command = settings.engine_command
    return not command or any("{model}" in word for word in command)


def main(environ: Mapping[str, str] = os.environ) -> int:
    """Returns the exit code, after the line that says it."""
    started_at = now()
    asked = Asked()
    asked.listen()
    report = Report(environment.secrets_of(environ), started_at=started_at, clock=now)
    why = _run(environ, report, asked, started_at)
    report.phase("exited", seconds=report.seconds())
    report.exit(why.code, why.cause)
    return int(why.code)


def _run(environ: Mapping[str, str], report: Report, asked: Asked, started_at: float) -> Ending:
    report.phase("checking")
    try:
        settings = environment.read(environ)
        _make_folders(settings)
    except Unfit as e:
        outline = environment.outline(environ)
        _tell(e, outline, _keys(outline), environ, report, asked)
        return e
    report.hide(settings.secrets)
    if ending.is_marked(settings.state_dir):
        _end_at_provider(settings, environ, report)
        return Ending(
            Exit.ENDED_BEFORE, "This machine was ended before, and its container was started again."
        )
    machine = Machine(settings, report, asked, started_at=started_at)
    why = _why(machine, report)
    if why.code == Exit.LEASE:
        _attempt(lambda: ending.mark(settings.state_dir), report)
    machine.close(why)
    if why.code == Exit.LEASE:
        _end_at_provider(settings, environ, report)
    _tell(why, environment.outline(environ), machine.keys, environ, report, asked)
    return why


def _keys(outline: Outline | None) -> tuple[str, ...]:
    return kept_keys.read(outline.state_dir, outline.api_key) if outline else ()


def _tell(
    why: Ending, outline: Outline | None, keys: Sequence[str], environ: Mapping[str, str], report: Report, asked: Asked
) -> None:  # fmt: skip
    report.hide(keys)
    _attempt(lambda: telling.tell(why, outline, keys, environ, report, lambda: asked.yes), report)


def _why(machine: Machine, report: Report) -> Ending:
    try:
        machine.serve()
    except Ending as e:
        return e
    except Exception as e:  # A machine whose process fails must still end what it started, and say so.
        _tell_failure(report)
        code = Exit.SERVING if machine.is_serving else Exit.STARTING
        return Ending(code, f"The machine's own process failed: {type(e).__name__}.")
    raise AssertionError("A machine serves until it ends.")


def _tell_failure(report: Report) -> None:
    for line in traceback.format_exc().splitlines():
        report.pass_on(line)


def _attempt(work: Callable[[], object], report: Report) -> None:
    """What fails at the end must not keep the rest of the end from coming."""
    try:
        work()
    except Exception:
        _tell_failure(report)


def _end_at_provider(settings: Settings, environ: Mapping[str, str], report: Report) -> None:
    def say(sentence: str) -> None:
        report.phase("ending", detail=sentence)

    _attempt(lambda: ending.end(settings, environ, say=say), report)


def _make_folders(settings: Settings) -> None:
    places = (
        ("REGIA_RUN_DIR", settings.run_dir),
        ("REGIA_RUN_DIR", settings.run_dir / "tmp"),
        ("REGIA_STATE_DIR", settings.state_dir),
    )
    for name, folder in places:
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            why = "" if os.access(folder, os.W_OK | os.X_OK) else "Permission denied"
        except OSError as e:
            why = e.strerror or type(e).__name__
        if why:
            raise Unfit(
                Exit.ENVIRONMENT, f"{name} cannot be used ({why}): give a folder that can be written."
            )
