"""The door: nginx in front of the engine, with its configuration in memory.

What it lets in, and how much of it, is written in `nginx.conf.template`. Keys and draining change while it runs:
nginx starts new workers for what comes, and the old ones go on with their streams to the end.
"""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

from regia_machine import children
from regia_machine.environment import Settings
from regia_machine.exits import Ending, Exit
from regia_machine.files import write_secret

TEMPLATE = Path(__file__).resolve().parent.parent / "nginx.conf.template"
START_SECONDS = 10.0
RELOAD_SECONDS = 10.0
_KEY = re.compile(r"[A-Za-z0-9_-]{16,200}")
_PLACEHOLDER = re.compile(r"%%([A-Z_]+)%%")
_PAUSE = 0.02
_STOP_SECONDS = 3.0
_KEPT_LINES = 20
_UNPRIVILEGED = "nobody"


class DoorFailed(Ending):
    def __init__(self, cause: str) -> None:
        super().__init__(Exit.DOOR, cause)


class Door:
    """May be used from several threads. `pass_on` is given nginx's own lines, without what was asked."""

    def __init__(self, settings: Settings, pass_on: Callable[[str], None] | None = None) -> None:
        self._settings = settings
        self._pass_on = pass_on or _to_stderr
        self._folder = settings.run_dir / "door"
        self._keys: tuple[str, ...] = ()
        self._is_draining = self._is_stopping = False
        self._lock = threading.RLock()
        self._said: deque[str] = deque(maxlen=_KEPT_LINES)
        self.process: subprocess.Popen[bytes] | None = None
        """nginx's master; None before the start."""

    def start(self, keys: Sequence[str]) -> None:
        """Returns when it listens. Raises DoorFailed."""
        with self._lock:
            self._keys = tuple(keys)
            self._write()
            self._check()
            self.process = children.start(self._command(), _environment())
            reader = threading.Thread(target=self._read, args=(self.process,), name="door", daemon=True)
            reader.start()
            self._wait_until_it_listens(self.process, reader)

    def set_keys(self, keys: Sequence[str]) -> None:
        """These keys open it from now on, and no other. Raises DoorFailed; then it stays as it was."""
        with self._lock:
            before, self._keys = self._keys, tuple(keys)
            try:
                self._reload()
            except DoorFailed:
                self._keys = before
                raise

    def set_draining(self, on: bool) -> None:  # noqa: FBT001 - the watchdog's callback
        """While it drains, new generation is refused; the rest, the lease among it, goes on. Raises DoorFailed."""
        with self._lock:
            if on != self._is_draining:
                self._is_draining = on
                self._reload()

    def stop(self, grace_seconds: float) -> None:
        """Take nothing new, let what runs go on for so long, then end all of it."""
        with self._lock:
            process, self._is_stopping = self.process, True
        if process is None:
            return
        if grace_seconds > 0 and process.poll() is None:
            process.send_signal(signal.SIGQUIT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(grace_seconds)
        children.stop(process, seconds=_STOP_SECONDS)

    # -- the configuration ----------------------------------------------------------------------

    def _write(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        (self._folder / "temp").mkdir(exist_ok=True, mode=0o700)
        # Only a body cut into crumbs is too large for memory, and nginx would write it down. Here it may not.
        (self._folder / "temp" / "body").mkdir(exist_ok=True, mode=0o500)
        tls = self._settings.tls
        if tls is not None:
            write_secret(self._folder / "door.key", tls.key_pem)
            write_secret(self._folder / "door.crt", tls.certificate_pem)
        write_secret(self._folder / "nginx.conf", self._render())

    def _render(self) -> str:
        settings, text = self._settings, TEMPLATE.read_text()
        for section, wanted in (
            ("tls", settings.tls is not None),
            ("lease", settings.lease_seconds > 0),
            ("health", settings.health_port is not None),
        ):
            text = text if wanted else _without(text, section)
        values = {
            "FOLDER": str(self._folder),
            "USER": _user_line(),
            "KEYS": " ".join(f'"~^[Bb]earer {_checked(key)}$" 1;' for key in self._keys),
            "PORT": str(settings.port),
            "SSL": " ssl" if settings.tls is not None else "",
            "DRAINING": str(int(self._is_draining)),
            "ENGINE_PORT": str(settings.engine_port),
            "LEASE_PORT": str(settings.lease_port),
            "HEALTH_PORT": str(settings.health_port),
            "HEALTH_PATH": settings.health_path,
        }
        return _PLACEHOLDER.sub(lambda match: values[match[1]], text)

    def _command(self) -> list[str]:
        return [_nginx(), "-p", str(self._folder), "-c", str(self._folder / "nginx.conf")]

    def _check(self) -> None:
        found = subprocess.run(
            [*self._command(), "-t", "-q"],
            env=_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
        )
        if found.returncode:
            raise DoorFailed(f"nginx does not take its configuration: {_last(found.stderr)}")

    # -- the process ----------------------------------------------------------------------------

    def _reload(self) -> None:
        """Returns when what is written holds for every new connection."""
        process = self.process
        if process is None or self._is_stopping:
            return
        if process.poll() is not None:
            raise DoorFailed("nginx has ended.")
        self._write()
        self._check()
        old = set(_workers(process.pid))
        process.send_signal(signal.SIGHUP)
        give_up = time.monotonic() + RELOAD_SECONDS
        while not _replaced(old, _workers(process.pid)):
            if time.monotonic() > give_up or process.poll() is not None:
                raise DoorFailed(
                    f"nginx did not take its new configuration: {self._said[-1] if self._said else 'no word'}"
                )
            time.sleep(_PAUSE)

    def _wait_until_it_listens(self, process: subprocess.Popen[bytes], reader: threading.Thread) -> None:
        give_up = time.monotonic() + START_SECONDS
        while not _workers(process.pid) or not _listens(self._settings.port):
            if process.poll() is not None:
                reader.join(1.0)
                raise DoorFailed(
                    f"nginx ended at its start: {self._said[0] if self._said else process.returncode}"
                )
            if time.monotonic() > give_up:
                children.kill_group(process)
                raise DoorFailed(f"nginx does not listen after {START_SECONDS:.0f} s.")
            time.sleep(_PAUSE)

    def _read(self, process: subprocess.Popen[bytes]) -> None:
        for line in process.stdout or ():
            self._said.append(_anonymous(line.decode(errors="replace")))
            self._pass_on(self._said[-1])


# -- text ---------------------------------------------------------------------------------------


def _without(text: str, section: str) -> str:
    return re.sub(rf"(?ms)^ *# <{section}>$.*?^ *# </{section}>\n", "", text)


def _checked(key: str) -> str:
    if not _KEY.fullmatch(key):
        # It stands in an expression: anything else could open the door to everybody.
        raise DoorFailed("A key is not of the right form.")
    return key


def _anonymous(line: str) -> str:
    """A line of nginx's log without who asked for what."""
    return line.partition(", client:")[0].strip()


def _last(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return _anonymous(lines[-1]) if lines else "it gives no reason"


def _to_stderr(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


# -- the system ---------------------------------------------------------------------------------


def _nginx() -> str:
    found = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    if found is None:
        raise DoorFailed("There is no nginx.")
    return found


def _environment() -> dict[str, str]:
    """Nothing of the machine's: nginx needs none of its secrets."""
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}


def _user_line() -> str:
    """Where the machine runs as root, nginx's workers do not."""
    if os.geteuid() != 0:
        return ""
    group = grp.getgrgid(pwd.getpwnam(_UNPRIVILEGED).pw_gid).gr_name
    return f"user {_UNPRIVILEGED} {group};"


def _listens(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1.0):
            return True
    except OSError:
        return False


def _workers(master: int) -> dict[int, bool]:
    """The worker processes of this nginx: whether each still takes new connections."""
    found = {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdecimal():
            continue
        try:
            # The second field is the program's name in brackets and may hold anything; count behind it.
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            title = (folder / "cmdline").read_bytes() if parent == master else b""
        except (OSError, ValueError, IndexError):
            continue
        if title.startswith(b"nginx: worker process"):
            found[int(folder.name)] = b"shutting down" not in title
    return found


def _replaced(old: set[int], workers: dict[int, bool]) -> bool:
    """New workers take connections, and none of the old ones does."""
    taking = {pid for pid, takes in workers.items() if takes}
    return bool(taking) and not taking & old
