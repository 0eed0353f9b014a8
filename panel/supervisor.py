"""The supervisor behind `./regia`: starts the panel's processes, watches them, ends them.

    supervisor (this file: the standard library alone, so that it stays small)
    ├── prepare        migrate, static files, first administrator; ends before the others begin
    ├── web            uvicorn, on a socket that the supervisor bound and keeps
    ├── worker         Celery, with the clock (beat) as one of its threads
    └── terminate      Celery, nothing but giving machines back

A child holds the reading end of a pipe whose writing end is the supervisor's alone; when the
supervisor ends in whatever way, the child reads the pipe's end and ends too (`panel/processes.py`). Engines
are in process groups of their own and live on, as a cloud's machines would.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from panel import sandbox
from panel.holding import HostMark, Refused, make_folder, sole

ROOT = Path(__file__).resolve().parent.parent
CHILDREN = ("web", "worker", "terminate")
GRACE = 10.0
"""Seconds a child has to end after SIGTERM. A create that is cut off is found again by its label."""
STEADY = 60.0
"""A child that ran this long is started again at once; one that dies sooner waits 1, 2, 4 … 30 s."""
FIRST_PAGE = 90.0
LOG_LIMIT = 10 * 1024 * 1024
PORT_PATIENCE = 3.0
"""What was killed a moment ago may still be letting go of its port."""


# -- children --------------------------------------------------------------------------------------


@dataclass
class Child:
    """One process that is kept alive. Its output goes to its log, never to the terminal."""

    name: str
    environment: dict[str, str]
    log: Path
    pass_fds: tuple[int, ...]
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    again_at: float = 0.0
    failures: int = field(default=0)

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "panel.processes", self.name],
                cwd=ROOT, env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                # A session of its own: Ctrl-C reaches the supervisor alone, which ends the rest in order.
                start_new_session=True, pass_fds=self.pass_fds,
            )  # fmt: skip
        self.started = time.monotonic()

    def look(self) -> None:
        """Start it again, after its back-off, when it has died."""
        if self.process is None:
            if time.monotonic() >= self.again_at:
                self.start()
            return
        code = self.process.poll()
        if code is None:
            return
        self.failures = 0 if time.monotonic() - self.started > STEADY else self.failures + 1
        wait = min(30.0, 2.0 ** (self.failures - 1)) if self.failures else 0.0
        self.process, self.again_at = None, time.monotonic() + wait
        warn(
            f"the {self.name} process ended ({_code(code)}) and starts again in {wait:.0f} s; see {self.log}"
        )

    def signal(self, number: int) -> None:
        if self.process and self.process.poll() is None:
            self.process.send_signal(number)

    @property
    def runs(self) -> bool:
        return self.process is not None and self.process.poll() is None


def _code(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"code {code}"


def warn(text: str) -> None:
    print(f"regia: {text}", file=sys.stderr, flush=True)


def rotate(log: Path) -> None:
    """Keep one older file once a log has grown. Copied and cut, since its writer keeps it open (O_APPEND)."""
    with contextlib.suppress(OSError):
        if log.exists() and log.stat().st_size > LOG_LIMIT:
            log.with_suffix(".log.1").write_bytes(log.read_bytes())
            os.truncate(log, 0)


# -- Django's commands, each in a process of its own -----------------------------------------------


def manage(
    *arguments: str, environment: dict[str, str], capture: bool = True
) -> subprocess.CompletedProcess[str]:
    """Run one management command to its end."""
    return subprocess.run(
        [sys.executable, "manage.py", *arguments],
        cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, text=True, check=False, capture_output=capture,
        start_new_session=capture,
    )  # fmt: skip


def reason_of(output: str) -> str:
    """The sentence in a failed command's stderr, without the exception's name."""
    lines = [line for line in output.strip().splitlines() if line.strip()]
    last = lines[-1].strip() if lines else "it ended without saying why"
    name, colon, text = last.partition(": ")
    return text if colon and " " not in name else last


def prepare(environment: dict[str, str], logs: Path) -> None:
    """Migrate, collect the static files, make the first administrator. Raises Refused."""
    done = manage("prepare", environment=environment)
    with (logs / "prepare.log").open("a") as log:
        log.write(done.stdout + done.stderr)
    if done.returncode:
        raise Refused(reason_of(done.stderr))


def environment_for(options: argparse.Namespace) -> dict[str, str]:
    """What every process of the panel gets."""
    known = sandbox.environment(options.data_dir)
    ours = {
        **(sandbox.without_foreign() if known else os.environ),
        **known,
        "REGIA_DATA_DIR": str(options.data_dir),
        "DJANGO_SETTINGS_MODULE": "panel.settings",
        # Each thread's own heap would cost 30 MB of idle memory.
        "MALLOC_ARENA_MAX": "2",
        "PYTHONUNBUFFERED": "1",
        # `prepare` has run them; a worker needs neither the pages nor the admin site.
        "CELERY_SKIP_CHECKS": "1",
    }
    host = getattr(options, "host", "")
    if host and not os.environ.get("REGIA_ALLOWED_HOSTS", "").strip():
        names = ["127.0.0.1", "localhost", "[::1]", socket.gethostname()]
        extra = [f"[{host}]" if ":" in host else host] if host not in WILDCARDS else []
        ours["REGIA_ALLOWED_HOSTS"] = ",".join(dict.fromkeys(names + extra))
    return ours


# -- up --------------------------------------------------------------------------------------------

WILDCARDS = {"0.0.0.0", "::", ""}  # noqa: S104 - named, not bound


def bind(host: str, port: int) -> socket.socket:
    """The listening socket, bound here so that it outlives a restart of the web process. Raises Refused."""
    give_up = time.monotonic() + PORT_PATIENCE
    while True:
        try:
            family = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM)[0][0]
            return socket.create_server((host, port), family=family, backlog=2048)
        except socket.gaierror as e:
            raise Refused(f"the host {host!r} is unknown here: {e.strerror}.") from e
        except PermissionError as e:
            raise Refused(f"port {port} may not be opened by this user; choose one above 1023.") from e
        except OSError as e:
            if time.monotonic() > give_up:
                raise Refused(f"{host}:{port} cannot be opened: {e.strerror}. Choose another --port.") from e
            time.sleep(0.2)


def address_of(host: str, port: int) -> str:
    """Where a browser finds the panel: `REGIA_PUBLIC_URL` behind a proxy, else what was bound."""
    public = os.environ.get("REGIA_PUBLIC_URL", "").strip().rstrip("/")
    name = "127.0.0.1" if host in WILDCARDS else f"[{host}]" if ":" in host else host
    return public or f"http://{name}:{port}"


class Signals:
    """Signals as bytes in a pipe, so that the loop sleeps until there is something to do."""

    def __init__(self) -> None:
        self.stops = 0
        self._read, write = os.pipe()
        os.set_blocking(self._read, False)
        os.set_blocking(write, False)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._stop)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._read, selectors.EVENT_READ)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self.stops += 1

    def wait(self, seconds: float) -> None:
        if self._selector.select(seconds):
            with contextlib.suppress(BlockingIOError):
                os.read(self._read, 512)


def up(options: argparse.Namespace) -> int:
    """Start everything, print one address, and stay until a signal. 0 when it was asked to end."""
    sandbox.check(options.data_dir, wanted=options.sandbox)
    make_folder(options.data_dir)
    mark = HostMark(options.data_dir)
    with sole(options.data_dir, mark) as lock:
        if options.sandbox:
            print("Starting the emulators of RunPod and Vast.ai …", flush=True)
            sandbox.begin(options.data_dir)
        listener = bind(options.host, options.port)
        address = address_of(options.host, options.port)
        lock.say(pid=os.getpid(), address=address)
        signals = Signals()
        return Panel(options, mark, signals, listener, address).run()


class Panel:
    """The running panel: its children, from the first start to the last signal."""

    def __init__(
        self,
        options: argparse.Namespace,
        mark: HostMark,
        signals: Signals,
        listener: socket.socket,
        address: str,
    ) -> None:
        self.options, self.mark, self.signals = options, mark, signals
        self.listener, self.address = listener, address
        self.logs: Path = options.data_dir / "logs"
        self.environment = environment_for(options)
        # Our end of the lifeline is closed by the kernel however we end.
        self.lifeline, self._our_end = os.pipe()
        self.children = [self._child(name) for name in CHILDREN]

    def _child(self, name: str) -> Child:
        fds = (self.lifeline, self.listener.fileno()) if name == "web" else (self.lifeline,)
        extra = {"REGIA_LIFELINE_FD": str(self.lifeline)}
        if name == "web":
            extra["REGIA_LISTEN_FD"] = str(self.listener.fileno())
        return Child(name, {**self.environment, **extra}, self.logs / f"{name}.log", fds)

    def run(self) -> int:
        for child in self.children:
            rotate(child.log)
        print("Preparing the database and the pages …", flush=True)
        prepare(self.environment, self.logs)
        if self.signals.stops:
            return 0
        web, *workers = self.children
        try:
            web.start()
            token = self._link()
            for child in workers:
                child.start()
            if self._wait_for_page(web):
                self._greet(token)
            self._watch()
        finally:
            self._end()
        self._say_machines()
        return 0

    def _link(self) -> str:
        """A fresh one-time sign-in path; empty where links are not to be printed (a service's log)."""
        if os.environ.get("REGIA_PRINT_LINK", "").strip() == "0":
            return ""
        done = manage("signinlink", environment=self.environment)
        if done.returncode:
            warn(reason_of(done.stderr))
            return ""
        return done.stdout.strip()

    def _wait_for_page(self, web: Child) -> bool:
        """True once /healthz answers; False when a signal came first. Raises Refused when it never does."""
        give_up = time.monotonic() + FIRST_PAGE
        while not self.signals.stops:
            if not web.runs or time.monotonic() > give_up:
                raise Refused(f"the panel does not answer: {_last_line(web.log)} (see {web.log}).")
            if self._answers():
                return True
            self.signals.wait(0.05)
        return False

    def _answers(self) -> bool:
        """Ask our own socket for /healthz. By hand: an HTTP client would double the supervisor's memory."""
        host, port = self.listener.getsockname()[:2]
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - named, not bound
        known = self.environment.get("REGIA_ALLOWED_HOSTS", "").split(",")[0].strip().lstrip(".")
        name = known if known not in {"", "*"} else "localhost"
        ask = f"GET /healthz HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n"
        try:
            with socket.create_connection((host, port), timeout=5) as s:
                s.sendall(ask.encode())
                return s.recv(64).startswith(b"HTTP/1.1 200 ")
        except OSError:
            return False

    def _greet(self, path: str) -> None:
        print(f"\nRegia is at  {self.address}{path or '/'}")
        if path:
            print("The link signs you in once; ./regia link prints another.")
        if self.options.host not in {"127.0.0.1", "localhost", "::1"} and self.address.startswith("http://"):
            warn("this address is open to the network without TLS; docs/operations.md shows how to add it")
        down = "./regia down"
        if self.options.sandbox:
            down += " --sandbox"
            print("Sandbox: no real machine, no real money. Its machines are engines on this computer.")
        print(f"Ctrl-C ends the panel and leaves machines running; {down} gives them back.", flush=True)

    def _watch(self) -> None:
        rotated = time.monotonic()
        while not self.signals.stops:
            for child in self.children:
                child.look()
            self.mark.keep()
            if time.monotonic() - rotated > 60:
                rotated = time.monotonic()
                for child in self.children:
                    rotate(child.log)
            self.signals.wait(1.0)

    def _end(self) -> None:
        """SIGTERM to all, then SIGKILL to what is left after the grace or at a second Ctrl-C."""
        self.listener.close()
        for child in self.children:
            child.signal(signal.SIGTERM)
        give_up, asked = time.monotonic() + GRACE, self.signals.stops
        while any(child.runs for child in self.children):
            if time.monotonic() > give_up or self.signals.stops > asked:
                for child in self.children:
                    child.signal(signal.SIGKILL)
            self.signals.wait(0.1)

    def _say_machines(self) -> None:
        """How many machines still run and bill, so that nobody leaves them behind unawares."""
        done = manage("machines", environment=self.environment)
        print(
            done.stdout.strip() if not done.returncode else f"Regia ended. {reason_of(done.stderr)}",
            flush=True,
        )


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
    return reason_of(lines[-1]) if lines else "it wrote nothing"
