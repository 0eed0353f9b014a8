"""When this machine was first started since the panel's last word.

A provider starts again what has exited. Were each start the beginning of a new lease, an engine that dies
again and again would keep a machine whose panel is gone alive, and billing, for ever.
"""

from __future__ import annotations

import json
from pathlib import Path

_FILE = "started"
_BOOT = Path("/proc/sys/kernel/random/boot_id")


def first(state_dir: Path, now: float) -> float:
    """By the clock of `now`, which counts from the boot: an earlier start of the same boot, else this one.

    Raises OSError when it cannot be noted.
    """
    file = state_dir / _FILE
    boot = _BOOT.read_text().strip() if _BOOT.exists() else ""
    earlier = _read(file, boot)
    if earlier is not None and earlier <= now:
        return earlier
    draft = file.with_suffix(".new")
    draft.write_text(json.dumps({"boot": boot, "at": now}))
    draft.replace(file)
    return now


def forget(state_dir: Path) -> None:
    """The panel has spoken: the next start is a first one."""
    (state_dir / _FILE).unlink(missing_ok=True)


def _read(file: Path, boot: str) -> float | None:
    try:
        noted = json.loads(file.read_text())
        return float(noted["at"]) if noted["boot"] == boot else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
