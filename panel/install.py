"""Make `.venv` hold exactly the locks; run as a script by `./regia`, with the standard library alone.

Each lock leaves a stamp when it is installed whole: the Python's version and the lock's text. A second
start compares them and installs nothing. An install that was interrupted is begun anew.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMPS = VENV / "regia-installed"
HALF_DONE = VENV / "regia-installing"
LOG = VENV / "install.log"

BASE = "requirements/base.lock"
ENGINE = "requirements/engine.lock"
SANDBOX = "requirements/sandbox.lock"
TOOLS = "requirements/dev.lock"

UNREACHABLE = (
    "NewConnectionError",
    "ConnectTimeoutError",
    "ReadTimeoutError",
    "ProxyError",
    "Failed to establish a new connection",
    "Temporary failure in name resolution",
    "Could not fetch URL",
)
# The engine's wheels exist for Linux, macOS and Windows on the usual processors; elsewhere it is left out.
NO_WHEEL = ("No matching distribution", "is not a supported wheel", "Could not find a version")


class InstallFailed(Exception):
    """One sentence for the terminal."""


def main(argv: list[str]) -> int:
    """Install what is missing. Exit code 1, with a sentence, when that cannot be done."""
    parser = argparse.ArgumentParser(prog="install")
    parser.add_argument("--sandbox", action="store_true", help="also what the emulators need")
    parser.add_argument(
        "--tools", action="store_true", help="also what the test suite needs, and the emulators"
    )
    asked = parser.parse_args(argv)
    wanted = [BASE, ENGINE]
    if asked.sandbox or asked.tools:
        wanted.append(SANDBOX)
    if asked.tools:
        wanted.append(TOOLS)
    if _is_done(wanted):
        return 0
    try:
        with _alone():
            _install(wanted)
    except InstallFailed as e:
        print(f"regia: {e}", file=sys.stderr)
        return 1
    except OSError as e:
        print(f"regia: {VENV} cannot be written: {e.strerror}.", file=sys.stderr)
        return 1
    return 0


def _is_done(wanted: list[str]) -> bool:
    version = _venv_version()
    if version != _our_version() or HALF_DONE.exists():
        return False
    return all(_stamp(lock).exists() and _stamp(lock).read_text() == _content(lock) for lock in wanted)


@contextmanager
def _alone() -> Iterator[None]:
    # Two first starts at once, on two data folders: the second waits and then finds everything done.
    fd = os.open(ROOT / "requirements", os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _install(wanted: list[str]) -> None:
    if _venv_version() != _our_version() or HALF_DONE.exists():
        _say("Making .venv")
        _make_venv()
    for lock in wanted:
        if _stamp(lock).exists() and _stamp(lock).read_text() == _content(lock):
            continue
        HALF_DONE.touch()
        _stamp(lock).unlink(missing_ok=True)
        _say(f"Installing {lock}")
        _install_lock(lock)
        STAMPS.mkdir(exist_ok=True)
        _stamp(lock).write_text(_content(lock))
        HALF_DONE.unlink()


def _make_venv() -> None:
    made = _run([sys.executable, "-I", "-m", "venv", "--clear", str(VENV)], log=None)
    if made.returncode:
        reason = (made.stdout.strip().splitlines() or ["it said nothing"])[-1]
        raise InstallFailed(f"{VENV} could not be made with {sys.executable}: {reason}")


def _install_lock(lock: str) -> None:
    if _run([str(PYTHON), "-m", "pip", "--version"], log=None).returncode:
        _run([str(PYTHON), "-m", "ensurepip"], log=LOG)
    # Not compiled ahead: only what is imported is ever compiled, and then once.
    command = [str(PYTHON), "-m", "pip", "install", "--no-compile", "--require-hashes", "--no-input"]
    # A lock is whole; what it leaves out (docs/decisions/0008) is not to be fetched after all.
    command += [
        "--disable-pip-version-check",
        "--retries",
        "2",
        "--timeout",
        "30",
        "--no-deps",
        "-r",
        str(ROOT / lock),
    ]
    if lock == ENGINE:
        command += ["--only-binary", ":all:"]
    done = _run(command, log=LOG)
    if not done.returncode:
        return
    if any(word in done.stdout for word in UNREACHABLE):
        raise InstallFailed(
            "the package index cannot be reached, and the first start needs it: look at the network"
            " (or at `pip config list`) and run the same command again."
        )
    if lock == ENGINE and any(word in done.stdout for word in NO_WHEEL):
        _say("The local engine does not exist for this platform: Regia goes on without it")
        return
    raise InstallFailed(f"{lock} could not be installed: {_reason(done.stdout)} ({LOG} has the whole story).")


def _reason(output: str) -> str:
    errors = [
        line.removeprefix("ERROR:").strip() for line in output.splitlines() if line.startswith("ERROR:")
    ]
    return errors[-1] if errors else "pip ended without saying why"


def _run(command: list[str], *, log: Path | None) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if log:
        with log.open("a") as f:
            f.write(done.stdout)
    return done


def _our_version() -> str:
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def _venv_version() -> str:
    """The version that `.venv` runs on now; empty when it does not run."""
    if PYTHON.parent == Path(sys.executable).parent:
        return _our_version()
    if not PYTHON.exists():
        return ""
    code = "import sys; print(f'{sys.version_info.major}.{sys.version_info.minor}')"
    asked = subprocess.run([PYTHON, "-I", "-S", "-c", code], capture_output=True, text=True, check=False)
    return asked.stdout.strip()


def _stamp(lock: str) -> Path:
    return STAMPS / Path(lock).name


def _content(lock: str) -> str:
    return f"# Python {_our_version()}\n{(ROOT / lock).read_text()}"


def _say(text: str) -> None:
    print(f"{text} …", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
