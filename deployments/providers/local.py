"""The local provider: it rents "this computer" and runs a real OpenAI-compatible engine on it.

    LocalProvider -> local_files    what is kept on disk, and the lock of each machine
                  -> local_process  processes by label, pid and start
                  -> local_judge    status and running time from those two; pure
                  -> local_computer cores, memory, GPUs: the offers
                  -> local_commands the engines' command lines; pure
    started detached: local_engine (a supervisor for each machine) -> local_llama or `vllm serve`

A machine's remote id is its label. The key of a machine goes to its engine by a file (mode 0600) or, for
vLLM, by its environment; never by a command line, a URL or a log. Time is charged from the journal: a
run counts from its supervisor's first act to the end that it wrote or, when it was killed, to its last
heartbeat (2 s apart), each stretch at the price that held then. A changed rate holds from the first list
that sees it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from deployments.providers import local_commands, local_computer, local_files, local_judge, local_process
from deployments.providers.base import (
    Charge,
    Gone,
    Listing,
    LogLine,
    Machine,
    MachineStatus,
    NoExtras,
    Order,
    Quote,
    Rejected,
    Traits,
    Unavailable,
    Unknown,
)
from deployments.providers.local_files import MachineFolder
from deployments.providers.local_logs import read_logs
from deployments.providers.local_plan import plan, renew

TRAITS = Traits(
    backend="local", title="This computer", can_stop=True, list_interval=0.4, unknown_grace=10.0,
    own_machine=True,
)  # fmt: skip
GENTLE, HARD = 5.0, 5.0
"""Seconds that a machine's processes get after SIGTERM, and after SIGKILL."""
_ACT_WAIT = 20.0
_SOURCE = Path(__file__).resolve().parents[2]


def _utc_now() -> datetime:
    return datetime.now(UTC)


class LocalProvider(NoExtras):
    """This computer as an account. `folder` keeps its machines; `usd_per_hour` is what an hour of one costs."""

    traits = TRAITS

    def __init__(
        self, folder: Path, *, usd_per_hour: Decimal, clock: Callable[[], datetime] = _utc_now
    ) -> None:
        self._folder = Path(folder).absolute()
        self._usd_per_hour = usd_per_hour
        self._clock = clock

    def quotes(self) -> Sequence[Quote]:
        return local_computer.quotes(self._usd_per_hour)

    def list_machines(self) -> Listing:
        """Complete, or Unavailable: a folder that cannot be read says nothing about its machines."""
        labels = self._labels()
        # Read once and only when files leave a machine unclear: a look at every process is dear.
        running: list[set[str]] = []

        def supervised(label: str) -> bool:
            if not running:
                running.append(local_process.supervised_labels(self._folder))
            return label in running[0]

        machines = (self._look(MachineFolder(self._folder, label), supervised) for label in labels)
        return Listing(tuple(m for m in machines if m is not None), complete=True)

    def stands(self, remote_id: str) -> bool:
        return self._machine(remote_id).exists()

    def create(self, order: Order, *, deadline: float) -> str:
        _check_deadline(deadline)
        if not local_files.valid_label(order.label):
            raise Rejected(f"{order.label!r} cannot be a machine's label here.")
        machine = MachineFolder(self._folder, order.label)
        with self._act(order.label, deadline=deadline) as lock:
            if machine.exists() or machine.archive.exists():
                raise Rejected(f"The label {order.label} has been used already.")
            meta = {"order": plan(order), "created_at": self._clock().isoformat()}
            secrets = {"api_key": order.api_key.reveal(), "environment": dict(order.environment)}
            _check_deadline(deadline)
            try:
                _lay_out(machine, meta, secrets)
            except OSError as e:
                raise Unavailable(
                    f"{self._folder} cannot be written: {e.strerror}. Nothing was started."
                ) from e
            self._spawn(machine, lock)
        return order.label

    def terminate(self, remote_id: str) -> None:
        """End every process of the machine and prove it, then move it out of the list."""
        machine = self._machine(remote_id)
        with self._act(remote_id):
            self._require(machine)
            self._end(machine, "terminate")
            try:
                _archive(machine)
            except OSError as e:
                raise Unknown(f"{remote_id} has ended, but cannot be archived: {e.strerror}.") from e

    def stop(self, remote_id: str) -> None:
        machine = self._machine(remote_id)
        with self._act(remote_id):
            self._require(machine)
            self._end(machine, "stop")

    def kill(self, remote_id: str) -> None:
        """SIGKILL its engine, as the kernel does when memory runs out. Its supervisor sees it end."""
        machine = self._machine(remote_id)
        self._require(machine)
        if not local_process.kill(machine.read_or_empty("state.json").get("engine")):
            raise Rejected(f"The engine of {remote_id} does not run.")

    def start(self, remote_id: str) -> None:
        """Run the machine again, on a new port. One that runs is left as it is."""
        machine = self._machine(remote_id)
        with self._act(remote_id) as lock:
            self._require(machine)
            state = machine.read_or_empty("state.json")
            if local_process.find(self._folder, remote_id, state):
                return
            self._settle(machine, was_alive=False)
            try:
                meta = machine.read("meta.json")
            except (OSError, ValueError) as e:
                raise Rejected(f"What was ordered as {remote_id} cannot be read.") from e
            machine.write("meta.json", {**meta, "order": renew(meta["order"])})
            machine.note("start", at=self._clock())
            self._spawn(machine, lock)

    def logs(self, remote_id: str, *, tail: int = 200) -> tuple[LogLine, ...]:
        """The engine's last words and what was done to the machine; after its end too."""
        machine = self._machine(remote_id)
        folder = machine.path if machine.exists() else machine.archive
        if not folder.is_dir():
            raise Gone(f"There is no machine {remote_id} on this computer.")
        return read_logs(folder, tail=tail)

    def charges(self, since: datetime, until: datetime) -> Sequence[Charge]:
        """One charge for each stretch of running time at one price, cut to the span."""
        found: list[Charge] = []
        for label, events, alive, last_seen in self._journals(since):
            for span in local_judge.spans(events, alive=alive, last_seen=last_seen, now=self._clock()):
                start, end = max(since, span.start), min(until, span.end)
                if start < end:
                    usd = span.usd_per_hour * ((end - start) // timedelta(microseconds=1)) / 3_600_000_000
                    found.append(Charge(label, label, "compute", start, end, usd))
        return found

    # -- looking --------------------------------------------------------------------------------

    def _labels(self) -> list[str]:
        try:
            with os.scandir(self._folder) as entries:
                return sorted(e.name for e in entries if local_files.valid_label(e.name) and e.is_dir())
        except OSError as e:
            raise Unavailable(f"The engines' folder {self._folder} cannot be read: {e.strerror}.") from e

    def _look(self, machine: MachineFolder, supervised: Callable[[str], bool]) -> Machine | None:
        changing = local_files.is_locked(self._folder, machine.label)
        events = machine.events()
        state = _state_of(machine)
        supervisor = local_process.is_alive((state or {}).get("supervisor"))
        engine = local_process.is_alive((state or {}).get("engine"))
        if not supervisor and not engine and (changing or local_judge.is_unclear(events)):
            supervisor = supervised(machine.label)
        seen = local_judge.Seen(events, state, supervisor=supervisor, engine=engine, changing=changing)
        status, detail = local_judge.judge(seen)
        try:
            created_at = datetime.fromisoformat(machine.read("meta.json")["created_at"])
        except (OSError, ValueError, KeyError, TypeError):
            if not machine.exists():
                return None  # Given back while we looked.
            created_at, status = None, MachineStatus.UNKNOWN
            detail = f"Its meta.json cannot be read. {detail}".strip()
        if status is MachineStatus.RUNNING:
            self._notice_price(machine, events)
        port = (state or {}).get("port") if status is MachineStatus.RUNNING else None
        return Machine(
            remote_id=machine.label, label=machine.label, status=status, created_at=created_at,
            endpoint_url=f"http://127.0.0.1:{int(port)}" if port else None, country=None,
            data_center="This computer", usd_per_hour=self._usd_per_hour, detail=detail,
        )  # fmt: skip

    def _notice_price(self, machine: MachineFolder, events: Sequence[local_judge.Event]) -> None:
        """Note that the rate has changed, so that charges know since when. Another list may be first."""
        if local_judge.price_of(events) in {None, self._usd_per_hour}:
            return
        with (
            suppress(local_files.Busy, OSError),
            local_files.locked(self._folder, machine.label, deadline=0.0),
        ):
            if local_judge.price_of(machine.events()) != self._usd_per_hour:
                machine.note("price", at=self._clock(), usd_per_hour=str(self._usd_per_hour))

    def _journals(self, since: datetime) -> Iterator[tuple[str, list[dict[str, Any]], bool, datetime | None]]:
        for label in self._labels():
            machine = MachineFolder(self._folder, label)
            state = machine.read_or_empty("state.json")
            alive = any(local_process.is_alive(state.get(who)) for who in ("supervisor", "engine"))
            yield label, machine.events(), alive, machine.last_beat()
        archive = self._folder / ".history"
        for folder in sorted(archive.iterdir()) if archive.is_dir() else ():
            journal = folder / "journal.jsonl"
            # Nothing is written to it after the end, so an old file holds only old time.
            if journal.exists() and journal.stat().st_mtime >= since.timestamp():
                yield folder.name, local_files.read_journal(journal), False, None

    # -- acting ---------------------------------------------------------------------------------

    def _machine(self, remote_id: str) -> MachineFolder:
        if not local_files.valid_label(remote_id):
            raise Gone(f"There is no machine {remote_id!r} on this computer.")
        machine = MachineFolder(self._folder, remote_id)
        if not self._folder.is_dir():
            raise Unavailable(f"The engines' folder {self._folder} is not there.")
        return machine

    def _require(self, machine: MachineFolder) -> None:
        if not machine.exists():
            raise Gone(f"There is no machine {machine.label} on this computer.")

    @contextmanager
    def _act(self, label: str, *, deadline: float | None = None) -> Iterator[int]:
        """One change of one machine at a time, whichever process makes it."""
        latest = time.monotonic() + _ACT_WAIT
        with ExitStack() as stack:
            try:
                lock = local_files.locked(
                    self._folder, label, deadline=latest if deadline is None else min(latest, deadline)
                )
                fd = stack.enter_context(lock)
            except local_files.Busy:
                raise Unavailable(f"Another change of {label} is under way; nothing was done.") from None
            except OSError as e:
                raise Unavailable(f"{self._folder} cannot be written: {e.strerror}; nothing was done.") from e
            try:
                yield fd
            except OSError as e:
                raise Unknown(f"{label}: {e.strerror}. How far this went, the list tells.") from e

    def _spawn(self, machine: MachineFolder, lock: int) -> None:
        """Start the supervisor, detached. It holds the lock, too, until it has said on disk who it is."""
        run = local_judge.last_run(machine.events()) + 1
        mark = {
            local_process.MARK: local_process.mark_of(self._folder, machine.label),
            "REGIA_USD_PER_HOUR": str(self._usd_per_hour),
        }
        command = [sys.executable, "-m", local_process.SUPERVISOR, str(self._folder), machine.label]
        with open(machine.path / "supervisor.log", "ab") as log:
            try:
                launcher = subprocess.run(
                    [*command, str(run), str(lock)], cwd=_SOURCE, stdin=subprocess.DEVNULL, stdout=log,
                    stderr=log, start_new_session=True, pass_fds=(lock,), check=False, timeout=_ACT_WAIT,
                    env=local_commands.engine_environment(os.environ, mark=mark, extra={}),
                )  # fmt: skip
            except (OSError, subprocess.TimeoutExpired) as e:
                raise Unknown(f"The engine's supervisor could not be started: {e}.") from e
        if launcher.returncode:
            raise Unknown(f"The engine's supervisor ended at once with exit code {launcher.returncode}.")

    def _end(self, machine: MachineFolder, event: str) -> None:
        state = machine.read_or_empty("state.json")
        was_alive = bool(local_process.find(self._folder, machine.label, state))
        # A full disk must not keep a machine running.
        with suppress(OSError):
            machine.note(event, at=self._clock())
        if not local_process.end(self._folder, machine.label, state, gentle=GENTLE, hard=HARD):
            raise Unknown(f"Processes of {machine.label} are still there after SIGKILL.")
        with suppress(OSError):
            self._settle(machine, was_alive=was_alive)

    def _settle(self, machine: MachineFolder, *, was_alive: bool) -> None:
        """Write the end of a run whose supervisor could not."""
        if local_judge.is_open(machine.events()):
            at = self._clock() if was_alive else machine.last_beat() or self._clock()
            machine.note("ended", at=at, detail="Its end was not seen.")


def _state_of(machine: MachineFolder) -> dict[str, Any] | None:
    """What its supervisor last said: {} before it said anything, None when that cannot be read."""
    try:
        state = machine.read("state.json")
    except FileNotFoundError:
        return {}
    except (OSError, ValueError):
        return None
    return state if "supervisor" in state else None


def _check_deadline(deadline: float) -> None:
    if time.monotonic() > deadline:
        raise Unavailable("The deadline of this create has passed; nothing was started.")


def _lay_out(machine: MachineFolder, meta: dict[str, Any], secrets: dict[str, Any]) -> None:
    """Make the machine's folder with its files, whole or not at all."""
    for left in machine.root.glob(".new-*"):
        # Of an act that was killed; it holds a key that nothing will ever use.
        if left.name == f".new-{machine.label}" or not local_files.is_locked(machine.root, left.name[5:]):
            shutil.rmtree(left, ignore_errors=True)
    draft = MachineFolder(machine.root, f".new-{machine.label}")
    draft.path.mkdir(mode=0o700)
    try:
        draft.write("meta.json", meta)
        draft.write("secrets.json", secrets)
        draft.path.rename(machine.path)
        local_files.sync_folder(machine.root)
    except OSError:
        shutil.rmtree(draft.path, ignore_errors=True)
        raise


def _archive(machine: MachineFolder) -> None:
    """Keep the journal and the log, forget the key, and leave the list."""
    for name in ("secrets.json", "state.json", "heartbeat", "engine.log.1"):
        (machine.path / name).unlink(missing_ok=True)
    machine.archive.parent.mkdir(mode=0o700, exist_ok=True)
    machine.path.rename(machine.archive)
    local_files.sync_folder(machine.root)
    (machine.root / ".locks" / machine.label).unlink(missing_ok=True)
