"""The whole machine, as a rented one runs it: process, engine, TLS door, lease, and its end at its provider."""

from __future__ import annotations

import asyncio
import json
import shlex
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
import psutil
import pytest

from deployments import certificates
from deployments.certificates import Pin
from tests.emulators.common import Clock, Fault
from tests.emulators.common.server import Emulator
from tests.emulators.runpod import RunPodEmulator
from tests.emulators.vast import Vast
from tests.image import doors
from tests.image.doors import STAND_IN, Answer, StandIn, Stream, bearer, pinned, soon
from tests.image.running import KEY, Running, running, variables
from tests.image.test_door_streams import files_with
from tests.playground.llama import gguf

pytestmark = pytest.mark.image
NOON = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
SECOND = "another-key-0123456789"
MARKER = "marker-93ab-of-a-prompt"
LEASE = 300

_PUSHED = """
import sys
from pathlib import Path
from regia_machine import watchdog
real, ahead = watchdog.now, Path(sys.argv[1])
watchdog.now = lambda: real() + float(ahead.read_text())
from regia_machine import entrypoint, init
sys.exit(init.run(entrypoint.main))
"""
"""The same process, whose boot clock a test can push ahead, as a sleeping machine's is."""


@dataclass
class Machine:
    running: Running
    engine: StandIn
    folder: Path
    environ: dict[str, str]
    pin: Pin | None

    @property
    def port(self) -> int:
        return self.running.port

    def ask(self, method: str, path: str, *, key: str | None = KEY, **body: object) -> Answer:
        sent = json.dumps(body).encode() if body else None
        return doors.ask(self.port, method, path, key=key, body=sent, pin=self.pin)

    def chat(self, *, key: str | None = KEY, **body: object) -> Answer:
        return self.ask("POST", "/v1/chat/completions", key=key, **{"max_tokens": 1, **body})

    def stream(self, **body: object) -> Stream:
        return Stream(self.port, KEY, json.dumps({"stream": True, **body}).encode(), pin=self.pin)

    def renew(self, *, key: str | None = KEY, **body: object) -> Answer:
        return self.ask("PUT", "/lease", key=key, **{"seconds": 7200, **body})

    def push(self, seconds: float) -> None:
        push(self.folder, seconds)

    def tree(self) -> list[psutil.Process]:
        process = psutil.Process(self.running.process.pid)
        return [process, *process.children(recursive=True)]


def push(folder: Path, seconds: float) -> None:
    """The boot clock of machines of this folder is so far ahead from now on."""
    draft = folder / "ahead.new"
    draft.write_text(str(seconds))
    draft.replace(folder / "ahead")


@contextmanager
def machine(folder: Path, *, tls: bool = True, load_seconds: float = 0, **environ: str) -> Iterator[Machine]:
    """Ready, or on its way to its end where `environ` makes it so."""
    pin, told = pinned() if tls else (None, {})
    notes = folder / "notes.jsonl"
    command = [sys.executable, str(STAND_IN), "--port", "{port}", "--notes", str(notes)]
    command += ["--load-seconds", str(load_seconds)]
    every = variables(
        folder,
        **{
            "REGIA_ENGINE_COMMAND": shlex.join(command), "REGIA_LEASE_SECONDS": str(LEASE),
            "REGIA_DRAIN_SECONDS": "30", **told, **environ,
        },
    )  # fmt: skip
    if not (folder / "ahead").exists():
        push(folder, 0)
    pushed = [sys.executable, "-c", _PUSHED, str(folder / "ahead")]
    with running(folder, every, command=pushed) as started:
        yield Machine(started, StandIn(0, notes), folder, every, pin)


@contextmanager
def ready(folder: Path, **options: object) -> Iterator[Machine]:
    with machine(folder, **options) as found:  # type: ignore[arg-type]
        found.running.wait_for("ready")
        # The warm-up is not a person's.
        found.engine.forget()
        yield found


def is_gone(tree: list[psutil.Process], *, seconds: float = 10) -> bool:
    def lives(process: psutil.Process) -> bool:
        try:
            return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    return soon(lambda: not any(lives(process) for process in tree), seconds=seconds)


# -- it serves ----------------------------------------------------------------------------------


def test_the_panel_reaches_it_through_its_pinned_door_and_nobody_else(folder: Path) -> None:
    with ready(folder) as found:

        async def models(pin: Pin | None, key: str) -> int:
            url = f"https://127.0.0.1:{found.port}/v1/models"
            async with aiohttp.ClientSession(trust_env=False) as session:
                options = certificates.request_options(pin)
                async with session.get(url, headers=bearer(key), **options) as answer:
                    return answer.status

        assert asyncio.run(models(found.pin, KEY)) == 200
        assert asyncio.run(models(found.pin, "wrong-key-0123456789")) == 401
        for stranger in (None, pinned()[0]):
            with pytest.raises(aiohttp.ClientConnectorCertificateError):
                asyncio.run(models(stranger, KEY))
        assert found.chat().status == 200
        assert found.ask("POST", "/invocations").status == 404


def test_nothing_said_is_ever_printed_or_kept_and_no_key_but_where_the_machine_keeps_its_own(
    folder: Path,
) -> None:
    since = time.time() - 1
    with ready(folder) as found:
        text = (MARKER + "x" * 1000) * 4000
        asker = threading.Thread(target=found.chat, kwargs={"first_seconds": 3, "text": text})
        asker.start()
        assert soon(lambda: found.engine.noted("asked"))
        assert files_with(MARKER, folder, since) == []
        asker.join()
        found.chat(key="wrong-key-0123456789", text=MARKER)
        found.ask("GET", f"/v1/models?q={MARKER}")
        found.ask("GET", f"/{MARKER}")
        found.stream(max_tokens=100, pause_seconds=0.05, text=MARKER).read(until=2).leave()
        found.renew(keys=[KEY, SECOND], note=MARKER)
        found.ask("PUT", "/lease", seconds=1, note=MARKER)
        found.running.process.send_signal(signal.SIGTERM)
        found.running.end()
        said = found.running.output
    assert files_with(MARKER, folder, since) == []
    own = {folder / "run" / "door" / "nginx.conf", folder / "state" / "keys"}
    assert set(files_with(KEY, folder, since)) == own
    assert {path.stat().st_mode & 0o777 for path in own} == {0o600}
    private = found.environ["REGIA_TLS_KEY"]
    for secret in (MARKER, KEY, SECOND, private, private[:60], found.environ["REGIA_TLS_CERT_1"]):
        assert secret not in said


def test_told_to_stop_it_lets_a_running_answer_come_to_its_end(folder: Path) -> None:
    with ready(folder) as found:
        tree = found.tree()
        stream = found.stream(max_tokens=60, pause_seconds=0.05).read(until=3)
        found.running.process.send_signal(signal.SIGTERM)
        assert stream.read().is_whole
        assert found.running.end().values["code"] == "0"
        assert found.engine.noted("left") == []
        assert is_gone(tree)


@pytest.mark.engine
def test_a_client_that_leaves_frees_the_real_engine(folder: Path) -> None:
    script = Path(__file__).with_name("llama_server.py")
    command = shlex.join([sys.executable, str(script), "--port", "{port}", "--gguf", str(gguf())])
    with ready(folder, REGIA_ENGINE_COMMAND=command, REGIA_SERVED_NAME="smollm2-135m") as found:

        def processing() -> int:
            text = found.ask("GET", "/metrics").body.decode()
            line = next(x for x in text.splitlines() if x.startswith("llamacpp:requests_processing"))
            return round(float(line.split()[-1]))

        words = [{"role": "user", "content": "Write a very long story about the sea."}]
        answer = found.chat(messages=words, max_tokens=8).json
        assert answer["usage"]["completion_tokens"] >= 1
        stream = found.stream(messages=words, max_tokens=1500)
        heard = b""
        while b'"content"' not in heard:
            heard += stream.socket.recv(65_536)
        assert soon(lambda: processing() == 1, seconds=3)
        left_at = stream.leave()
        assert soon(lambda: processing() == 0, seconds=3)
        assert time.monotonic() - left_at < 1.0


# -- the lease ----------------------------------------------------------------------------------


def test_the_panel_renews_the_lease_and_changes_the_keys_while_an_answer_runs(folder: Path) -> None:
    with ready(folder) as found:
        stream = found.stream(max_tokens=60, pause_seconds=0.05).read(until=2)
        assert found.renew().json == {"expires_in": 7200, "state": "serving", "keys": 1}
        assert found.renew(keys=[KEY, SECOND]).json == {"expires_in": 7200, "state": "serving", "keys": 2}
        assert [found.chat(key=k).status for k in (KEY, SECOND)] == [200, 200]
        assert found.renew(key=SECOND, keys=[SECOND]).json["keys"] == 1
        assert [found.chat(key=k).status for k in (KEY, SECOND)] == [401, 200]
        assert found.renew(key=KEY).status == 401
        assert stream.read().is_whole


def test_nobody_without_a_key_renews_it_and_a_bad_renewal_is_told(folder: Path) -> None:
    with ready(folder) as found:
        assert found.renew(key=None).status == 401
        assert found.renew(key="wrong-key-0123456789").status == 401
        for bad in ({"seconds": 59}, {"seconds": "7200"}, {"keys": []}, {"keys": ["short"]}):
            answer = found.renew(**bad)
            assert answer.status == 400
            assert answer.json["error"].endswith(".")
        found.push(LEASE + 1)
        assert soon(lambda: found.chat().status == 503, seconds=5)


def test_a_panel_that_is_back_in_time_finds_it_draining_and_saves_it(folder: Path) -> None:
    with ready(folder) as found:
        stream = found.stream(max_tokens=80, pause_seconds=0.05).read(until=2)
        found.push(LEASE + 1)
        found.running.wait_for("draining")
        assert soon(lambda: found.chat().status == 503, seconds=5)
        assert found.ask("GET", "/health").status == 200
        assert found.renew().json["state"] == "serving"
        assert found.chat().status == 200
        assert stream.read().is_whole
        time.sleep(2)
        assert found.running.process.poll() is None


def test_a_clock_that_is_set_does_not_end_it(folder: Path) -> None:
    """Its time of day is years ahead, and jumps back, where its code looks at all."""
    hooks = folder / "hooks"
    hooks.mkdir()
    (hooks / "sitecustomize.py").write_text(
        "import time\nfrom pathlib import Path\nreal, n = time.time, iter(range(10**9))\n"
        "time.time = lambda: real() + (1e9 if next(n) % 2 else -1e9)\n"
        "Path(__file__).with_name('used').touch()\n"
    )
    path = variables(folder)["PYTHONPATH"]
    with ready(folder, PYTHONPATH=f"{hooks}:{path}", REGIA_DRAIN_SECONDS="0") as found:
        time.sleep(3)
        assert found.chat().status == 200
        assert found.renew().status == 200
    assert (hooks / "used").exists()


# -- the end at the provider --------------------------------------------------------------------


@dataclass
class Place:
    cloud: Emulator
    machine: str
    environ: dict[str, str]

    def standing(self) -> list[str]:
        return [machine["id"] for machine in self.cloud.machines()]


@pytest.fixture(params=["vast", "runpod"])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    make = Vast if request.param == "vast" else RunPodEmulator
    with make(clock=Clock(NOON)) as cloud:
        placed, other = cloud.place("ours"), cloud.place("another")
        environ = told_by_vast(cloud, placed) if isinstance(cloud, Vast) else told_by_runpod(cloud, placed)
        yield Place(cloud, placed, environ)
        assert other in [machine["id"] for machine in cloud.machines()]


def told_by_vast(cloud: Vast, placed: str) -> dict[str, str]:
    key = cloud.fleet.all[int(placed)].container_key
    return {"REGIA_VAST_URL": cloud.url, "CONTAINER_ID": placed, "CONTAINER_API_KEY": key}


def told_by_runpod(cloud: RunPodEmulator, placed: str) -> dict[str, str]:
    pod = cloud.find_pod(placed)
    assert pod is not None
    return {"REGIA_RUNPOD_URL": cloud.url, "RUNPOD_POD_ID": placed, "RUNPOD_API_KEY": pod.own_key}


def test_a_lease_that_lapses_ends_everything_here_and_the_machine_at_its_provider(
    folder: Path, place: Place
) -> None:
    # RunPod's proxy ends TLS before the door; at Vast the door does.
    tls = "CONTAINER_ID" in place.environ
    with ready(folder, tls=tls, **place.environ, REGIA_DRAIN_SECONDS="2") as found:
        tree = found.tree()
        stream = found.stream(max_tokens=10_000, pause_seconds=0.05).read(until=2)
        found.push(LEASE - 5)
        time.sleep(1.5)
        assert found.running.process.poll() is None
        assert place.standing()[0] == place.machine
        found.push(LEASE)
        last = found.running.end(seconds=30)
        assert (last.values["code"], last.values["cause"]) == ("74", "Nobody renewed the lease.")
        phases = found.running.phases()
        assert phases.index("ready") < phases.index("draining") < phases.index("ending")
        assert place.machine not in place.standing()
        assert len(place.cloud.seen("terminate")) == 1
        assert (folder / "state" / "ended").exists()
        assert is_gone(tree)
        assert not stream.read().is_whole
    assert place.environ.get("CONTAINER_API_KEY", "-" * 9) not in found.running.output
    assert place.environ.get("RUNPOD_API_KEY", "-" * 9) not in found.running.output


def test_the_mark_is_there_before_the_provider_is_asked_and_the_engine_is_gone(
    folder: Path, place: Place
) -> None:
    place.cloud.faults_always("terminate", Fault.HANG_BEFORE)
    with ready(folder, **place.environ, REGIA_DRAIN_SECONDS="0") as found:
        engine = [p for p in found.tree() if str(STAND_IN) in p.cmdline()]
        found.push(LEASE)
        place.cloud.wait_for("terminate")
        assert (folder / "state" / "ended").exists()
        assert engine
        assert is_gone(engine, seconds=0.1)
        found.running.process.kill()


def test_an_ended_machine_that_is_started_again_serves_nobody_and_ends_again(
    folder: Path, place: Place
) -> None:
    (folder / "state").mkdir()
    (folder / "state" / "ended").write_text("")
    place.cloud.faults_add("terminate", [Fault.ERROR_BEFORE])
    with machine(folder, **place.environ) as found:
        last = found.running.end(seconds=30)
        assert last.values["code"] == "75"
        assert found.engine.noted("asked") == []
        assert "loading" not in found.running.phases()
    assert place.machine not in place.standing()
    assert len(place.cloud.seen("terminate")) == 2


def test_a_lease_that_lapses_while_it_loads_ends_the_machine_too(folder: Path, place: Place) -> None:
    with machine(folder, load_seconds=600, **place.environ, REGIA_DRAIN_SECONDS="0") as found:
        found.running.wait_for("loading")
        tree = found.tree()
        found.push(LEASE)
        assert found.running.end(seconds=30).values["code"] == "74"
        assert is_gone(tree)
    assert place.machine not in place.standing()


def test_a_renewed_machine_is_not_ended(folder: Path, place: Place) -> None:
    with ready(folder, **place.environ, REGIA_DRAIN_SECONDS="0") as found:
        for ahead in range(0, 1000, 250):
            found.push(ahead)
            assert found.renew(seconds=LEASE).status == 200
            time.sleep(0.7)
        assert found.running.process.poll() is None
    assert place.machine in place.standing()
    assert place.cloud.seen("terminate") == []


def test_told_to_stop_it_is_not_ended_at_its_provider(folder: Path, place: Place) -> None:
    with ready(folder, **place.environ) as found:
        found.running.process.send_signal(signal.SIGTERM)
        assert found.running.end().values["code"] == "0"
    assert place.cloud.seen("terminate") == []
    assert not (folder / "state" / "ended").exists()
