"""RunPod's catalogue: GPU types and data centres with prices and stock."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.emulators.common import Answer, Call, Route
from tests.emulators.runpod_catalogue import DATA_CENTERS, LEVELS, SECURE, SERVERLESS, GpuType
from tests.emulators.runpod_problems import problem

if TYPE_CHECKING:
    from tests.emulators.runpod import RunPodEmulator

_CUDA = ("12.8", "13.0")


class Quotes:
    def __init__(self, emulator: RunPodEmulator) -> None:
        self.emulator = emulator

    def routes(self) -> list[Route]:
        return [
            Route("GET", "/v2/catalog/gpus", "quotes", self.gpus, "gpus"),
            Route("GET", "/v2/catalog/datacenters", "quotes", self.data_centers, "datacenters"),
        ]

    def gpus(self, call: Call) -> Answer:
        product, wanted = call.query.get("product"), call.query.get("include") == "AVAILABILITY"
        if bool(product) != wanted:
            return problem(400, "include=AVAILABILITY requires product, and product requires it.")
        # Without a cloud it is the secure one.
        cloud = SERVERLESS if product == "SERVERLESS" else call.query.get("cloud", SECURE)
        countries = [c for c in call.query.get("countryCodes", "").split(",") if c]
        with self.emulator.lock:
            rows = [_gpu(gpu, cloud, countries, stock=wanted) for gpu in self.emulator.catalogue.values()]
        return Answer({"gpus": [r for r in rows if not countries or not wanted or r.get("dataCenters")]})

    def data_centers(self, call: Call) -> Answer:
        regions = [r for r in call.query.get("regions", "").split(",") if r]
        needed = {c for c in call.query.get("compliance", "").split(",") if c}
        stock = "GPU_AVAILABILITY" in call.query.get("include", "")
        with self.emulator.lock:
            rows = [
                self._data_center(name, stock=stock)
                for name, place in DATA_CENTERS.items()
                if (not regions or place.region in regions) and needed <= set(place.compliance)
            ]
        return Answer({"dataCenters": rows})

    def _data_center(self, name: str, *, stock: bool) -> dict[str, Any]:
        place = DATA_CENTERS[name]
        row: dict[str, Any] = {
            "id": name, "name": place.name, "region": place.region, "globalNetwork": True,
            "networkVolumeTypes": ["STANDARD"], "compliance": list(place.compliance),
        }  # fmt: skip
        found = [
            {"id": gpu.id, "name": gpu.name, "availability": gpu.level(SECURE, name)}
            for gpu in self.emulator.catalogue.values()
            if gpu.level(SECURE, name) != "NONE"
        ]
        if stock and found:
            row["gpuAvailability"] = found
        return row


def _gpu(gpu: GpuType, cloud: str, countries: list[str], *, stock: bool) -> dict[str, Any]:
    price = {"secure": float(gpu.secure), "community": float(gpu.community)}
    if gpu.serverless is not None:
        # Shown rounded.
        price["serverless"] = round(float(gpu.serverless), 2)
    row: dict[str, Any] = {
        "id": gpu.id, "name": gpu.name, "pool": gpu.pool, "manufacturer": "NVIDIA", "memory": gpu.memory,
        "secure": bool(gpu.secure), "community": bool(gpu.community), "price": price,
        "maxCount": {"secure": 8 if gpu.secure else 0, "community": 4 if gpu.community else 0},
    }  # fmt: skip
    if not stock:
        return row
    places = [
        {"id": place.id, "name": place.name, "availability": level}
        for place, level in gpu.where(cloud, countries)
    ]
    levels = [str(p["availability"]) for p in places]
    row["availability"] = max(levels, key=LEVELS.index, default="NONE")
    if places:
        row["dataCenters"] = places
        row["cudaVersions"] = [{"version": version, "available": True} for version in _CUDA]
    return row
