"""The playground's stream against the engine directly, with the bench's mock engine and load generator.

    .venv/bin/python tests/bench/bench_playground.py [--bench-dir DIR] [--ladder] [--json FILE]

The panel (uvicorn, one process) runs on core 0 with a real session and CSRF token; the generator and the
mock engine share core 1. Goals: at the median 3 ms added to TTFT with 1 stream and 6 ms with 100; 200
usable streams on one core; at most 120 CPU-ms per 1,000 tokens.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.playground import served  # noqa: E402

MOCK_KEY = "bench-engine-key"
TOKENS = 64


def on_core(core: int) -> list[str]:
    taskset = shutil.which("taskset")
    return [taskset, "-c", str(core)] if taskset else []


@contextlib.contextmanager
def mock(bench: Path) -> Iterator[tuple[int, int]]:
    """The mock engine on core 1: its port and process."""
    port = served.free_port()
    command = [
        sys.executable, str(bench / "mock_vllm.py"), "--port", str(port), "--key", MOCK_KEY,
        "--ttft-ms", "50", "--itl-ms", "20", "--tokens", str(TOKENS),
    ]  # fmt: skip
    process = subprocess.Popen([*on_core(1), *command])
    try:
        served.wait_for_port(port)
        yield port, process.pid
    finally:
        process.terminate()
        process.wait(timeout=10)


def main() -> int:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = os.environ.get("REGIA_BENCH_DIR") or str(ROOT.parent / "shared" / "bench")
    options.add_argument("--bench-dir", default=default, help="the folder of mock_vllm.py and chatbench.py")
    options.add_argument("-c", default="1,20,100", help="streams at once")
    options.add_argument("--rounds", default="3")
    options.add_argument(
        "--ladder", action="store_true", help="climb to the last usable number of streams instead"
    )
    options.add_argument("--ladder-steps", default="50,100,150,200,250,300")
    options.add_argument("--ramp-ms", default="", help="the starts of a block are spread over this")
    options.add_argument("--json", default="", help="write the figures there")
    a = options.parse_args()
    bench = Path(a.bench_dir).resolve()
    if not (bench / "chatbench.py").exists():
        print(f"{bench} has no chatbench.py: give --bench-dir or REGIA_BENCH_DIR.", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="regia-bench-") as data:
        return run(a, bench, Path(data))


def run(a: argparse.Namespace, bench: Path, data: Path) -> int:
    # One person asks for all of them here.
    os.environ["REGIA_CHAT_STREAMS_EACH"] = "1000"
    with (
        mock(bench) as (port, mock_pid),
        served.panel(
            [{"url": f"http://127.0.0.1:{port}", "key": MOCK_KEY}], data, before=on_core(0)
        ) as panel,
    ):
        config = data / "targets.json"
        config.write_text(json.dumps(targets(panel, port, mock_pid)))
        generator = [sys.executable, str(bench / "chatbench.py"), *arguments(a, config)]
        return subprocess.call([*on_core(1), *generator])


def targets(panel: served.Panel, port: int, mock_pid: int) -> dict[str, object]:
    words = [{"role": "user", "content": "rid:{rid} hello"}]
    return {
        "stats_url": f"http://127.0.0.1:{port}/__stats",
        "targets": [
            {
                "name": "direct", "url": f"http://127.0.0.1:{port}/v1/chat/completions", "pids": [mock_pid],
                "headers": {"Authorization": f"Bearer {MOCK_KEY}"},
                "body": {"model": "qwen3-4b", "stream": True, "messages": words},
            },
            {
                "name": "playground", "url": panel.url + panel.stream(), "pids": [panel.pid],
                "headers": panel.headers, "body": {"messages": words, "temperature": 0.7},
            },
        ],
    }  # fmt: skip


def arguments(a: argparse.Namespace, config: Path) -> list[str]:
    given = ["--config", str(config), "--tokens", str(TOKENS)]
    given += ["--ladder", a.ladder_steps] if a.ladder else ["-c", a.c, "--rounds", a.rounds]
    given += ["--ramp-ms", a.ramp_ms] if a.ramp_ms else []
    return [*given, *(["--json", str(Path(a.json).resolve())] if a.json else [])]


if __name__ == "__main__":
    sys.exit(main())
