"""What the machine is told: its environment, read once, checked and frozen."""

from __future__ import annotations

import contextlib
import re
import shlex
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from regia_machine import arguments, tls
from regia_machine.exits import Exit, Unfit
from regia_machine.tls import Tls

LEASE_SECONDS = range(300, 604_800 + 1)
DRAIN_SECONDS = range(3600 + 1)
TELL_SECONDS = range(3600 + 1)
_CONTEXT = range(256, 1_048_576 + 1)
_SEQUENCES = range(1, 1024 + 1)
_PORTS = range(1, 65_535 + 1)

_REPOSITORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}")
_KEY = re.compile(r"[A-Za-z0-9_-]{16,200}")
_WORD = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_PATH = re.compile(r"/[A-Za-z0-9_./-]{0,100}")
_NUMBER = re.compile(r"[0-9]{1,9}")
_SHARE = re.compile(r"0?\.[0-9]{1,4}")
_CUDA = re.compile(r"([0-9]{1,3})\.([0-9]{1,3})")
_SECRET_NAME = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?)$", re.IGNORECASE)
_SHORTEST_SECRET = 8
"""Shorter values are switches, and masking them would riddle the output with stars."""


@dataclass(frozen=True, slots=True)
class Outline:
    """What a machine has to know to say that it failed, and to be ended."""

    api_key: str = field(repr=False)
    port: int
    tls: Tls | None
    has_lease: bool
    tell_seconds: int
    """How long it waits for the panel to hear of a failure; 0: not at all."""
    vast_url: str
    runpod_url: str
    state_dir: Path


@dataclass(frozen=True, slots=True)
class Settings:
    model: str
    """A repository, or a folder's absolute path."""
    revision: str
    """A commit; empty for a folder."""
    served_name: str
    context: int
    """Tokens."""
    api_key: str = field(repr=False)
    port: int
    health_port: int | None
    """Another port on which the door answers its health; None: there is none."""
    health_path: str
    """The path of the health there."""
    tls: Tls | None
    """None: the door speaks plain HTTP."""
    gpu_memory: float
    max_sequences: int | None
    quantization: str
    reasoning_parser: str
    extra_arguments: tuple[str, ...]
    lease_seconds: int
    """0: there is no lease."""
    drain_seconds: int
    vast_url: str
    runpod_url: str
    run_dir: Path
    state_dir: Path
    weights_dir: Path
    """Weights that came with the image, a folder for each of the catalogue's models."""
    engine_command: tuple[str, ...]
    """Instead of vLLM; empty: vLLM."""
    checks: bool
    cuda_min: tuple[int, int]
    hf_token: str = field(repr=False)
    hf_endpoint: str
    engine_port: int
    lease_port: int
    secrets: tuple[str, ...] = field(repr=False)
    """Values that must never be printed, longest first."""

    @property
    def is_folder(self) -> bool:
        return self.model.startswith("/")


def read(environ: Mapping[str, str]) -> Settings:
    """Raises Unfit for the first thing that is wrong: it names the variable and what to do, never a secret."""
    model = _model(environ)
    port = _port(environ)
    health_port = _health_port(environ, port)
    engine_port, lease_port = _free_ports(taken=(port, health_port))
    pair = _door(environ)
    _tell(environ)
    return Settings(
        model=model,
        revision=_revision(environ, model),
        served_name=_matching(
            environ, "REGIA_SERVED_NAME", _NAME, "the model's name in the API, such as qwen3-4b"
        ),
        context=_number(environ, "REGIA_CONTEXT", _CONTEXT),
        api_key=_api_key(environ),
        port=port,
        health_port=health_port,
        health_path=_optional(
            environ, "HEALTH_CHECK_PATH", _PATH, "a path that begins with /", default="/ping"
        ),
        tls=pair,
        gpu_memory=_share(environ, "REGIA_GPU_MEMORY", default="0.90"),
        max_sequences=_optional_number(environ, "REGIA_MAX_SEQUENCES", _SEQUENCES),
        quantization=_optional(
            environ, "REGIA_QUANTIZATION", _WORD, "vLLM's name of a quantization, or nothing"
        ),
        reasoning_parser=_reasoning_parser(environ, model),
        extra_arguments=arguments.read(environ.get("REGIA_EXTRA_ARGS", "")),
        lease_seconds=_lease(environ),
        drain_seconds=_number(environ, "REGIA_DRAIN_SECONDS", DRAIN_SECONDS, default=120),
        vast_url=_vast_url(environ),
        runpod_url=_runpod_url(environ),
        run_dir=_folder(environ, "REGIA_RUN_DIR", default="/dev/shm/regia"),  # noqa: S108
        state_dir=_state_dir(environ),
        weights_dir=_folder(environ, "REGIA_WEIGHTS_DIR", default="/opt/regia/models"),
        engine_command=_engine_command(environ),
        checks=_choice(environ, "REGIA_CHECKS", ("on", "off")) == "on",
        cuda_min=_cuda(environ),
        hf_token=environ.get("HF_TOKEN", "").strip(),
        hf_endpoint=_url(environ, "HF_ENDPOINT", default="https://huggingface.co"),
        engine_port=engine_port,
        lease_port=lease_port,
        secrets=secrets_of(environ, pair),
    )


def outline(environ: Mapping[str, str]) -> Outline | None:
    """What of it can be read, whatever else is wrong; None when port, key or door cannot."""
    try:
        return Outline(
            api_key=_api_key(environ),
            port=_port(environ),
            tls=_door(environ),
            has_lease=environ.get("REGIA_LEASE_SECONDS", "").strip() != "0",
            tell_seconds=_sound(_tell, environ),
            vast_url=_sound(_vast_url, environ),
            runpod_url=_sound(_runpod_url, environ),
            state_dir=_sound(_state_dir, environ),
        )
    except Unfit:
        return None


def _sound[T](reader: Callable[[Mapping[str, str]], T], environ: Mapping[str, str]) -> T:
    """What it reads, or its default where that is wrong."""
    try:
        return reader(environ)
    except Unfit:
        return reader({})


def is_secret(name: str) -> bool:
    """Whether a variable's name says that its value is one."""
    return _SECRET_NAME.search(name) is not None


def secrets_of(environ: Mapping[str, str], pair: Tls | None = None) -> tuple[str, ...]:
    """Every value that must not be printed, longest first, so that a part never hides before its whole."""
    found = {
        line.strip() for name, value in environ.items() if is_secret(name) for line in value.splitlines()
    }
    if pair is not None:
        found.update(line for line in pair.key_pem.splitlines() if not line.startswith("-----"))
    return tuple(sorted((s for s in found if len(s) >= _SHORTEST_SECRET), key=len, reverse=True))


# -- one variable each --------------------------------------------------------------------------


def _model(environ: Mapping[str, str]) -> str:
    model = environ.get("REGIA_MODEL", "").strip()
    if not model:
        raise _wrong("REGIA_MODEL", "is missing", "a repository such as Qwen/Qwen3-4B-AWQ, or a folder")
    if model.startswith("/"):
        if not Path(model).is_dir():
            raise _wrong("REGIA_MODEL", "names a folder that does not exist", "one that holds the weights")
    elif not _REPOSITORY.fullmatch(model) or ".." in model:
        raise _wrong("REGIA_MODEL", "is no repository", "owner/name as Hugging Face writes it, or a folder")
    return model


def _revision(environ: Mapping[str, str], model: str) -> str:
    if model.startswith("/"):
        return ""
    return _matching(environ, "REGIA_REVISION", _COMMIT, "the repository's commit, 40 hexadecimal digits")


def _port(environ: Mapping[str, str]) -> int:
    if environ.get("REGIA_PORT", "").strip():
        return _number(environ, "REGIA_PORT", _PORTS)
    return _number(environ, "PORT", _PORTS, default=8000)


def _api_key(environ: Mapping[str, str]) -> str:
    return _matching(environ, "REGIA_API_KEY", _KEY, "a key of 16 to 200 letters, digits, _ and -")


def _door(environ: Mapping[str, str]) -> Tls | None:
    return tls.read(environ) if _choice(environ, "REGIA_DOOR", ("tls", "plain")) == "tls" else None


def _tell(environ: Mapping[str, str]) -> int:
    return _number(environ, "REGIA_TELL_SECONDS", TELL_SECONDS, default=600)


def _vast_url(environ: Mapping[str, str]) -> str:
    return _url(environ, "REGIA_VAST_URL", default="https://console.vast.ai")


def _runpod_url(environ: Mapping[str, str]) -> str:
    return _url(environ, "REGIA_RUNPOD_URL", default="https://api.runpod.io")


def _state_dir(environ: Mapping[str, str]) -> Path:
    return _folder(environ, "REGIA_STATE_DIR", default="/var/lib/regia")


def _health_port(environ: Mapping[str, str], port: int) -> int | None:
    health_port = _optional_number(environ, "PORT_HEALTH", _PORTS)
    return None if health_port == port else health_port


def _reasoning_parser(environ: Mapping[str, str], model: str) -> str:
    if "REGIA_REASONING_PARSER" not in environ:
        return "qwen3" if "qwen3" in model.lower() else ""
    return _optional(environ, "REGIA_REASONING_PARSER", _WORD, "vLLM's name of a parser, or nothing")


def _lease(environ: Mapping[str, str]) -> int:
    if environ.get("REGIA_LEASE_SECONDS", "").strip() == "0":
        return 0
    return _number(environ, "REGIA_LEASE_SECONDS", LEASE_SECONDS, default=7200, or_else=", or 0 for no lease")


def _engine_command(environ: Mapping[str, str]) -> tuple[str, ...]:
    name = "REGIA_ENGINE_COMMAND"
    try:
        command = tuple(shlex.split(environ.get(name, "")))
    except ValueError:
        raise _wrong(name, "cannot be split as a shell does", "a command with its quotes closed") from None
    if command and not any("{port}" in word for word in command):
        raise _wrong(name, "has no {port}", "a command that is told its port where {port} stands")
    return command


def _cuda(environ: Mapping[str, str]) -> tuple[int, int]:
    name = "REGIA_CUDA_MIN"
    match = _CUDA.fullmatch(environ.get(name, "").strip() or "12.8")
    if match is None:
        raise _wrong(name, "is no version", "CUDA's, such as 12.8")
    return int(match[1]), int(match[2])


# -- kinds of values ----------------------------------------------------------------------------


def _matching(environ: Mapping[str, str], name: str, pattern: re.Pattern[str], wanted: str) -> str:
    value = environ.get(name, "").strip()
    if not value:
        raise _wrong(name, "is missing", wanted)
    if not pattern.fullmatch(value):
        raise _wrong(name, "is not of the right form", wanted)
    return value


def _optional(
    environ: Mapping[str, str], name: str, pattern: re.Pattern[str], wanted: str, *, default: str = ""
) -> str:
    return _matching(environ, name, pattern, wanted) if environ.get(name, "").strip() else default


def _number(
    environ: Mapping[str, str], name: str, allowed: range, *, default: int | None = None, or_else: str = ""
) -> int:
    """Without a default it is required."""
    text = environ.get(name, "").strip()
    if not text:
        if default is None:
            raise _wrong(name, "is missing", _span(allowed))
        return default
    if not _NUMBER.fullmatch(text) or int(text) not in allowed:
        raise _wrong(name, "is out of its range", _span(allowed) + or_else)
    return int(text)


def _optional_number(environ: Mapping[str, str], name: str, allowed: range) -> int | None:
    return _number(environ, name, allowed) if environ.get(name, "").strip() else None


def _share(environ: Mapping[str, str], name: str, *, default: str) -> float:
    text = environ.get(name, "").strip() or default
    wanted = "a share of the GPU's memory from 0.1 to 0.98"
    if not _SHARE.fullmatch(text) or not 0.1 <= float(text) <= 0.98:
        raise _wrong(name, "is not of the right form", wanted)
    return float(text)


def _choice(environ: Mapping[str, str], name: str, choices: tuple[str, ...]) -> str:
    """The first of the choices is the default."""
    value = environ.get(name, "").strip() or choices[0]
    if value not in choices:
        raise _wrong(name, "is unknown", " or ".join(choices))
    return value


def _folder(environ: Mapping[str, str], name: str, *, default: str) -> Path:
    return Path(_optional(environ, name, _PATH, "a folder's absolute path", default=default))


def _url(environ: Mapping[str, str], name: str, *, default: str) -> str:
    """Without a slash at its end. Keys are sent there, so it has to be TLS, except on this machine itself."""
    value = environ.get(name, "").strip().rstrip("/") or default
    try:
        parts = urlsplit(value)
        fits = parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _LOOPBACK)
        sound = fits and bool(parts.hostname) and (parts.port or 1) > 0 and "@" not in parts.netloc
    except ValueError:
        sound = False
    if not sound or not value.isascii() or any(c.isspace() for c in value):
        raise _wrong(name, "is no address that can be used", "one that begins with https://")
    return value


_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def _free_ports(*, taken: tuple[int | None, ...]) -> tuple[int, int]:
    """Two ports of 127.0.0.1 that are free now."""
    with contextlib.ExitStack() as held:
        # Held all at once, so that no two are the same; and more than two, because some may be taken.
        found = [_bound(held.enter_context(socket.socket())) for _ in range(2 + len(taken))]
    first, second = [port for port in found if port not in taken][:2]
    return first, second


def _bound(held: socket.socket) -> int:
    held.bind(("127.0.0.1", 0))
    return int(held.getsockname()[1])


def _span(allowed: range) -> str:
    return f"a whole number from {allowed.start} to {allowed.stop - 1}"


def _wrong(name: str, what: str, wanted: str) -> Unfit:
    return Unfit(Exit.ENVIRONMENT, f"{name} {what}: give {wanted}.")
