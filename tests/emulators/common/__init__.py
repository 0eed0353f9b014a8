"""What every emulator stands on: server, clock, faults, ledger, engines, conformance."""

from tests.emulators.common.clock import Clock
from tests.emulators.common.conformance import Allowed, Conformance
from tests.emulators.common.engines import Engines, FixedEngine, NoEngines, RealEngines
from tests.emulators.common.faults import Fault, Faults
from tests.emulators.common.ledger import Ledger
from tests.emulators.common.server import Answer, Call, Emulator, Route, Seen

__all__ = [
    "Allowed", "Answer", "Call", "Clock", "Conformance", "Emulator", "Engines", "Fault", "Faults",
    "FixedEngine", "Ledger", "NoEngines", "RealEngines", "Route", "Seen",
]  # fmt: skip
