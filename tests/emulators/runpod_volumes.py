"""RunPod's network volumes: a list, and what the console does to them."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

from tests.emulators.common import Answer, Call, Route
from tests.emulators.runpod_state import Volume, new_id

if TYPE_CHECKING:
    from tests.emulators.runpod import RunPodEmulator

COMPONENTS = {"STANDARD": "standard", "HIGH_PERFORMANCE": "highPerformance"}
_USD = {"STANDARD": Decimal("0.07"), "HIGH_PERFORMANCE": Decimal("0.14")}
"""Per GB and month of 730 hours, below a terabyte."""


class Volumes:
    def __init__(self, emulator: RunPodEmulator) -> None:
        self.emulator = emulator

    def routes(self) -> list[Route]:
        return [Route("GET", "/v2/network-volumes", "volumes", self.list, "volumes")]

    def list(self, call: Call) -> Answer:
        with self.emulator.lock:
            volumes = self.emulator.account(call).volumes.values()
            return Answer({"networkVolumes": [v.row() for v in volumes]})

    def place(self, name: str, *, gb: int = 50, data_center: str = "EU-RO-1", type: str = "STANDARD") -> str:
        emulator = self.emulator
        with emulator.lock:
            account = emulator.accounts[emulator.keys[0]]
            volume = Volume(new_id(), name, gb, data_center, type)
            account.volumes[volume.id] = volume
            account.made[volume.id] = name
            self._bill(volume)
            return volume.id

    def resize(self, id: str, gb: int) -> None:
        emulator = self.emulator
        with emulator.lock:
            volume = emulator.accounts[emulator.keys[0]].volumes[id]
            volume.gb = gb
            self._bill(volume)

    def drop(self, id: str) -> None:
        emulator = self.emulator
        with emulator.lock:
            account = emulator.accounts[emulator.keys[0]]
            account.volumes.pop(id)
            account.ledger.end(id, emulator.clock.now)

    def _bill(self, volume: Volume) -> None:
        ledger = self.emulator.accounts[self.emulator.keys[0]].ledger
        rate = _USD[volume.type] * volume.gb / 730
        ledger.rate(volume.id, COMPONENTS[volume.type], self.emulator.clock.now, rate)
