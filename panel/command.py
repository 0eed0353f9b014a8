"""The verbs of `./regia` but for test: up, down, link, verify. The standard library alone.

Run as `python -P -S -m panel.command VERB …`; `./regia` has made `.venv` before.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import time
from pathlib import Path
from typing import NoReturn

from panel import sandbox
from panel.holding import Lock, Refused, make_folder
from panel.supervisor import GRACE, ROOT, environment_for, manage, prepare, reason_of, up


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        print(f"regia: {message}; ./regia help lists the flags.", file=sys.stderr)
        sys.exit(2)


def parse(argv: list[str]) -> argparse.Namespace:
    """The verb and its flags. Exits with code 2 and one sentence on a bad one."""
    parser = Parser(prog="regia", add_help=False, allow_abbrev=False)
    parser.add_argument("verb", choices=("up", "down", "link", "verify"))
    parser.add_argument("--data-dir", default=None)
    parser.add_argument("--sandbox", action="store_true")
    if argv[:1] == ["up"]:
        parser.add_argument("--port", type=_port, default=8400)
        parser.add_argument("--host", default="127.0.0.1")
    if argv[:1] == ["verify"]:
        parser.add_argument("--anchors", action="append", default=[])
    options = parser.parse_args(argv)
    options.data_dir = (
        Path(options.data_dir or _default_folder(sandboxed=options.sandbox)).expanduser().absolute()
    )
    return options


def _default_folder(*, sandboxed: bool) -> str:
    if sandboxed:
        return str(ROOT / sandbox.FOLDER)
    return os.environ.get("REGIA_DATA_DIR", "").strip() or str(ROOT / "data")


def _port(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) < 65536:
        raise argparse.ArgumentTypeError(f"a port is a number from 1 to 65535, not {text!r}")
    return int(text)


def down(options: argparse.Namespace) -> int:
    """Terminate every machine and prove it, then end the running panel. Not 0 when something is unproved."""
    if not options.data_dir.exists():
        print(f"Nothing was ever started in {options.data_dir}.")
        return 0
    if options.sandbox:
        # Who says --sandbox does not mean to give real machines back.
        sandbox.check(options.data_dir, wanted=True)
    make_folder(options.data_dir)
    if sandbox.is_sandbox(options.data_dir):
        sandbox.begin(options.data_dir)
    environment = environment_for(options)
    lock = Lock(options.data_dir)
    if lock.holder() is None:
        prepare(environment, options.data_dir / "logs")
    proved = manage("down", environment=environment, capture=False).returncode
    ended = _end_running(lock)
    if not proved:
        sandbox.end(options.data_dir)
    return ended or proved


def _end_running(lock: Lock) -> int:
    holder = lock.holder()
    if holder is None:
        return 0
    pid = int(holder.get("pid", 0))
    if pid:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    give_up = time.monotonic() + 2 * GRACE
    while lock.holder() is not None:
        if time.monotonic() > give_up:
            raise Refused(
                f"the panel (process {pid or 'unknown'}) did not end; its machines are as said above."
            )
        time.sleep(0.1)
    print("The panel has ended.")
    return 0


def link(options: argparse.Namespace) -> int:
    """Print a fresh sign-in link of the panel that runs on this data."""
    holder = Lock(options.data_dir).holder()
    if not holder or "address" not in holder:
        raise Refused(f"no panel runs on {options.data_dir}; ./regia up starts it and prints a link.")
    done = manage("signinlink", environment=environment_for(options))
    if done.returncode:
        raise Refused(reason_of(done.stderr))
    print(f"{holder['address']}{done.stdout.strip()}")
    return 0


def verify(options: argparse.Namespace) -> int:
    """Check the audit's hash chain; the exit code is the command's."""
    if not options.data_dir.exists():
        raise Refused(f"there is no data in {options.data_dir}.")
    # The command runs in the panel's folder, and the file is named from here.
    more = [f"--anchors={Path(name).expanduser().absolute()}" for name in options.anchors]
    return manage("verify_audit", *more, environment=environment_for(options), capture=False).returncode


def main(argv: list[str]) -> int:
    if argv[:1] == ["--check-flags"]:
        parse(argv[1:])
        return 0
    options = parse(argv)
    # Whatever is made from here on, the database and the logs among it, is its owner's alone.
    os.umask(0o077)
    verbs = {"up": up, "down": down, "link": link, "verify": verify}
    try:
        return verbs[options.verb](options)
    except Refused as e:
        print(f"regia: {e}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
