"""Whether this machine can run the model at all, found out before anything is downloaded or loaded."""

from __future__ import annotations

import shutil
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from regia_machine import gpus, waiting
from regia_machine.environment import Settings
from regia_machine.exits import Exit, Unfit
from regia_machine.gpus import Gpu
from regia_machine.models import Model
from regia_machine.waiting import Look

DISK_RESERVE = 2 * 1000**3
NETWORK_SECONDS = 10.0
_SPLIT = ("--tensor-parallel-size", "-tp", "--pipeline-parallel-size", "-pp", "--data-parallel-size", "-dp")
_SMALLER_CACHE = "--kv-cache-dtype"


def check_gpu(settings: Settings, model: Model | None, look: Look, *, seconds: float = gpus.SECONDS) -> None:
    """Raises Unfit: GPU or DRIVER. `seconds`: for each answer of the driver's."""
    found = gpus.read(look, seconds=seconds)
    check_driver(
        gpus.cuda_version(look, seconds=seconds), max(settings.cuda_min, model.min_cuda if model else (0, 0))
    )
    if model is not None:
        check_capability(found, model)
        check_memory(found, settings, model)


def check_download(endpoint: str, folder: Path, model: Model | None, *, there: int, look: Look) -> None:
    """Room and a way for what is still missing; `there` bytes are in the folder already. Raises DISK or NETWORK."""
    check_disk(folder, (model.weights_bytes if model else 0) - there)
    check_network(endpoint, look)


def check_driver(driver: tuple[int, int], needed: tuple[int, int]) -> None:
    if driver < needed:
        raise Unfit(
            Exit.DRIVER,
            f"The driver runs CUDA up to {_version(driver)} and this image needs {_version(needed)}. "
            "Rent a machine with a newer driver.",
        )


def check_capability(found: Sequence[Gpu], model: Model) -> None:
    weakest = min(found, key=lambda gpu: gpu.compute_capability)
    if weakest.compute_capability < model.min_compute_capability:
        raise Unfit(
            Exit.GPU,
            f"The {weakest.name} has compute capability {_version(weakest.compute_capability)} and "
            f"{model.repository} needs {_version(model.min_compute_capability)}. Rent a newer GPU.",
        )


def check_memory(found: Sequence[Gpu], settings: Settings, model: Model) -> None:
    """The weights and the cache of one request as long as the context; vLLM refuses to start with less."""
    split = any(a.partition("=")[0].replace("_", "-") in _SPLIT for a in settings.extra_arguments)
    memory = sum(gpu.memory_bytes for gpu in found) if split else min(gpu.memory_bytes for gpu in found)
    usable = int(memory * settings.gpu_memory)
    needed = model.weights_bytes + _cache_bytes(settings, model)
    if usable < needed:
        raise Unfit(
            Exit.GPU,
            f"The {found[0].name} has {_gb(usable)} for vLLM and {model.repository} with {settings.context} tokens "
            f"needs {_gb(needed)}. Rent a larger GPU, or lower REGIA_CONTEXT.",
        )


def _cache_bytes(settings: Settings, model: Model) -> int:
    whole = settings.context * model.kv_bytes_per_token
    # Whatever type is chosen there, it is 8 bits at the least, half of the usual 16.
    halved = any(a.replace("_", "-").startswith(_SMALLER_CACHE) for a in settings.extra_arguments)
    return whole // 2 if halved else whole


def check_disk(folder: Path, missing: int) -> None:
    place = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(place).free
    needed = max(0, missing) + DISK_RESERVE
    if free < needed:
        raise Unfit(
            Exit.DISK,
            f"The disk has {_gb(free)} free and the weights need {_gb(needed)} with a reserve. "
            "Order the machine with a larger disk.",
        )


def check_network(endpoint: str, look: Look, *, seconds: float = NETWORK_SECONDS) -> None:
    """Any answer will do: whether the weights may be had is found out by asking for them."""
    try:
        # Its own deadline counts each step; the whole has one as well, for a name that is looked up for ever.
        waiting.in_background(lambda: _knock(endpoint, seconds), look, seconds=seconds)
    except TimeoutError:
        why = f"it gave no answer within {seconds:g} seconds"
    except (OSError, ValueError) as e:
        why = str(getattr(e, "reason", e)) or type(e).__name__
    else:
        return
    raise Unfit(
        Exit.NETWORK, f"{endpoint} cannot be reached from this machine ({why}). Rent another machine."
    )


def _knock(endpoint: str, seconds: float) -> None:
    request = urllib.request.Request(endpoint, method="HEAD")  # noqa: S310 - environment.py checked the scheme
    try:
        urllib.request.urlopen(request, timeout=seconds).close()  # noqa: S310
    except urllib.error.HTTPError as e:
        e.close()


def _version(pair: tuple[int, int]) -> str:
    return f"{pair[0]}.{pair[1]}"


def _gb(count: int) -> str:
    return f"{count / 1000**3:.1f} GB"
