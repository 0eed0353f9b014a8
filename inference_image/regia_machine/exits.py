"""How a machine's process can end. The panel reads the code, a person reads the cause."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    ASKED = 0
    """It was told to stop."""
    ENVIRONMENT = 64
    GPU = 65
    """No GPU that can run the model."""
    DRIVER = 66
    """The driver is too old for the image's CUDA."""
    DISK = 67
    NETWORK = 68
    """The weights' server is out of reach."""
    DOWNLOAD = 69
    STARTING = 70
    """The engine died before it served, or never came up."""
    SERVING = 71
    """The engine died while it served."""
    WARMUP = 72
    DOOR = 73
    LEASE = 74
    """Nobody renewed the lease."""
    ENDED_BEFORE = 75
    """An earlier run had the provider end this machine, and the container was started again."""


FAILURES = frozenset(range(Exit.ENVIRONMENT, Exit.DOOR + 1))
"""What the panel is to hear of: the machine failed, and nobody wanted its end."""


class Ending(Exception):
    """Raised where the machine's process has to end. The cause is one sentence, without secrets."""

    def __init__(self, code: Exit, cause: str) -> None:
        super().__init__(cause)
        self.code = code
        self.cause = cause


class Unfit(Ending):
    """This environment or this machine cannot serve the model."""
