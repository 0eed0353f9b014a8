"""Child processes: each in a session of its own, on a leash, with an environment without secrets."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence

from regia_machine import leash
from regia_machine.environment import is_secret
from regia_machine.report import Lines, Report

STOP_SECONDS = 15.0
"""Between SIGTERM and SIGKILL."""
_INHERITED = frozenset({
    "PATH", "HOME", "USER", "LOGNAME", "LANG", "TZ", "LD_LIBRARY_PATH", "LD_PRELOAD", "PYTHONPATH", "SSL_CERT_FILE",
    "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy",
    "no_proxy", "VIRTUAL_ENV", "CC", "CXX",
})  # fmt: skip
_INHERITED_PREFIXES = (
    "LC_", "CUDA", "NVIDIA", "NCCL", "TORCH", "PYTORCH", "TRITON", "FLASHINFER", "OMP_", "MKL_", "HF_", "XDG_",
    "VLLM_",
)  # fmt: skip
_NEVER = frozenset({
    # They would write what people say to a log, or open paths of a developer's.
    "VLLM_DEBUG_LOG_API_SERVER_RESPONSE", "VLLM_LOGGING_LEVEL", "VLLM_LOGGING_CONFIG_PATH", "VLLM_SERVER_DEV_MODE",
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING", "VLLM_TRACE_FUNCTION",
})  # fmt: skip


def inherited(environ: Mapping[str, str]) -> dict[str, str]:
    """What a child gets of this process's environment: nothing that is not named here, and no secret."""
    return {
        name: value
        for name, value in environ.items()
        if (name in _INHERITED or name.startswith(_INHERITED_PREFIXES))
        and name not in _NEVER
        and not is_secret(name)
    }


def found(command: str, environment: Mapping[str, str]) -> bool:
    """Whether the command can be started with that environment's PATH."""
    return shutil.which(command, path=environment.get("PATH", os.defpath)) is not None


def start(command: Sequence[str], environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Its output and its errors come by one pipe. It has to be started from a thread that stays."""
    return subprocess.Popen(
        [sys.executable, "-I", "-S", leash.__file__, str(os.getpid()), *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=dict(environment),
        start_new_session=True,
    )


def listen(
    process: subprocess.Popen[bytes], report: Report, keep: Callable[[str], object]
) -> threading.Thread:
    """Pass its output on line by line, without secrets, and give each line to `keep`."""

    def pump() -> None:
        lines = Lines(report)
        output = process.stdout.fileno() if process.stdout else -1
        while chunk := os.read(output, 65_536):
            hear(lines.feed(chunk))
        hear(lines.end())

    def hear(complete: list[str]) -> None:
        for text in complete:
            keep(text)
            report.pass_on(text)

    thread = threading.Thread(target=pump, daemon=True)
    thread.start()
    return thread


def stop(process: subprocess.Popen[bytes], *, seconds: float = STOP_SECONDS) -> None:
    """SIGTERM, then SIGKILL for it and whatever it started in its session's group."""
    if process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=seconds)
    kill_group(process)


def kill_group(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def how_it_ended(code: int) -> str:
    """`ended with exit code 1`, `was killed by SIGKILL`."""
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"
