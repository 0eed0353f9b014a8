"""What the inference image's door adds between the panel and the engine, and what it takes.

    .venv/bin/python -m tests.bench.bench_door [--rounds 3]

The door runs on core 0; the engine (tests/image/stand_in.py) and this generator share core 1. Every chunk says
when it was written, so its way through the door is measured chunk by chunk. Goals: 1 ms added at the median, to a
request and to a chunk; 200 streams at once; 40 MB for the door and the watchdog.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import re
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from deployments.certificates import Pin
from tests.image.doors import STAND_IN, OpenDoor, StandIn, open_door, pinned, stand_in, wait_for_port
from tests.image.running import KEY, running, variables

REQUESTS = 1000
CHUNKS, PAUSE = 64, 0.02
AT_ONCE = (1, 20, 100, 200)
STREAMS = 200
_STAMP = re.compile(rb'"content": "\d+@(\d+) "')
_DOOR_CORE, _REST_CORE = {0}, {1}


@dataclass(frozen=True)
class Target:
    name: str
    port: int
    pin: Pin | None = None


@dataclass
class Ways:
    """How long chunks were on their way, in ms, and how many streams came whole."""

    chunks: list[float] = field(default_factory=list)
    whole: int = 0


# -- asking -------------------------------------------------------------------------------------


def request(body: dict[str, Any]) -> bytes:
    sent = json.dumps(body).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: door\r\nAuthorization: Bearer {KEY}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(sent)}\r\n\r\n"
    )
    return head.encode() + sent


async def connect(target: Target) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    pin = target.pin
    options = {} if pin is None else {"ssl": pin.context, "server_hostname": pin.name}
    return await asyncio.open_connection("127.0.0.1", target.port, **options)  # type: ignore[arg-type]


async def latencies(target: Target, *, requests: int) -> list[float]:
    """Milliseconds from question to answer, one after another on one kept connection, slowly enough for its rate."""
    reader, writer = await connect(target)
    asked, found = request({"max_tokens": 1}), []
    for _ in range(requests):
        began = time.perf_counter()
        writer.write(asked)
        head = await reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            raise SystemExit(f"{target.name} answered {head[:40]!r}")
        length = int(re.search(rb"(?i)content-length: (\d+)", head)[1])  # type: ignore[index]
        await reader.readexactly(length)
        found.append((time.perf_counter() - began) * 1e3)
        # Under 50 requests a second, beyond which the door says 429.
        await asyncio.sleep(0.021)
    writer.close()
    return found


class Listener(asyncio.Protocol):
    """Reads one stream; the arithmetic of a chunk is done when it comes."""

    def __init__(self, ways: Ways, done: asyncio.Future[None]) -> None:
        self.ways, self.done, self.tail = ways, done, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        came = time.monotonic_ns()
        text = self.tail + data
        end = 0
        for match in _STAMP.finditer(text):
            self.ways.chunks.append((came - int(match[1])) / 1e6)
            end = match.end()
        self.tail = text[end:][-300:]
        if b"[DONE]" in self.tail:
            self.ways.whole += 1
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_result(None)


async def crowd(target: Target, streams: int, ways: Ways, *, chunks: int = CHUNKS) -> None:
    loop = asyncio.get_running_loop()
    asked = request({"stream": True, "max_tokens": chunks, "first_seconds": 0.5, "pause_seconds": PAUSE})

    async def one() -> None:
        done = loop.create_future()
        pin = target.pin
        options = {} if pin is None else {"ssl": pin.context, "server_hostname": pin.name}
        transport, _ = await loop.create_connection(
            lambda: Listener(ways, done), "127.0.0.1", target.port, **options
        )
        # Not all in the same moment: people do not ask in step.
        await asyncio.sleep(PAUSE * hash(transport) % 97 / 97)
        transport.write(asked)
        await done

    await asyncio.gather(*(one() for _ in range(streams)))


# -- the parts ----------------------------------------------------------------------------------


def on_core(cores: set[int]) -> list[str]:
    taskset = shutil.which("taskset")
    return [taskset, "-c", str(min(cores))] if taskset and (os.cpu_count() or 1) > 1 else []


def stay_on(cores: set[int]) -> None:
    if (os.cpu_count() or 1) > 1:
        os.sched_setaffinity(0, cores)


@contextmanager
def doors(folder: Path, engine: StandIn) -> Iterator[tuple[OpenDoor, OpenDoor]]:
    """A plain one and one with TLS."""
    (folder / "plain").mkdir()
    (folder / "tls").mkdir()
    stay_on(_DOOR_CORE)
    with open_door(folder / "plain", engine) as plain, open_door(folder / "tls", engine, tls=True) as tls:
        stay_on(_REST_CORE)
        yield plain, tls


def cpu_seconds(door: OpenDoor) -> float:
    assert door.door.process is not None
    master = psutil.Process(door.door.process.pid)
    return _seconds_of(master, *master.children(recursive=True))


def _seconds_of(*processes: psutil.Process) -> float:
    return float(sum(sum(p.cpu_times()[:2]) for p in processes))


def memory(tree: Sequence[psutil.Process]) -> tuple[float, float]:
    """PSS and RSS in MB."""
    full = [p.memory_full_info() for p in tree]
    return sum(f.pss for f in full) / 1e6, sum(f.rss for f in full) / 1e6


# -- the figures --------------------------------------------------------------------------------


def percentile(values: Sequence[float], part: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * part))]


def requests_table(targets: Sequence[Target], rounds: int) -> None:
    found: dict[str, list[float]] = {target.name: [] for target in targets}
    for _ in range(rounds):
        for target in targets:
            found[target.name] += asyncio.run(latencies(target, requests=REQUESTS // rounds))
    base = statistics.median(found[targets[0].name])
    print(
        f"\n| a request, {REQUESTS} in turn | median ms | p99 ms | added at the median |\n|---|---|---|---|"
    )
    for name, values in found.items():
        median = statistics.median(values)
        print(f"| {name} | {median:.2f} | {percentile(values, 0.99):.2f} | {median - base:+.2f} |")


def streams_table(
    targets: Sequence[Target], rounds: int, cpu: dict[str, Callable[[], float]], engine: StandIn
) -> None:
    """Where this generator and the engine fill their core, what is added is theirs as well."""
    rest = (psutil.Process(), psutil.Process(engine.pid))
    print(f"\n| streams at once | {CHUNKS} chunks each, {PAUSE * 1e3:.0f} ms apart | median ms | p99 ms "
          "| added at the median | whole | CPU ms per 1,000 chunks | generator's core |\n"
          "|---|---|---|---|---|---|---|---|")  # fmt: skip
    for streams in AT_ONCE:
        base = 0.0
        for target in targets:
            ways, used, busy, span = Ways(), 0.0, 0.0, rounds * CHUNKS * PAUSE
            for _ in range(rounds):
                # The door's rate allows a burst of 200, and then 50 a second.
                time.sleep(5 if streams > 50 else 1)
                before, others = cpu[target.name](), _seconds_of(*rest)
                asyncio.run(crowd(target, streams, ways))
                used += cpu[target.name]() - before
                busy += _seconds_of(*rest) - others
            median = statistics.median(ways.chunks)
            base = base or median
            shown = f"{used * 1e6 / len(ways.chunks):.0f}" if used else ""
            print(f"| {streams} | {target.name} | {median:.2f} | {percentile(ways.chunks, 0.99):.2f} "
                  f"| {median - base:+.2f} | {ways.whole} of {streams * rounds} | {shown} | {busy / span:.0%} |")  # fmt: skip


def memory_table(folder: Path) -> None:
    """Of the whole machine but its engine: init, process with the watchdog in it, nginx."""
    pin, told = pinned()
    command = [*on_core(_REST_CORE), sys.executable, str(STAND_IN), "--port", "{port}"]
    environ = variables(folder, REGIA_ENGINE_COMMAND=shlex.join(command), **told)
    with running(folder, environ) as machine:
        machine.wait_for("ready")
        wait_for_port(machine.port)
        print("\n| memory of door and watchdog, TLS | PSS MB | RSS MB |\n|---|---|---|")
        _memory_rows("idle", machine.process)
        target = Target("tls", machine.port, pin)
        asyncio.run(_measured_under_load(target, machine.process))
        time.sleep(2)
        _memory_rows("afterwards", machine.process)


async def _measured_under_load(target: Target, process: subprocess.Popen[str]) -> None:
    ways = Ways()
    load = asyncio.create_task(crowd(target, STREAMS, ways, chunks=400))
    await asyncio.sleep(5)
    _memory_rows(f"{STREAMS} streams", process)
    await load
    if ways.whole != STREAMS:
        raise SystemExit(f"Only {ways.whole} of {STREAMS} streams came whole.")


def _memory_rows(when: str, process: subprocess.Popen[str]) -> None:
    first = psutil.Process(process.pid)
    tree = [p for p in (first, *first.children(recursive=True)) if str(STAND_IN) not in p.cmdline()]
    nginx = [p for p in tree if p.name() == "nginx"]
    rest = [p for p in tree if p not in nginx]
    for name, some in (("door", nginx), ("process and watchdog", rest), ("together (40)", tree)):
        pss, rss = memory(some)
        print(f"| {when}: {name}, {len(some)} processes | {pss:.1f} | {rss:.1f} |")


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--rounds", type=int, default=3)
    rounds = options.parse_args().rounds
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    with tempfile.TemporaryDirectory(prefix="regia-bench-") as name:
        folder = Path(name)
        with (
            stand_in(folder, before=on_core(_REST_CORE), quiet=True) as engine,
            doors(folder, engine) as pair,
        ):
            plain, tls = pair
            targets = [
                Target("the engine directly", engine.port),
                Target("through the door, plain", plain.port),
                Target("through the door, TLS", tls.port, tls.pin),
            ]
            cpu = {
                targets[0].name: lambda: 0.0,
                targets[1].name: lambda: cpu_seconds(plain),
                targets[2].name: lambda: cpu_seconds(tls),
            }
            requests_table(targets, rounds)
            streams_table(targets, rounds, cpu, engine)
        (folder / "machine").mkdir()
        memory_table(folder / "machine")


if __name__ == "__main__":
    main()
