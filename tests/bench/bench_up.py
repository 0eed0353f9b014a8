"""How long `./regia up` takes to a first page, and what the idle stack costs in memory.

    .venv/bin/python -m tests.bench.bench_up [--rounds 5]

Cold: a copy of the committed tree without `.venv`, bytecode or data; the package index's speed is part of it.
Warm: the same again, data kept. The page is the sign-in page, fetched without a session. Prints a table.
Memory after a minute of rest: PSS counts a page shared by n processes 1/n times and sums up to what the stack
costs; RSS counts it n times.
"""

from __future__ import annotations

import argparse
import os
import platform
import signal
import statistics
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from tests.command.running import ROOT, free_port

REST = 60.0


def copy_of_the_tree(folder: Path) -> Path:
    """What a clone would hold."""
    clone = folder / "regia"
    clone.mkdir()
    archive = subprocess.run(["git", "archive", "HEAD"], cwd=ROOT, capture_output=True, check=True)
    subprocess.run(["tar", "x", "-C", str(clone)], input=archive.stdout, check=True)
    return clone


@contextmanager
def up(clone: Path) -> Iterator[tuple[subprocess.Popen[str], float]]:
    """(the process, seconds until the printed address gave a page)."""
    port = free_port()
    kept = ("PATH", "HOME", "LANG", "PIP_", "SSL_", "HTTP", "http", "NO_PROXY", "no_proxy")
    env = {k: v for k, v in os.environ.items() if k.startswith(kept)}
    env.pop("VIRTUAL_ENV", None)
    began = time.monotonic()
    process = subprocess.Popen(
        ["./regia", "up", "--port", str(port)], cwd=clone, env=env, text=True, stdout=subprocess.PIPE
    )
    try:
        for line in process.stdout or ():
            if "Regia is at" in line:
                break
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://127.0.0.1:{port}/", timeout=60) as answer:
            answer.read()
        yield process, time.monotonic() - began
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)


def memory(pid: int) -> list[tuple[str, float, float]]:
    """(name, PSS, RSS) in MB of the supervisor and each of its children."""
    us = psutil.Process(pid)
    rows = []
    for process in [us, *us.children(recursive=True)]:
        full = process.memory_full_info()
        words = process.cmdline()
        name = "supervisor" if process.pid == pid else words[-1]
        rows.append((name, getattr(full, "pss", full.uss) / 1e6, full.rss / 1e6))
    return rows


def cpu_seconds(pid: int) -> float:
    """What the stack has used so far."""
    us = psutil.Process(pid)
    return sum(sum(p.cpu_times()[:2]) for p in [us, *us.children(recursive=True)])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory(prefix="regia-bench-") as folder:
        clone = copy_of_the_tree(Path(folder))
        with up(clone) as (_, cold):
            pass
        warm = []
        for _ in range(rounds):
            with up(clone) as (_, seconds):
                warm.append(seconds)
        with up(clone) as (process, _):
            time.sleep(REST / 2)
            before = cpu_seconds(process.pid)
            time.sleep(REST / 2)
            idle = (cpu_seconds(process.pid) - before) / (REST / 2)
            rows = memory(process.pid)
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}\n")
    print("| | seconds |\n|---|---|")
    print(f"| cold `./regia up` to a page | {cold:.1f} |")
    print(f"| warm, median of {rounds} (worst) | {statistics.median(warm):.1f} ({max(warm):.1f}) |")
    print("\n| idle | PSS MB | RSS MB |\n|---|---|---|")
    for name, pss, rss in rows:
        print(f"| {name} | {pss:.0f} | {rss:.0f} |")
    print(f"| together | {sum(r[1] for r in rows):.0f} | {sum(r[2] for r in rows):.0f} |")
    print(f"\nIdle CPU of the stack: {idle:.1%} of one core.")


if __name__ == "__main__":
    main()
