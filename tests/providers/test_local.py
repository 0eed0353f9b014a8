"""The local provider keeps the contract with the real engine, and what only it promises."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import psutil
import pytest

from deployments.providers import local_process
from deployments.providers.base import Gone, MachineStatus, Provider, Rejected, Unavailable
from deployments.providers.local import LocalProvider
from deployments.providers.local_files import MachineFolder, locked
from tests.providers.contract import API_KEY, PATIENCE, ProviderContract, found, soon, wait_for
from tests.providers.local import RATE, SMOLLM, ask, chat, create, engine_pid, order, state_of

pytestmark = pytest.mark.engine


def ready(provider: Provider, label: str) -> str:
    """The address of the machine once its engine is ready."""
    machine = wait_for(provider, label, MachineStatus.RUNNING, also=lambda m: m.detail == "ready")
    assert machine.endpoint_url
    return machine.endpoint_url


def gone(pid: int) -> bool:
    """Whether the process has ended, within reason; a zombie has."""
    give_up = time.monotonic() + PATIENCE
    while time.monotonic() < give_up:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.02)
    return False


class TestLocalContract(ProviderContract):
    model = SMOLLM


# -- the engine answers -------------------------------------------------------------------------


def test_it_serves_chat_to_whoever_has_the_key_and_to_nobody_else(provider: LocalProvider) -> None:
    create(provider, "regia-a-1")
    url = ready(provider, "regia-a-1")
    assert url.startswith("http://127.0.0.1:")
    status, answer = chat(url, "Say hello.")
    assert status == 200
    assert answer["usage"]["completion_tokens"] >= 1
    assert chat(url, "Say hello.", key=None)[0] == 401
    assert chat(url, "Say hello.", key="wrong")[0] == 401
    assert ask(url, "/metrics")[0] == 200
    assert ask(url, "/v1/models")[1]["data"][0]["id"] == "smollm2-135m"


def test_a_request_gets_the_context_that_was_ordered(provider: LocalProvider) -> None:
    create(provider, "regia-a-1", context=512)
    url = ready(provider, "regia-a-1")
    assert chat(url, "word " * 440)[0] == 200
    status, answer = chat(url, "word " * 600)
    assert status == 400
    assert answer["error"]["n_ctx"] == 512


def test_health_answers_while_more_ask_than_it_can_serve(provider: LocalProvider) -> None:
    create(provider, "regia-a-1")
    url = ready(provider, "regia-a-1")
    answers: list[int] = []
    threads = [
        threading.Thread(target=lambda: answers.append(chat(url, "Tell a story.", max_tokens=30)[0]))
        for _ in range(12)
    ]
    for thread in threads:
        thread.start()
    assert ask(url, "/health")[0] == 200
    waiting = 12 - len(answers)
    for thread in threads:
        thread.join()
    assert answers == [200] * 12
    assert waiting > 0


def test_two_machines_have_ports_of_their_own(provider: LocalProvider) -> None:
    create(provider, "regia-a-1")
    create(provider, "regia-a-10")
    assert ready(provider, "regia-a-1") != ready(provider, "regia-a-10")


# -- secrets ------------------------------------------------------------------------------------


def test_the_key_is_in_no_command_line_and_no_environment_of_another(provider: LocalProvider) -> None:
    label = "regia-a-1"
    create(provider, label)
    url = ready(provider, label)
    chat(url, f"Repeat: {API_KEY}")
    processes = local_process.find(provider._folder, label, state_of(provider, label))
    assert len(processes) == 2
    assert not any(API_KEY in " ".join(p.cmdline()) for p in processes)
    assert not any(API_KEY in str(p.environ()) for p in processes)
    readable = [f for f in MachineFolder(provider._folder, label).path.iterdir() if API_KEY in f.read_text()]
    assert [f.name for f in readable] == ["secrets.json"]
    assert readable[0].stat().st_mode & 0o077 == 0


def test_the_engine_inherits_nothing_of_the_panels_secrets(
    provider: LocalProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REGIA_SECRET_KEY", "panel-secret")
    monkeypatch.setenv("DATABASE_URL", "postgres://user:password@db/regia")
    label = "regia-a-1"
    create(provider, label)
    ready(provider, label)
    for process in local_process.find(provider._folder, label, state_of(provider, label)):
        assert "panel-secret" not in process.environ().values()
        assert "DATABASE_URL" not in process.environ()


def test_the_key_is_deleted_when_the_machine_is_given_back(provider: LocalProvider) -> None:
    create(provider, "regia-a-1")
    provider.terminate("regia-a-1")
    kept = [p for p in provider._folder.rglob("*") if p.is_file() and API_KEY in p.read_text()]
    assert kept == []


# -- processes that die -------------------------------------------------------------------------


def test_a_killed_engine_is_listed_as_exited_and_by_which_signal(provider: LocalProvider) -> None:
    label = "regia-a-1"
    create(provider, label)
    ready(provider, label)
    os.kill(engine_pid(provider, label), signal.SIGKILL)
    machine = wait_for(provider, label, MachineStatus.EXITED)
    assert "SIGKILL" in machine.detail
    assert machine.endpoint_url is None


def test_a_machine_is_killed_as_a_crash_would_and_only_while_it_runs(provider: LocalProvider) -> None:
    label = "regia-a-1"
    create(provider, label)
    ready(provider, label)
    provider.kill(label)
    assert "SIGKILL" in wait_for(provider, label, MachineStatus.EXITED).detail
    with pytest.raises(Rejected):
        provider.kill(label)


def test_an_engine_whose_supervisor_is_killed_ends_too(provider: LocalProvider) -> None:
    label = "regia-a-1"
    create(provider, label)
    ready(provider, label)
    engine = engine_pid(provider, label)
    os.kill(state_of(provider, label)["supervisor"]["pid"], signal.SIGKILL)
    assert gone(engine)
    assert found(provider, label)[0].status is MachineStatus.EXITED


def test_an_exited_machine_can_be_started_again(provider: LocalProvider) -> None:
    label = "regia-a-1"
    create(provider, label)
    ready(provider, label)
    os.kill(engine_pid(provider, label), signal.SIGKILL)
    wait_for(provider, label, MachineStatus.EXITED)
    provider.start(label)
    assert chat(ready(provider, label), "Hello")[0] == 200


def test_an_engine_that_will_not_end_is_killed(provider: LocalProvider) -> None:
    label = "regia-a-1"
    create(provider, label)
    ready(provider, label)
    pids = [state_of(provider, label)[who]["pid"] for who in ("engine", "supervisor")]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)  # A stopped process hears no SIGTERM.
    provider.terminate(label)
    assert all(gone(pid) for pid in pids)
    assert found(provider, label) == []


def test_terminate_leaves_no_process_of_the_machine(provider: LocalProvider) -> None:
    label = "regia-a-1"
    create(provider, label)
    ready(provider, label)
    state = state_of(provider, label)
    provider.terminate(label)
    assert local_process.find(provider._folder, label, state) == []
    with pytest.raises(Gone):
        provider.terminate(label)


def test_a_machine_whose_folder_is_deleted_ends_itself(provider: LocalProvider) -> None:
    label = "regia-a-1"
    create(provider, label)
    ready(provider, label)
    pids = [state_of(provider, label)[who]["pid"] for who in ("engine", "supervisor")]
    MachineFolder(provider._folder, label).path.rename(provider._folder.parent / "taken away")
    assert all(gone(pid) for pid in pids)


# -- the panel dies -----------------------------------------------------------------------------

CREATOR = """
    import os, signal, subprocess, sys, time
    from decimal import Decimal
    from pathlib import Path
    from deployments.providers import local
    from tests.providers.local import create

    provider = local.LocalProvider(Path(sys.argv[1]), usd_per_hour=Decimal("0.36"))
"""
KILLED_WHILE_SPAWNING = """
    def run(command, **options):
        options.pop("check"), options.pop("timeout")
        subprocess.Popen(command, **options)
        os.kill(os.getpid(), signal.SIGKILL)

    local.subprocess.run = run
    create(provider, "regia-a-1")
"""
KILLED_AFTER_CREATING = """
    create(provider, "regia-a-1")
    print("created", flush=True)
    time.sleep(600)
"""
KILLED_BEFORE_SPAWNING = """
    provider._spawn = lambda *args: os.kill(os.getpid(), signal.SIGKILL)
    create(provider, "regia-a-1")
"""


def creator(folder: Path, script: str) -> subprocess.Popen[str]:
    code = textwrap.dedent(CREATOR) + textwrap.dedent(script)
    return subprocess.Popen([sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE, text=True)


def test_the_engine_survives_the_process_that_rented_it(provider: LocalProvider) -> None:
    with creator(provider._folder, KILLED_AFTER_CREATING) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "created\n"
        os.killpg(os.getpgid(process.pid), 0)
        process.kill()
    url = ready(provider, "regia-a-1")
    assert chat(url, "Hello")[0] == 200
    supervisor = psutil.Process(state_of(provider, "regia-a-1")["supervisor"]["pid"])
    assert os.getsid(supervisor.pid) == supervisor.pid
    assert os.getsid(supervisor.pid) != os.getsid(0)


def test_a_kill_between_spawn_and_the_first_word_loses_no_machine(provider: LocalProvider) -> None:
    with creator(provider._folder, KILLED_WHILE_SPAWNING) as process:
        assert process.wait() == -signal.SIGKILL
    assert found(provider, "regia-a-1")[0].status in {MachineStatus.PENDING, MachineStatus.RUNNING}
    with pytest.raises(Rejected):
        create(provider, "regia-a-1")
    assert chat(ready(provider, "regia-a-1"), "Hello")[0] == 200


def test_a_kill_before_the_spawn_leaves_a_machine_that_never_ran(provider: LocalProvider) -> None:
    with creator(provider._folder, KILLED_BEFORE_SPAWNING) as process:
        assert process.wait() == -signal.SIGKILL
    machine = found(provider, "regia-a-1")[0]
    assert machine.status is MachineStatus.EXITED
    assert "never started" in machine.detail
    now = datetime.now(UTC)
    assert provider.charges(now - timedelta(days=1), now + timedelta(days=1)) == []
    provider.terminate("regia-a-1")
    assert found(provider, "regia-a-1") == []


def test_another_panel_on_the_same_folder_finds_it_by_its_label(provider: LocalProvider) -> None:
    create(provider, "regia-a-1")
    url = ready(provider, "regia-a-1")
    other = LocalProvider(provider._folder, usd_per_hour=RATE)
    assert found(other, "regia-a-1")[0].endpoint_url == url
    other.terminate("regia-a-1")
    assert found(provider, "regia-a-1") == []


# -- whose process is it ------------------------------------------------------------------------


def test_a_reused_pid_is_not_taken_for_the_engine_and_not_killed(provider: LocalProvider) -> None:
    label = "regia-a-1"
    create(provider, label)
    ready(provider, label)
    machine = MachineFolder(provider._folder, label)
    os.kill(engine_pid(provider, label), signal.SIGKILL)
    wait_for(provider, label, MachineStatus.EXITED)
    with subprocess.Popen(["sleep", "600"], start_new_session=True) as stranger:
        old = state_of(provider, label)
        reused = {who: {**old[who], "pid": stranger.pid} for who in ("supervisor", "engine")}
        machine.write("state.json", {**old, **reused, "phase": "ready"})
        assert found(provider, label)[0].status is MachineStatus.EXITED
        provider.terminate(label)
        assert stranger.poll() is None
        stranger.kill()


def test_a_zombie_counts_as_dead() -> None:
    child = subprocess.Popen(["sleep", "600"])
    identity = local_process.identity_of(child.pid)
    assert local_process.is_alive(identity)
    os.kill(child.pid, signal.SIGKILL)
    assert gone(child.pid)  # Killed, not yet waited for.
    assert not local_process.is_alive(identity)
    child.wait()
    assert not local_process.is_alive(identity)


# -- damaged files ------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["", "{", "[1]", "null", '{"label": 1}'])
def test_a_running_machine_with_a_damaged_state_is_unknown_and_can_be_ended(
    provider: LocalProvider, damage: str
) -> None:
    label = "regia-a-1"
    create(provider, label)
    ready(provider, label)
    pids = [state_of(provider, label)[who]["pid"] for who in ("engine", "supervisor")]
    (MachineFolder(provider._folder, label).path / "state.json").write_text(damage)
    machine = found(provider, label)[0]
    assert machine.status is MachineStatus.UNKNOWN
    assert machine.endpoint_url is None
    provider.terminate(label)
    assert all(gone(pid) for pid in pids)


def test_a_machine_without_its_order_is_shown_unknown(provider: LocalProvider) -> None:
    create(provider, "regia-a-1")
    ready(provider, "regia-a-1")
    (MachineFolder(provider._folder, "regia-a-1").path / "meta.json").write_text("{")
    machine = found(provider, "regia-a-1")[0]
    assert machine.status is MachineStatus.UNKNOWN
    assert "meta.json" in machine.detail


# -- locks --------------------------------------------------------------------------------------


def test_a_change_waits_for_the_one_under_way_and_gives_up_at_its_deadline(provider: LocalProvider) -> None:
    with locked(provider._folder, "regia-a-1", deadline=soon()), pytest.raises(Unavailable):
        provider.create(order(provider, "regia-a-1"), deadline=time.monotonic() + 0.2)
    assert found(provider, "regia-a-1") == []


def test_stops_and_starts_at_once_never_make_two_engines(provider: LocalProvider) -> None:
    label = "regia-a-1"
    create(provider, label)
    acts = [provider.stop, provider.start] * 4
    threads = [threading.Thread(target=act, args=(label,)) for act in acts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    provider.start(label)
    ready(provider, label)
    assert len(local_process.find(provider._folder, label, state_of(provider, label))) == 2


def test_a_used_label_is_not_given_twice(provider: LocalProvider) -> None:
    create(provider, "regia-a-1")
    provider.terminate("regia-a-1")
    with pytest.raises(Rejected, match="used already"):
        create(provider, "regia-a-1")


# -- money --------------------------------------------------------------------------------------


def charged(provider: LocalProvider, label: str) -> list[tuple[timedelta, Decimal]]:
    now = datetime.now(UTC)
    charges = provider.charges(now - timedelta(days=1), now + timedelta(days=1))
    return [(c.end - c.start, c.usd) for c in charges if c.label == label]


def test_a_stopped_machine_costs_nothing_while_it_stands(provider: LocalProvider) -> None:
    label = "regia-a-1"
    create(provider, label)
    ready(provider, label)
    provider.stop(label)
    before = charged(provider, label)
    assert charged(provider, label) == before
    provider.start(label)
    ready(provider, label)
    provider.terminate(label)
    after = charged(provider, label)
    assert len(after) == 2
    assert after[0] == before[0]


def test_a_supervisor_that_was_killed_is_charged_to_its_last_heartbeat(provider: LocalProvider) -> None:
    label = "regia-a-1"
    create(provider, label)
    ready(provider, label)
    state = state_of(provider, label)
    os.kill(state["supervisor"]["pid"], signal.SIGKILL)
    # The kernel ends the engine after it, and until then the machine runs.
    assert gone(state["supervisor"]["pid"])
    assert gone(state["engine"]["pid"])
    heartbeat = MachineFolder(provider._folder, label).last_beat()
    assert heartbeat is not None
    now = datetime.now(UTC)
    before = provider.charges(now - timedelta(days=1), now + timedelta(days=1))
    assert all(c.end == heartbeat for c in before)
    provider.terminate(label)
    assert list(provider.charges(now - timedelta(days=1), now + timedelta(days=1))) == list(before)


def test_a_changed_rate_holds_from_when_it_was_seen(provider: LocalProvider) -> None:
    label = "regia-a-1"
    create(provider, label)
    ready(provider, label)
    dearer = LocalProvider(provider._folder, usd_per_hour=RATE * 10)
    assert found(dearer, label)[0].usd_per_hour == RATE * 10
    dearer.terminate(label)
    (first, first_usd), (second, second_usd) = charged(dearer, label)
    second_of = Decimal(str(first.total_seconds())), Decimal(str(second.total_seconds()))
    assert first_usd == RATE * second_of[0] / 3600
    assert second_usd == RATE * 10 * second_of[1] / 3600


# -- logs ---------------------------------------------------------------------------------------


def test_the_log_tells_the_phases_and_what_was_done(provider: LocalProvider) -> None:
    label = "regia-a-1"
    create(provider, label)
    ready(provider, label)
    provider.stop(label)
    texts = [line.text for line in provider.logs(label)]
    phases = [t for t in texts if t.startswith("regia phase=")]
    assert phases == ["regia phase=loading", "regia phase=warming", "regia phase=ready"]
    assert "The engine was started." in texts
    assert "It was told to stop." in texts
    provider.terminate(label)
    assert "It was told to end." in [line.text for line in provider.logs(label)]


def test_an_engine_that_cannot_load_says_why_in_the_list(
    provider: LocalProvider, engines: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    damaged = engines.parent / "damaged.gguf"
    damaged.write_bytes(b"GGUF, but not really")
    monkeypatch.setattr("deployments.providers.local_commands.gguf_of", lambda key: damaged)
    create(provider, "regia-a-1")
    machine = wait_for(provider, "regia-a-1", MachineStatus.EXITED)
    assert "exit code 1" in machine.detail
    assert "could not be loaded" in machine.detail
