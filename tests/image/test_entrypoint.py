"""The machine's process from its start to its end, with its door, in front of a small engine."""

from __future__ import annotations

import base64
import http.client
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pytest

from tests.image.provider import Provider
from tests.image.running import KEY, PROGRESS, Running, engine_command, is_alive, running, variables
from tests.image.test_environment import pair

pytestmark = pytest.mark.image

_SHORT_LEASE = """\
import sys
from regia_machine import entrypoint, environment, init
environment.LEASE_SECONDS = range(1, 604801)
sys.exit(init.run(entrypoint.main))
"""
SHORT_LEASE = (sys.executable, "-c", _SHORT_LEASE)
"""The same process, which takes a lease that a test can wait for."""


@contextmanager
def machine(folder: Path, *options: object, **changes: str) -> Iterator[Running]:
    command = engine_command("--tell", folder / "told.json", *options)
    with running(folder, variables(folder, REGIA_ENGINE_COMMAND=command, **changes)) as started:
        yield started


def ask(port: int, method: str, path: str, *, key: str = KEY, body: object = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, path, json.dumps(body) if body else None, _headers(key))
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def _headers(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}", "Content-Type": "application/json"} if key else {}


class Stream:
    """One streamed answer, read in the background."""

    def __init__(self, port: int) -> None:
        self.text = ""
        self.complete = False
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        body = {"model": "small", "stream": True, "messages": [{"role": "user", "content": "Hello"}]}
        self._connection.request("POST", "/v1/chat/completions", json.dumps(body), _headers(KEY))
        self._response = self._connection.getresponse()
        assert self._response.status == 200
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        try:
            while chunk := self._response.read1(1000):
                self.text += chunk.decode()
            self.complete = "[DONE]" in self.text
        except (OSError, http.client.HTTPException):
            pass
        finally:
            self._connection.close()

    def wait(self) -> None:
        self._thread.join(timeout=20)
        assert not self._thread.is_alive()


def eventually(done: Callable[[], object], *, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def family(started: Running) -> list[psutil.Process]:
    return psutil.Process(started.process.pid).children(recursive=True)


def named(started: Running, name: str) -> int:
    """The pid of the process whose command line begins so."""
    return next(p.pid for p in family(started) if " ".join(p.cmdline()).startswith(name))


# -- from the start to ready --------------------------------------------------------------------


def test_the_door_opens_when_the_engine_has_answered_and_not_before(tmp_path):
    with machine(tmp_path, "--load-seconds", 1) as started:
        started.wait_for("loading")
        with pytest.raises(OSError):
            ask(started.port, "GET", "/health")
        ready = started.wait_for("ready")
        assert ask(started.port, "GET", "/health", key="")[0] == 200
        assert ask(started.port, "GET", "/v1/models")[0] == 200
        assert ask(started.port, "GET", "/v1/models", key="")[0] == 401
        assert (
            ask(started.port, "POST", "/v1/chat/completions", body={"model": "small", "messages": []})[0]
            == 200
        )

    assert 1 <= int(ready.values["seconds"]) < 20
    assert list(dict.fromkeys(started.phases())) == [
        "checking", "loading", "warming", "ready", "draining", "ending", "exited", "exit",
    ]  # fmt: skip


def test_every_line_of_its_own_is_read_by_one_expression(tmp_path):
    with machine(tmp_path, "--say", 'regia phase=ready seconds="0', "--say", "INFO loading") as started:
        started.wait_for("ready")

    own = [line for line in started.lines if line.startswith("regia")]
    assert len(own) >= 7
    assert all(PROGRESS.match(line) for line in own)
    assert "INFO loading" in started.lines
    assert ' regia phase=ready seconds="0' in started.lines


def test_no_secret_is_printed_even_when_the_engine_prints_it(tmp_path):
    secrets = {
        "HF_TOKEN": "hf_secretsecretsecret", "CONTAINER_API_KEY": "vast-secret-0123456789",
        "RUNPOD_API_KEY": "runpod-secret-0123456789",
    }  # fmt: skip
    values = [KEY, *secrets.values()]
    says = [
        word for value in values for word in ("--say", f"Namespace(api_key='{value}', other={value}{value})")
    ]

    with machine(tmp_path, *says, "--load-seconds", 0.5, "--die-loading", 1, **secrets) as started:
        last = started.end()

    assert last.values["code"] == "70"
    assert "***" in last.values["cause"]
    assert not [value for value in values if value in started.output]


def test_the_engine_knows_no_secret_and_its_temporary_files_are_in_memory(tmp_path):
    with machine(
        tmp_path, HF_TOKEN="hf_secretsecretsecret", CONTAINER_API_KEY="vast-secret", CONTAINER_ID="1"
    ) as m:
        m.wait_for("ready")
        told = m.engine()

    assert not [name for name in told["environment"] if name.startswith(("REGIA_", "CONTAINER_", "HF_TOKEN"))]
    assert told["environment"]["VLLM_NO_USAGE_STATS"] == "1"
    assert told["environment"]["TMPDIR"] == str(tmp_path / "run" / "tmp")
    assert (tmp_path / "run").stat().st_mode & 0o777 == 0o700


def test_with_tls_the_door_has_exactly_the_certificate_that_it_was_given(tmp_path):
    given = pair()
    der = base64.b64decode("".join(value for name, value in given.items() if "CERT" in name))
    context = ssl.create_default_context(cadata=der)
    with machine(tmp_path, REGIA_DOOR="tls", **given) as started:
        started.wait_for("ready")
        with (
            socket.create_connection(("127.0.0.1", started.port), timeout=5) as plain,
            context.wrap_socket(plain, server_hostname="a.machine.invalid") as secure,
        ):
            secure.sendall(b"GET /health HTTP/1.1\r\nHost: a.machine.invalid\r\nConnection: close\r\n\r\n")
            assert secure.recv(100).startswith(b"HTTP/1.1 200 ")

    assert given["REGIA_TLS_KEY"] not in started.output


# -- told to stop -------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_while_it_loads_ends_it_at_once_with_0(tmp_path, number):
    with machine(tmp_path, "--load-seconds", 60) as started:
        started.wait_for("loading")
        engine = started.engine()["pid"]
        began = time.monotonic()
        started.process.send_signal(number)
        last = started.end()

    assert last.values["code"] == "0"
    assert time.monotonic() - began < 5
    assert not is_alive(engine)
    assert "draining" not in started.phases()


def test_a_running_stream_comes_to_its_end_before_a_stop(tmp_path):
    with machine(tmp_path, "--chunks", 15, "--pace", 0.1, REGIA_DRAIN_SECONDS="20") as started:
        started.wait_for("ready")
        stream = Stream(started.port)
        eventually(lambda: stream.text)
        began = time.monotonic()
        started.process.terminate()
        started.wait_for("draining")
        # Closed for what is new, and that within a moment.
        eventually(lambda: _refused(started.port), seconds=3)
        last = started.end()
        stream.wait()

    assert last.values["code"] == "0"
    assert stream.complete
    assert time.monotonic() - began < 10


def _refused(port: int) -> bool:
    try:
        ask(port, "GET", "/health", key="")
    except OSError:
        return True
    return False


def test_a_stream_that_takes_too_long_is_cut_after_the_drain(tmp_path):
    with machine(tmp_path, "--chunks", 1000, REGIA_DRAIN_SECONDS="1") as started:
        started.wait_for("ready")
        stream = Stream(started.port)
        eventually(lambda: stream.text)
        began = time.monotonic()
        started.process.terminate()
        last = started.end()
        stream.wait()

    assert last.values["code"] == "0"
    assert 1 <= time.monotonic() - began < 10
    assert not stream.complete


def test_a_second_signal_changes_nothing(tmp_path):
    with machine(tmp_path, "--chunks", 10) as started:
        started.wait_for("ready")
        stream = Stream(started.port)
        eventually(lambda: stream.text)
        for _ in range(5):
            started.process.send_signal(signal.SIGTERM)
            started.process.send_signal(signal.SIGINT)
        assert started.end().values["code"] == "0"
        stream.wait()

    assert stream.complete


# -- what dies ----------------------------------------------------------------------------------


def test_an_engine_that_dies_while_it_loads_is_70_with_its_last_words(tmp_path):
    with machine(tmp_path, "--load-seconds", 0.3, "--die-loading", 5) as started:
        last = started.end()

    assert last.values["code"] == "70"
    assert "exit code 5" in last.values["cause"]
    assert "cannot load this model" in last.values["cause"]


def test_an_engine_that_is_not_there_is_70(tmp_path):
    with running(tmp_path, variables(tmp_path, REGIA_ENGINE_COMMAND="no-such-engine {port}")) as started:
        assert started.end().values["code"] == "70"


def test_an_engine_that_dies_while_it_serves_is_71_and_the_door_is_gone(tmp_path):
    with machine(tmp_path, "--say", "the last thing it said") as started:
        started.wait_for("ready")
        os.kill(started.engine()["pid"], signal.SIGKILL)
        last = started.end(seconds=5)
        assert _refused(started.port)

    assert last.values["code"] == "71"
    assert "SIGKILL" in last.values["cause"]
    assert "the last thing it said" in last.values["cause"]


@pytest.mark.parametrize(("how", "code"), [("fail", "72"), ("empty", "72"), ("die", "70")])
def test_a_warm_up_that_fails_never_opens_the_door(tmp_path, how, code):
    with machine(tmp_path, "--warmup", how) as started:
        last = started.end()

    assert last.values["code"] == code
    assert "ready" not in started.phases()


def test_a_door_that_dies_is_73(tmp_path):
    with machine(tmp_path) as started:
        started.wait_for("ready")
        engine = started.engine()["pid"]
        os.kill(named(started, "nginx: master"), signal.SIGKILL)
        last = started.end(seconds=10)

    assert last.values["code"] == "73"
    assert not is_alive(engine)


def test_a_port_that_is_taken_is_73(tmp_path):
    with (
        ThreadingHTTPServer(("", 0), BaseHTTPRequestHandler) as other,
        machine(tmp_path, REGIA_PORT=str(other.server_port)) as started,
    ):
        assert started.end().values["code"] == "73"


def test_nothing_outlives_it(tmp_path):
    with machine(tmp_path, "--orphan", "--deaf") as started:
        started.wait_for("ready")
        pids = [p.pid for p in family(started)]
        assert started.engine()["orphan"] in pids
        os.kill(started.engine()["pid"], signal.SIGKILL)
        started.end()

    assert len(pids) >= 5
    assert not [pid for pid in pids if is_alive(pid)]


def test_nothing_outlives_it_even_when_its_own_process_is_killed(tmp_path):
    with machine(tmp_path, "--orphan") as started:
        started.wait_for("ready")
        pids = [p.pid for p in family(started)]
        os.kill(named(started, f"{sys.executable} -m regia_machine"), signal.SIGKILL)
        code = started.process.wait(timeout=10)

    assert code == 128 + signal.SIGKILL
    assert "SIGKILL" in started.progress[-1].values["cause"]
    assert not [pid for pid in pids if is_alive(pid)]


def test_orphans_are_reaped(tmp_path):
    with machine(tmp_path, "--orphan") as started:
        started.wait_for("ready")
        orphan = started.engine()["orphan"]
        assert psutil.Process(orphan).ppid() == started.process.pid
        os.kill(orphan, signal.SIGKILL)
        # A zombie would still be there.
        eventually(lambda: not Path(f"/proc/{orphan}").exists())


# -- as the first process of a container --------------------------------------------------------


def _can_unshare() -> bool:
    tool = shutil.which("unshare")
    return (
        tool is not None
        and subprocess.run([tool, "--pid", "--fork", "--mount-proc", "true"], check=False).returncode == 0
    )


def test_as_process_1_it_reaps_orphans_and_hears_signals(tmp_path):
    if not _can_unshare():
        pytest.skip("no new process namespace can be made here")
    environ = variables(
        tmp_path, REGIA_ENGINE_COMMAND=engine_command("--tell", tmp_path / "told.json", "--orphan")
    )
    command = (
        "unshare",
        "--pid",
        "--fork",
        "--kill-child",
        "--mount-proc",
        sys.executable,
        "-m",
        "regia_machine",
    )
    with running(tmp_path, environ, command=command) as started:
        started.wait_for("ready")
        (first,) = psutil.Process(started.process.pid).children()
        orphans = [p for p in first.children() if p.ppid() == first.pid]
        assert len(orphans) == 2  # The machine's own process, and the orphan.
        orphan = next(p for p in orphans if "regia_machine" not in " ".join(p.cmdline()))
        orphan.kill()
        eventually(lambda: not Path(f"/proc/{orphan.pid}").exists())
        first.terminate()
        assert started.end().values["code"] == "0"


# -- the lease ----------------------------------------------------------------------------------


def leased(
    folder: Path, provider: Provider, *, seconds: int, options: tuple[object, ...] = ()
) -> dict[str, str]:
    return variables(
        folder, REGIA_LEASE_SECONDS=str(seconds), REGIA_DRAIN_SECONDS="1", REGIA_VAST_URL=provider.url,
        CONTAINER_ID="4711", CONTAINER_API_KEY="vast-secret-0123456789",
        REGIA_ENGINE_COMMAND=engine_command("--tell", folder / "told.json", *options),
    )  # fmt: skip


def test_a_lease_that_lapses_while_it_loads_ends_the_machine_at_its_provider(tmp_path):
    with Provider() as provider:
        environ = leased(tmp_path, provider, seconds=1, options=("--load-seconds", 60))
        with running(tmp_path, environ, command=SHORT_LEASE) as started:
            last = started.end()

    assert last.values["code"] == "74"
    assert provider.asked == [("DELETE", "/api/v0/instances/4711/", "Bearer vast-secret-0123456789")]
    assert not is_alive(started.engine()["pid"])
    assert "vast-secret-0123456789" not in started.output


def test_a_machine_that_was_ended_never_serves_again(tmp_path):
    with Provider() as provider:
        environ = leased(tmp_path, provider, seconds=3)
        with running(tmp_path, environ, command=SHORT_LEASE) as started:
            started.wait_for("ready")
            assert started.end().values["code"] == "74"
        assert "draining" in started.phases()
        (tmp_path / "told.json").unlink()

        with running(tmp_path, {**environ, "REGIA_LEASE_SECONDS": "7200"}) as again:
            assert again.end().values["code"] == "75"

    assert len(provider.asked) == 2
    assert not (tmp_path / "told.json").exists()
    assert "loading" not in again.phases()


def test_a_renewal_keeps_it_alive_and_a_new_key_opens_it(tmp_path):
    another = "another-key-0123456789abcdef"
    with Provider() as provider:
        environ = leased(tmp_path, provider, seconds=4)
        with running(tmp_path, environ, command=SHORT_LEASE) as started:
            started.wait_for("ready")
            status, body = ask(started.port, "PUT", "/lease", body={"seconds": 600, "keys": [another]})
            assert status == 200
            assert json.loads(body) == {"expires_in": 600, "state": "serving", "keys": 1}
            assert ask(started.port, "GET", "/v1/models")[0] == 401
            assert ask(started.port, "GET", "/v1/models", key=another)[0] == 200
            time.sleep(4)
            assert ask(started.port, "GET", "/v1/models", key=another)[0] == 200
            started.process.terminate()
            assert started.end().values["code"] == "0"

    assert provider.asked == []
    assert another not in started.output


def test_without_a_lease_nobody_has_to_renew(tmp_path):
    with machine(tmp_path, REGIA_LEASE_SECONDS="0") as started:
        started.wait_for("ready")
        assert ask(started.port, "PUT", "/lease", body={"seconds": 600})[0] == 404
