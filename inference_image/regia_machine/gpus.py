"""The machine's GPUs and driver, as nvidia-smi tells them."""

from __future__ import annotations

import csv
import os
import re
import subprocess
from dataclasses import dataclass

from regia_machine import children, waiting
from regia_machine.exits import Exit, Unfit
from regia_machine.waiting import Look

SECONDS = 30.0
"""A driver that has to be woken takes some; one that hangs takes for ever."""
_QUERY = ("--query-gpu=name,memory.total,compute_cap", "--format=csv,noheader,nounits")
_CUDA = re.compile(r"CUDA (?:UMD )?Version\s*:\s*(\d+)\.(\d+)")
_TOO_OLD = ("not a valid field", "library version mismatch", "driver/library", "insufficient driver")


@dataclass(frozen=True, slots=True)
class Gpu:
    name: str
    memory_bytes: int
    compute_capability: tuple[int, int]


def read(look: Look, *, seconds: float) -> list[Gpu]:
    """Raises Unfit when there is none, or when the driver does not answer in `seconds`."""
    text = _ask(_QUERY, look, seconds=seconds)
    gpus = _parsed(text)
    if not gpus:
        raise Unfit(
            Exit.GPU, f"nvidia-smi shows no GPU that can be used: {_shown(text)}. Rent another machine."
        )
    return gpus


def cuda_version(look: Look, *, seconds: float) -> tuple[int, int]:
    """The newest CUDA that the driver can run. Raises Unfit when it does not say."""
    match = _CUDA.search(_ask((), look, seconds=seconds))
    if match is None:
        raise Unfit(
            Exit.DRIVER, "nvidia-smi does not say which CUDA the driver can run. Rent another machine."
        )
    return int(match[1]), int(match[2])


def _parsed(text: str) -> list[Gpu]:
    rows = csv.reader(text.splitlines(), skipinitialspace=True)
    return [
        Gpu(row[0].strip(), int(row[1]) * 1024**2, _version(row[2].strip()))
        for row in rows
        if len(row) == 3 and row[1].strip().isdigit() and re.fullmatch(r"\d+\.\d+", row[2].strip())
    ]


def _version(text: str) -> tuple[int, int]:
    major, _, minor = text.partition(".")
    return int(major), int(minor)


def _ask(arguments: tuple[str, ...], look: Look, *, seconds: float) -> str:
    environment = children.inherited(os.environ)
    if not children.found("nvidia-smi", environment):
        raise Unfit(Exit.GPU, "There is no nvidia-smi here, so no GPU. Rent a machine with an NVIDIA GPU.")
    process = children.start(("nvidia-smi", *arguments), environment)
    try:
        text = waiting.in_background(lambda: process.communicate()[0], look, seconds=seconds)
    except TimeoutError:
        raise Unfit(
            Exit.GPU,
            f"nvidia-smi gave no answer within {seconds:g} seconds: the GPU hangs. Rent another machine.",
        ) from None
    finally:
        _kill(process)
    said = str(text.decode(errors="replace"))
    if process.returncode != 0:
        raise _failure(said, process.returncode)
    return said


def _failure(said: str, code: int) -> Unfit:
    if any(words in said.lower() for words in _TOO_OLD):
        return Unfit(Exit.DRIVER, f"The GPU's driver does not fit: {_shown(said)}. Rent another machine.")
    return Unfit(
        Exit.GPU, f"nvidia-smi {children.how_it_ended(code)}: {_shown(said)}. Rent a machine whose GPU works."
    )


def _shown(text: str) -> str:
    return " ".join(text.split())[:200].rstrip(".") or "it says nothing"


def _kill(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        children.kill_group(process)
