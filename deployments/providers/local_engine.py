"""A machine's supervisor: one small process in a session of its own that runs one engine.

Run as `python -m deployments.providers.local_engine <root> <label> <run> <lock fd>` by the local provider.
It detaches itself (so it outlives the panel and is nobody's zombie), says who it is in state.json, keeps
the journal and the heartbeat, writes the engine's words to a log with times and without the key, and
ends when the engine ends, when it is told to, or when the machine's folder is gone. Nothing of its
process group outlives it. It imports neither Django nor anything of the panel.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from deployments.providers import local_commands, local_process
from deployments.providers.local_files import HEARTBEAT, MachineFolder

GRACE = 4.0
"""Seconds an engine gets between SIGTERM and SIGKILL."""
LOG_BYTES = 4_000_000
"""The log is turned at this size; one old one is kept."""
_LINE_BYTES = 8192


class EngineLog:
    """engine.log: every line with its time (UTC), secrets masked, never longer than two turns."""

    def __init__(self, path: Path, secrets: list[str]) -> None:
        self._path = path
        # Shorter values are switches, not secrets, and would riddle the log with stars.
        self._secrets = [s for s in secrets if len(s) >= 8]
        self._file: IO[bytes] = open(path, "ab", buffering=0)  # noqa: SIM115
        self._lock = threading.Lock()
        self.last = ""
        """What says best why it ended: that its model could not be loaded, else the last line."""

    def write(self, text: str) -> None:
        for secret in self._secrets:
            text = text.replace(secret, "***")
        text = text.rstrip()
        stamp = datetime.now(UTC).isoformat(timespec="milliseconds")
        with self._lock:
            # llama.cpp's own thread may write on after that was told.
            if text and not self.last.startswith(local_commands.NOT_LOADED):
                self.last = text
            self._file.write(f"{stamp} {text}\n".encode(errors="replace"))
            if self._file.tell() > LOG_BYTES:
                self._file.close()
                self._path.replace(self._path.with_name("engine.log.1"))
                self._file = open(self._path, "ab", buffering=0)  # noqa: SIM115


class Supervisor:
    def __init__(self, machine: MachineFolder, run: int) -> None:
        self.machine = machine
        self.run = run
        self.order: dict[str, Any] = {}
        self.api_key = ""
        self.over = threading.Event()
        self.asked_at: float | None = None
        self.engine: subprocess.Popen[bytes] | None = None
        self._state: dict[str, Any] = {
            "label": machine.label, "run": run, "phase": "starting", "port": None,
            "supervisor": local_process.identity_of(os.getpid()), "engine": None,
        }  # fmt: skip
        self._lock = threading.Lock()

    def announce(self, *, usd_per_hour: str) -> None:
        """Say on disk who runs this machine, and that its time costs from now on."""
        self.machine.beat()
        self.machine.note("started", at=datetime.now(UTC), run=self.run, usd_per_hour=usd_per_hour)
        self.tell()

    def tell(self, **changes: Any) -> None:
        with self._lock:
            self._state.update(changes)
            self.machine.write("state.json", self._state)

    def serve(self) -> None:
        """Run the engine to its end."""
        secrets = self.machine.read("secrets.json")
        self.order, self.api_key = self.machine.read("meta.json")["order"], secrets["api_key"]
        known = [self.api_key, *secrets["environment"].values(), *local_commands.secrets_in(os.environ)]
        self.log = EngineLog(self.machine.log, known)
        try:
            self.engine = self._spawn(secrets["environment"])
        except OSError as e:
            self.end(f"The engine could not be started: {e.strerror}.")
            return
        if self.asked_at:
            self.engine.terminate()  # It was told to end before there was an engine to tell.
        self.tell(engine=local_process.identity_of(self.engine.pid), phase="loading")
        pump = threading.Thread(target=self._pump, args=(self.engine.stdout,), daemon=True)
        pump.start()
        threading.Thread(target=self._reap, args=(self.engine,), daemon=True).start()
        self._watch(self.engine)
        pump.join(timeout=1)
        self.end(self._why(self.engine.returncode))

    def stop(self, *_: object) -> None:
        """Signal handler: end the engine, then this."""
        self.asked_at = self.asked_at or time.monotonic()
        if self.engine is not None:
            self.engine.terminate()

    # -- the engine -----------------------------------------------------------------------------

    def _spawn(self, extra: dict[str, str]) -> subprocess.Popen[bytes]:
        self.log.write("regia phase=loading")
        if self.order["engine"] == "vllm":
            return self._spawn_vllm(extra)
        read, write = os.pipe()
        try:
            command = local_commands.llama_command(
                sys.executable, self.machine.root, self.machine.label, port_pipe=write
            )
            engine = self._popen(command, extra, pass_fds=(write,), fetches=False)
        finally:
            os.close(write)
        threading.Thread(target=self._hear_port, args=(read,), daemon=True).start()
        return engine

    def _spawn_vllm(self, extra: dict[str, str]) -> subprocess.Popen[bytes]:
        # vLLM takes a port and does not tell one, so it is chosen here, just before.
        port = _free_port()
        command = local_commands.vllm_command(
            self.order["executable"], self.order, port=port,
            gpu_memory_utilization=self.order["gpu_memory_utilization"],
        )  # fmt: skip
        own = local_commands.vllm_environment(self.api_key, gpu_index=self.order["gpu_index"])
        engine = self._popen(command, {**extra, **own}, pass_fds=())
        self._serve_at(port)
        return engine

    def _popen(
        self, command: list[str], extra: dict[str, str], *, pass_fds: tuple[int, ...], fetches: bool = True
    ) -> subprocess.Popen[bytes]:
        inherited = os.environ if fetches else local_commands.without_tokens(os.environ)
        mark = {local_process.MARK: local_process.mark_of(self.machine.root, self.machine.label)}
        return subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env=local_commands.engine_environment(inherited, mark=mark, extra=extra),
            preexec_fn=_die_with_parent, pass_fds=pass_fds,
        )  # fmt: skip

    def _reap(self, engine: subprocess.Popen[bytes]) -> None:
        engine.wait()
        self.over.set()

    def _pump(self, output: IO[bytes]) -> None:
        while line := output.readline(_LINE_BYTES):
            self.log.write(line.decode(errors="replace"))

    def _hear_port(self, pipe: int) -> None:
        with os.fdopen(pipe) as file:
            said = file.read()
        if said.isdigit():
            self._serve_at(int(said))

    def _serve_at(self, port: int) -> None:
        self.tell(port=port)
        threading.Thread(target=self._warm_up, daemon=True).start()

    def _warm_up(self) -> None:
        """Ask the engine until it answers, then let it answer once, so that the first person need not wait."""
        while not self._ask("GET", "/health"):
            if self.over.wait(0.1):
                return
        self._enter("warming")
        words = [{"role": "user", "content": "Hello"}]
        body = {"model": self.order["served_name"], "messages": words, "max_tokens": 1}
        self._ask("POST", "/v1/chat/completions", json.dumps(body), timeout=120)
        self._enter("ready")

    def _enter(self, phase: str) -> None:
        if self.over.is_set():
            return
        self.tell(phase=phase)
        self.log.write(f"regia phase={phase}")

    def _ask(self, method: str, path: str, body: str | None = None, *, timeout: float = 5) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self._state["port"], timeout=timeout)
        headers = {"Authorization": f"Bearer {self.api_key}", "Content-Type": "application/json"}
        try:
            connection.request(method, path, body, headers)
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    # -- watching over it -----------------------------------------------------------------------

    def _watch(self, engine: subprocess.Popen[bytes]) -> None:
        while not self.over.wait(0.1 if self.asked_at else HEARTBEAT):
            if not (self.machine.path / "meta.json").exists():
                # Whoever removed the folder cannot see this machine any more: it must not run on unseen.
                self.stop()
            else:
                self.machine.beat()
            if self.asked_at and time.monotonic() - self.asked_at > GRACE:
                engine.kill()

    def _why(self, code: int | None) -> str:
        if code is None:
            return "Its end was not seen."
        if self.asked_at:
            return "Ended when asked."
        if code < 0:
            return f"The engine was killed by {signal.Signals(-code).name}."
        return f"The engine ended with exit code {code}: {self.log.last[:200]}"

    def end(self, detail: str) -> None:
        try:
            self.machine.note("ended", at=datetime.now(UTC), run=self.run, detail=detail)
            self.tell(phase="exited", detail=detail)
        except OSError:
            return  # The folder is gone.


def main(root: str, label: str, run: str, lock: str) -> None:
    if os.fork():
        os._exit(0)
    os.setsid()
    os.umask(0o077)
    supervisor = Supervisor(MachineFolder(Path(root), label), int(run))
    signal.signal(signal.SIGTERM, supervisor.stop)
    signal.signal(signal.SIGINT, supervisor.stop)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    supervisor.announce(usd_per_hour=os.environ["REGIA_USD_PER_HOUR"])
    # Until here the act that started this machine goes on, even if the one who began it was killed.
    os.close(int(lock))
    try:
        supervisor.serve()
    except Exception as e:
        supervisor.end(f"The supervisor failed: {type(e).__name__}.")
        traceback.print_exc()
    # Nothing of this group outlives its supervisor: not even what the engine may have started.
    os.killpg(0, signal.SIGKILL)


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port: int = s.getsockname()[1]
        return port


def _die_with_parent() -> None:
    """In the child, before it becomes the engine: the kernel ends it with its supervisor (Linux only)."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


if __name__ == "__main__":
    main(*sys.argv[1:5])
