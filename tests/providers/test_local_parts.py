"""The local provider's parts: what files and processes amount to, and what survives a torn write."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.providers import local_computer, local_plan, local_process
from deployments.providers.base import Gone, MachineStatus, NoCapacity, Rejected, Unavailable
from deployments.providers.local import LocalProvider
from deployments.providers.local_files import Busy, MachineFolder, is_locked, locked, valid_label
from deployments.providers.local_judge import Seen, Span, judge, spans
from deployments.providers.local_logs import read_logs
from tests.providers.contract import found, soon
from tests.providers.local import RATE, create

T0 = datetime(2026, 11, 24, 12, tzinfo=UTC)


def at(minutes: float) -> datetime:
    return T0 + timedelta(minutes=minutes)


def event(name: str, minutes: float = 0, **fields: Any) -> dict[str, Any]:
    defaults = {"usd_per_hour": "0.36"} if name == "started" else {}
    return {"event": name, "at": at(minutes), **defaults, **fields}


STARTED = [event("started", run=1)]
STOPPED = [*STARTED, event("stop", 1), event("ended", 2)]
SERVES = {"phase": "ready", "port": 8000}


@pytest.mark.parametrize(
    ("seen", "status", "words"),
    [
        (Seen(changing=True, state={}), MachineStatus.PENDING, "being started"),
        (Seen(supervisor=True, state={}), MachineStatus.PENDING, "being started"),
        (Seen(state={}), MachineStatus.EXITED, "never started"),
        (Seen(STARTED, {"phase": "loading"}, supervisor=True), MachineStatus.PENDING, "loading"),
        (Seen(STARTED, SERVES, supervisor=True, engine=True), MachineStatus.RUNNING, "ready"),
        (Seen(STARTED, SERVES, supervisor=True), MachineStatus.RUNNING, "ready"),
        (Seen(STARTED, SERVES, engine=True), MachineStatus.RUNNING, "supervisor is gone"),
        (Seen(STARTED, None, supervisor=True), MachineStatus.UNKNOWN, "cannot be read"),
        (Seen(STARTED, SERVES), MachineStatus.EXITED, "nobody saw"),
        (Seen(STARTED, SERVES, changing=True), MachineStatus.PENDING, "being started"),
        (Seen([*STARTED, event("ended", detail="Killed.")], {"phase": "exited"}, supervisor=True), MachineStatus.EXITED, "Killed."),
        (Seen([*STARTED, event("ended", detail="Killed.")], SERVES, changing=True), MachineStatus.EXITED, "Killed."),
        (Seen(STOPPED[:2], SERVES, supervisor=True, engine=True), MachineStatus.STOPPING, "asked"),
        (Seen(STOPPED[:2], SERVES), MachineStatus.STOPPED, ""),
        (Seen(STOPPED, SERVES), MachineStatus.STOPPED, ""),
        (Seen([*STOPPED, event("start", 3)], SERVES, changing=True), MachineStatus.PENDING, "being started"),
        (Seen([*STARTED, event("terminate", 1)], SERVES, engine=True), MachineStatus.STOPPING, "asked"),
        (Seen([*STARTED, event("terminate", 1)], SERVES), MachineStatus.EXITED, "given back"),
    ],
)  # fmt: skip
def test_what_was_seen_amounts_to_a_status(seen: Seen, status: MachineStatus, words: str) -> None:
    found_status, detail = judge(seen)
    assert found_status is status
    assert words in detail


@pytest.mark.parametrize(
    ("events", "alive", "last_seen", "expected"),
    [
        ([], False, None, []),
        (STARTED, True, at(1), [Span(at(0), at(60), RATE)]),
        (STARTED, False, at(7), [Span(at(0), at(7), RATE)]),
        (STARTED, False, None, []),
        (STOPPED, False, at(50), [Span(at(0), at(2), RATE)]),
        (
            [*STARTED, event("price", 10, usd_per_hour="0.72"), event("ended", 20)], False, None,
            [Span(at(0), at(10), RATE), Span(at(10), at(20), RATE * 2)],
        ),
        (
            [*STOPPED, event("start", 5), event("started", 6)], True, None,
            [Span(at(0), at(2), RATE), Span(at(6), at(60), RATE)],
        ),
        # The clock was set back while it ran: no time that pays comes of it.
        ([*STARTED, event("ended", -90)], False, None, []),
        ([*STARTED, event("started", 3), event("ended", 4)], False, None, [Span(at(0), at(3), RATE), Span(at(3), at(4), RATE)]),
    ],
)  # fmt: skip
def test_a_journal_amounts_to_the_time_it_ran(
    events: Sequence[dict[str, Any]], alive: bool, last_seen: datetime | None, expected: list[Span]
) -> None:
    assert spans(events, alive=alive, last_seen=last_seen, now=at(60)) == expected


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["started", "ended", "price", "stop", "start", "terminate"]),
            st.floats(0, 1000),
            st.decimals(0, 9, places=2),
        ),
        max_size=12,
    ),
    st.booleans(),
)
def test_charged_time_never_overlaps_and_never_runs_backwards(
    rows: list[tuple[str, float, Decimal]], alive: bool
) -> None:
    events = [event(name, m, usd_per_hour=str(usd)) for name, m, usd in sorted(rows, key=lambda r: r[1])]
    result = spans(events, alive=alive, last_seen=at(1000), now=at(1001))
    assert all(s.start < s.end for s in result)
    assert all(a.end <= b.start for a, b in itertools.pairwise(result))


# -- files --------------------------------------------------------------------------------------


@pytest.fixture
def machine(engines: Path) -> MachineFolder:
    folder = MachineFolder(engines, "regia-a-1")
    folder.path.mkdir()
    return folder


def test_a_torn_journal_line_hides_none_of_the_others(machine: MachineFolder) -> None:
    machine.note("started", at=at(0), usd_per_hour="0.36")
    with open(machine.path / "journal.jsonl", "a") as file:
        file.write('{"at": "2026-11-24T12:0')
    machine.note("ended", at=at(1))
    assert [e["event"] for e in machine.events()] == ["started", "ended"]


def test_a_file_is_replaced_whole_and_for_its_owner_alone(machine: MachineFolder) -> None:
    machine.write("state.json", {"port": 1})
    machine.write("state.json", {"port": 2})
    assert machine.read("state.json") == {"port": 2}
    assert (machine.path / "state.json").stat().st_mode & 0o777 == 0o600
    assert [p.name for p in machine.path.iterdir()] == ["state.json"]


@pytest.mark.parametrize("label", ["", ".", "..", "../x", "a/b", ".history", "a\n", "a" * 121, "ä", "-a"])
def test_a_label_that_could_leave_the_folder_is_refused(provider: LocalProvider, label: str) -> None:
    assert not valid_label(label)
    with pytest.raises(Rejected):
        create(provider, label)
    with pytest.raises(Gone):
        provider.terminate(label)


def _hold(root: Path, held: Any, let_go: Any) -> None:
    with locked(root, "regia-a-1", deadline=time.monotonic() + 60):
        held.set()
        let_go.wait()


def test_a_lock_holds_across_processes_and_falls_with_its_holder(engines: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    held, let_go = spawn.Event(), spawn.Event()
    holder = spawn.Process(target=_hold, args=(engines, held, let_go))
    holder.start()
    assert held.wait(60)
    assert is_locked(engines, "regia-a-1")
    with pytest.raises(Busy), locked(engines, "regia-a-1", deadline=0.0):
        pass
    holder.kill()
    holder.join()
    with locked(engines, "regia-a-1", deadline=soon()):
        assert is_locked(engines, "regia-a-1")
    assert not is_locked(engines, "regia-a-1")


def test_a_lock_whose_name_was_removed_is_not_taken_for_the_lock(engines: Path) -> None:
    path = engines / ".locks" / "regia-a-1"
    with locked(engines, "regia-a-1", deadline=soon()):
        path.unlink()
        with locked(engines, "regia-a-1", deadline=soon()):
            assert path.exists()


# -- the folder as a whole ----------------------------------------------------------------------


def test_a_missing_folder_is_unavailable_and_not_an_empty_list(tmp_path: Path) -> None:
    provider = LocalProvider(tmp_path / "nowhere", usd_per_hour=RATE)
    with pytest.raises(Unavailable):
        provider.list_machines()
    with pytest.raises(Unavailable):
        provider.terminate("regia-a-1")
    with pytest.raises(Unavailable):
        create(provider, "regia-a-1")
    with pytest.raises(Unavailable):
        provider.charges(at(0), at(1))


def test_an_empty_folder_is_a_complete_list(provider: LocalProvider) -> None:
    listing = provider.list_machines()
    assert listing.complete
    assert listing.machines == ()


def test_a_folder_that_is_no_machine_is_shown_and_left_alone(provider: LocalProvider, engines: Path) -> None:
    (engines / "lost+found").mkdir()
    (engines / "notes").mkdir()
    (engines / "readme.txt").write_text("hello")
    assert [(m.label, m.status) for m in provider.list_machines().machines] == [
        ("notes", MachineStatus.UNKNOWN)
    ]
    (engines / "notes").rmdir()


def test_what_a_killed_create_left_half_made_is_cleared_by_the_next(
    provider: LocalProvider, engines: Path
) -> None:
    left = engines / ".new-regia-a-7"
    left.mkdir()
    (left / "secrets.json").write_text("{}")
    assert provider.list_machines().machines == ()
    create(provider, "regia-a-8")
    assert not left.exists()


def test_a_folder_that_cannot_be_written_starts_nothing(
    provider: LocalProvider, engines: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("deployments.providers.local_files.os.fsync", full)
    with pytest.raises(Unavailable, match="No space left on device"):
        create(provider, "regia-a-1")
    monkeypatch.undo()
    assert found(provider, "regia-a-1") == []
    assert list(engines.glob(".new-*")) == []


# -- room ---------------------------------------------------------------------------------------


def test_this_computer_is_offered_as_it_is(provider: LocalProvider) -> None:
    quote = provider.quotes()[0]
    assert quote.cpu_count == len(os.sched_getaffinity(0))
    assert 0 < quote.memory_mb <= psutil.virtual_memory().total // 1024**2
    assert quote.tier == "local"
    assert quote.own_machine
    assert quote.country is None
    assert quote.usd_per_hour == quote.compute_usd_per_hour == RATE
    assert quote.gpu_name == local_computer.cpu_name()
    assert quote.gpu_count == 0


def test_too_little_memory_is_no_capacity_with_the_figures(
    provider: LocalProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_computer, "memory", lambda: (8 * 1024**3, 200 * 1024**2))
    with pytest.raises(NoCapacity, match=r"needs 0\.\d GiB of memory; this computer has 0\.2 GiB free"):
        create(provider, "regia-a-1", context=4096)
    assert found(provider, "regia-a-1") == []
    assert provider.quotes()[0].stock == "none"


@pytest.mark.parametrize(("part", "gone"), [("has_llama", False), ("gguf_of", None)])
def test_an_engine_that_is_not_installed_is_refused_with_what_to_do(
    provider: LocalProvider, monkeypatch: pytest.MonkeyPatch, part: str, gone: object
) -> None:
    monkeypatch.setattr(local_plan.local_commands, part, lambda *_: gone)
    with pytest.raises(Rejected, match=r"requirements/engine\.lock"):
        create(provider, "regia-a-1")
    assert found(provider, "regia-a-1") == []


# -- processes ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "identity",
    [None, {}, {"pid": "x", "start": "y"}, {"pid": os.getpid()}, {"pid": os.getpid(), "start": "other"}],
)
def test_a_process_without_its_start_is_nobody(identity: dict[str, Any] | None) -> None:
    assert not local_process.is_alive(identity)


def test_this_process_knows_itself() -> None:
    assert local_process.is_alive(local_process.identity_of(os.getpid()))


def test_an_adapter_and_its_supervisor_load_neither_django_nor_celery() -> None:
    code = (
        "import sys; import deployments.providers.local, deployments.providers.local_engine, "
        "deployments.providers.local_llama; "
        "sys.exit(any(m.split('.')[0] in {'django', 'celery', 'panel', 'billing'} for m in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# -- logs ---------------------------------------------------------------------------------------


def test_a_log_of_any_size_is_read_from_its_end(machine: MachineFolder) -> None:
    machine.write("secrets.json", {"api_key": "sk-very-secret"})
    stamp = "2026-11-24T12:00:00.000+00:00"
    machine.log.write_text(f"{stamp} {'x' * 5000} sk-very-secret\n" * 2000 + f"{stamp} last sk-very-secret\n")
    lines = read_logs(machine.path, tail=50)
    assert len(lines) == 50
    assert lines[-1].text == "last ***"
    assert max(len(line.text) for line in lines) <= 2000
