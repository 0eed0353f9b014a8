"""The engine's process: vLLM or another OpenAI-compatible server on 127.0.0.1, from its start to its end."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import threading
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from regia_machine import children, waiting
from regia_machine.environment import Settings
from regia_machine.exits import Ending, Exit
from regia_machine.report import Report
from regia_machine.waiting import Look

LOADING_SECONDS = 1800.0
"""The slowest disks and the first compilation fit in there with room."""
WARMUP_SECONDS = 300.0
"""The first request compiles what loading did not."""
TELL_SECONDS = 10.0
_ASK_SECONDS = 2.0
_TAIL = 20
"""Lines of the engine's output that are kept, to say why it ended."""
_LAST_WORDS = 1500
"""Characters of them, so that how it ended is never cut off a line of the log."""
_NOISE = ("nanobind: ", " - leaked ", " - ... skipped ", "See https://nanobind.")
_OWN_VARIABLES = {
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    # The weights are there, so there is nothing to ask anybody.
    "HF_HUB_OFFLINE": "1",
    "PYTHONUNBUFFERED": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "VLLM_DO_NOT_TRACK": "1",
    # vLLM's processes find each other by this address, which else would be the machine's public one.
    "VLLM_HOST_IP": "127.0.0.1",
    "VLLM_NO_USAGE_STATS": "1",
}


def command(settings: Settings, weights: Path | None) -> list[str]:
    """`weights` may be None only for an engine that brings its own."""
    if settings.engine_command:
        words = {"{port}": str(settings.engine_port), "{model}": str(weights or settings.model)}
        return [_filled(word, words) for word in settings.engine_command]
    return [
        "vllm", "serve", str(weights),
        "--served-model-name", settings.served_name,
        "--host", "127.0.0.1",
        "--port", str(settings.engine_port),
        "--max-model-len", str(settings.context),
        "--gpu-memory-utilization", f"{settings.gpu_memory:g}",
        *(["--max-num-seqs", str(settings.max_sequences)] if settings.max_sequences else []),
        *(["--quantization", settings.quantization] if settings.quantization else []),
        *(["--reasoning-parser", settings.reasoning_parser] if settings.reasoning_parser else []),
        "--uvicorn-log-level", "warning",
        *settings.extra_arguments,
    ]  # fmt: skip


def environment(settings: Settings, environ: Mapping[str, str]) -> dict[str, str]:
    return {**children.inherited(environ), **_OWN_VARIABLES, "TMPDIR": str(settings.run_dir / "tmp")}


def _filled(word: str, words: Mapping[str, str]) -> str:
    for mark, value in words.items():
        word = word.replace(mark, value)
    return word


class Engine:
    """One engine. Its output is passed on line by line, without secrets."""

    def __init__(self, settings: Settings, report: Report) -> None:
        self._settings = settings
        self._report = report
        self._tail: deque[str] = deque(maxlen=_TAIL)
        self._pump: threading.Thread | None = None
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, weights: Path | None) -> None:
        """Raises Ending when there is no such command."""
        words = command(self._settings, weights)
        variables = environment(self._settings, os.environ)
        if not children.found(words[0], variables):
            raise Ending(
                Exit.STARTING, f"There is no command {words[0]} here, so the engine cannot be started."
            )
        self.process = children.start(words, variables)
        self._pump = children.listen(self.process, self._report, self._keep)

    def ended(self) -> str | None:
        """How it ended and its last words, or None while it runs."""
        if self.process is None or self.process.poll() is None:
            return None
        # What it started holds the pipe open, and would keep the last words from coming.
        children.kill_group(self.process)
        if self._pump is not None:
            self._pump.join(timeout=2)
        said = " | ".join(self._tail)[-_LAST_WORDS:] or "It said nothing."
        return f"The engine {children.how_it_ended(self.process.returncode)}. Its last words: {said}"

    def wait_until_healthy(self, look: Look, *, seconds: float = LOADING_SECONDS) -> None:
        """`look` has to notice its death. Raises Ending when it is not up in `seconds`."""
        started = told = time.monotonic()
        self._report.phase("loading", seconds=0)

        def healthy() -> bool:
            nonlocal told
            now = time.monotonic()
            if now - told >= TELL_SECONDS:
                told = now
                self._report.phase("loading", seconds=int(now - started))
            return self._is_healthy()

        if not waiting.until(healthy, look, seconds=seconds, step=0.25):
            raise Ending(Exit.STARTING, f"The engine did not come up within {seconds:g} seconds.")

    def warm_up(self, look: Look, *, seconds: float = WARMUP_SECONDS) -> None:
        """One real answer, so that the first person need not wait for it, and so that it is known to come."""
        self._report.phase("warming")
        try:
            status, text = waiting.in_background(lambda: self._chat(seconds), look, seconds=seconds)
        except TimeoutError:
            raise Ending(
                Exit.WARMUP, f"The first request was not answered within {seconds:g} seconds."
            ) from None
        except (OSError, http.client.HTTPException) as e:
            # It may have died of the request, which says more and shows a moment later.
            waiting.until(lambda: False, look, seconds=1)
            raise Ending(Exit.WARMUP, f"The first request got no answer ({type(e).__name__}).") from None
        if status != 200 or not _has_answer(text):
            shown = " ".join(text.split())[:300]
            raise Ending(Exit.WARMUP, f"The first request was answered with {status}: {shown}")

    def stop(self) -> None:
        if self.process is not None:
            children.stop(self.process)

    def _keep(self, text: str) -> None:
        # As Python ends, Triton's binding tells dozens of lines of what it leaked, after the words that matter.
        if not text.startswith(_NOISE):
            self._tail.append(text)

    def _is_healthy(self) -> bool:
        try:
            return self._ask("GET", "/health", None, seconds=_ASK_SECONDS)[0] == 200
        except (OSError, http.client.HTTPException):
            return False  # It loads: nothing listens yet.

    def _chat(self, seconds: float) -> tuple[int, str]:
        body = {
            "model": self._settings.served_name,
            "messages": [{"role": "user", "content": "Hello"}],
            "max_tokens": 4,
        }
        return self._ask("POST", "/v1/chat/completions", body, seconds=seconds)

    def _ask(
        self, method: str, path: str, body: Mapping[str, Any] | None, *, seconds: float
    ) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self._settings.engine_port, timeout=seconds)
        headers = {"Content-Type": "application/json"} if body else {}
        try:
            connection.request(method, path, json.dumps(body) if body else None, headers)
            response = connection.getresponse()
            return response.status, response.read(100_000).decode(errors="replace")
        finally:
            connection.close()


def _has_answer(text: str) -> bool:
    try:
        answer = json.loads(text)
    except ValueError:
        return False
    return isinstance(answer, dict) and bool(answer.get("choices"))
